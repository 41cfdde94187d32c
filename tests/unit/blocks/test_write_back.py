"""Failback's bulk jobs over a real NBD socket and a real page blob: hashed, sent, written, flushed, read back."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.blocks.hashing import run_hash
from deltaferry.blocks.plan import Plan, encode_plan, make_plan, source_set
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.blocks.send import run_send
from deltaferry.blocks.write_back import run_write
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import GRANULE, MIB, SECTOR
from deltaferry.ports.access import SnapshotAccess
from deltaferry.ports.data_plane import SendDisk, SendJob
from deltaferry.ports.reverse_plane import HashDisk, HashJob, WriteDisk, WriteJob, WrittenDisk
from tests.unit.blocks.test_data_plane import KEY, REPLICATION, SETTINGS, ignore, random_disk

_CAPACITY = 5 * MIB + 37 * SECTOR
_FLUSH = 3


class ForgetfulDisk(bytearray):
    """Takes writes and keeps nothing of those at one place."""

    place = -1

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (isinstance(key, slice) and key.start <= self.place < key.stop):
            super().__setitem__(key, value)


class World:
    """A snapshot in Azure, a log container, and a disk at the site."""

    def __init__(self, storage: Any, serve_nbd: Any, nbd_disk: Any, content: bytes, at_site: bytearray) -> None:
        self.storage, self.content, self.at_site = storage, content, at_site
        self.disk = nbd_disk(at_site)
        self.address = serve_nbd(self.disk)
        self.container = storage.container()
        self.access = storage.access(self.container)
        storage.create_seed(self.container, "snapshot", _CAPACITY, 0)
        blob = storage.service().get_blob_client(self.container, "snapshot")
        for start in range(0, len(content), 4 * MIB):
            part = content[start : start + 4 * MIB]
            blob.upload_page(part, start, len(part))
        self.snapshot = SnapshotAccess(self.access, "snapshot")

    def send(self, plan: Plan) -> tuple[StoredSegment, ...]:
        disk = SendDisk(2000, _CAPACITY, self.snapshot, encode_plan(plan), 0, ())
        job = SendJob(REPLICATION, "reverse-1-c", (disk,), self.access, KEY, timedelta(hours=1), 1 << 60)
        return run_send(job, SETTINGS, ignore)[0].segments

    def job(self, segments: tuple[StoredSegment, ...], cycle_key: str = "reverse-1-c") -> WriteJob:
        disk = WriteDisk(2000, _CAPACITY, self.address, segments)
        return WriteJob(REPLICATION, cycle_key, (disk,), self.access, KEY)

    def write(self, segments: tuple[StoredSegment, ...], **changes: Any) -> WrittenDisk:
        return run_write(self.job(segments, **changes), SETTINGS, ignore)[0]


@pytest.fixture
def world(storage: Any, serve_nbd: Any, make_nbd_disk: Any) -> Callable[..., World]:
    return lambda content, at_site: World(storage, serve_nbd, make_nbd_disk, content, at_site)


@pytest.fixture
def source() -> random.Random:
    return random.Random(11)


def failure(step: Callable[[], object]) -> ErrorKind:
    with pytest.raises(DeltaferryError) as error:
        step()
    return error.value.kind


def whole(*, hole: Extent | None = None) -> Plan:
    return make_plan(_CAPACITY, [Extent(0, _CAPACITY)], [hole] if hole else [])


def test_every_planned_sector_is_written_and_nothing_else(world: Callable[..., World], source: random.Random) -> None:
    w = world(bytes(random_disk(source, _CAPACITY)), random_disk(source, _CAPACITY))
    before = bytes(w.at_site)
    data = [Extent(3 * SECTOR, 5 * SECTOR), Extent(GRANULE - SECTOR, 2 * GRANULE), Extent(_CAPACITY - SECTOR, SECTOR)]
    hole = Extent(2 * MIB, MIB + SECTOR)
    plan = make_plan(_CAPACITY, data, [hole])
    written = w.write(w.send(plan))
    expected = bytearray(before)
    for extent in data:
        expected[extent.offset_bytes : extent.end_bytes] = w.content[extent.offset_bytes : extent.end_bytes]
    expected[hole.offset_bytes : hole.end_bytes] = bytes(hole.length_bytes)
    assert w.at_site == expected
    assert SectorSet.decode(written.covered) == source_set(plan)
    assert written.bytes_written + written.bytes_zeroed == plan.covered_bytes


def test_all_is_flushed_before_it_is_read_back(world: Callable[..., World], source: random.Random) -> None:
    w = world(source.randbytes(_CAPACITY), bytearray(_CAPACITY))
    w.write(w.send(whole()))
    commands = [command for command, _, _ in w.disk.requests]
    flush = commands.index(_FLUSH)
    assert set(commands[:flush]) == {1}
    assert set(commands[flush + 1 :]) == {0}
    assert w.at_site == w.content


@pytest.mark.parametrize("zero", [False, True])
def test_a_disk_that_gives_back_something_else_fails_the_write(
    world: Callable[..., World], source: random.Random, zero: bool
) -> None:
    at_site = ForgetfulDisk(source.randbytes(_CAPACITY))
    at_site.place = 3 * MIB + 5
    w = world(bytes(_CAPACITY) if zero else source.randbytes(_CAPACITY), at_site)
    segments = w.send(whole())
    assert failure(lambda: w.write(segments)) is ErrorKind.CHECKSUM_MISMATCH


def test_a_write_that_is_repeated_changes_nothing(world: Callable[..., World], source: random.Random) -> None:
    w = world(bytes(random_disk(source, _CAPACITY)), bytearray(_CAPACITY))
    segments = w.send(whole())
    first, second = w.write(segments), w.write(segments)
    assert (first, bytes(w.at_site)) == (second, w.content)


def test_a_write_that_was_cut_is_finished_by_the_next_attempt(world: Callable[..., World], source: random.Random) -> None:
    w = world(source.randbytes(_CAPACITY), bytearray(_CAPACITY))
    segments = w.send(whole())
    w.disk.hang_up_at_request = 3
    assert failure(lambda: w.write(segments)) is ErrorKind.DISK_READ_FAILED
    assert w.at_site != w.content
    w.disk.hang_up_at_request = None
    w.write(segments)
    assert w.at_site == w.content


def test_a_segment_of_another_pass_or_changed_in_the_store_is_not_written(
    world: Callable[..., World], source: random.Random
) -> None:
    w = world(source.randbytes(_CAPACITY), bytearray(_CAPACITY))
    segments = w.send(whole())
    assert failure(lambda: w.write(segments, cycle_key="reverse-2-c")) is ErrorKind.STORE_OBJECT_MISSING
    name = f"cycles/reverse-1-c/2000/{0:010d}"
    blob = w.storage.service().get_blob_client(w.container, name)
    blob.upload_blob(bytes(segments[0].size_bytes), overwrite=True)
    assert failure(lambda: w.write(segments)) is ErrorKind.MANIFEST_MISMATCH
    assert w.at_site[: 4 * MIB] == bytes(4 * MIB)


def test_an_export_that_is_smaller_than_the_disk_is_not_written(world: Callable[..., World], source: random.Random) -> None:
    w = world(source.randbytes(_CAPACITY), bytearray(_CAPACITY - SECTOR))
    segments = w.send(whole())
    assert failure(lambda: w.write(segments)) is ErrorKind.DISK_READ_FAILED
    assert not any(command == 1 for command, _, _ in w.disk.requests)


def test_hashes_are_those_of_the_disk_where_it_holds_pages_and_of_zeros_elsewhere(
    world: Callable[..., World], source: random.Random
) -> None:
    content = bytearray(random_disk(source, _CAPACITY))
    held = GranuleSet([(0, 3), (20, 30), (granules_of(_CAPACITY) - 1, 1)])
    for granule in range(granules_of(_CAPACITY)):
        if granule not in set(held):
            content[granule * GRANULE : (granule + 1) * GRANULE] = bytes(
                len(content[granule * GRANULE : (granule + 1) * GRANULE])
            )
    w = world(bytes(content), bytearray(0))
    part = HashDisk(2000, _CAPACITY, w.snapshot, 0, granules_of(_CAPACITY), held.encode())
    (hashed,) = run_hash(HashJob((part,), KEY), SETTINGS, ignore)
    hasher = Hasher(KEY)
    pieces = [bytes(content[start : start + GRANULE]) for start in range(0, _CAPACITY, GRANULE)]
    assert hashed.checksums == b"".join(hasher.checksum(piece) for piece in pieces)
    assert hashed.bytes_read == held.size_bytes(_CAPACITY)


def test_a_snapshot_that_is_gone_is_told_from_an_object_that_is(world: Callable[..., World], source: random.Random) -> None:
    w = world(source.randbytes(_CAPACITY), bytearray(0))
    part = HashDisk(2000, _CAPACITY, SnapshotAccess(w.access, "nothing"), 0, 1, GranuleSet([(0, 1)]).encode())
    assert failure(lambda: run_hash(HashJob((part,), KEY), SETTINGS, ignore)) is ErrorKind.AZURE_NOT_FOUND
    expired = SnapshotAccess(w.storage.access(w.container, valid_for=timedelta(hours=-1)), "snapshot")
    part = HashDisk(2000, _CAPACITY, expired, 0, 1, GranuleSet([(0, 1)]).encode())
    assert failure(lambda: run_hash(HashJob((part,), KEY), SETTINGS, ignore)) is ErrorKind.STORE_ACCESS_DENIED


def test_both_jobs_run_in_data_processes(world: Callable[..., World], source: random.Random) -> None:
    w = world(source.randbytes(_CAPACITY), bytearray(_CAPACITY))
    plane = ProcessDataPlane(page_blob_bytes_per_s=1 << 30, nbd_timeout_s=10)
    segments = w.send(whole())
    (written,) = plane.write_disks(w.job(segments), ignore)
    assert (written.bytes_written, bytes(w.at_site)) == (_CAPACITY, w.content)
    part = HashDisk(2000, _CAPACITY, w.snapshot, 0, 1, GranuleSet([(0, 1)]).encode())
    (hashed,) = plane.hash_snapshots(HashJob((part,), KEY), ignore)
    assert hashed.checksums == Hasher(KEY).checksum(w.content[:GRANULE])


def test_a_signature_is_in_no_repr(world: Callable[..., World]) -> None:
    w = world(bytes(SECTOR), bytearray(0))
    part = HashDisk(2000, _CAPACITY, w.snapshot, 0, 1, b"")
    job = HashJob((part,), KEY)
    assert w.access.query not in repr(job) + repr(w.snapshot)
    assert w.access.query in w.snapshot.signed_url
