"""A site with small limits: many VMs at once, workers that die, and neither a limit exceeded nor a byte lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from deltaferry.model.states import MigrationState
from deltaferry.model.units import MIB
from lab.vcenter.inventory_file import HostSpec
from lab.world import World
from tests.e2e.accidents import SLOW_S, assert_in_order, committed_beyond, held, hold_after, overwrite, quiet
from tests.e2e.conftest import LAB_SETTINGS, Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated
from tests.e2e.site_of_vms import SiteOfVms, start_arbiter
from workflows import names

_HOSTS = tuple(f"esxi-{number}.lab" for number in range(1, 5))
_EDGE = "edge-2"
_SETTINGS = replace(
    LAB_SETTINGS,
    hosts=tuple(map(HostSpec, _HOSTS)),
    scale_out=(_EDGE,),
    min_interval=timedelta(seconds=3),
    disks_per_appliance=6,
    disks_per_host=3,
    snapshots_per_datastore=4,
)
_PAUSE_S = 2.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of this module's own: four hosts, and small limits."""
    directory: Path = tmp_path_factory.mktemp("site")
    with World(directory, _SETTINGS) as world:
        yield Lab(world, world.worker("control"), world.worker("source"), world.worker("target"))


@pytest.fixture
async def site(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[list[SiteOfVms]]:
    """Sites that the test makes; afterwards nothing of them runs."""
    made: list[SiteOfVms] = []
    await start_arbiter(lab.world, client)
    yield made
    for each in made:
        await asyncio.gather(*(vm.discard() for vm in each.vms))


@pytest.mark.chaos
async def test_several_vms_keep_the_sites_limits_and_lose_nothing_while_a_worker_dies(
    lab: Lab, client: Client, site: list[SiteOfVms]
) -> None:
    vms = await asyncio.to_thread(SiteOfVms.create, lab.world, client, "some", 4, _HOSTS[:2])
    site.append(vms)
    await vms.enable()
    async with vms.writing(_PAUSE_S):
        await vms.committed(1)
        await reached(lambda: _are_read(lab.world), "a disk that is read")
        lab.source.kill()
        lab.source.start()
        await vms.committed(1)
    await vms.until_all_is_sent()
    await vms.assert_identical()
    await vms.stop()
    await vms.assert_within(_SETTINGS)


@pytest.mark.chaos
async def test_twenty_vms_keep_the_sites_limits_and_lose_nothing_while_workers_die_and_one_is_migrated(
    lab: Lab, client: Client, site: list[SiteOfVms]
) -> None:
    vms = await asyncio.to_thread(SiteOfVms.create, lab.world, client, "twenty", 20, _HOSTS)
    site.append(vms)
    migrated = vms.vms[6]
    await vms.enable()
    async with vms.writing(_PAUSE_S):
        await reached(lambda: _are_read(lab.world), "a disk that is read by an initial replication")
        lab.source.kill()
        lab.source.start()
        await vms.committed(1)
        await reached(lambda: _are_read(lab.world), "a disk that is read by a delta")
        await migrated.handle.signal("migrate_now", None)
        lab.source.kill()
        lab.control.kill()
        lab.source.start()
        lab.control.start()
        status = await migrated.migration_ended()
        assert status.migration_state == MigrationState.MIGRATED.value, status
        await vms.committed(1, but=[migrated])
    await asyncio.to_thread(migrated.assert_target_identical, status)
    await vms.until_all_is_sent(but=[migrated])
    await vms.assert_identical(but=[migrated])
    await migrated.complete()
    await vms.stop(but=[migrated])
    await asyncio.to_thread(migrated.assert_nothing_left)
    await vms.assert_within(_SETTINGS, exempt=[migrated.name])


@pytest.mark.chaos
async def test_a_reassigned_replication_is_sent_by_its_new_appliance_and_survives_its_death(lab: Lab, client: Client) -> None:
    slots = await start_arbiter(lab.world, client)
    vm = await asyncio.to_thread(Replicated.create, lab.world, client, "edge", (9 * MIB,))
    edge = await asyncio.to_thread(lab.world.worker, "source", f"worker-{_EDGE}", appliance=_EDGE)
    try:
        await vm.enable_and_sync()
        known = await quiet(vm)
        await slots.execute_update("change_settings", {"appliances": {_EDGE: ""}})
        await slots.execute_update("reassign", {"vm": vm.source.instance_uuid, "appliance": _EDGE})
        hold_after(lab.world, "log", "PutBlob", 1)
        overwrite(vm, 0, 0, 8 * MIB)
        await resumed(vm)
        await held(lab.world)
        edge.kill()
        lab.world.blob_control.clear_faults()
        edge.start()
        record = await committed_beyond(vm, known, SLOW_S)
        assert record.segments_found >= 1, "what it had stored before it died is not sent again"
        assert (names.transfer_queue(_EDGE), str(edge.pid)) in await _transfers(vm)
        await assert_in_order(vm)
        await vm.stop()
        vm.assert_nothing_left()
    finally:
        await asyncio.to_thread(edge.stop)
        await vm.discard()
        await slots.execute_update("change_settings", {"appliances": {}})


def _are_read(world: World) -> bool:
    """Return whether a disk is open for reading now."""
    return any(connection.uses_nfc_budget for host in world.vcenter_control.state().hosts for connection in host.connections)


async def _transfers(vm: Replicated) -> set[tuple[str, str]]:
    """Return the task queue of every transfer of a cycle, and the id of the process that took it up last."""
    found: set[tuple[str, str]] = set()
    run_id: str | None = None
    while run_id != "":
        events = [e async for e in vm.client.get_workflow_handle(vm.handle.id, run_id=run_id).fetch_history_events()]
        scheduled = {event.event_id: event.activity_task_scheduled_event_attributes for event in events}
        for event in events:
            started = event.activity_task_started_event_attributes
            by = scheduled.get(started.scheduled_event_id)
            if by is not None and by.activity_type.name == "transfer":
                found.add((by.task_queue.name, started.identity.rpartition(":")[2]))
        run_id = events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return found
