"""`group` against a real Temporal server with the real workflows."""

import asyncio
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from console.main import app
from deltaferry.planning.replication_group import WARNING
from workflows.messages.group import GroupView

from .conftest import Running

VERBS = ("create", "list", "show", "points", "add", "remove", "change", "take-point", "dissolve")


@pytest.mark.parametrize("verb", VERBS)
def test_every_group_commands_help_has_an_example_of_itself(verb: str) -> None:
    result = CliRunner().invoke(app, ["group", verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: deltaferry group {verb}" in result.stdout
    assert "--json" in result.stdout


async def test_a_group_is_made_with_its_warning_shown_changed_and_dissolved(running: Running) -> None:
    vms = [f"{word}-{uuid4().hex[:8]}" for word in ("web", "db", "mq")]
    ids = [await running.delta_sync(vm, cycles=1) for vm in vms]
    name = f"shop-{uuid4().hex[:8]}"
    made = await running.json("group", "create", name, vms[0], vms[1], "--interval", "10h", "--reason", "one application")
    assert made["warning"] == WARNING
    assert [member["replication"] for member in made["group"]["members"]] == ids[:2]
    handle = running.client.get_workflow_handle(made["workflow_id"])
    assert made["workflow_id"] == f"group/lab/{name}"

    async def tried(points: int) -> None:
        while len((await handle.query("status", result_type=GroupView)).attempts) < points:
            await asyncio.sleep(0.05)

    await tried(1)
    listed = await running.json("group", "list")
    assert made["workflow_id"] in [row["workflow_id"] for row in listed["groups"]]
    (point,) = (await running.json("group", "points", name))["points"]
    assert point["members"] == ids[:2]
    assert point["spread_s"] >= 0
    assert point["point"].startswith("shared:1-")
    human = await running.call("group", "show", name)
    assert human.exit_code == 0, human.output
    assert "shared by 2 VMs" in human.stdout and "10 h 00 min" in human.stdout

    added = await running.json("group", "add", name, vms[2], "--reason", "the queue belongs to it")
    assert WARNING in added["result"]
    again = await running.json("group", "add", name, vms[2], exit_code=3)
    assert "is a member already" in again["error"]["sentence"]
    assert "as soon as all members are idle" in (await running.json("group", "take-point", name))["result"]
    await tried(2)
    assert (await running.json("group", "points", name))["points"][0]["members"] == ids
    changed = await running.json("group", "change", name, "--interval", "12h", "--max-spread", "20s", "--reason", "fewer will do")
    assert changed["result"].startswith("A point is taken every 12 h 00 min, its snapshots within 20 s of each other")
    assert changed["group"]["interval"] == "PT12H"
    human = await running.call("group", "change", name, "--interval", "site")
    assert "A point every 1 h 00 min" in human.stdout
    nothing = await running.json("group", "change", name, exit_code=2)
    assert "Nothing is to be changed" in nothing["error"]["sentence"]
    removed = await running.json("group", "remove", name, vms[0])
    assert removed["member"] == ids[0]
    await running.json("group", "dissolve", name)
    await handle.result()
    missing = await running.json("group", "show", name, exit_code=4)
    assert f"There is no replication group {name}" in missing["error"]["sentence"]


async def test_a_group_that_cannot_be_is_refused_with_every_sentence(running: Running) -> None:
    vm = f"lonely-{uuid4().hex[:8]}"
    await running.delta_sync(vm)
    failed = await running.json("group", "create", "a/b", vm, "--wait", "2h", exit_code=2)
    for expected in ("names no group", "at most 1 h", "at least two members"):
        assert expected in failed["error"]["sentence"]
    nobody = await running.json("group", "create", "shop", vm, "no-such-vm", exit_code=4)
    assert "No replication of no-such-vm runs" in nobody["error"]["sentence"]
