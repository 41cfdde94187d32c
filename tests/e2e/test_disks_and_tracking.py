"""Disks of every size, change tracking in every mood, snapshots of ours and of others, and a vCenter that is not always there."""

import os
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.model.naming import gateway_container, log_container, seed_container, seed_name, snapshot_name
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.model.units import GRANULE, MIB, SECTOR
from deltaferry.model.vm import Claim
from lab.configuration import INSTALLATION
from lab.nbd_guest import GuestDisk
from lab.settings import DATASTORES, ESXI_HOSTS, NETWORKS, SITE
from lab.vcenter.control_views import VmState
from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.inventory_file import DiskSpec, NicSpec, VmSpec
from lab.vcenter.tracking import PAGE_LIMIT, StarAnswer
from tests.e2e.conftest import Lab
from tests.e2e.interventions import eventually, paused, reached, resumed, stopped_at
from tests.e2e.replicated import Replicated
from tests.e2e.shared_vm import SharedVm
from workers.settings import load_settings
from workers.wiring import build_site

_SMALL = (4 * MIB + 37 * SECTOR, MIB)
_TOUCHING = ("CreateSnapshotEx_Task", "RemoveSnapshot_Task", "ConsolidateVMDisks_Task", "ReconfigVM_Task")
"""The vSphere methods that change a VM."""

Make = Callable[[str, tuple[int, ...]], Replicated]


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[SharedVm]:
    vm = SharedVm(lab, "disks-and-tracking", _SMALL)
    yield vm
    vm.discard()


@pytest.fixture
async def vm(shared: SharedVm, client: Client) -> Replicated:
    """A VM in Delta sync, which the test leaves so."""
    return await shared.in_delta_sync(client)


@pytest.fixture
async def make(lab: Lab, client: Client) -> AsyncIterator[Make]:
    """Make VMs of the test's own, partly random, partly zero."""
    made: list[Replicated] = []

    def create(name: str, capacities: tuple[int, ...]) -> Replicated:
        made.append(Replicated.create(lab.world, client, name, capacities))
        return made[-1]

    yield create
    for vm in made:
        await vm.discard()


@pytest.fixture
async def make_of(lab: Lab, client: Client) -> AsyncIterator[Callable[..., Replicated]]:
    """Make VMs whose disks hold given content: (capacity, the file's bytes at its beginning)."""
    made: list[Replicated] = []

    def create(name: str, *disks: tuple[int, bytes]) -> Replicated:
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        specs = tuple(
            DiskSpec(capacity, f"Hard disk {number}", _file(lab.world.directory / f"{unique}-{number}.raw", capacity, content))
            for number, (capacity, content) in enumerate(disks, start=1)
        )
        spec = VmSpec(
            name=unique,
            host=ESXI_HOSTS[0].name,
            datastore=DATASTORES[0].name,
            guest_id="debian12_64Guest",
            guest_full_name="Debian GNU/Linux 12 (64-bit)",
            disks=specs,
            nics=(NicSpec(NETWORKS[0]),),
        )
        source = random.Random(os.urandom(8))
        made.append(Replicated(lab.world, client, unique, lab.world.vcenter_control.add_vm(spec), source))
        return made[-1]

    yield create
    for vm in made:
        await vm.discard()


def _file(path: Path, capacity: int, content: bytes) -> Path | None:
    if not content:
        return None
    with path.open("wb") as file:
        file.write(content)
        file.truncate(capacity)
    return path


def source_vm(vm: Replicated) -> VmState:
    """Return the source VM as it is now."""
    return vm.world.vcenter_control.vm(vm.name)


@contextmanager
def untouched(vm: Replicated, *methods: str) -> Iterator[None]:
    """Assert that none of these methods is called on this VM inside the block: a fault waits for the first call of each."""
    control, moref = vm.world.vcenter_control, vm.source.moref
    for method in methods:
        control.ask(FaultRequest(FaultName.METHOD, vm=moref, method=method, fault="InvalidState"))
    yield
    left = {fault["method"] for fault in control.call("GET", "/faults")["faults"] if fault["vm"] == moref}
    assert left == set(methods), f"{vm.name} was touched by {sorted(set(methods) - left)}"
    control.clear_faults(FaultName.METHOD)


