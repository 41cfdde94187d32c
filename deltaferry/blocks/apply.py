"""Stage 2: fetch a manifest's segments, prove them, and write them to the seed disks under the cycle's fence."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial

from deltaferry.blocks.blob_http import BlobClient, Role
from deltaferry.blocks.checksum_map import GranuleRecorder, encode_updates
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.crew import Crew
from deltaferry.blocks.extents import split
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.listed import fetch_listed
from deltaferry.blocks.pacing import Pacer
from deltaferry.blocks.packing import OpenedSegment, SegmentBuffers, SegmentOpener
from deltaferry.blocks.pool import SMALL_OBJECT_BYTES, THREADS_PER_BUFFER, Pool
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.blocks.segment import SegmentHeader, SegmentIdentity
from deltaferry.model.extents import Extent
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import GRANULE
from deltaferry.ports.data_plane import AppliedDisk, ApplyDisk, ApplyJob, DataProgress

_WRITERS_PER_DISK = 16
"""A page blob takes 500 requests a second (facts 1.1): at 30 ms each, 15 at a time."""
_MOST_WRITERS = 32
_PAGES_BY_ONE_THREAD = 4
"""A segment of more pages than this has them written by the writers: one after the other, 4,096 would take minutes."""


class _Disk:
    """One disk's apply: what was acknowledged so far. Changes under the lock."""

    def __init__(self, disk: ApplyDisk, hasher: Hasher, settings: Settings) -> None:
        self.disk = disk
        self.pacer = Pacer(settings.page_blob_bytes_per_s)
        self.room = threading.Semaphore(settings.threads_per_disk)
        """For how many of its segments buffers may be in use: a slow disk leaves the others theirs."""
        self.total_bytes = sum(segment.size_bytes for segment in disk.segments)
        self._hasher = hasher
        self._lock = threading.Lock()
        self._covered = SectorSet()
        self._granules = GranuleRecorder(hasher.zero_checksum(GRANULE))
        self._applied: dict[int, StoredSegment] = {}
        self.done_bytes = self._written = self._cleared = self._verified = 0

    def record(self, read: StoredSegment, header: SegmentHeader, covered: list[Extent], written: int, cleared: int) -> None:
        """Note a segment of which every write and clear was acknowledged."""
        with self._lock:
            self._covered.add_all(covered)
            record_granules(self._granules, header, self._hasher)
            self._applied[read.number] = read.without_bytes()
            self._written += written
            self._cleared += cleared
            self._verified += len(header.checksums)
            self.done_bytes += read.size_bytes

    def result(self) -> AppliedDisk:
        """Return what was done."""
        return AppliedDisk(
            self.disk.disk_key,
            self._covered.encode(),
            tuple(self._applied[number] for number in sorted(self._applied)),
            encode_updates(self._granules.build()),
            self._written,
            self._cleared,
            self._verified,
        )


