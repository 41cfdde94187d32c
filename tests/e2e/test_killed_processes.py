"""Processes die or sleep in the middle of a step: replication goes on by itself, sends nothing twice, and takes no late write."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from deltaferry.blocks.killpoints import KillPoint
from deltaferry.model.states import JobOutcome, MigrationState
from deltaferry.model.units import MIB, SECTOR
from tests.e2e.accidents import (
    ROLES,
    SLOW_S,
    Traffic,
    asleep,
    assert_in_order,
    committed_beyond,
    cycle_with_kill,
    data_processes,
    dot,
    held,
    hold_after,
    kill_data_process,
    known_cycles,
    overwrite,
    put_off,
    quiet,
    synchronised,
    wake_data_process,
)
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated

_BOOT, _DATA = 0, 1
_SEGMENTS = 5
"""Of 4 MiB, two to a chunk of the initial replication."""


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM whose boot disk is full of data that does not compress: each segment is 4 MiB, read and sent."""
    replicated = Replicated.create(lab.world, client, request.node.name, (_SEGMENTS * 4 * MIB + 37 * SECTOR, 4 * MIB))
    overwrite(replicated, _BOOT, 0, _SEGMENTS * 4 * MIB)
    yield replicated
    await replicated.discard()


@pytest.mark.chaos
async def test_workers_killed_in_the_middle_are_replaced_without_sending_a_stored_segment_again(lab: Lab, vm: Replicated) -> None:
    """The source worker dies while it sends a chunk, the target worker while it applies the one before."""
    hold_after(lab.world, "log", "PutBlob", 0, path="/0000000003", count=1)
    hold_after(lab.world, "seed", "PutPage", 1, count=1)
    await vm.enable()
    traffic = Traffic.from_now(vm)
    await held(lab.world, 2)
    stored = traffic.stored()
    lab.source.kill()
    lab.target.kill()
    lab.world.blob_control.clear_faults()
    lab.source.start()
    lab.target.start()
    await synchronised(vm)
    sendings = traffic.sendings()
    assert len(stored) >= 2
    assert {name: sendings[name] for name in stored} == dict.fromkeys(stored, 1)
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_killed_data_processes_cost_an_attempt_and_not_their_worker(lab: Lab, vm: Replicated) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, _BOOT, 0, 12 * MIB)
    traffic = Traffic.from_now(vm)
    hold_after(lab.world, "log", "PutBlob", 1)
    hold_after(lab.world, "seed", "PutPage", 1)
    await resumed(vm)
    workers = lab.source.pid, lab.target.pid

    await held(lab.world)
    stored = await traffic.first_stored()
    kill_data_process(lab.source)
    lab.world.blob_control.clear_faults()
    hold_after(lab.world, "seed", "PutPage", 1)
    await held(lab.world)
    kill_data_process(lab.target)
    lab.world.blob_control.clear_faults()

    record = await committed_beyond(vm, known)
    assert (lab.source.running, lab.target.running) == (True, True)
    assert (lab.source.pid, lab.target.pid) == workers
    assert record.segments_found >= 1
    assert record.segments_sent + record.segments_found == 3
    assert {name: traffic.sendings()[name] for name in stored} == dict.fromkeys(stored, 1)
    assert data_processes(lab.source) + data_processes(lab.target) == []
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_a_control_worker_killed_at_any_time_loses_nothing_up_to_the_migrated_vm(lab: Lab, vm: Replicated) -> None:
    """Killed during the initial replication, during a delta, and between the final delta and the VM."""
    hold_after(lab.world, "log", "PutBlob", 1)
    await vm.enable()
    await held(lab.world)
    await _control_dies(lab)
    lab.world.blob_control.clear_faults()
    await synchronised(vm)

    known = await quiet(vm)
    overwrite(vm, _BOOT, 0, 8 * MIB)
    traffic = Traffic.from_now(vm)
    hold_after(lab.world, "log", "PutBlob", 1)
    await resumed(vm)
    await held(lab.world)
    await _control_dies(lab)
    lab.world.blob_control.clear_faults()
    record = await committed_beyond(vm, known)
    assert (record.segments_sent, record.segments_found) == (2, 0)
    assert len(traffic.stored()) == 2

    overwrite(vm, _DATA, MIB, MIB)
    lab.world.arm_control.set_times(operation_s=5)
    try:
        await vm.handle.signal("migrate_now")
        await reached(lambda: _imports_run(lab), "the import of the disks", SLOW_S)
        await _control_dies(lab)
    finally:
        lab.world.arm_control.set_times(operation_s=0)
    migrated = await vm.migration_ended()
    assert migrated.migration_state == MigrationState.MIGRATED.value, migrated
    assert migrated.migration is not None and migrated.migration.outcome is JobOutcome.SUCCEEDED
    vm.assert_target_identical(migrated)
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_a_restarted_temporal_server_finds_transfers_and_sleeps_as_they_were(lab: Lab, vm: Replicated) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, _BOOT, 4 * MIB, 12 * MIB)
    traffic = Traffic.from_now(vm)
    hold_after(lab.world, "log", "PutBlob", 1)
    await resumed(vm)
    await held(lab.world)
    stored = await traffic.first_stored()
    await asyncio.to_thread(lab.world.temporal.restart)
    lab.world.blob_control.clear_faults()
    record = await committed_beyond(vm, known)
    assert record.segments_sent + record.segments_found == 3
    assert {name: traffic.sendings()[name] for name in stored} == dict.fromkeys(stored, 1)

    vm.scribble()
    await vm.until(lambda status: status.next_cycle_at is not None and status.activity.startswith("idle until"))
    known = await known_cycles(vm)
    await asyncio.to_thread(lab.world.temporal.restart)
    await committed_beyond(vm, known)
    await assert_in_order(vm)


