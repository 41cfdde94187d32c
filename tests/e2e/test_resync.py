"""A replication that change tracking can no longer carry on is made equal to its source again by checksums, with the VM running."""

from collections.abc import AsyncIterator, Callable

import pytest
from temporalio.client import Client

from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import log_container, seed_container, seed_name
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from deltaferry.model.units import GRANULE, MIB, SECTOR
from deltaferry.planning.ladder import Rung
from lab.vcenter.inventory_file import DiskSpec
from tests.e2e.accidents import assert_in_order, quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import held, hold, paused, resumed
from tests.e2e.replicated import Replicated
from workflows.messages.views import StatusView

_SIZES = (6 * MIB + 37 * SECTOR, MIB)


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM of the test's own."""
    replicated = Replicated.create(lab.world, client, request.node.name, _SIZES)
    yield replicated
    await replicated.discard()


def flip_a_byte(vm: Replicated, disk: int, offset: int) -> None:
    """Change a byte of a seed behind everybody's back."""
    sector = offset // SECTOR * SECTOR
    key = vm.source.disks[disk].key
    with vm.blobs("seed").get_blob_client(seed_container(vm.reference), seed_name(key)) as blob:
        before = bytearray(blob.download_blob(sector, SECTOR).readall())
        before[offset - sector] ^= 0x40
        blob.upload_page(bytes(before), sector, SECTOR)


async def resynchronised(vm: Replicated, times: int = 1) -> StatusView:
    """Wait for the end of a resync that succeeded."""
    return await vm.until(
        lambda status: len(status.resyncs) >= times and status.replication_state == ReplicationState.DELTA_SYNC.value,
        "the end of the resync",
    )


