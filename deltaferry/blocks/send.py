"""Stage 1: read a snapshot's disks, at the site or in Azure, and store what was planned as segments in the log store."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import takewhile

from blake3 import blake3

from deltaferry.blocks.allowance import UNPACED, Allowance, GivenBack
from deltaferry.blocks.blob_http import BlobClient, Role
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.crew import Crew
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.killpoints import KillPoint, pass_point
from deltaferry.blocks.manifest import INLINE_BYTES
from deltaferry.blocks.nbd import NbdClient
from deltaferry.blocks.packing import SegmentBuffers, SegmentPacker, partial_granules
from deltaferry.blocks.plan import PlanEntry, decode_plan
from deltaferry.blocks.pool import SMALL_OBJECT_BYTES, THREADS_PER_BUFFER, Pool
from deltaferry.blocks.segment import SegmentIdentity
from deltaferry.blocks.snapshot_reader import SnapshotReader
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import GRANULE
from deltaferry.ports.access import NbdAddress, SnapshotAccess
from deltaferry.ports.data_plane import DataProgress, SendDisk, SendJob, SentDisk

_SCRATCH_GRANULES = 16

_Within = dict[int, list[tuple[int, memoryview]]]
"""Granule → (start in it, where its bytes go) for each area that lies in it: such an area is not read by itself."""


class _Disk:
    """One disk's transfer: what is left to hand out, and what was done. Counters change under the lock."""

    def __init__(self, disk: SendDisk, job: SendJob, deadline_s: float, settings: Settings) -> None:
        self.key = disk.disk_key
        self.capacity_bytes = disk.capacity_bytes
        self.plan = decode_plan(disk.plan)
        if self.plan.capacity_bytes != disk.capacity_bytes:
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"the plan of disk {disk.disk_key} is for a disk of another size")
        self._job = job
        self._source = disk
        self._deadline_s = deadline_s
        self._settings = settings
        self.room = threading.Semaphore(settings.threads_per_disk)
        """For how many of its segments buffers may be in use: a slow disk leaves the others theirs."""
        self._stored = {segment.number: segment for segment in disk.stored}
        self._lock = threading.Lock()
        self._client: NbdClient | SnapshotReader | None = None
        self._next = disk.first_segment
        self._handed_out_bytes = 0
        self._first_handed_out: int | None = None
        self._done: dict[int, StoredSegment] = {}
        self.total_bytes = self.plan.data_bytes_from(disk.first_segment)
        self.done_bytes = self.bytes_read = self.bytes_sent = self.sent = self.found = 0

    def work(self) -> Iterator[int]:
        """Yield the numbers of the segments to carry, in order, until the plan, the time or the bytes are used up.

        The first one that is not stored yet is handed out whatever the limits are: a chunk always gets on.
        """
        while self._next < self.plan.segments:
            number = self._next
            size = self.plan.segment_data_bytes(number)
            stored = self._stored.get(number)
            if stored is not None:
                self._next += 1
                with self._lock:
                    self._done[number] = stored
                    self.found += 1
                    self.done_bytes += size
                continue
            spent = time.monotonic() >= self._deadline_s or self._handed_out_bytes >= self._job.stop_after_bytes
            if spent and self._first_handed_out is not None:
                return
            if self._first_handed_out is None:
                self._first_handed_out = number
            self._next += 1
            self._handed_out_bytes += size
            yield number

    def too_late_for(self, number: int) -> bool:
        """Return whether a segment that was handed out, and still waits for its share of the line, shall be left to the next chunk.

        On a slow line what has been read ahead would make a chunk longer than its time.
        """
        return number != self._first_handed_out and time.monotonic() >= self._deadline_s

    def source(self) -> NbdClient | SnapshotReader:
        """Return the disk's one connection, made when it is first needed. Raises DISK_READ_FAILED."""
        with self._lock:
            if self._client is None:
                self._client = self._connected(self._source.source)
            return self._client

    def _connected(self, source: NbdAddress | SnapshotAccess) -> NbdClient | SnapshotReader:
        if isinstance(source, SnapshotAccess):
            return SnapshotReader(source, self._settings.http, self._settings.page_blob_bytes_per_s)
        client = NbdClient(source, timeout_s=self._settings.nbd_timeout_s)
        if client.size_bytes < self.capacity_bytes:
            client.close()
            raise DeltaferryError(
                ErrorKind.DISK_READ_FAILED,
                f"the export of disk {self.key} has {client.size_bytes} bytes where the disk has {self.capacity_bytes}",
            )
        return client

    def record(self, segment: StoredSegment, *, read_bytes: int, ours: bool) -> None:
        """Note a segment that is in the log store now, stored by us or found there."""
        size = self.plan.segment_data_bytes(segment.number)
        with self._lock:
            self._done[segment.number] = segment
            self.done_bytes += size
            self.bytes_read += read_bytes
            if ours:
                self.sent += 1
                self.bytes_sent += segment.size_bytes
            else:
                self.found += 1

    def result(self) -> SentDisk:
        """Return what was done, once all that was handed out is done or given back: what lies before the first gap."""
        handed_out = range(self._source.first_segment, self._next)
        segments = tuple(self._done[number] for number in takewhile(self._done.__contains__, handed_out))
        next_segment = self._source.first_segment + len(segments)
        return SentDisk(self.key, next_segment, segments, self.bytes_read, self.bytes_sent, self.sent, self.found)

    def close(self) -> None:
        """Close the connection to the source."""
        if self._client is not None:
            self._client.close()


