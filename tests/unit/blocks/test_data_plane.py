"""Send and apply, over a real NBD socket and a real Azurite, in the test's process and in data processes."""

import os
import pickle
import random
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deltaferry.blocks.apply import run_apply
from deltaferry.blocks.blob_http import BlobClient, HttpLimits, Role
from deltaferry.blocks.checksum_map import decode_updates, empty_chunk, merge
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.jobs import Settings, Task
from deltaferry.blocks.plan import Plan, encode_plan, make_plan, source_set
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.blocks.send import run_send
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR
from deltaferry.ports.data_plane import AppliedDisk, ApplyDisk, ApplyJob, DataProgress, SendDisk, SendJob, SentDisk

KEY = bytes(range(32))
REPLICATION = "0123456789abcdef"
FOREVER = timedelta(hours=1)
SETTINGS = Settings(page_blob_bytes_per_s=1 << 30, nbd_timeout_s=10, http=HttpLimits(20, 20))


def ignore(progress: DataProgress) -> None:
    pass


class World:
    """One disk on a source, a log container, and a seed."""

    def __init__(self, storage: Any, serve_nbd: Any, nbd_disk: Any, content: bytearray, cycle: str = "1-c") -> None:
        self.storage = storage
        self.content = content
        self.disk = nbd_disk(content)
        self.address = serve_nbd(self.disk)
        self.container = storage.container()
        self.access = storage.access(self.container)
        self.cycle = cycle
        self.plane = ProcessDataPlane(page_blob_bytes_per_s=1 << 30, nbd_timeout_s=10)
        self.fence = 1
        storage.create_seed(self.container, "seed", len(content), self.fence)

    def send_job(self, plan: Plan, **changes: Any) -> SendJob:
        disk = SendDisk(
            2000, len(self.content), self.address, encode_plan(plan), changes.pop("first", 0), changes.pop("stored", ())
        )
        job = SendJob(REPLICATION, self.cycle, (disk,), self.access, KEY, FOREVER, 1 << 60)
        return replace(job, **changes)

    def send(self, plan: Plan, **changes: Any) -> SentDisk:
        """Send in this process, as a data process does."""
        return run_send(self.send_job(plan, **changes), SETTINGS, ignore)[0]

    def apply_job(self, segments: tuple[StoredSegment, ...], *, pristine: bool = False, **changes: Any) -> ApplyJob:
        disk = ApplyDisk(2000, len(self.content), "seed", segments, pristine)
        return replace(ApplyJob(REPLICATION, self.cycle, self.fence, (disk,), self.access, self.access, KEY), **changes)

    def apply(self, segments: tuple[StoredSegment, ...], **changes: Any) -> AppliedDisk:
        """Apply in this process, as a data process does."""
        return run_apply(self.apply_job(segments, **changes), SETTINGS, ignore)[0]

    def seed(self) -> bytes:
        return self.storage.read(self.container, "seed", len(self.content))

    def object_name(self, number: int) -> str:
        return f"cycles/{self.cycle}/2000/{number:010d}"


@pytest.fixture
def world(storage: Any, serve_nbd: Any, make_nbd_disk: Any) -> Callable[..., World]:
    return lambda content, cycle="1-c": World(storage, serve_nbd, make_nbd_disk, content, cycle)


def random_disk(source: random.Random, capacity: int) -> bytearray:
    """Return a disk of runs of zeros, text and noise."""
    disk = bytearray(capacity)
    position = 0
    while position < capacity:
        length = min(capacity - position, source.choice((SECTOR, 4096, GRANULE, 100 * SECTOR, MIB)))
        kind = source.randrange(3)
        if kind == 1:
            disk[position : position + length] = (b"%d lines of a log file\n" % source.randrange(99) * length)[:length]
        elif kind == 2:
            disk[position : position + length] = source.randbytes(length)
        position += length
    return disk


def random_areas(source: random.Random, capacity: int, count: int) -> list[Extent]:
    """Return areas of odd places and lengths, in no order."""
    areas = []
    for _ in range(count):
        offset = source.randrange(capacity)
        areas.append(Extent(offset, source.choice((1, SECTOR, 3000, GRANULE, 200_000, 2 * MIB))))
    return areas


