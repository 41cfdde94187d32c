"""A whole site: its VMs are listed, chosen and enabled together, by the command as programs call it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities.inventory import last_inventory
from deltaferry.model.inventory import InventorySummary
from deltaferry.model.states import ReplicationState
from deltaferry.model.units import MIB
from lab.settings import SITE, TARGET
from lab.world import World
from tests.e2e.conftest import Lab
from tests.e2e.replicated import LIMIT_S, Replicated
from workers.schedules import SiteSchedule, set_up_schedule
from workers.settings import load_settings
from workers.wiring import build_stores
from workflows import names
from workflows.messages.operator_input import InventoryInput

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command ended with."""

    code: int
    json: Any
    err: str


async def deltaferry(world: World, *arguments: str) -> Answer:
    command = [sys.executable, "-m", "console.main", *arguments, "--config", str(world.config_file), "--json"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=_ROOT,
        env={**os.environ, **world.environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    return Answer(done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr)


@pytest.fixture
async def pair(lab: Lab, client: Client) -> AsyncIterator[tuple[Replicated, Replicated]]:
    """Two small VMs of this test's own whose names begin alike."""
    prefix = f"shop-{uuid4().hex[:6]}"
    vms = tuple(Replicated.create(lab.world, client, f"{prefix}-{number}", (6 * MIB,)) for number in (1, 2))
    yield vms[0], vms[1]
    for vm in vms:
        await vm.discard()


def pattern(vm: Replicated) -> str:
    """An expression that chooses both VMs of a pair."""
    return f"name~{vm.name[:11]}*"


async def running(client: Client, vm: Replicated) -> bool:
    """Whether anything runs for a VM, or is about to."""
    uuid = vm.source.instance_uuid
    return any(
        [
            uuid in execution.id or vm.name in execution.id
            async for execution in client.list_workflows("ExecutionStatus = 'Running'")
        ]
    )


async def test_discover_lists_the_sites_vms_and_history_keeps_only_numbers(
    pair: tuple[Replicated, Replicated], client: Client
) -> None:
    world = pair[0].world
    found = await deltaferry(world, "discover", SITE, "--refresh", "--where", pattern(pair[0]))
    assert found.code == 0, found
    rows = {row["name"]: row for row in found.json["vms"]}
    assert rows.keys() == {vm.name for vm in pair}
    first = rows[pair[0].name]
    assert first["instance_uuid"] == pair[0].source.instance_uuid
    assert (first["power"], first["folder"], first["replicated_by"], first["snapshots"]) == ("on", "/", "", [])
    assert [disk["capacity_bytes"] for disk in first["disks"]] == [6 * MIB]
    assert 0 < first["expected_bytes"] <= 6 * MIB

    again = await deltaferry(world, "discover", SITE)
    assert again.json["read_at"] == found.json["read_at"], "without --refresh the last inventory is listed"
    assert again.json["listed"] == len(again.json["vms"]) >= 2

    executions = [e async for e in client.list_workflows(f"WorkflowType = '{names.SITE_INVENTORY}'")]
    history = await client.get_workflow_handle(executions[0].id, run_id=executions[0].run_id).fetch_history()
    assert pair[0].name not in history.to_json()
    result = await client.get_workflow_handle(executions[0].id, result_type=InventorySummary).result()
    assert result.vms == found.json["listed"]


async def test_an_unknown_site_fails_with_a_sentence(client: Client) -> None:
    with pytest.raises(WorkflowFailureError) as caught:
        await client.execute_workflow(
            names.SITE_INVENTORY, {"site": "nowhere"}, id=f"inventory-{uuid4()}", task_queue=names.CONTROL_QUEUE
        )
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "BadInput"
    assert "There is no site 'nowhere' in this installation's configuration. Known sites: lab." in cause.message


@pytest.mark.chaos
async def test_vms_are_enabled_by_an_expression_one_refused_keeping_no_other(
    pair: tuple[Replicated, Replicated], client: Client
) -> None:
    world, (first, second) = pair[0].world, pair
    world.vcenter_control.take_snapshot(second.source.moref, "before upgrade")
    enable = ("enable", "--where", f"{pattern(first)} and not replicated", "--site", SITE)

    dry = await deltaferry(world, *enable, "--dry-run", "--refresh")
    assert dry.code == 0, dry
    plan = dry.json["plan"]
    verdicts = {vm["name"]: vm["verdict"] for vm in plan["vms"]}
    assert verdicts == {first.name: "enabled", second.name: "refused"}
    codes = {finding["code"] for vm in plan["vms"] if vm["name"] == second.name for finding in vm["findings"]}
    assert "SnapshotsPresent" in codes
    assert (plan["disks"], plan["capacity_bytes"]) == (1, 6 * MIB)
    assert plan["side_by_side_s"] > 0
    assert not await running(client, first), "a dry run starts nothing"

    done = await deltaferry(world, *enable)
    assert done.code == 3, done
    became = {vm["vm"]: vm for vm in done.json["vms"]}
    assert became[first.name]["became"] == "enabled"
    assert became[first.name]["workflow_id"] == first.handle.id
    assert became[second.name]["became"] == "refused"
    assert "before upgrade" in became[second.name]["sentence"]
    assert (done.json["enabled"], done.json["refused"]) == (1, 1)
    await first.committed(1)

    again = await deltaferry(world, "enable", "--where", f"name={first.name}", "--site", SITE)
    assert again.code == 0, "what is replicated already is reported, and is no error"
    assert [(vm["became"], vm["workflow_id"]) for vm in again.json["vms"]] == [("replicated already", first.handle.id)]

    measured = await deltaferry(world, "enable", second.name, "--site", SITE, "--dry-run", "--refresh")
    assert measured.json["plan"]["rate"]["measured"], measured.json["plan"]["rate"]
    await first.stop()


@pytest.mark.chaos
async def test_a_list_with_a_wrong_line_starts_nothing_and_without_it_everything(
    pair: tuple[Replicated, Replicated], client: Client, tmp_path: Path
) -> None:
    world, (first, second) = pair[0].world, pair
    file = tmp_path / "vms.csv"
    lines = ["vm,vm_name,tags", f"{first.name},shop-a,owner=shop", "nobody,,", f"{second.source.instance_uuid},,owner"]
    file.write_text("\n".join(lines))
    enable = ("enable", "--csv", str(file), "--site", SITE)

    wrong = await deltaferry(world, *enable)
    assert (wrong.code, wrong.json["error"]["kind"]) == (2, "BadInput")
    assert "Line 4: the tag 'owner' is not of the form key=value." in wrong.err

    file.write_text("\n".join([*lines[:3], f"{second.source.instance_uuid},,"]))
    wrong = await deltaferry(world, *enable, "--refresh")
    assert wrong.code == 2
    assert "Line 3: the inventory has no VM with the name or instance UUID 'nobody'." in wrong.err
    assert "nothing was started" in wrong.err
    assert not await running(client, first)

    file.write_text("\n".join([*lines[:2], f"{second.source.instance_uuid},,"]))
    done = await deltaferry(world, *enable)
    assert (done.code, done.json["enabled"]) == (0, 2), done
    for vm in pair:
        await vm.state(ReplicationState.DELTA_SYNC)
    await asyncio.gather(*(vm.stop() for vm in pair))


@pytest.mark.chaos
async def test_the_schedule_takes_an_inventory(lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(lab.world.config_file)
    installation, gateway = settings.installation.id, build_stores(settings.targets[TARGET]).gateway
    hourly = SiteSchedule(
        names.inventory_id(SITE), names.SITE_INVENTORY, InventoryInput(SITE), timedelta(hours=1), "made by a test"
    )
    before = last_inventory(gateway, installation, SITE)
    await set_up_schedule(client, installation, hourly)
    try:
        deadline = time.monotonic() + LIMIT_S
        while (taken := last_inventory(gateway, installation, SITE)) is None or (before and taken.read_at <= before.read_at):
            assert time.monotonic() < deadline, "the schedule took no inventory"
            await asyncio.sleep(0.2)
    finally:
        await set_up_schedule(client, installation, replace(hourly, every=timedelta(0)))
    with pytest.raises(RPCError):
        await client.get_schedule_handle(hourly.id).describe()