class _Bench:
    """The buffers of a segment in work, and what is bound to them."""

    def __init__(self, job: SendJob, hasher: Hasher) -> None:
        self.buffers = SegmentBuffers()
        self.packer = SegmentPacker(job.data_key, hasher, self.buffers)
        self.scratch = memoryview(bytearray(_SCRATCH_GRANULES * GRANULE))


class _Sender:
    """The steps of a segment. Safe to use from several threads."""

    def __init__(
        self,
        job: SendJob,
        disks: list[_Disk],
        log: BlobClient,
        hasher: Hasher,
        benches: Pool[_Bench],
        allowance: Allowance | None,
    ) -> None:
        self._job = job
        self._allowance = allowance
        self._disks = disks
        self._log = log
        self._hasher = hasher
        self._benches = benches

    def __call__(self, index: int, number: int) -> None:
        """Carry a segment from the source to the log store, unless its turn to be sent does not come in the chunk's time."""
        with suppress(GivenBack):
            self._carry(self._disks[index], number)

    def _carry(self, disk: _Disk, number: int) -> None:
        identity = SegmentIdentity(self._job.replication_id, self._job.cycle_key, disk.key, number, disk.capacity_bytes)
        with disk.room, self._benches.lend() as bench:
            stored, read_bytes = self._pack(bench, disk, identity)
            segment = StoredSegment(number, blake3(stored).digest(), len(stored))
            if len(stored) <= INLINE_BYTES:
                disk.record(dataclasses.replace(segment, inline=bytes(stored)), read_bytes=read_bytes, ours=True)
                return
            if len(stored) > SMALL_OBJECT_BYTES:
                self._put(disk, identity, segment, stored, read_bytes)
                return
            small = memoryview(bytes(stored))
        self._put(disk, identity, segment, small, read_bytes)

    def _pack(self, bench: _Bench, disk: _Disk, identity: SegmentIdentity) -> tuple[memoryview, int]:
        """Read a segment's areas and make its object; return it, and how much was read."""
        areas = disk.plan.segment(identity.number)
        partial = partial_granules(areas, disk.capacity_bytes)
        within = self._read(bench, disk, areas, frozenset(partial))
        granules = self._read_granules(bench, disk, partial, within)
        pass_point(KillPoint.AFTER_READ)
        read_bytes = sum(area.extent.length_bytes for area in areas if not area.hole)
        return bench.packer.pack(identity, areas, granules), read_bytes + sum(_granule_bytes(disk, index) for index in partial)

    def _put(self, disk: _Disk, identity: SegmentIdentity, segment: StoredSegment, stored: memoryview, read_bytes: int) -> None:
        """Store an object unless an earlier attempt has, and note which one is in the store."""
        number = identity.number
        pace = self._allowance.body(lambda: disk.too_late_for(number)) if self._allowance is not None else UNPACED
        ours = self._log.put_new(identity.name, stored, segment.digest, pace)
        if not ours:
            found_digest, size = self._log.stored(identity.name)
            # A request whose reply was lost: salts are random, so nobody else has this digest.
            ours = found_digest == segment.digest
            segment = StoredSegment(segment.number, found_digest, size)
        pass_point(KillPoint.AFTER_PUT)
        disk.record(segment, read_bytes=read_bytes, ours=ours)

    @staticmethod
    def _read(bench: _Bench, disk: _Disk, areas: tuple[PlanEntry, ...], partial: frozenset[int]) -> _Within:
        """Read the areas' data end to end into the plaintext buffer; return what is left to be taken from whole granules."""
        reads = []
        within: _Within = {}
        position = 0
        for area in areas:
            if area.hole:
                continue
            extent = area.extent
            part = bench.buffers.plaintext[position : position + extent.length_bytes]
            position += extent.length_bytes
            index = extent.offset_bytes // GRANULE
            if index in partial and (extent.end_bytes - 1) // GRANULE == index:
                within.setdefault(index, []).append((extent.offset_bytes % GRANULE, part))
            else:
                reads.append((extent.offset_bytes, part))
        if reads:
            disk.source().read_many(reads)
        return within

    def _read_granules(self, bench: _Bench, disk: _Disk, indices: list[int], within: _Within) -> tuple[tuple[int, bytes], ...]:
        """Return the checksums of whole granules as the snapshot has them, and take the areas that lie within them."""
        granules: list[tuple[int, bytes]] = []
        for first in range(0, len(indices), _SCRATCH_GRANULES):
            batch = [
                (index, bench.scratch[slot * GRANULE : slot * GRANULE + _granule_bytes(disk, index)])
                for slot, index in enumerate(indices[first : first + _SCRATCH_GRANULES])
            ]
            disk.source().read_many((index * GRANULE, granule) for index, granule in batch)
            for index, granule in batch:
                granules.append((index, self._hasher.checksum(granule)))
                for start, part in within.get(index, ()):
                    part[:] = granule[start : start + len(part)]
        return tuple(granules)