def check_granules(applied: AppliedDisk, content: bytearray, touched: SectorSet) -> None:
    """Every granule that the set touches must have exactly the checksum of the source's granule."""
    hasher = Hasher(KEY)
    chunk = merge(empty_chunk(0, len(content)), decode_updates(applied.granules))
    indices = {
        index
        for extent in touched.extents()
        for index in range(extent.offset_bytes // GRANULE, (extent.end_bytes - 1) // GRANULE + 1)
    }
    for index in range(-(-len(content) // GRANULE)):
        expected = hasher.checksum(bytes(content[index * GRANULE : (index + 1) * GRANULE])) if index in indices else bytes(16)
        assert chunk.checksums[index * 16 : index * 16 + 16] == expected, index


@pytest.mark.parametrize("seed", range(2))
def test_the_seed_equals_the_snapshot_after_every_cycle(world: Callable[..., World], seed: int) -> None:
    source = random.Random(seed)
    capacity = 6 * MIB + 37 * SECTOR
    w = world(random_disk(source, capacity), "1-a")
    full = make_plan(capacity, [Extent(0, 3 * MIB), Extent(4 * MIB, capacity)], [Extent(3 * MIB, MIB)])
    w.content[3 * MIB : 4 * MIB] = bytes(MIB)
    sent = w.send(full)
    applied = w.apply(sent.segments, pristine=True)
    assert w.seed() == w.content
    assert SectorSet.decode(applied.covered) == source_set(full)
    assert applied.applied == sent.segments
    assert applied.bytes_cleared == 0
    check_granules(applied, w.content, source_set(full))
    for cycle in range(2, 4):
        w.cycle = f"{cycle}-a"
        areas = random_areas(source, capacity, 40)
        plan = make_plan(capacity, areas[5:], areas[:5])
        fresh = random_disk(source, capacity)
        for extent in source_set(plan).extents():
            w.content[extent.offset_bytes : extent.end_bytes] = fresh[extent.offset_bytes : extent.end_bytes]
        for number in range(plan.segments):
            for entry in plan.segment(number):
                if entry.hole:
                    w.content[entry.extent.offset_bytes : entry.extent.end_bytes] = bytes(entry.extent.length_bytes)
        sent = w.send(plan)
        applied = w.apply(sent.segments)
        assert w.seed() == w.content
        assert SectorSet.decode(applied.covered) == source_set(plan)
        check_granules(applied, w.content, source_set(plan))


def test_zeros_are_neither_sent_nor_written_on_a_pristine_seed(world: Callable[..., World]) -> None:
    content = bytearray(12 * MIB)
    content[5 * MIB : 5 * MIB + GRANULE] = os.urandom(GRANULE)
    w = world(content)
    sent = w.send(make_plan(len(content), [Extent(0, len(content))], []))
    assert sent.bytes_read == len(content)
    assert sent.bytes_sent < GRANULE + 10_000
    applied = w.apply(sent.segments, pristine=True)
    assert (applied.bytes_written, applied.bytes_cleared) == (GRANULE, 0)
    assert SectorSet.decode(applied.covered).size_bytes == len(content)
    assert w.seed() == content
    with w.storage.service().get_container_client(w.container) as container:
        stored = [blob.name for blob in container.list_blobs(name_starts_with="cycles/")]
    assert stored == [w.object_name(1)], "a segment of zeros needs no object"


@pytest.mark.parametrize("damage", ["flipped", "exchanged", "of another key"])
def test_damage_to_a_segment_in_the_manifest_never_reaches_the_seed(world: Callable[..., World], damage: str) -> None:
    w = world(bytearray(os.urandom(8 * MIB)))
    whole = make_plan(8 * MIB, [Extent(0, 8 * MIB)], [])
    w.apply(w.send(whole).segments, pristine=True)
    before = w.seed()
    w.cycle, w.content[:] = "2-a", bytes(8 * MIB)
    first, second = w.send(whole).segments
    expected = ErrorKind.SEGMENT_DAMAGED
    if damage == "flipped":
        hurt, expected = replace(first, inline=bytes([first.inline[0] ^ 1]) + first.inline[1:]), ErrorKind.MANIFEST_MISMATCH
    elif damage == "exchanged":
        hurt = replace(second, number=0)
    else:
        hurt = first
    with pytest.raises(DeltaferryError) as caught:
        w.apply((hurt,), **({} if hurt is not first else {"data_key": bytes(32)}))
    assert caught.value.kind is expected
    assert w.seed() == before


def test_zeros_are_cleared_on_a_seed_that_is_not_pristine(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(2 * MIB)), "1-a")
    whole = make_plan(2 * MIB, [Extent(0, 2 * MIB)], [])
    w.apply(w.send(whole).segments, pristine=True)
    w.content[:] = bytes(2 * MIB)
    w.cycle = "2-a"
    applied = w.apply(w.send(make_plan(2 * MIB, [Extent(0, MIB)], [Extent(MIB, MIB)])).segments)
    assert (applied.bytes_written, applied.bytes_cleared) == (0, 2 * MIB)
    assert w.seed() == bytes(2 * MIB)


def test_a_segment_that_is_stored_already_wins(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(6 * MIB)))
    plan = make_plan(6 * MIB, [Extent(0, 6 * MIB)], [])
    first = w.send(plan)
    again = w.send(plan)
    assert again.segments == first.segments
    assert (first.segments_sent, first.segments_found) == (2, 0)
    assert (again.segments_sent, again.segments_found, again.bytes_sent) == (0, 2, 0)


def test_segments_of_the_ledger_are_not_read_again(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(13 * MIB)))
    plan = make_plan(13 * MIB, [Extent(0, 13 * MIB)], [])
    first = w.send(plan)
    w.disk.requests.clear()
    again = w.send(plan, stored=(first.segments[0], first.segments[2], first.segments[3]))
    assert again.segments == first.segments
    assert {offset // BLOCK for _, offset, _ in w.disk.requests} == {1}


def test_a_chunk_ends_at_its_bytes_and_the_next_one_goes_on(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(17 * MIB)))
    plan = make_plan(17 * MIB, [Extent(0, 17 * MIB)], [])
    chunks, position = [], 0
    while position < plan.segments:
        chunk = w.send(plan, first=position, stop_after_bytes=2 * BLOCK)
        assert [segment.number for segment in chunk.segments] == list(range(position, chunk.next_segment))
        assert chunk.bytes_read <= 2 * BLOCK
        position = chunk.next_segment
        chunks.append(chunk)
    assert len(chunks) == 3
    for chunk in chunks:
        w.apply(chunk.segments, pristine=True)
    assert w.seed() == w.content