async def all_committed(vm: Replicated) -> bool:
    return all(record.committed for record in await vm.cycles())


# --- sizes ---


@pytest.mark.chaos
async def test_disks_of_odd_sizes_are_replicated_to_their_last_sector(make: Make) -> None:
    vm = make("odd-sizes", (3 * MIB + 37 * SECTOR, GRANULE + SECTOR, MIB - SECTOR))
    await vm.enable_and_sync()
    await paused(vm)
    vm.assert_seeds_equal_source()
    for number, disk in enumerate(vm.source.disks):
        vm.write(number, disk.capacity_bytes - SECTOR, vm.random.randbytes(SECTOR))
    await resumed(vm)
    await vm.committed(1)
    vm.assert_seeds_equal_source()
    vm.write(1, GRANULE - SECTOR, vm.random.randbytes(2 * SECTOR))
    await vm.state(ReplicationState.DELTA_SYNC)
    migrated = await vm.migrate()
    assert migrated.migration_state == MigrationState.MIGRATED.value, migrated
    vm.assert_target_identical(migrated)


def guest_disk(vm: Replicated, disk: int) -> GuestDisk:
    """Return a VM's disk as its guest has it: for many writes, each of which is quick there."""
    host, _, port = vm.world.endpoints.nbd[vm.source.host].rpartition(":")
    return GuestDisk(host, int(port), f"guest={vm.source.moref};disk={vm.source.disks[disk].key}")


@pytest.mark.chaos
async def test_more_than_two_thousand_areas_in_descending_order_are_all_replicated(make_of: Callable[..., Replicated]) -> None:
    areas = PAGE_LIMIT + 50
    vm = make_of("many-areas", (2 * areas * GRANULE, b""))
    await vm.enable_and_sync()
    await paused(vm)
    vm.world.vcenter_control.set_tracking(vm.source.moref, reverse_areas=True)
    with guest_disk(vm, 0) as disk:
        for area in range(areas):
            disk.write((2 * area + 1) * GRANULE, vm.random.randbytes(SECTOR))
    pages = vm.world.vcenter_control.calls()["QueryChangedDiskAreas"]
    await resumed(vm)

    async def carried() -> bool:
        return any(record.kind is CycleKind.DELTA and record.changed_bytes == areas * GRANULE for record in await vm.cycles())

    await eventually(carried, "a delta cycle of all areas", limit_s=300.0)
    assert await all_committed(vm)
    assert vm.world.vcenter_control.calls()["QueryChangedDiskAreas"] >= pages + 2
    vm.assert_seeds_equal_source()


@contextmanager
def short_pages(vm: Replicated, areas: int, cover_bytes: int) -> Iterator[None]:
    """Let vCenter answer in pages of few areas and few bytes, some of them empty, each in descending order."""
    control = vm.world.vcenter_control
    control.limit_pages(areas)
    control.set_tracking(vm.source.moref, page_cover_bytes=cover_bytes, reverse_areas=True)
    try:
        yield
    finally:
        control.limit_pages(PAGE_LIMIT)
        control.set_tracking(vm.source.moref)