def record_granules(recorder: GranuleRecorder, header: SegmentHeader, hasher: Hasher) -> None:
    """Record every granule whose content a segment tells: covered whole by data or by zeros, or hashed by the source."""
    capacity_bytes = header.identity.capacity_bytes
    checksums = iter(header.checksums)
    for entry in header.entries:
        if entry.zero:
            first, end = -(-entry.extent.offset_bytes // GRANULE), entry.extent.end_bytes // GRANULE
            recorder.add_zeros(first, end - first)
            tail_bytes = capacity_bytes % GRANULE
            if tail_bytes and entry.extent.end_bytes == capacity_bytes and entry.extent.length_bytes >= tail_bytes:
                recorder.add(capacity_bytes // GRANULE, hasher.zero_checksum(tail_bytes))
            continue
        for piece in split(entry.extent, GRANULE):
            checksum = next(checksums)
            index = piece.offset_bytes // GRANULE
            if piece.offset_bytes % GRANULE == 0 and piece.end_bytes == min((index + 1) * GRANULE, capacity_bytes):
                recorder.add(index, checksum)
    for index, checksum in header.granules:
        recorder.add(index, checksum)


class _Bench:
    """The buffers of a segment in work, and what is bound to them."""

    def __init__(self, job: ApplyJob, hasher: Hasher) -> None:
        self.buffers = SegmentBuffers()
        self.opener = SegmentOpener(job.data_key, hasher, self.buffers)


class _Applier:
    """The steps of a segment. Safe to use from several threads."""

    def __init__(
        self,
        job: ApplyJob,
        disks: list[_Disk],
        stores: tuple[BlobClient, BlobClient],
        benches: Pool[_Bench],
        writers: ThreadPoolExecutor,
    ) -> None:
        self._job = job
        self._disks = disks
        self._log, self._seed = stores
        self._benches = benches
        self._writers = writers

    def __call__(self, index: int, listed: StoredSegment) -> None:
        """Carry a segment from the log store to the seed disk; nothing is written before all of it is proved."""
        state = self._disks[index]
        disk = state.disk
        identity = SegmentIdentity(
            self._job.replication_id, self._job.cycle_key, disk.disk_key, listed.number, disk.capacity_bytes
        )
        if listed.size_bytes <= SMALL_OBJECT_BYTES:
            small = fetch_listed(self._log, identity, listed, memoryview(bytearray(listed.size_bytes)))
            with state.room, self._benches.lend() as bench:
                self._carry_on(state, listed, bench.opener.open(small, identity))
            return
        with state.room, self._benches.lend() as bench:
            stored = fetch_listed(self._log, identity, listed, bench.buffers.object)
            self._carry_on(state, listed, bench.opener.open(stored, identity))

    def _carry_on(self, state: _Disk, read: StoredSegment, opened: OpenedSegment) -> None:
        """Put data and clear zeros, and note it all once it was acknowledged.

        A header's entries are maximal runs and hold at most 4 MiB together: each is one Put Page.
        """
        disk, fence = state.disk, self._job.fence
        covered: list[Extent] = []
        writes: list[Callable[[], None]] = []
        position = cleared = 0
        for entry in opened.header.entries:
            extent = entry.extent
            covered.append(extent)
            if not entry.zero:
                data = opened.plaintext[position : position + extent.length_bytes]
                position += extent.length_bytes
                writes.append(partial(self._seed.put_page, disk.seed_name, extent.offset_bytes, data, fence, state.pacer))
            elif not disk.pristine:
                cleared += extent.length_bytes
                writes.append(
                    partial(self._seed.clear_page, disk.seed_name, extent.offset_bytes, extent.length_bytes, fence, state.pacer)
                )
        self._write(writes)
        state.record(read, opened.header, covered, position, cleared)

    def _write(self, writes: list[Callable[[], None]]) -> None:
        """Carry out writes; where they are many, several at a time. Raises the first failure once none of them goes on."""
        if len(writes) <= _PAGES_BY_ONE_THREAD:
            for write in writes:
                write()
            return
        futures = [self._writers.submit(write) for write in writes]
        wait(futures, return_when=FIRST_EXCEPTION)
        begun = [future for future in futures if not future.cancel()]
        wait(begun)  # they write from the buffers, which go to the next segment after this
        for future in begun:
            future.result()


def run_apply(job: ApplyJob, settings: Settings, report: Callable[[DataProgress], None]) -> tuple[AppliedDisk, ...]:
    """Carry out stage 2 in this process. `report` is called once a second."""
    hasher = Hasher(job.data_key)
    disks = [_Disk(disk, hasher, settings) for disk in job.disks]
    total_bytes = sum(disk.total_bytes for disk in disks)
    log = BlobClient(job.log, Role.LOG, settings.http)
    seed = BlobClient(job.seed, Role.SEED, settings.http)

    def tick() -> None:
        by_disk = tuple((disk.disk.disk_key, disk.done_bytes) for disk in disks)
        report(DataProgress(sum(done for _, done in by_disk), total_bytes, 0, by_disk))

    try:
        with ThreadPoolExecutor(min(_WRITERS_PER_DISK * len(disks), _MOST_WRITERS), "page") as writers:
            benches = Pool(settings.threads, lambda: _Bench(job, hasher))
            applier = _Applier(job, disks, (log, seed), benches, writers)
            crew = Crew([iter(disk.disk.segments) for disk in disks], settings.threads_per_disk * THREADS_PER_BUFFER)
            crew.run(settings.threads * THREADS_PER_BUFFER, lambda: applier, tick)
    finally:
        log.close()
        seed.close()
    tick()
    return tuple(disk.result() for disk in disks)