def test_a_chunk_without_time_still_gets_on(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(9 * MIB)))
    plan = make_plan(9 * MIB, [Extent(0, 9 * MIB)], [])
    assert w.send(plan, stop_after=timedelta(0)).next_segment == 1


def test_a_job_without_segments_starts_no_process(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(bytearray(MIB))
    monkeypatch.setattr(subprocess, "Popen", None)
    [sent] = w.plane.send(w.send_job(make_plan(MIB, [], [])), ignore)
    assert (sent.next_segment, sent.segments) == (0, ())
    [applied] = w.plane.apply(w.apply_job(()), ignore)
    assert SectorSet.decode(applied.covered) == SectorSet()
    assert list(decode_updates(applied.granules).indices) == []


def test_a_late_write_is_refused_by_the_fence(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(MIB)))
    sent = w.send(make_plan(MIB, [Extent(0, MIB)], []))
    blob = w.storage.service().get_blob_client(w.container, "seed")
    blob.set_sequence_number("max", 7)
    with pytest.raises(DeltaferryError) as caught:
        w.plane.apply(w.apply_job(sent.segments), ignore)
    assert (caught.value.kind, caught.value.number) == (ErrorKind.FENCED, 7)
    assert w.seed() == bytes(MIB)


def replace_object(w: World, number: int, data: bytes) -> None:
    blob = w.storage.service().get_blob_client(w.container, w.object_name(number))
    blob.upload_blob(data, overwrite=True)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "exchanged", "older"])