async def test_a_target_worker_that_wakes_after_its_successor_writes_nothing(lab: Lab, vm: Replicated) -> None:
    """Its data process is stopped between two pages of a segment, and goes on with the next page when it wakes."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    dot(vm, _BOOT, 64)
    hold_after(lab.world, "seed", "PutPage", 4)
    await resumed(vm)
    await held(lab.world)
    async with asleep(lab.target, lab.world, "target"):
        await committed_beyond(vm, known)
        later = await quiet(vm)
        dot(vm, _BOOT, 64)
        await resumed(vm)
        await committed_beyond(vm, later)
        await quiet(vm)
        seeds = vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)
        traffic = Traffic.from_now(vm)
        wake_data_process(lab.target)
        await reached(lambda: traffic.refused_pages() > 0, "a refused late write")
        lab.target.thaw()
        await reached(lambda: data_processes(lab.target) == [], "the end of the late data process")
        assert (vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)) == seeds
    await resumed(vm)
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_a_source_worker_that_wakes_after_its_successor_stores_nothing(lab: Lab, vm: Replicated) -> None:
    """Its data process is stopped with segments in memory that it shall send again, and sends them when it wakes."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    dot(vm, _BOOT, 128)
    dot(vm, _DATA, 8)
    traffic = Traffic.from_now(vm)
    await put_off(lab.world, traffic, 1)
    async with asleep(lab.source, lab.world, "source"):
        stored = traffic.stored()
        hold_after(lab.world, "seed", "PutPage", 0)
        await reached(lambda: lab.world.blob_control.held() > 0, "the apply of what the successor sent", SLOW_S)
        refused = traffic.refused_segments()
        wake_data_process(lab.source)
        await reached(lambda: traffic.refused_segments() > refused, "a refused late segment")
        lab.source.thaw()
        lab.world.blob_control.clear_faults()
        record = await committed_beyond(vm, known)
    assert record.segments_found >= len(stored)
    assert {name: traffic.sendings()[name] for name in stored} == dict.fromkeys(stored, 1)
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_a_data_process_may_die_at_any_point(lab: Lab, vm: Replicated) -> None:
    """One passing of each kill point; all passings are enumerated in tests/chaos."""
    await vm.enable_and_sync()
    for point in ROLES:
        await quiet(vm)
        overwrite(vm, _BOOT, 0, 8 * MIB)
        record = await cycle_with_kill(lab, vm, ROLES[point][-1], point, 1)
        assert record.segments_sent + record.segments_found == 2, point
        assert (record.segments_found > 0) == (point is KillPoint.AFTER_PUT), point
    await assert_in_order(vm)


async def _control_dies(lab: Lab) -> None:
    lab.control.kill()
    await asyncio.to_thread(lab.control.start)


def _imports_run(lab: Lab) -> bool:
    return any(op.action == "disks.import" and op.status == "InProgress" for op in lab.world.arm_control.operations())
