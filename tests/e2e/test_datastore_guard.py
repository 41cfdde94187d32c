"""A datastore that runs full: no snapshot is taken, a held one is released, and replication goes on by itself (spec §2.7)."""

import re
from collections.abc import Iterator

import pytest

from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import log_container
from deltaferry.model.states import HealthError, MigrationState, ReplicationState
from deltaferry.model.units import MIB
from lab.settings import DATASTORES
from lab.world import World
from tests.e2e.accidents import (
    assert_in_order,
    committed_beyond,
    data_processes,
    hold_after,
    known_cycles,
    overwrite,
    quiet,
    synchronised,
)
from tests.e2e.conftest import Lab
from tests.e2e.interventions import eventually, held, hold, reached, resumed
from tests.e2e.replicated import Replicated
from workflows.messages.views import DiskView, StatusView

_SNAPSHOT_CALLS = ("CreateSnapshot_Task", "CreateSnapshotEx_Task")
_CAPACITY = {spec.name: spec.capacity_bytes for spec in DATASTORES}
_LITTLE = 512 * MIB
"""Of 20 GiB: below the threshold of 2 GiB."""


class Datastore:
    """The datastore that a VM's disks are on."""

    def __init__(self, world: World, name: str) -> None:
        self._control = world.vcenter_control
        self.name = name

    def fill(self) -> None:
        """Leave hardly any room."""
        self._control.fill_datastore(self.name, _LITTLE)

    def enlarge(self) -> None:
        """Give it more room, as an operator does."""
        self._control.set_datastore(self.name, capacity_bytes=2 * _CAPACITY[self.name])

    def restore(self) -> None:
        """Leave it as the other tests know it."""
        self._control.fill_datastore(self.name, None)
        self._control.set_datastore(self.name, capacity_bytes=_CAPACITY[self.name])

    def free_bytes(self) -> int:
        """Return what is really free now."""
        return next(item.free_bytes for item in self._control.state().datastores if item.name == self.name)


@pytest.fixture
def datastore(vm: Replicated) -> Iterator[Datastore]:
    found = re.match(r"\[(.*?)\]", vm.source.disks[0].file_name)
    assert found is not None
    store = Datastore(vm.world, found[1])
    yield store
    store.restore()


def snapshot_calls(vm: Replicated) -> int:
    calls = vm.world.vcenter_control.calls()
    return sum(calls.get(method, 0) for method in _SNAPSHOT_CALLS)


def shortage(status: StatusView) -> HealthError | None:
    return next((error for error in status.health if error.kind is ErrorKind.DATASTORE_FULL), None)


async def short(vm: Replicated, limit_s: float = 60.0) -> HealthError:
    """Wait for the health error, and return it."""
    status = await vm.until(lambda status: shortage(status) is not None, "a health error of a full datastore", limit_s)
    found = shortage(status)
    assert found is not None
    return found


async def released(vm: Replicated) -> None:
    """Wait until the snapshot is gone and the disks are consolidated."""

    def is_released() -> bool:
        state = vm.world.vcenter_control.vm(vm.name)
        return state.snapshots == () and not state.consolidation_needed

    await reached(is_released, "a released snapshot", 60.0)


async def copied(vm: Replicated) -> int:
    """Return how much of the disks the initial replication has copied and verified."""
    return sum(disk.copied_bytes for disk in await vm.handle.query("disks", result_type=tuple[DiskView, ...]))


@pytest.mark.chaos
async def test_no_snapshot_is_taken_below_the_threshold_and_cycles_go_on_once_the_datastore_is_enlarged(
    vm: Replicated, datastore: Datastore
) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    datastore.fill()
    before = snapshot_calls(vm)
    vm.scribble()
    await resumed(vm)
    error = await short(vm)
    numbers = rf"Datastore {datastore.name} has 5\d\d(\.\d)? MiB free of 20 GiB; a snapshot needs 2 GiB to be free\."
    assert re.fullmatch(numbers, error.message), error.message
    assert "Enlarge the datastore" in error.remedy
    assert error.retried
    await eventually(lambda: _failed_cycles(vm, known, 2), "two failed cycles")
    assert (await vm.status()).replication_state == ReplicationState.DELTA_SYNC.value
    assert snapshot_calls(vm) == before
    datastore.enlarge()
    await committed_beyond(vm, known)
    await assert_in_order(vm)


async def _failed_cycles(vm: Replicated, known: frozenset[str], count: int) -> bool:
    failed = [record for record in await vm.cycles() if record.cycle_key not in known and not record.committed]
    return len(failed) >= count and all(record.failure.startswith(ErrorKind.DATASTORE_FULL.value) for record in failed)