def test_a_damaged_log_never_reaches_the_seed(world: Callable[..., World], damage: str) -> None:
    w = world(bytearray(os.urandom(8 * MIB)), "1-a")
    plan = make_plan(8 * MIB, [Extent(0, 8 * MIB)], [])
    older = w.send(plan)
    old_object = w.storage.read(w.container, w.object_name(1))
    w.cycle = "2-a"
    sent = w.send(plan)
    stored = [w.storage.read(w.container, w.object_name(number)) for number in range(2)]
    expected = ErrorKind.MANIFEST_MISMATCH
    if damage == "flipped":
        replace_object(w, 1, stored[1][:3000] + bytes([stored[1][3000] ^ 4]) + stored[1][3001:])
    elif damage == "truncated":
        replace_object(w, 1, stored[1][:-1])
    elif damage == "missing":
        w.storage.service().get_blob_client(w.container, w.object_name(1)).delete_blob()
        expected = ErrorKind.STORE_OBJECT_MISSING
    elif damage == "exchanged":
        replace_object(w, 1, stored[0])
        replace_object(w, 0, stored[1])
    else:
        replace_object(w, 1, old_object)
    with pytest.raises(DeltaferryError) as caught:
        w.apply((sent.segments[1],))
    assert caught.value.kind is expected
    assert w.seed() == bytes(8 * MIB)
    if damage == "older":
        with pytest.raises(DeltaferryError) as caught:
            w.apply((older.segments[1],))
        assert caught.value.kind is ErrorKind.SEGMENT_DAMAGED
        assert w.seed() == bytes(8 * MIB)


def test_a_wrong_key_writes_nothing(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(MIB)))
    sent = w.send(make_plan(MIB, [Extent(0, MIB)], []))
    with pytest.raises(DeltaferryError) as caught:
        w.apply(sent.segments, data_key=bytes(32))
    assert caught.value.kind is ErrorKind.SEGMENT_DAMAGED
    assert w.seed() == bytes(MIB)


def test_data_processes_do_the_same_and_report_all_of_it(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(5 * MIB)))
    plan = make_plan(5 * MIB, [Extent(0, 5 * MIB)], [])
    told: list[DataProgress] = []
    [sent] = w.plane.send(w.send_job(plan), told.append)
    assert told[-1] == DataProgress(5 * MIB, 5 * MIB, sent.bytes_sent, ((2000, 5 * MIB),))
    [applied] = w.plane.apply(w.apply_job(sent.segments, pristine=True), told.append)
    stored = sum(segment.size_bytes for segment in sent.segments)
    assert told[-1] == DataProgress(stored, stored, 0, ((2000, stored),))
    assert (applied.verified_blocks, applied.bytes_written) == (80, 5 * MIB)
    assert w.seed() == w.content


def test_what_progress_raises_ends_the_process_and_passes_on(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(MIB)))
    w.disk.silent = True
    asked = []

    class CancelledError(Exception):
        pass

    def progress(now: DataProgress) -> None:
        asked.append(now)
        raise CancelledError

    with pytest.raises(CancelledError):
        w.plane.send(w.send_job(make_plan(MIB, [Extent(0, MIB)], [])), progress)
    assert asked


@pytest.mark.parametrize(("point", "stored"), [("after-read:2", 1), ("after-put:2", 2), ("before-outcome:1", 4)])
def test_a_killed_send_is_an_interruption_and_what_it_stored_is_not_sent_again(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, point: str, stored: int
) -> None:
    w = world(bytearray(os.urandom(13 * MIB)))
    plan = make_plan(13 * MIB, [Extent(0, 13 * MIB)], [])
    monkeypatch.setenv("DELTAFERRY_KILL_POINT", point)
    with pytest.raises(DeltaferryError) as caught:
        ProcessDataPlane(threads=1).send(w.send_job(plan), ignore)
    assert caught.value.kind is ErrorKind.INTERRUPTED
    monkeypatch.delenv("DELTAFERRY_KILL_POINT")
    sent = w.send(plan)
    assert (sent.segments_found, sent.segments_sent) == (stored, plan.segments - stored)
    w.apply(sent.segments, pristine=True)
    assert w.seed() == w.content