@pytest.mark.chaos
async def test_an_empty_page_is_not_the_last_one(vm: Replicated) -> None:
    await paused(vm)
    with short_pages(vm, areas=2, cover_bytes=MIB // 2):
        for offset in (0, 3 * GRANULE, 5 * GRANULE, 7 * GRANULE, 4 * MIB + 36 * SECTOR):
            vm.write(0, offset, vm.random.randbytes(SECTOR))
        await resumed(vm)
        await vm.committed(1)
        assert (await vm.cycles())[-1].committed
        vm.assert_seeds_equal_source()


# --- zeros and holes ---


def requests_so_far(vm: Replicated) -> int:
    """Return the number of the last request that the stores answered."""
    return max((request.number for request in vm.world.blob_control.requests()), default=0)


def page_writes(vm: Replicated, since: int, disk: int) -> dict[str, int]:
    """Return how many bytes were put on a seed disk, and how many requests cleared pages of it."""
    name = seed_name(vm.source.disks[disk].key)
    container = seed_container(vm.reference)
    seen = [r for r in vm.world.blob_control.requests(since) if (r.container, r.blob) == (container, name) and r.status == 201]
    return {
        "put_bytes": sum(r.bytes_in for r in seen if r.operation == "PutPage"),
        "clears": sum(r.operation == "ClearPages" for r in seen),
    }


async def test_zeros_written_in_a_delta_are_zero_on_the_seed_and_only_cleared(vm: Replicated) -> None:
    await paused(vm)
    vm.write(0, 8 * GRANULE, vm.random.randbytes(4 * GRANULE))
    await resumed(vm)
    await vm.committed(1)
    await paused(vm)
    assert any(vm.seed_bytes(0)[8 * GRANULE : 12 * GRANULE])
    vm.write(0, 8 * GRANULE, bytes(4 * GRANULE))
    since = requests_so_far(vm)
    await resumed(vm)
    await vm.committed(1)
    assert not any(vm.seed_bytes(0)[8 * GRANULE : 12 * GRANULE])
    vm.assert_seeds_equal_source()
    writes = page_writes(vm, since, 0)
    assert writes["put_bytes"] == 0
    assert writes["clears"] >= 1


@pytest.mark.chaos
async def test_what_is_not_allocated_is_neither_read_nor_sent_nor_written(make_of: Callable[..., Replicated]) -> None:
    vm = make_of("thin", (8 * MIB, os.urandom(MIB)), (16 * MIB, b""))
    since = requests_so_far(vm)
    status = await vm.enable_and_sync()
    full, empty = sorted(status.initial, key=lambda summary: summary.disk_key)
    assert full.bytes_read == MIB
    assert MIB <= full.bytes_sent < MIB + 8 * 1024
    assert empty.bytes_read == 0
    assert empty.bytes_sent < 8 * 1024
    assert page_writes(vm, since, 0) == {"put_bytes": MIB, "clears": 0}
    assert page_writes(vm, since, 1) == {"put_bytes": 0, "clears": 0}
    vm.assert_seeds_equal_source()


@pytest.mark.chaos
async def test_where_the_datastore_cannot_tell_allocated_areas_the_whole_disk_is_read(make_of: Callable[..., Replicated]) -> None:
    vm = make_of("no-epoch", (6 * MIB + SECTOR, os.urandom(MIB)))
    vm.world.vcenter_control.set_tracking(vm.source.moref, star=StarAnswer.NO_EPOCH)
    status = await vm.enable_and_sync()
    assert [summary.bytes_read for summary in status.initial] == [6 * MIB + SECTOR]
    vm.assert_seeds_equal_source()


# --- what parks a replication ---


def add_a_disk(vm: Replicated) -> None:
    vm.world.vcenter_control.add_disk(vm.source.moref, DiskSpec(MIB, "Hard disk 9"))


def remove_a_disk(vm: Replicated) -> None:
    vm.world.vcenter_control.remove_disk(vm.source.moref, vm.source.disks[1].key)


def grow_a_disk(vm: Replicated) -> None:
    vm.world.vcenter_control.grow_disk(vm.source.moref, vm.source.disks[1].key, 2 * MIB)


async def parked(vm: Replicated, kind: ErrorKind) -> str:
    """Wait for Repair pending; check what it shows, and that one failed cycle was enough; return the message."""
    status = await vm.state(ReplicationState.REPAIR_PENDING)
    (health,) = status.health
    assert (health.kind, health.remedy, health.retried) == (kind, CATALOGUE[kind].remedy, False)
    assert status.next_cycle_at is None
    assert set(status.allowed) == {"repair", "resync", "stop", "update_target", "test_migrate", "failover", "update_policy"}
    *earlier, last = await vm.cycles()
    assert all(record.committed for record in earlier)
    assert last.failure.startswith(f"{kind.value}: ")
    assert vm.our_snapshots() == []
    return health.message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(add_a_disk, "Hard disk 9 (key {new}, 1 MiB) was added.", id="added"),
        pytest.param(remove_a_disk, "Hard disk 2 (key {key}) was removed.", id="removed", marks=pytest.mark.chaos),
        pytest.param(
            grow_a_disk, "Hard disk 2 (key {key}) was resized from 1 MiB to 2 MiB.", id="grown", marks=pytest.mark.chaos
        ),
    ],
)
async def test_a_changed_set_of_disks_parks_the_replication_and_no_snapshot_is_taken(
    make: Make, change: Callable[[Replicated], None], sentence: str
) -> None:
    vm = make("changed-disks", _SMALL)
    await vm.enable_and_sync()
    await paused(vm)
    change(vm)
    with untouched(vm, *_TOUCHING):
        await resumed(vm)
        message = await parked(vm, ErrorKind.DISKS_CHANGED)
    new = max(disk.key for disk in source_vm(vm).disks)
    assert sentence.format(key=vm.source.disks[1].key, new=new) in message


