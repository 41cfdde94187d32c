"""Records the histories that `test_replay` replays: `python -m tests.replay.record [SCENARIO]…` from the project's root.

Run it on released code only, never on the branch under test: a history made by the code that replays it proves nothing.
Every workflow of a scenario's site becomes a file, `histories/<scenario>/<workflow>.json`, in the form that the Temporal
UI downloads; `histories/recorded.json` says which version made them, and how many files and events there must be.
"""

import argparse
import asyncio
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHistory
from temporalio.testing import WorkflowEnvironment

from tests.replay.scenarios import SCENARIOS
from tests.workflows.servers import start_dev_server
from tests.workflows.site_bench import Bench, eventually, shared_workers, site_bench
from tests.workflows.stand_ins import StandIns

HISTORIES = Path(__file__).parent / "histories"
RECORDED = HISTORIES / "recorded.json"
_LEFT_OUT = {"identity": "recorded", "stackTrace": ""}


async def record(names: list[str]) -> None:
    """Run scenarios one after the other on a server of their own, and write what happened."""
    scenarios = json.loads(RECORDED.read_text())["scenarios"] if RECORDED.exists() else {}
    async with await start_dev_server() as server:
        for name in names:
            scenarios[name] = await _record_scenario(server, name)
    expected = {"version": importlib.metadata.version("deltaferry"), "scenarios": dict(sorted(scenarios.items()))}
    RECORDED.write_text(json.dumps(expected, indent=2) + "\n")


async def _record_scenario(server: WorkflowEnvironment, name: str) -> dict[str, int]:
    folder = HISTORIES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stand_ins = StandIns()
    async with shared_workers(server.client, stand_ins), site_bench(server.client, stand_ins, f"{name}-site") as bench:
        await SCENARIOS[name](bench)
        events = {file: await _write(folder / f"{file}.json", history) for file, history in (await _histories(bench)).items()}
    return dict(sorted(events.items()))


async def _histories(bench: Bench) -> dict[str, WorkflowHistory]:
    """Return every run of the site's workflows, by type and number in the order of their starts."""
    runs = await _runs(bench)
    numbers: dict[str, int] = {}
    histories = {}
    for kind, workflow_id, run_id in runs:
        numbers[kind] = numbers.get(kind, 0) + 1
        histories[f"{kind}-{numbers[kind]}"] = await bench.client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    return histories


async def _runs(bench: Bench) -> list[tuple[str, str, str]]:
    """List the runs that the site's bench began or whose ids name the site, once the visibility store knows of the arbiter and of as many as before."""
    counts = [-1, 0]
    found: list[tuple[str, str, str]] = []

    async def settled() -> bool:
        listed = [run async for run in bench.client.list_workflows() if bench.site in run.id or run.id in bench.started]
        listed.sort(key=lambda run: (run.start_time, run.id))
        found[:] = [(run.workflow_type, run.id, run.run_id) for run in listed]
        counts[:] = [counts[1], len(found)]
        return counts[0] == counts[1] and any(kind == "SiteSlots" for kind, _, _ in found)

    await eventually(settled, "the list of runs")
    return found


async def _write(path: Path, history: WorkflowHistory) -> int:
    text = json.dumps(_without_traces_of_the_machine(history.to_json_dict()), indent=1)
    await asyncio.to_thread(path.write_text, text + "\n")
    return len(history.events)


def _without_traces_of_the_machine(part: Any) -> Any:
    """Return a history's JSON with host names and stack traces left out: replay does not read them."""
    if isinstance(part, dict):
        return {key: _LEFT_OUT[key] if key in _LEFT_OUT else _without_traces_of_the_machine(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_without_traces_of_the_machine(item) for item in part]
    return part


def main() -> None:
    """Record the named scenarios, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay.record", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"one of {', '.join(SCENARIOS)}; all when left out")
    chosen = parser.parse_args().scenarios or list(SCENARIOS)
    unknown = sorted(set(chosen) - set(SCENARIOS))
    if unknown:
        sys.exit(f"There is no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}.")
    asyncio.run(record(chosen))


if __name__ == "__main__":
    main()