def test_a_killed_apply_is_repeated_to_the_same_end(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(bytearray(os.urandom(9 * MIB)))
    sent = w.send(make_plan(9 * MIB, [Extent(0, 9 * MIB)], []))
    monkeypatch.setenv("DELTAFERRY_KILL_POINT", "mid-put-page:2")
    with pytest.raises(DeltaferryError) as caught:
        w.plane.apply(w.apply_job(sent.segments, pristine=True), ignore)
    assert caught.value.kind is ErrorKind.INTERRUPTED
    monkeypatch.delenv("DELTAFERRY_KILL_POINT")
    assert w.apply(sent.segments, pristine=True).applied == sent.segments
    assert w.seed() == w.content


def test_an_unreadable_sector_fails_the_transfer(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(MIB)))
    w.disk.bad_sectors = frozenset({100})
    with pytest.raises(DeltaferryError) as caught:
        w.send(make_plan(MIB, [Extent(0, MIB)], []))
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED


WORKER = """
import pickle, sys
from deltaferry.blocks.plane import ProcessDataPlane
ProcessDataPlane().send(pickle.load(sys.stdin.buffer), lambda now: None)
"""


def test_a_data_process_dies_with_its_worker(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(MIB)))
    w.disk.silent = True
    job = w.send_job(make_plan(MIB, [Extent(0, MIB)], []))
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE)
    try:
        assert worker.stdin is not None
        worker.stdin.write(pickle.dumps(job))
        worker.stdin.close()
        assert w.disk.connected.wait(20)
        [child] = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        watched = os.pidfd_open(int(child))
    finally:
        worker.kill()
        worker.wait()
    poller = select.poll()
    poller.register(watched, select.POLLIN)
    assert poller.poll(10_000), "the data process outlived its worker"
    os.close(watched)


def test_a_task_is_not_on_the_command_line_nor_in_a_repr(world: Callable[..., World]) -> None:
    w = world(bytearray(MIB))
    job = w.send_job(make_plan(MIB, [Extent(0, MIB)], []))
    shown = repr(Task(job, Settings())) + repr(job) + repr(BlobClient(w.access, Role.LOG))
    assert repr(KEY)[2:20] not in shown
    assert w.access.query not in shown


def test_an_area_within_a_granule_is_read_once_with_its_granule(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(40 * GRANULE)))
    areas = [Extent(granule * GRANULE + 4096, 4096) for granule in range(40)]
    plan = make_plan(len(w.content), areas, [])
    sent = w.send(plan)
    reads = [(offset, length) for _, offset, length in w.disk.requests]
    assert sorted(reads) == [(granule * GRANULE, GRANULE) for granule in range(40)]
    applied = w.apply(sent.segments)
    check_granules(applied, w.content, source_set(plan))
    seed = w.seed()
    for area in areas:
        assert seed[area.offset_bytes : area.end_bytes] == w.content[area.offset_bytes : area.end_bytes]


def test_of_many_pages_written_at_once_a_refused_one_fails_the_apply(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(200 * GRANULE)))
    plan = make_plan(len(w.content), [Extent(granule * GRANULE, SECTOR) for granule in range(200)], [])
    segments = w.send(plan).segments
    with pytest.raises(DeltaferryError) as refused:
        w.apply(segments, fence=7)
    assert refused.value.kind is ErrorKind.FENCED
    assert w.seed() == bytes(len(w.content))


def test_an_object_larger_than_listed_is_not_the_manifests(world: Callable[..., World]) -> None:
    w = world(bytearray(os.urandom(2 * GRANULE)))
    [stored] = w.send(make_plan(len(w.content), [Extent(0, len(w.content))], [])).segments
    with pytest.raises(DeltaferryError) as refused:
        w.apply((replace(stored, size_bytes=1000),))
    assert refused.value.kind is ErrorKind.MANIFEST_MISMATCH