@pytest.mark.chaos
async def test_a_reset_of_change_tracking_ends_in_repair_pending_at_once(make: Make) -> None:
    vm = make("tracking-reset", _SMALL)
    await vm.enable_and_sync()
    await paused(vm)
    committed = vm.seed_bytes(0)
    vm.world.vcenter_control.set_tracking(vm.source.moref, reset=True)
    vm.scribble(3)
    await resumed(vm)
    message = await parked(vm, ErrorKind.CBT_RESET)
    assert f"disk {vm.source.disks[0].key}" in message
    assert vm.seed_bytes(0) == committed


@pytest.mark.chaos
async def test_a_vm_that_another_installation_has_claimed_is_left_alone(make: Make, worker_environment: None) -> None:
    vm = make("claimed", _SMALL)
    await vm.enable_and_sync()
    await paused(vm)
    site, close = build_site(load_settings(vm.world.config_file, vm.world.environment), SITE)
    ours, theirs = Claim(INSTALLATION, vm.reference.replication_id), Claim("elsewhere", "0123456789abcdef")
    site.hypervisor.write_claim(vm.source.instance_uuid, theirs, expected=ours)
    close()
    leave_a_delta_behind(vm)
    claimed = source_vm(vm)
    assert claimed.consolidation_needed
    with untouched(vm, *_TOUCHING):
        await resumed(vm)
        message = await parked(vm, ErrorKind.CLAIM_LOST)
        await vm.stop()
    assert theirs.replication_id in message
    assert theirs.installation in message
    assert source_vm(vm) == claimed


@pytest.fixture
def worker_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the environment that a worker has."""
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)


def leave_a_delta_behind(vm: Replicated) -> None:
    """Let somebody else's snapshot be removed while its delta cannot be merged, and then let it be free."""
    control = vm.world.vcenter_control
    theirs = control.take_snapshot(vm.source.moref, "nightly backup")
    control.lock_consolidation(vm.source.moref, locked=True)
    control.remove_snapshot(vm.source.moref, theirs)
    control.lock_consolidation(vm.source.moref, locked=False)


# --- snapshots of ours and of others ---


async def test_a_leftover_snapshot_of_ours_is_removed_before_the_next_one_is_taken(vm: Replicated) -> None:
    await paused(vm)
    leftover = snapshot_name(vm.reference, f"9999-{uuid.uuid4()}")
    vm.world.vcenter_control.take_snapshot(vm.source.moref, leftover)
    vm.scribble(3)
    await resumed(vm)
    async with stopped_at(vm.world, "log", log_container(vm.reference), "PutBlob"):
        (only,) = vm.our_snapshots()
        assert only != leftover
    await vm.committed(1)
    assert await all_committed(vm)


@pytest.mark.chaos
async def test_snapshots_of_others_are_never_removed_not_even_as_children_of_ours(vm: Replicated) -> None:
    control, moref = vm.world.vcenter_control, vm.source.moref
    await paused(vm)
    before = control.take_snapshot(moref, "before an update")
    vm.scribble(3)
    await resumed(vm)
    async with stopped_at(vm.world, "log", log_container(vm.reference), "PutBlob"):
        assert len(vm.our_snapshots()) == 1
        child = control.take_snapshot(moref, "nightly backup")
    await vm.committed(1)
    vm.scribble(3)
    await vm.committed(1)
    await paused(vm)
    assert [snapshot.moref for snapshot in source_vm(vm).snapshots] == [before, child]
    assert await all_committed(vm)
    control.remove_snapshot(moref, child)
    control.remove_snapshot(moref, before)
    vm.scribble(3)
    await resumed(vm)
    await vm.committed(1)
    vm.assert_seeds_equal_source()


