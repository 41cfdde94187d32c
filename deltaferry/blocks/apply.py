"""Stage 2: fetch a manifest's segments, prove them, and write them to the seed disks under the cycle's fence."""

import threading
from collections.abc import Callable

from blake3 import blake3

from deltaferry.blocks.blob_http import BlobClient, Role
from deltaferry.blocks.checksum_map import GranuleRecorder, encode_updates
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.crew import Crew
from deltaferry.blocks.extents import split
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.pacing import Pacer
from deltaferry.blocks.packing import OpenedSegment, SegmentBuffers, SegmentOpener
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.blocks.segment import SegmentHeader, SegmentIdentity
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import GRANULE
from deltaferry.ports import AppliedDisk, ApplyDisk, ApplyJob, DataProgress


class _Disk:
    """One disk's apply: what was acknowledged so far. Changes under the lock."""

    def __init__(self, disk: ApplyDisk, hasher: Hasher, bytes_per_s: float) -> None:
        self.disk = disk
        self.pacer = Pacer(bytes_per_s)
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
            self._applied[read.number] = read
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


class _Applier:
    """One thread's buffers, and the steps of a segment."""

    def __init__(self, job: ApplyJob, disks: list[_Disk], log: BlobClient, seed: BlobClient, hasher: Hasher) -> None:
        self._job = job
        self._disks = disks
        self._log = log
        self._seed = seed
        self._buffers = SegmentBuffers()
        self._opener = SegmentOpener(job.data_key, hasher, self._buffers)

    def __call__(self, index: int, listed: StoredSegment) -> None:
        """Carry a segment from the log store to the seed disk; nothing is written before all of it is proved."""
        state = self._disks[index]
        disk = state.disk
        identity = SegmentIdentity(
            self._job.replication_id, self._job.cycle_key, disk.disk_key, listed.number, disk.capacity_bytes
        )
        size = self._log.get_into(identity.name, self._buffers.object)
        stored = self._buffers.object[:size]
        read = StoredSegment(listed.number, blake3(stored).digest(), size)
        if read != listed:
            raise DeltaferryError(
                ErrorKind.MANIFEST_MISMATCH, f"the stored object {identity.name} is not the one that the manifest lists"
            )
        opened = self._opener.open(stored, identity)
        covered, written, cleared = self._write(state, opened)
        state.record(read, opened.header, covered, written, cleared)

    def _write(self, state: _Disk, opened: OpenedSegment) -> tuple[list[Extent], int, int]:
        """Put data and clear zeros; return what is covered by acknowledgement, and the bytes written and cleared.

        A header's entries are maximal runs and hold at most 4 MiB together: each is one Put Page.
        """
        disk, fence = state.disk, self._job.fence
        covered: list[Extent] = []
        position = written = cleared = 0
        for entry in opened.header.entries:
            extent = entry.extent
            if not entry.zero:
                data = opened.plaintext[position : position + extent.length_bytes]
                self._seed.put_page(disk.seed_name, extent.offset_bytes, data, fence, state.pacer)
                position += extent.length_bytes
                written += extent.length_bytes
            elif not disk.pristine:
                self._seed.clear_page(disk.seed_name, extent.offset_bytes, extent.length_bytes, fence, state.pacer)
                cleared += extent.length_bytes
            covered.append(extent)
        return covered, written, cleared


def run_apply(job: ApplyJob, settings: Settings, report: Callable[[DataProgress], None]) -> tuple[AppliedDisk, ...]:
    """Carry out stage 2 in this process. `report` is called once a second."""
    hasher = Hasher(job.data_key)
    disks = [_Disk(disk, hasher, settings.page_blob_bytes_per_s) for disk in job.disks]
    total_bytes = sum(disk.total_bytes for disk in disks)
    log = BlobClient(job.log, Role.LOG, settings.http)
    seed = BlobClient(job.seed, Role.SEED, settings.http)

    def tick() -> None:
        by_disk = tuple((disk.disk.disk_key, disk.done_bytes) for disk in disks)
        report(DataProgress(sum(done for _, done in by_disk), total_bytes, 0, by_disk))

    try:
        crew = Crew([iter(disk.disk.segments) for disk in disks], settings.threads_per_disk)
        crew.run(settings.threads, lambda: _Applier(job, disks, log, seed, hasher), tick)
    finally:
        log.close()
        seed.close()
    tick()
    return tuple(disk.result() for disk in disks)
