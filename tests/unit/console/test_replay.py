"""Replaying histories with this code: from the server, from a file, and what is not as it was."""

import json
from pathlib import Path
from typing import Any

from console import client as replicating

from .conftest import Running


async def committed(running: Running, vm: str) -> str:
    workflow_id = await running.delta_sync(vm)
    await running.until(workflow_id, lambda view: view.cycles_committed == 1 and "idle until" in view.activity)
    return workflow_id


async def download(running: Running, workflow_id: str, file: Path) -> dict[str, Any]:
    history: dict[str, Any] = (await running.client.get_workflow_handle(workflow_id).fetch_history()).to_json_dict()
    file.write_text(json.dumps(history))
    return history


async def test_a_history_on_the_server_replays(running: Running, vm: str) -> None:
    workflow_id = await committed(running, vm)
    answer = await running.json("replay", workflow_id)
    assert answer["deterministic"] is True
    (history,) = answer["histories"]
    assert (history["workflow_id"], history["workflow_type"], history["error"]) == (workflow_id, "ReplicateVm", "")
    assert history["events"] > 20


async def test_a_job_on_the_server_replays_by_its_own_id(running: Running, vm: str) -> None:
    workflow_id = await committed(running, vm)
    job_id = (await replicating.status(running.client.get_workflow_handle(workflow_id))).job_id
    assert job_id is not None
    result = await running.call("replay", job_id)
    assert (result.exit_code, "InitialReplication" in result.stdout, "OK" in result.stdout) == (0, True, True)


async def test_a_downloaded_history_replays_offline_and_explains_its_decisions(running: Running, vm: str, tmp_path: Path) -> None:
    workflow_id = await committed(running, vm)
    file = tmp_path / "history.json"
    await download(running, workflow_id, file)
    result = await running.call("replay", "--file", str(file), "--explain")
    assert result.exit_code == 0, result.output
    for expected in ("OK", workflow_id, "step begin_cycle", "snapshot and changed areas", "sleeps up to", "next delta", "the first delta cycle follows at once"):
        assert expected in result.stdout
    explained = await running.json("replay", "--file", str(file), "--explain")
    assert [cycle["kind"] for cycle in explained["histories"][0]["cycles"]] == ["initial"]


async def test_a_history_of_other_decisions_ends_with_1(running: Running, vm: str, tmp_path: Path) -> None:
    workflow_id = await committed(running, vm)
    file = tmp_path / "history.json"
    history = await download(running, workflow_id, file)
    scheduled = next(event for event in history["events"] if "activityTaskScheduledEventAttributes" in event)
    scheduled["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "defragment"
    file.write_text(json.dumps(history))
    result = await running.call("replay", "--file", str(file))
    assert result.exit_code == 1
    assert "NOT the same decisions" in result.stdout
    assert "Nondeterminism" in result.stdout
    answer = await running.json("replay", "--file", str(file), exit_code=1)
    assert answer["deterministic"] is False