def _nothing() -> None:
    """Do as the one who has nobody to wake."""


def _granule_bytes(disk: _Disk, index: int) -> int:
    return min(GRANULE, disk.capacity_bytes - index * GRANULE)


def run_send(
    job: SendJob, settings: Settings, report: Callable[[DataProgress], None], allowance: Allowance | None = None
) -> tuple[SentDisk, ...]:
    """Carry out stage 1 in this process, at the pace of its allowance. `report` is called once a second, whatever the pace."""
    deadline_s = time.monotonic() + job.stop_after.total_seconds()
    disks = [_Disk(disk, job, deadline_s, settings) for disk in job.disks]
    total_bytes = sum(disk.total_bytes for disk in disks)
    hasher = Hasher(job.data_key)
    log = BlobClient(job.log, Role.LOG, settings.http)

    def tick() -> None:
        by_disk = tuple((disk.key, disk.done_bytes) for disk in disks)
        report(DataProgress(sum(done for _, done in by_disk), total_bytes, sum(disk.bytes_sent for disk in disks), by_disk))

    try:
        sender = _Sender(job, disks, log, hasher, Pool(settings.threads, lambda: _Bench(job, hasher)), allowance)
        stop = allowance.stop if allowance is not None else _nothing
        crew = Crew([disk.work() for disk in disks], settings.threads_per_disk * THREADS_PER_BUFFER, stop)
        crew.run(settings.threads * THREADS_PER_BUFFER, lambda: sender, tick)
    finally:
        for disk in disks:
            disk.close()
        log.close()
    tick()
    return tuple(disk.result() for disk in disks)