async def pending_release(vm: Replicated) -> Any:
    """Return what Temporal says of the step that releases the snapshot, while it is being tried; else None."""
    description = await vm.handle.describe()
    steps = description.raw_description.pending_activities
    return next((step for step in steps if step.activity_type.name == "release_snapshot"), None)


@pytest.mark.chaos
async def test_no_snapshot_is_taken_until_the_disks_are_consolidated(vm: Replicated) -> None:
    control, moref = vm.world.vcenter_control, vm.source.moref
    control.lock_consolidation(moref, locked=True)
    try:
        await reached(lambda: source_vm(vm).consolidation_needed, "a snapshot whose delta cannot be merged")

        async def refused() -> bool:
            step = await pending_release(vm)
            if step is None or not step.HasField("last_failure"):
                return False
            assert step.last_failure.application_failure_info.type == ErrorKind.CONSOLIDATION_STUCK.value
            return True

        with untouched(vm, "CreateSnapshotEx_Task"):
            await eventually(refused, "a refused consolidation")
            assert vm.our_snapshots() == []
    finally:
        control.lock_consolidation(moref, locked=False)
    await vm.committed(2)
    await paused(vm)
    assert not source_vm(vm).consolidation_needed
    await resumed(vm)
    await vm.committed(1)
    assert await all_committed(vm)


@pytest.mark.chaos
async def test_an_initial_replication_that_loses_its_snapshot_goes_on_under_a_new_one_and_keeps_what_it_copied(
    make_of: Callable[..., Replicated],
) -> None:
    capacity = 24 * MIB
    vm = make_of("lost-snapshot", (capacity, os.urandom(capacity)))
    control, moref = vm.world.vcenter_control, vm.source.moref
    third_segment = f"/{vm.source.disks[0].key}/{2:010d}"
    await vm.enable()
    async with stopped_at(vm.world, "log", third_segment, "PutBlob"):
        await vm.until(lambda status: bool(status.percent), "a first chunk that is verified")
        vm.write(0, MIB, vm.random.randbytes(SECTOR))
        (lost,) = source_vm(vm).snapshots
        control.remove_snapshot(moref, lost.moref)
    status = await vm.committed(1)
    initial = (await vm.cycles())[0]
    assert initial.cycle_key.startswith("2-")
    (summary,) = status.initial
    assert capacity < summary.bytes_read <= capacity + GRANULE * 2
    vm.assert_seeds_equal_source()


# --- a vCenter that is not always there ---


@pytest.mark.chaos
async def test_a_session_that_expires_in_the_middle_of_a_cycle_is_renewed(vm: Replicated) -> None:
    logins = vm.world.vcenter_control.calls()["Login"]
    vm.scribble(3)
    async with stopped_at(vm.world, "log", log_container(vm.reference), "PutBlob"):
        assert vm.world.vcenter_control.expire_sessions() >= 1
    await vm.committed(1)
    assert vm.world.vcenter_control.calls()["Login"] > logins
    assert await all_committed(vm)


@pytest.mark.chaos
async def test_a_vcenter_that_does_not_answer_for_some_seconds_delays_a_cycle_and_fails_none(vm: Replicated) -> None:
    vm.scribble(3)
    async with stopped_at(vm.world, "gateway", f"{gateway_container(vm.reference)}/cycles/", "PutBlob"):
        vm.world.vcenter_control.be_unreachable(3.0)
    await vm.committed(2)
    assert await all_committed(vm)
    await paused(vm)
    assert vm.our_snapshots() == []
    vm.assert_seeds_equal_source()
    await resumed(vm)
    await vm.state(ReplicationState.DELTA_SYNC)
