"""`plan` against a real Temporal server with the real workflow; steps are manual actions, so that nothing else is needed."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from console.main import app
from console.plan_files import _step
from workflows.messages.plan_input import PlanDefinition

from .conftest import Running, Synced

DOCUMENT = Path(__file__).parents[3] / "docs" / "recovery-plans.md"
VERBS = ("run", "list", "status", "confirm", "reject", "retry", "skip", "abort", "clean-up")


@pytest.fixture
def name() -> str:
    """A plan's name that no other test uses."""
    return f"shop-{uuid4().hex[:8]}"


def write(folder: Path, name: str, **changes: Any) -> str:
    step = {"name": "look", "kind": "manual", "target": "Look at the data."}
    group = {"name": "web", "before": [step], **changes}
    path = folder / "plan.json"
    path.write_text(json.dumps({"name": name, "groups": [group]}))
    return str(path)


@pytest.mark.parametrize("verb", VERBS)
def test_every_plan_commands_help_has_an_example_of_itself(verb: str) -> None:
    result = CliRunner().invoke(app, ["plan", verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: deltaferry plan {verb}" in result.stdout
    assert "--json" in result.stdout


async def test_a_run_is_started_looked_at_answered_and_ends(running: Running, tmp_path: Path, name: str) -> None:
    started = await running.json("plan", "run", write(tmp_path, name), "--run", "planned", "--wait")
    run = started["workflow_id"]
    assert run.startswith(f"plan/{name}/")
    assert started["progress"]["activity"] == "waiting for confirm or reject of web/before/look"
    assert run in [row["workflow_id"] for row in (await running.json("plan", "list"))["runs"]]
    shown = await running.call("plan", "status", name)
    assert shown.exit_code == 0, shown.output
    assert "Look at the data." in shown.stdout and "confirm, reject" in shown.stdout
    rejected = await running.json("plan", "reject", name, "web/before/look", "--by", "bob", "--reason", "rows are missing")
    assert rejected == {"workflow_id": run, "operation": "reject", "result": "The plan stops there."}
    await running.json("plan", "retry", name, "web/before/look", "--by", "bob")
    answer = await running.json("plan", "confirm", run, "web/before/look", "--by", "bob", "--reason", "complete")
    assert answer["result"] == "The plan goes on."
    await running.client.get_workflow_handle(run).result()
    ended = await running.json("plan", "status", name)
    assert (ended["progress"]["phase"], ended["progress"]["items"][0]["by"]) == ("ended", "bob")
    listed = (await running.json("plan", "list", "--all"))["runs"]
    assert next(row["status"] for row in listed if row["workflow_id"] == run) == "completed"


async def test_what_a_run_refuses_ends_with_3_and_its_sentence(running: Running, tmp_path: Path, name: str) -> None:
    await running.json("plan", "run", write(tmp_path, name), "--run", "planned", "--wait")
    failed = await running.json("plan", "skip", name, "web/before/look", "--reason", "no", exit_code=3)
    assert failed["error"]["sentence"] == "web/before/look has not failed: it is running."
    failed = await running.json("plan", "confirm", name, "web/before/look", exit_code=3)
    assert failed["error"]["sentence"] == "Say who decides this and why: both are kept with the run."
    failed = await running.json("plan", "clean-up", name, exit_code=3)
    assert "clean_up is for a test of the plan" in failed["error"]["sentence"]
    aborted = await running.json("plan", "abort", name, "--by", "ann", "--reason", "wrong day")
    assert aborted["operation"] == "abort"


async def test_names_of_vms_become_workflow_ids(running: Running, synced: Synced, tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, vms=[synced.vm])
    await running.json("plan", "run", path, "--run", "planned", "--site", "lab", "--wait")
    items = (await running.json("plan", "status", name))["progress"]["items"]
    assert [item["item_id"] for item in items] == ["web/before/look", f"web/vm/{synced.workflow_id}"]
    assert [item["name"] for item in items] == ["web/before/look", f"web/vm/{synced.vm}"]
    await running.json("plan", "abort", name, "--by", "ann", "--reason", "only the names count")


async def test_unknown_vms_are_all_named(running: Running, tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, vms=["missing-1", "missing-2"])
    failed = await running.json("plan", "run", path, "--run", "planned", exit_code=4)
    assert "No replication of missing-1 runs" in failed["error"]["sentence"]
    assert "No replication of missing-2 runs" in failed["error"]["sentence"]


async def test_a_plan_that_cannot_be_run_ends_with_2_and_every_reason(running: Running, tmp_path: Path, name: str) -> None:
    step = {"name": "stop", "kind": "script", "target": "stop.sh", "time_limit": "5m"}
    failed = await running.json("plan", "run", write(tmp_path, name, before=[step]), "--run", "test", exit_code=2)
    for expected in ("absolute path", "needs the worker that runs the script", "A test needs an isolated network"):
        assert expected in failed["error"]["sentence"]
    failed = await running.json("plan", "run", write(tmp_path, name, befor=[]), "--run", "planned", exit_code=2)
    assert "there is no field 'plan.groups.0.befor' (the fields are name, vms, before, after)" in failed["error"]["sentence"]
    (tmp_path / "plan.toml").write_text("name = ")
    failed = await running.json("plan", "run", str(tmp_path / "plan.toml"), "--run", "planned", exit_code=2)
    assert "it is not TOML" in failed["error"]["sentence"]


async def test_a_run_that_there_is_not_is_not_found(running: Running) -> None:
    for reference in ("plan/nothing/1", "nothing"):
        failed = await running.json("plan", "status", reference, exit_code=4)
        assert f"There is no run {reference}" in failed["error"]["sentence"]


def test_the_plan_that_the_document_shows_is_one() -> None:
    blocks = re.findall(r"(?ms)^```toml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"))
    shown = tomllib.loads(blocks[0])
    del shown["site"]
    for group in shown["groups"]:
        for where in ("before", "after"):
            group[where] = [_step(step) for step in group.get(where, [])]
    plan = TypeAdapter(PlanDefinition).validate_python(shown).plan()
    assert [len(group.after) for group in plan.groups] == [1, 2]
