"""Whoever changes, loses or exchanges what is in the log store: the cycle fails, nothing wrong reaches a seed disk, the next cycle repairs it.

Each test stops the target at its first reading of a manifest: then the transfer is over and nothing is applied yet.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from temporalio.client import Client

from deltaferry.azure.keys import LocalKeyFile
from deltaferry.blocks.manifest import Manifest, encode_manifest
from deltaferry.blocks.plan import decode_plan
from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.naming import (
    CYCLES_PREFIX,
    WRAPPED_KEY,
    gateway_container,
    log_container,
    manifest_name,
    plan_name,
    seed_container,
    seed_name,
    segment_name,
    segment_prefix,
)
from deltaferry.model.replication import StoredSegment
from deltaferry.model.states import ReplicationState
from deltaferry.model.units import MIB, SECTOR
from lab.configuration import KEY_FILE
from tests.e2e.conftest import Lab
from tests.e2e.interventions import held, hold, paused, resumed, stopped_at
from tests.e2e.replicated import Replicated
from tests.e2e.shared_vm import SharedVm
from workflows.messages.views import StatusView

_BOOT, _DATA = 0, 1
_WRITE = 256 * 1024
_MANIFESTS = "/manifest-"


_CAPACITIES = (7 * MIB + 3 * SECTOR, MIB)
"""The boot disk has room for a delta of more than one segment."""


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[SharedVm]:
    vm = SharedVm(lab, "damaged-segments", _CAPACITIES)
    yield vm
    vm.discard()


@pytest.fixture
async def vm(shared: SharedVm, client: Client) -> Replicated:
    """A VM in Delta sync: the one that the test before repaired."""
    return await shared.in_delta_sync(client)


@pytest.fixture
async def own_vm(lab: Lab, client: Client) -> AsyncIterator[Replicated]:
    """A VM that the test may leave in any state."""
    replicated = Replicated.create(lab.world, client, "damaged-twice", _CAPACITIES)
    await replicated.enable_and_sync()
    yield replicated
    await replicated.discard()


@dataclass(frozen=True, slots=True)
class Log:
    """What a cycle has stored and listed, as an intruder with both stores' keys sees it."""

    vm: Replicated
    cycle_key: str

    @classmethod
    def of(cls, vm: Replicated) -> "Log":
        """Return the log of the one cycle that is in the store."""
        (cycle_key,) = {name.removeprefix(CYCLES_PREFIX).partition("/")[0] for name in vm.log_objects()}
        return cls(vm, cycle_key)

    def name(self, disk: int, number: int) -> str:
        return segment_name(self.cycle_key, self.vm.source.disks[disk].key, number)

    def read(self, disk: int, number: int) -> bytes:
        with self.vm.blobs("log").get_blob_client(log_container(self.vm.reference), self.name(disk, number)) as blob:
            return blob.download_blob().readall()

    def replace(self, disk: int, number: int, data: bytes) -> None:
        """Replace a segment's bytes, and leave its metadata as it was."""
        with self.vm.blobs("log").get_blob_client(log_container(self.vm.reference), self.name(disk, number)) as blob:
            blob.upload_blob(data, overwrite=True, metadata=blob.get_blob_properties().metadata)

    def delete(self, disk: int, number: int) -> None:
        with self.vm.blobs("log").get_blob_client(log_container(self.vm.reference), self.name(disk, number)) as blob:
            blob.delete_blob()

    def areas(self, disk: int, number: int) -> tuple[Extent, ...]:
        """Return which areas of the disk a segment carries, by the stored plan."""
        name = plan_name(self.cycle_key, self.vm.source.disks[disk].key)
        with self.vm.blobs("gateway").get_blob_client(gateway_container(self.vm.reference), name) as blob:
            return tuple(entry.extent for entry in decode_plan(blob.download_blob().readall()).segment(number))

    def list_as_stored(self, disk: int) -> None:
        """Rewrite a disk's manifest so that it lists what the log store holds now. (It cannot be read: readers are held.)"""
        key = self.vm.source.disks[disk].key
        count = len([name for name in self.vm.log_objects() if name.startswith(segment_prefix(self.cycle_key, key))])
        present = [self.read(disk, number) for number in range(count)]
        segments = tuple(StoredSegment(number, blake3(data).digest(), len(data)) for number, data in enumerate(present))
        with self.vm.blobs("gateway").get_blob_client(
            gateway_container(self.vm.reference), manifest_name(self.cycle_key, key, 0)
        ) as blob:
            blob.upload_blob(encode_manifest(Manifest(self.cycle_key, key, 0, segments)), overwrite=True)