@pytest.mark.chaos
async def test_a_snapshot_is_released_when_the_datastore_runs_full_and_the_next_cycle_covers_what_it_had(
    lab: Lab, vm: Replicated, datastore: Datastore
) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, 0, 0, 12 * MIB)
    hold(lab.world, "log", log_container(vm.reference), "PutBlob")
    await resumed(vm)
    await held(lab.world)
    assert vm.our_snapshots() != []
    datastore.fill()
    vm.scribble()
    lab.world.blob_control.clear_faults()
    error = await short(vm)
    assert f"Datastore {datastore.name} has " in error.message
    assert "while a snapshot is held, 2 GiB have to stay free" in error.message
    await released(vm)
    assert await known_cycles(vm) >= known
    assert not any(record.committed for record in await vm.cycles() if record.cycle_key not in known)
    datastore.restore()
    record = await committed_beyond(vm, known)
    assert record.changed_bytes >= 12 * MIB
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_a_transfer_in_the_middle_of_a_chunk_ends_within_a_minute_or_two(
    lab: Lab, vm: Replicated, datastore: Datastore
) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, 0, 0, 4 * MIB)
    hold(lab.world, "log", log_container(vm.reference), "PutBlob")
    await resumed(vm)
    await held(lab.world)
    datastore.fill()
    await short(vm, 150.0)
    assert data_processes(lab.source) == []
    await released(vm)
    lab.world.blob_control.clear_faults()
    datastore.restore()
    await committed_beyond(vm, known)
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_what_a_guest_writes_under_a_held_snapshot_fills_the_datastore_and_comes_back(
    lab: Lab, vm: Replicated, datastore: Datastore
) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, 0, 0, 12 * MIB)
    vm.world.vcenter_control.fill_datastore(datastore.name, _CAPACITY[datastore.name] // 10 + 8 * MIB)
    before = datastore.free_bytes()
    hold(lab.world, "log", log_container(vm.reference), "PutBlob")
    await resumed(vm)
    await held(lab.world)
    overwrite(vm, 0, 0, 12 * MIB)
    assert before - datastore.free_bytes() >= 12 * MIB
    lab.world.blob_control.clear_faults()
    await short(vm)
    await released(vm)
    assert datastore.free_bytes() >= before
    await committed_beyond(vm, known)  # by itself: with the snapshot gone there is room again
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_an_initial_replication_keeps_its_marks_and_goes_on_by_itself(
    lab: Lab, vm: Replicated, datastore: Datastore
) -> None:
    await vm.enable()
    hold_after(lab.world, "log", "PutBlob", 6, path=log_container(vm.reference))
    await held(lab.world)
    await eventually(lambda: _has_copied(vm), "a mark")
    vm.scribble()
    datastore.fill()
    error = await short(vm, 150.0)
    lab.world.blob_control.clear_faults()
    assert error.retried
    await released(vm)
    status = await vm.status()
    assert status.replication_state == ReplicationState.INITIAL_IN_PROGRESS.value
    assert await copied(vm) > 0
    calls = snapshot_calls(vm)
    await eventually(lambda: _again(vm, error), "another try")
    assert snapshot_calls(vm) == calls
    job = (await vm.status()).job_id
    datastore.enlarge()
    status = await synchronised(vm)
    assert status.job_id == job
    assert shortage(status) is None
    assert sum(summary.bytes_read for summary in status.initial) < 1.7 * sum(disk.capacity_bytes for disk in vm.source.disks)
    await vm.committed(1)
    await assert_in_order(vm)


async def _has_copied(vm: Replicated) -> bool:
    return await copied(vm) > 0


async def _again(vm: Replicated, first: HealthError) -> bool:
    """Return whether the copy has tried again since, in vain."""
    now = shortage(await vm.status())
    return now is not None and now.at > first.at


@pytest.mark.chaos
async def test_a_resync_waits_for_room_and_goes_on_by_itself(vm: Replicated, datastore: Datastore) -> None:
    await vm.enable_and_sync()
    datastore.fill()
    vm.scribble()
    known = await known_cycles(vm)
    await vm.handle.execute_update("resync", result_type=str)
    await vm.until(
        lambda status: status.replication_state == ReplicationState.RESYNC_IN_PROGRESS.value and shortage(status) is not None,
        "a resync that waits for room",
    )
    assert vm.our_snapshots() == []
    datastore.enlarge()
    await vm.until(
        lambda status: len(status.resyncs) == 1 and status.replication_state == ReplicationState.DELTA_SYNC.value,
        "the end of the resync",
    )
    await committed_beyond(vm, known)
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_a_migration_ends_before_the_shut_down_while_there_is_no_room(vm: Replicated, datastore: Datastore) -> None:
    await vm.enable_and_sync()
    datastore.fill()
    status = await vm.migrate()
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.migration is not None and status.migration.error is not None
    assert status.migration.error.kind is ErrorKind.DATASTORE_FULL
    assert not status.migration.source_shut_down
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOn"
    datastore.enlarge()
    status = await vm.migrate()
    vm.assert_target_identical(status)
