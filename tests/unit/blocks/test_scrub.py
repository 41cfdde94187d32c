"""Comparing snapshots and seeds with their checksum maps, over a real NBD socket and a real Azurite."""

import os
import random
import subprocess
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from deltaferry.blocks.blob_http import BlobClient, HttpLimits, Role
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.blocks.jobs import Settings, Task
from deltaferry.blocks.pacing import Pacer
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.blocks.scrub import run_scrub
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR
from deltaferry.ports.access import NbdAddress
from deltaferry.ports.data_plane import CheckJob, CompareJob, DataProgress, GranuleRange, ScrubbedDisk

KEY = bytes(range(32))
FOREVER = timedelta(hours=1)
SETTINGS = Settings(page_blob_bytes_per_s=1 << 30, nbd_timeout_s=10, http=HttpLimits(20, 20))
HASHER = Hasher(KEY)


def ignore(progress: DataProgress) -> None:
    pass


def checksums(content: bytes | bytearray) -> bytes:
    """Return the map of a disk's content."""
    return b"".join(HASHER.checksum(bytes(content[at : at + GRANULE])) for at in range(0, len(content), GRANULE))


def part(
    content: bytes | bytearray, wanted: GranuleSet, *, first: int = 0, end: int | None = None, key: int = 2000
) -> GranuleRange:
    known = checksums(content)[first * 16 : None if end is None else end * 16]
    return GranuleRange(key, len(content), first, known, wanted.encode())


def everything(content: bytes | bytearray) -> GranuleSet:
    return GranuleSet([(0, granules_of(len(content)))])


def flipped(content: bytes | bytearray, granules: list[int]) -> bytearray:
    changed = bytearray(content)
    for granule in granules:
        changed[granule * GRANULE] ^= 1
    return changed


def differing(found: ScrubbedDisk) -> list[int]:
    return list(GranuleSet.decode(found.differing))


@pytest.fixture
def serve(serve_nbd: Any, make_nbd_disk: Any) -> Callable[[bytes | bytearray], NbdAddress]:
    return lambda content: serve_nbd(make_nbd_disk(bytearray(content)))


@pytest.fixture
def seed(storage: Any) -> Callable[[bytes, GranuleSet], tuple[Any, str]]:
    """Store the granules of a set in a new seed, and return access and name."""

    def make(content: bytes | bytearray, present: GranuleSet) -> tuple[Any, str]:
        container = storage.container()
        storage.create_seed(container, "seed", len(content), 1)
        blob = storage.service().get_blob_client(container, "seed")
        for extent in present.extents(len(content)):
            for start in range(extent.offset_bytes, extent.end_bytes, BLOCK):
                data = bytes(content[start : min(start + BLOCK, extent.end_bytes)])
                blob.upload_page(data, start, len(data))
        return storage.access(container), "seed"

    return make


def test_exactly_what_differs_from_the_map_is_found_on_a_snapshot(serve: Callable[[bytes | bytearray], NbdAddress]) -> None:
    content = os.urandom(9 * MIB + 5 * SECTOR)
    last = granules_of(len(content)) - 1
    address = serve(flipped(content, [0, 63, 64, 100, last]))
    [found] = run_scrub(CompareJob(((part(content, everything(content)), address),), KEY, FOREVER), SETTINGS, ignore)
    assert differing(found) == [0, 63, 64, 100, last]
    assert (found.next_granule, found.bytes_read) == (last + 1, len(content))