@dataclass(frozen=True, slots=True)
class Hurt:
    """Which segments (disk, number) were tampered with."""

    segments: tuple[tuple[int, int], ...]


def flip_a_bit(log: Log) -> Hurt:
    data = bytearray(log.read(_BOOT, 0))
    data[len(data) // 2] ^= 0x10
    log.replace(_BOOT, 0, bytes(data))
    return Hurt(((_BOOT, 0),))


def truncate(log: Log) -> Hurt:
    log.replace(_BOOT, 0, log.read(_BOOT, 0)[:-1])
    return Hurt(((_BOOT, 0),))


def exchange(log: Log) -> Hurt:
    first, second = log.read(_BOOT, 0), log.read(_BOOT, 1)
    log.replace(_BOOT, 0, second)
    log.replace(_BOOT, 1, first)
    return Hurt(((_BOOT, 0), (_BOOT, 1)))


def put_in_place(older: bytes) -> "Tamper":
    """Return the exchange of a segment for one that was valid in its place in an earlier cycle."""

    def tamper(log: Log) -> Hurt:
        log.replace(_BOOT, 0, older)
        return Hurt(((_BOOT, 0),))

    return tamper


def lend_another_disks_segment(log: Log) -> Hurt:
    log.replace(_DATA, 0, log.read(_BOOT, 0))
    return Hurt(((_DATA, 0),))


def lose(log: Log) -> Hurt:
    log.delete(_BOOT, 1)
    return Hurt(((_BOOT, 1),))


Tamper = Callable[[Log], Hurt]


def listed(tamper: Tamper) -> Tamper:
    """Return the same damage by somebody who corrects the manifests too, so that only the encryption can tell."""

    def tamper_and_list(log: Log) -> Hurt:
        hurt = tamper(log)
        for disk in {disk for disk, _ in hurt.segments}:
            log.list_as_stored(disk)
        return hurt

    return tamper_and_list


def unlisted(tamper: Tamper) -> Tamper:
    """Return the damage as it is: the manifests still list what was stored first."""
    return tamper


def hurting(tamper: Tamper) -> Callable[[Log], dict[int, tuple[Extent, ...]]]:
    """Return the damage, telling which areas of which disk were hit."""

    def tampered(log: Log) -> dict[int, tuple[Extent, ...]]:
        areas: dict[int, tuple[Extent, ...]] = {}
        for disk, number in tamper(log).segments:
            areas[disk] = (*areas.get(disk, ()), *log.areas(disk, number))
        return areas

    return tampered


def replace_the_data_key(vm: Replicated) -> bytes:
    """Put another key, wrapped as it has to be, in the data key's place; return the one that was there."""
    keys = LocalKeyFile(Path(vm.world.environment[KEY_FILE]))
    with vm.blobs("gateway").get_blob_client(gateway_container(vm.reference), WRAPPED_KEY) as blob:
        before = blob.download_blob().readall()
        blob.upload_blob(keys.wrap(os.urandom(32)), overwrite=True)
    return before


def put_back_the_data_key(vm: Replicated, wrapped: bytes) -> None:
    with vm.blobs("gateway").get_blob_client(gateway_container(vm.reference), WRAPPED_KEY) as blob:
        blob.upload_blob(wrapped, overwrite=True)


async def overwrite_in_one_cycle(vm: Replicated) -> None:
    """Have the guest overwrite the first 6 MiB of the boot disk (two segments) and the middle of the data disk, between two cycles."""
    await paused(vm)
    for offset in range(0, 6 * MIB, _WRITE):
        vm.write(_BOOT, offset, vm.random.randbytes(_WRITE))
    vm.write(_DATA, _WRITE, vm.random.randbytes(_WRITE))
    await resumed(vm)


def last_points(vm: Replicated) -> list[bytes]:
    """Return the disks as the last commit left them: the newest blob snapshot of each seed."""
    points = []
    for number, disk in enumerate(vm.source.disks):
        with vm.blobs("seed").get_container_client(seed_container(vm.reference)) as container:
            found = container.list_blobs(name_starts_with=seed_name(disk.key), include=["snapshots"])
            newest = max(blob.snapshot for blob in found if blob.snapshot)
        points.append(vm.seed_bytes(number, newest))
    return points


def assert_nothing_wrong_on_the_seeds(
    vm: Replicated, committed: list[bytes], log: Log, areas: Mapping[int, tuple[Extent, ...]]
) -> None:
    """Assert that damaged segments' areas are as last committed, and that every sector is either so or the source's."""
    for disk, point in enumerate(committed):
        seed, source = vm.seed_bytes(disk), vm.source_bytes(disk)
        for extent in areas.get(disk, ()):
            here = slice(extent.offset_bytes, extent.end_bytes)
            assert seed[here] == point[here], f"a damaged segment of disk {disk} was written at {extent}"
            assert seed[here] != source[here], "the test changed nothing there, so it proves nothing"
        for offset in range(0, len(seed), SECTOR):
            here = slice(offset, offset + SECTOR)
            assert seed[here] in (point[here], source[here]), f"disk {disk} has bytes of neither side at {offset}"


async def fail_a_cycle(vm: Replicated, kind: ErrorKind, tamper: Callable[[Log], Mapping[int, tuple[Extent, ...]]]) -> None:
    """Let the next cycle meet the damage; check what its failure shows; leave the cycle after it held at its beginning."""
    world = vm.world
    committed = last_points(vm)
    async with stopped_at(world, "gateway", _MANIFESTS, "GetBlob"):
        log = Log.of(vm)
        areas = tamper(log)
    number = int(log.cycle_key.partition("-")[0])
    hold(world, "gateway", f"{gateway_container(vm.reference)}/{CYCLES_PREFIX}{number + 1}-")
    await held(world)
    status, record = await vm.status(), (await vm.cycles())[-1]
    assert record.cycle_key == log.cycle_key
    assert not record.committed
    assert record.failure.startswith(f"{kind.value}: "), record.failure
    assert "repairs it" in record.decision
    assert_in_delta_sync_with(status, kind)
    assert_nothing_wrong_on_the_seeds(vm, committed, log, areas)
    assert last_points(vm) == committed


def assert_in_delta_sync_with(status: StatusView, kind: ErrorKind) -> None:
    assert status.replication_state == ReplicationState.DELTA_SYNC.value
    (health,) = status.health
    assert (health.kind, health.cause, health.remedy, health.retried) == (
        kind,
        CATALOGUE[kind].cause,
        CATALOGUE[kind].remedy,
        True,
    )


async def assert_repaired_by_the_next(vm: Replicated) -> None:
    before = await vm.status()
    vm.world.blob_control.clear_faults()
    after = await vm.until(
        lambda status: status.cycles_committed > before.cycles_committed and not status.health, "a health without the error"
    )
    assert (await vm.cycles())[-1].committed
    assert after.replication_state == ReplicationState.DELTA_SYNC.value
    vm.assert_seeds_equal_source()


_DAMAGED, _OTHER, _MISSING = ErrorKind.SEGMENT_DAMAGED, ErrorKind.MANIFEST_MISMATCH, ErrorKind.STORE_OBJECT_MISSING


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        pytest.param(flip_a_bit, _OTHER, id="flipped-bit"),
        pytest.param(truncate, _OTHER, id="truncated", marks=pytest.mark.chaos),
        pytest.param(lose, _MISSING, id="missing", marks=pytest.mark.chaos),
        pytest.param(exchange, _OTHER, id="exchanged", marks=pytest.mark.chaos),
        pytest.param(listed(flip_a_bit), _DAMAGED, id="flipped-bit-listed", marks=pytest.mark.chaos),
        pytest.param(listed(truncate), _DAMAGED, id="truncated-listed", marks=pytest.mark.chaos),
        pytest.param(listed(exchange), _DAMAGED, id="exchanged-listed", marks=pytest.mark.chaos),
        pytest.param(listed(lend_another_disks_segment), _DAMAGED, id="of-another-disk-listed", marks=pytest.mark.chaos),
    ],
)
async def test_a_damaged_segment_fails_the_cycle_and_the_next_one_repairs_it(
    vm: Replicated, tamper: Tamper, kind: ErrorKind
) -> None:
    await overwrite_in_one_cycle(vm)
    await fail_a_cycle(vm, kind, hurting(tamper))
    await assert_repaired_by_the_next(vm)


