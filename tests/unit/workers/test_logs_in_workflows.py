"""A workflow's own lines, through the real sandbox and a real server."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from workers.logs import configure_logs

PROBE = """
from temporalio import workflow


@workflow.defn(name="LogProbe")
class LogProbe:
    @workflow.run
    async def run(self) -> None:
        workflow.logger.info("cycle committed", extra={"bytes_sent": 5})
"""


async def test_a_workflows_line_is_json_with_its_ids_as_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log_probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import log_probe  # noqa: PLC0415 - written a moment ago

    root = logging.getLogger()
    handlers, level, stream = list(root.handlers), root.level, io.StringIO()
    server = Path(sys.executable).parent / "temporal-test-server"
    try:
        configure_logs("info", "json", stream)
        async with (
            await WorkflowEnvironment.start_time_skipping(test_server_existing_path=str(server)) as environment,
            Worker(environment.client, task_queue="logs", workflows=[log_probe.LogProbe]),
        ):
            await environment.client.execute_workflow("LogProbe", id="log-probe", task_queue="logs")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (line,) = [line for line in lines if line["event"] == "cycle committed"]
    assert line["bytes_sent"] == 5
    assert line["temporal_workflow"]["workflow_id"] == "log-probe"