def test_on_a_snapshot_only_what_is_wanted_is_read(serve_nbd: Any, make_nbd_disk: Any) -> None:
    content = os.urandom(8 * MIB)
    disk = make_nbd_disk(flipped(content, [5, 90]))
    wanted = GranuleSet([(3, 4), (70, 1)])
    [found] = run_scrub(CompareJob(((part(content, wanted), serve_nbd(disk)),), KEY, FOREVER), SETTINGS, ignore)
    assert (differing(found), found.bytes_read, found.next_granule) == ([5], 5 * GRANULE, 128)
    read = {at // GRANULE for _, offset, length in disk.requests for at in range(offset, offset + length, GRANULE)}
    assert read == set(wanted)


def test_exactly_what_differs_from_the_map_is_found_on_a_seed_and_absent_pages_are_zeros(seed: Any) -> None:
    content = bytearray(os.urandom(9 * MIB + SECTOR))
    content[2 * MIB : 6 * MIB] = bytes(4 * MIB)
    content[-SECTOR:] = bytes(SECTOR)
    source = bytes(content)
    last = granules_of(len(source)) - 1
    present = GranuleSet([(0, 20), (96, 48)]) - GranuleSet([(7, 1), (101, 2)])
    access, name = seed(flipped(source, [3, 99]), present)
    [found] = run_scrub(CheckJob(((part(source, present), name),), access, KEY, FOREVER), SETTINGS, ignore)
    absent_data = [
        granule for granule in range(last + 1) if granule not in set(present) and any(source[granule * GRANULE :][:GRANULE])
    ]
    assert differing(found) == sorted([3, 99, *absent_data])
    assert found.bytes_read == len(present) * GRANULE


def test_what_the_map_does_not_know_differs_on_a_seed_whether_present_or_not(seed: Any) -> None:
    content = bytes(MIB)
    access, name = seed(content, GranuleSet([(0, 2)]))
    unknown = GranuleRange(2000, MIB, 0, bytes(16 * 16), GranuleSet([(0, 2)]).encode())
    [found] = run_scrub(CheckJob(((unknown, name),), access, KEY, FOREVER), SETTINGS, ignore)
    assert differing(found) == list(range(16))


@pytest.mark.parametrize("stage", range(2))
def test_random_content_is_judged_as_a_simple_comparison_does(stage: int, serve: Any, seed: Any) -> None:
    source = random.Random(stage)
    capacity = 6 * MIB + 11 * SECTOR
    expected = bytearray(source.randbytes(capacity))
    for granule in source.sample(range(granules_of(capacity)), 30):
        expected[granule * GRANULE : (granule + 1) * GRANULE] = bytes(len(expected[granule * GRANULE : (granule + 1) * GRANULE]))
    wrong = sorted(source.sample(range(granules_of(capacity)), 9))
    content = flipped(expected, wrong)
    present = GranuleSet.touching([]) | GranuleSet(
        (g, 1) for g in range(granules_of(capacity)) if any(content[g * GRANULE :][:GRANULE])
    )
    first, end = 10, 80
    access, name = seed(content, present)
    inside = [granule for granule in wrong if first <= granule < end]
    plane = ProcessDataPlane(threads_per_disk=3, page_blob_bytes_per_s=1 << 30)
    [checked] = plane.check(CheckJob(((part(expected, present, first=first, end=end), name),), access, KEY, FOREVER), ignore)
    assert differing(checked) == inside
    compare = CompareJob(((part(expected, everything(expected), first=first, end=end), serve(content)),), KEY, FOREVER)
    [compared] = plane.compare(compare, ignore)
    assert differing(compared) == inside
    assert compared.next_granule == checked.next_granule == end


def test_without_time_each_disk_gets_on_and_says_how_far(serve: Callable[[bytes | bytearray], NbdAddress]) -> None:
    content = os.urandom(9 * MIB)
    address = serve(flipped(content, [2, 70, 130]))
    found, position, rounds = [], 0, 0
    while position < granules_of(len(content)):
        job = CompareJob(((part(content, everything(content), first=position), address),), KEY, timedelta(0))
        [chunk] = run_scrub(job, SETTINGS, ignore)
        assert chunk.next_granule > position
        found += differing(chunk)
        assert all(position <= granule < chunk.next_granule for granule in differing(chunk))
        position, rounds = chunk.next_granule, rounds + 1
    assert (found, rounds) == ([2, 70, 130], 3)


def test_several_disks_are_scrubbed_at_once_and_progress_adds_up(serve: Callable[[bytes | bytearray], NbdAddress]) -> None:
    contents = [os.urandom(5 * MIB), os.urandom(3 * MIB + SECTOR)]
    told: list[DataProgress] = []
    disks = tuple((part(content, everything(content), key=2000 + at), serve(content)) for at, content in enumerate(contents))
    first, second = ProcessDataPlane().compare(CompareJob(disks, KEY, FOREVER), told.append)
    assert (first.disk_key, second.disk_key, differing(first), differing(second)) == (2000, 2001, [], [])
    total = sum(map(len, contents))
    assert told[-1] == DataProgress(total, total, 0, ((2000, len(contents[0])), (2001, len(contents[1]))))


def test_a_seed_without_pages_is_checked_without_a_process(seed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(3 * MIB)
    content[GRANULE : 2 * GRANULE] = os.urandom(GRANULE)
    monkeypatch.setattr(subprocess, "Popen", None)
    access, name = seed(content, GranuleSet())
    [found] = ProcessDataPlane().check(CheckJob(((part(content, GranuleSet()), name),), access, KEY, FOREVER), ignore)
    assert (differing(found), found.bytes_read, found.next_granule) == ([1], 0, 48)


def test_an_unreadable_snapshot_and_a_missing_seed_are_named(serve_nbd: Any, make_nbd_disk: Any, storage: Any) -> None:
    content = os.urandom(MIB)
    disk = make_nbd_disk(bytearray(content), bad_sectors=frozenset({100}))
    with pytest.raises(DeltaferryError) as caught:
        run_scrub(CompareJob(((part(content, everything(content)), serve_nbd(disk)),), KEY, FOREVER), SETTINGS, ignore)
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED
    with pytest.raises(DeltaferryError) as caught:
        job = CheckJob(((part(content, everything(content)), "gone"),), storage.access(storage.container()), KEY, FOREVER)
        run_scrub(job, SETTINGS, ignore)
    assert caught.value.kind is ErrorKind.SEED_MISSING


def test_an_export_smaller_than_the_disk_is_refused(serve: Callable[[bytes | bytearray], NbdAddress]) -> None:
    content = os.urandom(MIB)
    with pytest.raises(DeltaferryError) as caught:
        run_scrub(CompareJob(((part(content, everything(content)), serve(content[:-SECTOR])),), KEY, FOREVER), SETTINGS, ignore)
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED


def test_a_range_of_a_blob_is_read_whole_or_not_at_all(storage: Any) -> None:
    container = storage.container()
    storage.service().get_blob_client(container, "short").upload_blob(b"0123456789")
    client = BlobClient(storage.access(container), Role.SEED)
    buffer = memoryview(bytearray(4))
    client.read_range("short", 3, buffer, Pacer())
    assert bytes(buffer) == b"3456"
    with pytest.raises(DeltaferryError):
        client.read_range("short", 8, buffer, Pacer())
    client.close()


def test_a_scrubs_task_shows_neither_key_nor_signature(storage: Any) -> None:
    access = storage.access(storage.container())
    job = CheckJob(((part(bytes(MIB), GranuleSet()), "seed"),), access, KEY, FOREVER)
    shown = repr(job) + repr(Task(job, SETTINGS))
    assert repr(KEY)[2:20] not in shown
    assert access.query not in shown