@pytest.mark.parametrize(
    ("disguise", "kind"),
    [
        pytest.param(unlisted, _OTHER, id="older", marks=pytest.mark.chaos),
        pytest.param(listed, _DAMAGED, id="older-listed", marks=pytest.mark.chaos),
    ],
)
async def test_a_segment_of_an_earlier_cycle_fails_the_cycle_and_the_next_one_repairs_it(
    vm: Replicated, disguise: Callable[[Tamper], Tamper], kind: ErrorKind
) -> None:
    await overwrite_in_one_cycle(vm)
    async with stopped_at(vm.world, "gateway", _MANIFESTS, "GetBlob"):
        older = Log.of(vm).read(_BOOT, 0)
    await vm.committed(1)
    await overwrite_in_one_cycle(vm)
    await fail_a_cycle(vm, kind, hurting(disguise(put_in_place(older))))
    await assert_repaired_by_the_next(vm)


async def test_a_wrong_data_key_fails_the_cycle_and_nothing_is_written(vm: Replicated) -> None:
    await overwrite_in_one_cycle(vm)
    right: list[bytes] = []

    def tampered(log: Log) -> dict[int, tuple[Extent, ...]]:
        right.append(replace_the_data_key(vm))
        return {_BOOT: (*log.areas(_BOOT, 0), *log.areas(_BOOT, 1)), _DATA: log.areas(_DATA, 0)}

    await fail_a_cycle(vm, ErrorKind.SEGMENT_DAMAGED, tampered)
    put_back_the_data_key(vm, right[0])
    await assert_repaired_by_the_next(vm)


