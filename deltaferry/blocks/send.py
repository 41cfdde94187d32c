"""Stage 1: read a snapshot's disks, and store what was planned as segments in the log store."""

import threading
import time
from collections.abc import Callable, Iterator

from blake3 import blake3

from deltaferry.blocks.blob_http import BlobClient, Role
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.crew import Crew
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.killpoints import KillPoint, pass_point
from deltaferry.blocks.nbd import NbdClient
from deltaferry.blocks.packing import SegmentBuffers, SegmentPacker, partial_granules
from deltaferry.blocks.plan import PlanEntry, decode_plan
from deltaferry.blocks.segment import SegmentIdentity
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import GRANULE
from deltaferry.ports import DataProgress, SendDisk, SendJob, SentDisk

_SCRATCH_GRANULES = 16


class _Disk:
    """One disk's transfer: what is left to hand out, and what was done. Counters change under the lock."""

    def __init__(self, disk: SendDisk, job: SendJob, deadline_s: float, nbd_timeout_s: float) -> None:
        self.key = disk.disk_key
        self.capacity_bytes = disk.capacity_bytes
        self.plan = decode_plan(disk.plan)
        if self.plan.capacity_bytes != disk.capacity_bytes:
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"the plan of disk {disk.disk_key} is for a disk of another size")
        self._job = job
        self._source = disk
        self._deadline_s = deadline_s
        self._nbd_timeout_s = nbd_timeout_s
        self._stored = {segment.number: segment for segment in disk.stored}
        self._lock = threading.Lock()
        self._client: NbdClient | None = None
        self._next = disk.first_segment
        self._handed_out_bytes = 0
        self._started = False
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
            if spent and self._started:
                return
            self._started = True
            self._next += 1
            self._handed_out_bytes += size
            yield number

    def source(self) -> NbdClient:
        """Return the disk's one connection, made when it is first needed. Raises DISK_READ_FAILED."""
        with self._lock:
            if self._client is None:
                client = NbdClient(self._source.source, timeout_s=self._nbd_timeout_s)
                if client.size_bytes < self.capacity_bytes:
                    client.close()
                    raise DeltaferryError(
                        ErrorKind.DISK_READ_FAILED,
                        f"the export of disk {self.key} has {client.size_bytes} bytes where the disk has {self.capacity_bytes}",
                    )
                self._client = client
            return self._client

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
        """Return what was done, once all that was handed out is."""
        segments = tuple(self._done[number] for number in range(self._source.first_segment, self._next))
        return SentDisk(self.key, self._next, segments, self.bytes_read, self.bytes_sent, self.sent, self.found)

    def close(self) -> None:
        """Close the connection to the source."""
        if self._client is not None:
            self._client.close()


class _Sender:
    """One thread's buffers, and the steps of a segment."""

    def __init__(self, job: SendJob, disks: list[_Disk], log: BlobClient, hasher: Hasher) -> None:
        self._job = job
        self._disks = disks
        self._log = log
        self._hasher = hasher
        self._buffers = SegmentBuffers()
        self._packer = SegmentPacker(job.data_key, hasher, self._buffers)
        self._scratch = memoryview(bytearray(_SCRATCH_GRANULES * GRANULE))

    def __call__(self, index: int, number: int) -> None:
        """Carry a segment from the source to the log store."""
        disk = self._disks[index]
        areas = disk.plan.segment(number)
        read_bytes = self._read(disk, areas)
        granules = self._read_granules(disk, partial_granules(areas, disk.capacity_bytes))
        pass_point(KillPoint.AFTER_READ)
        identity = SegmentIdentity(self._job.replication_id, self._job.cycle_key, disk.key, number, disk.capacity_bytes)
        stored = self._packer.pack(identity, areas, granules)
        digest = blake3(stored).digest()
        segment = StoredSegment(number, digest, len(stored))
        ours = self._log.put_new(identity.name, stored, digest)
        if not ours:
            found_digest, size = self._log.stored(identity.name)
            ours = found_digest == digest  # a request whose reply was lost: salts are random, so nobody else has this digest
            segment = StoredSegment(number, found_digest, size)
        pass_point(KillPoint.AFTER_PUT)
        disk.record(segment, read_bytes=read_bytes + sum(self._granule_bytes(disk, index) for index, _ in granules), ours=ours)

    def _read(self, disk: _Disk, areas: tuple[PlanEntry, ...]) -> int:
        """Read the areas' data end to end into the plaintext buffer; return how much it was."""
        reads = []
        position = 0
        for area in areas:
            if not area.hole:
                end = position + area.extent.length_bytes
                reads.append((area.extent.offset_bytes, self._buffers.plaintext[position:end]))
                position = end
        if reads:
            disk.source().read_many(reads)
        return position

    def _read_granules(self, disk: _Disk, indices: list[int]) -> tuple[tuple[int, bytes], ...]:
        """Return the checksums of whole granules as the snapshot has them."""
        granules: list[tuple[int, bytes]] = []
        for first in range(0, len(indices), _SCRATCH_GRANULES):
            batch = [
                (index, self._scratch[slot * GRANULE : slot * GRANULE + self._granule_bytes(disk, index)])
                for slot, index in enumerate(indices[first : first + _SCRATCH_GRANULES])
            ]
            disk.source().read_many((index * GRANULE, part) for index, part in batch)
            granules += ((index, self._hasher.checksum(part)) for index, part in batch)
        return tuple(granules)

    @staticmethod
    def _granule_bytes(disk: _Disk, index: int) -> int:
        return min(GRANULE, disk.capacity_bytes - index * GRANULE)


def run_send(job: SendJob, settings: Settings, report: Callable[[DataProgress], None]) -> tuple[SentDisk, ...]:
    """Carry out stage 1 in this process. `report` is called once a second."""
    deadline_s = time.monotonic() + job.stop_after.total_seconds()
    disks = [_Disk(disk, job, deadline_s, settings.nbd_timeout_s) for disk in job.disks]
    total_bytes = sum(disk.total_bytes for disk in disks)
    hasher = Hasher(job.data_key)
    log = BlobClient(job.log, Role.LOG, settings.http)

    def tick() -> None:
        by_disk = tuple((disk.key, disk.done_bytes) for disk in disks)
        report(DataProgress(sum(done for _, done in by_disk), total_bytes, sum(disk.bytes_sent for disk in disks), by_disk))

    try:
        crew = Crew([disk.work() for disk in disks], settings.threads_per_disk)
        crew.run(settings.threads, lambda: _Sender(job, disks, log, hasher), tick)
    finally:
        for disk in disks:
            disk.close()
        log.close()
    tick()
    return tuple(disk.result() for disk in disks)