@pytest.mark.chaos
async def test_a_resync_that_an_operator_asks_for_finds_a_flipped_byte_and_sends_only_its_granule(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    await resumed(vm)
    await vm.committed(1)
    await vm.until(lambda status: status.activity.startswith("idle"), "a sleep")
    flip_a_byte(vm, 0, 3 * MIB + 4711)
    sentence = await vm.handle.execute_update("resync", result_type=str)
    assert "checksums" in sentence
    status = await resynchronised(vm)
    (record,) = status.resyncs
    assert (record.cause, record.rung) == (None, Rung.ALLOCATED)
    assert GRANULE <= record.differing_bytes <= 4 * GRANULE
    cycle = next(record for record in await vm.cycles() if record.kind is CycleKind.RESYNC)
    assert cycle.committed
    await vm.committed(1)
    await assert_in_order(vm)


def reset_tracking(vm: Replicated) -> None:
    vm.world.vcenter_control.set_tracking(vm.source.moref, reset=True)


def delete_a_seed(vm: Replicated) -> None:
    with vm.blobs("seed").get_blob_client(seed_container(vm.reference), seed_name(vm.source.disks[1].key)) as blob:
        blob.delete_blob(delete_snapshots="include")


def grow_a_disk(vm: Replicated) -> None:
    vm.world.vcenter_control.grow_disk(vm.source.moref, vm.source.disks[1].key, 3 * MIB)


def add_a_disk(vm: Replicated) -> None:
    vm.world.vcenter_control.add_disk(vm.source.moref, DiskSpec(2 * MIB, "Hard disk 9"))


def remove_a_disk(vm: Replicated) -> None:
    vm.world.vcenter_control.remove_disk(vm.source.moref, vm.source.disks[1].key)


def revert(vm: Replicated) -> None:
    """Somebody takes a snapshot, the guest writes, and somebody reverts to it and removes it."""
    control, moref = vm.world.vcenter_control, vm.source.moref
    snapshot = control.take_snapshot(moref, "before an experiment")
    vm.scribble(10)
    control.revert(moref, snapshot)
    control.remove_snapshot(moref, snapshot)


@pytest.mark.parametrize(
    ("happens", "cause"),
    [
        (reset_tracking, ErrorKind.CBT_RESET),
        pytest.param(revert, ErrorKind.CBT_RESET, marks=pytest.mark.chaos),
        pytest.param(delete_a_seed, ErrorKind.SEED_MISSING, marks=pytest.mark.chaos),
        pytest.param(grow_a_disk, ErrorKind.DISKS_CHANGED, marks=pytest.mark.chaos),
        pytest.param(add_a_disk, ErrorKind.DISKS_CHANGED, marks=pytest.mark.chaos),
        pytest.param(remove_a_disk, ErrorKind.DISKS_CHANGED, marks=pytest.mark.chaos),
    ],
    ids=["reset", "reverted", "seed-deleted", "grown", "added", "removed"],
)
async def test_a_resync_begins_by_itself_and_the_replica_follows_the_source_again(
    vm: Replicated, happens: Callable[[Replicated], None], cause: ErrorKind
) -> None:
    await vm.enable_and_sync(auto_repair=True)
    await paused(vm)
    vm.scribble(5)
    happens(vm)
    vm.source = vm.world.vcenter_control.vm(vm.name)
    vm.scribble(5)
    await resumed(vm)
    status = await resynchronised(vm)
    assert [record.cause for record in status.resyncs] == [cause]
    vm.scribble(5)
    await vm.committed(1)
    await assert_in_order(vm)
    with vm.blobs("seed").get_container_client(seed_container(vm.reference)) as container:
        assert set(container.list_blob_names()) == {seed_name(disk.key) for disk in vm.source.disks}
    migrated = await _migrated(vm)
    vm.assert_target_identical(migrated)
    await vm.complete()
    vm.assert_nothing_left()


async def _migrated(vm: Replicated) -> StatusView:
    await resumed(vm)
    await vm.until(lambda status: status.replication_state == ReplicationState.DELTA_SYNC.value, "Delta sync")
    return await vm.migrate()


@pytest.mark.chaos
async def test_without_auto_repair_it_waits_for_repair_and_stop_cuts_a_resync(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    reset_tracking(vm)
    vm.scribble(10)
    await resumed(vm)
    status = await vm.state(ReplicationState.REPAIR_PENDING)
    assert status.repair is not None and status.repair.starts_at is None
    assert {"repair", "resync", "stop"} <= set(status.allowed)
    hold(vm.world, "log", log_container(vm.reference), "PutBlob")
    try:
        await vm.handle.execute_update("repair")
        await held(vm.world)
        running = await vm.state(ReplicationState.RESYNC_IN_PROGRESS)
        assert running.percent is not None
        await vm.handle.execute_update("stop")
    finally:
        vm.world.blob_control.clear_faults()
    await vm.handle.result()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_verify_locates_a_flipped_byte_and_the_resync_repairs_it(vm: Replicated) -> None:
    await vm.enable_and_sync(auto_repair=True)
    await vm.handle.execute_update("verify")
    clean = await vm.until(lambda status: status.last_scrub is not None, "the end of the scrub")
    assert clean.last_scrub is not None
    assert clean.last_scrub.failure == ""
    assert clean.last_scrub.differing_bytes == 0
    assert clean.last_scrub.read_bytes > 0
    await quiet(vm)
    flip_a_byte(vm, 0, 2 * MIB + 77)
    await resumed(vm)
    await vm.until(lambda status: status.replication_state == ReplicationState.DELTA_SYNC.value, "Delta sync")
    await vm.handle.execute_update("verify")
    found = await vm.until(
        lambda status: status.last_scrub is not None and status.last_scrub.differing_bytes > 0, "the end of the second scrub"
    )
    assert found.last_scrub is not None
    assert found.last_scrub.found == ((vm.source.disks[0].key, 2 * MIB),)
    status = await resynchronised(vm)
    assert [record.cause for record in status.resyncs] == [ErrorKind.SEED_DAMAGED]
    await assert_in_order(vm)