async def test_the_second_damaged_cycle_in_a_row_ends_in_repair_pending_and_no_cycles_run(own_vm: Replicated) -> None:
    vm = own_vm
    await overwrite_in_one_cycle(vm)
    tampered = hurting(flip_a_bit)
    await fail_a_cycle(vm, _OTHER, tampered)
    committed = last_points(vm)
    vm.world.blob_control.clear_faults()
    async with stopped_at(vm.world, "gateway", _MANIFESTS, "GetBlob"):
        log = Log.of(vm)
        areas = tampered(log)
    status = await vm.state(ReplicationState.REPAIR_PENDING)
    (health,) = status.health
    assert (health.kind, health.retried) == (_OTHER, False)
    assert status.next_cycle_at is None
    assert set(status.allowed) == {"repair", "resync", "stop", "update_target", "test_migrate", "failover", "update_policy"}
    assert_nothing_wrong_on_the_seeds(vm, committed, log, areas)
    assert last_points(vm) == committed
    assert [record.committed for record in (await vm.cycles())[-2:]] == [False, False]
    assert vm.our_snapshots() == []
    assert vm.log_objects() == []
    description = await vm.handle.describe()
    assert description.raw_description.pending_activities == []
    with_timer = [event async for event in vm.handle.fetch_history_events() if event.HasField("timer_started_event_attributes")]
    ended = [
        event
        async for event in vm.handle.fetch_history_events()
        if event.HasField("timer_fired_event_attributes") or event.HasField("timer_canceled_event_attributes")
    ]
    assert len(with_timer) == len(ended), "a timer still runs, so a cycle would follow"
