"""Failback's last leg: fetch a manifest's segments, prove them, write them to disks at the site, and read everything back.

No fence exists on a datastore: that this job alone writes is the hypervisor's lock, taken with the one connection that a
disk is opened by. So nothing is believed either: when all is written and flushed, every written range is read again, and
must have the checksums that its segment carried; a range of zeros must be zeros.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltaferry.blocks.apply import record_granules
from deltaferry.blocks.blob_http import BlobClient, Role
from deltaferry.blocks.checksum_map import GranuleRecorder, encode_updates
from deltaferry.blocks.checksums import CHECKSUM_BYTES, Hasher
from deltaferry.blocks.crew import Crew
from deltaferry.blocks.extents import split
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.killpoints import KillPoint, pass_point
from deltaferry.blocks.listed import fetch_listed
from deltaferry.blocks.nbd import NbdClient
from deltaferry.blocks.packing import SegmentBuffers, SegmentOpener
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.blocks.segment import SegmentHeader, SegmentIdentity
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import BLOCK, GRANULE
from deltaferry.ports.data_plane import DataProgress
from deltaferry.ports.reverse_plane import WriteDisk, WriteJob, WrittenDisk

_ZEROS_AT_ONCE = 64 << 20
"""VDDK has no command for zeros: nbdkit writes them, and must answer before the connection's time limit."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A range on the disk and what it must read as: the checksums of its pieces, cut where granules meet; none for zeros."""

    extent: Extent
    checksums: bytes | None


class _Disk:
    """One disk's write: its connection, and what has to be read back. Changes under the lock."""

    def __init__(self, disk: WriteDisk, hasher: Hasher, settings: Settings) -> None:
        self.disk = disk
        self.client = NbdClient(disk.disk, timeout_s=settings.nbd_timeout_s)
        self._hasher = hasher
        self._lock = threading.Lock()
        self._covered = SectorSet()
        self._granules = GranuleRecorder(hasher.zero_checksum(GRANULE))
        self._applied: dict[int, StoredSegment] = {}
        self.ranges: list[_Written] = []
        self.total_bytes = sum(segment.size_bytes for segment in disk.segments)
        self.done_bytes = self._written = self._zeroed = self._verified = 0

    def require_writable(self) -> None:
        """Raise DISK_READ_FAILED unless the export is this disk's, and may be written."""
        if self.client.export.read_only or self.client.size_bytes < self.disk.capacity_bytes:
            raise DeltaferryError(
                ErrorKind.DISK_READ_FAILED,
                f"the export of disk {self.disk.disk_key} has {self.client.size_bytes} bytes where the disk has"
                f" {self.disk.capacity_bytes}, or it cannot be written",
            )

    def written(self, read: StoredSegment, header: SegmentHeader, ranges: list[_Written]) -> None:
        """Note a segment of which every write was acknowledged."""
        with self._lock:
            self.ranges += ranges
            self._applied[read.number] = read.without_bytes()
            record_granules(self._granules, header, self._hasher)
            self._written += sum(entry.extent.length_bytes for entry in ranges if entry.checksums is not None)
            self._zeroed += sum(entry.extent.length_bytes for entry in ranges if entry.checksums is None)
            self._verified += len(header.checksums)
            self.done_bytes += read.size_bytes

    def proved(self, entry: _Written) -> None:
        """Note a range that was read back and is as it should be."""
        with self._lock:
            self._covered.add_all([entry.extent])
            self._verified += len(entry.checksums or b"") // CHECKSUM_BYTES

    def result(self) -> WrittenDisk:
        """Return what was done, once all of it is read back."""
        return WrittenDisk(
            self.disk.disk_key,
            self._covered.encode(),
            tuple(self._applied[number] for number in sorted(self._applied)),
            encode_updates(self._granules.build()),
            self._written,
            self._zeroed,
            self._verified,
        )


class _Writer:
    """One thread's buffers, and the steps of a segment."""

    def __init__(self, job: WriteJob, disks: Sequence[_Disk], log: BlobClient, hasher: Hasher) -> None:
        self._job = job
        self._disks = disks
        self._log = log
        self._buffers = SegmentBuffers()
        self._opener = SegmentOpener(job.data_key, hasher, self._buffers)

    def __call__(self, index: int, listed: StoredSegment) -> None:
        """Carry a segment from the log store to the disk; nothing is written before all of it is proved."""
        state = self._disks[index]
        disk = state.disk
        identity = SegmentIdentity(
            self._job.replication_id, self._job.cycle_key, disk.disk_key, listed.number, disk.capacity_bytes
        )
        opened = self._opener.open(fetch_listed(self._log, identity, listed, self._buffers.object), identity)
        ranges: list[_Written] = []
        position = piece = 0
        for entry in opened.header.entries:
            extent = entry.extent
            if entry.zero:
                for part in split(extent, _ZEROS_AT_ONCE):
                    state.client.zero(part.offset_bytes, part.length_bytes)
                ranges.append(_Written(extent, None))
                continue
            state.client.write(extent.offset_bytes, opened.plaintext[position : position + extent.length_bytes])
            pieces = sum(1 for _ in split(extent, GRANULE))
            ranges.append(_Written(extent, b"".join(opened.header.checksums[piece : piece + pieces])))
            position += extent.length_bytes
            piece += pieces
            pass_point(KillPoint.MID_WRITE_BACK)
        state.written(listed, opened.header, ranges)


class _Reader:
    """One thread's buffer, and the reading back of a range."""

    def __init__(self, disks: Sequence[_Disk], hasher: Hasher) -> None:
        self._disks = disks
        self._hasher = hasher
        self._buffer = memoryview(bytearray(BLOCK))

    def __call__(self, index: int, entry: _Written) -> None:
        """Read a range and compare it. Raises CHECKSUM_MISMATCH with its place."""
        state = self._disks[index]
        expected = 0
        for block in split(entry.extent, BLOCK):
            data = self._buffer[: block.length_bytes]
            state.client.read_into(block.offset_bytes, data)
            for piece in split(block, GRANULE):
                start = piece.offset_bytes - block.offset_bytes
                checksum = self._hasher.zero_checksum(piece.length_bytes)
                if entry.checksums is not None:
                    checksum = entry.checksums[expected : expected + CHECKSUM_BYTES]
                    expected += CHECKSUM_BYTES
                if self._hasher.checksum(data[start : start + piece.length_bytes]) != checksum:
                    raise _differs(state, piece)
        state.proved(entry)


def _differs(state: _Disk, extent: Extent) -> DeltaferryError:
    return DeltaferryError(
        ErrorKind.CHECKSUM_MISMATCH,
        f"disk {state.disk.disk_key} gives back something else than was written:"
        f" {extent.length_bytes} bytes at offset {extent.offset_bytes}",
    )


def run_write(job: WriteJob, settings: Settings, report: Callable[[DataProgress], None]) -> tuple[WrittenDisk, ...]:
    """Carry out a write in this process. `report` is called once a second."""
    hasher = Hasher(job.data_key)
    log = BlobClient(job.log, Role.LOG, settings.http)
    disks: list[_Disk] = []

    def tick() -> None:
        by_disk = tuple((disk.disk.disk_key, disk.done_bytes) for disk in disks)
        total_bytes = sum(disk.total_bytes for disk in disks)
        report(DataProgress(sum(done for _, done in by_disk), total_bytes, 0, by_disk))

    try:
        for part in job.disks:
            if part.segments:
                disks.append(_Disk(part, hasher, settings))
                disks[-1].require_writable()
        writing = Crew([iter(disk.disk.segments) for disk in disks], settings.threads_per_disk)
        writing.run(settings.threads, lambda: _Writer(job, disks, log, hasher), tick)
        for disk in disks:
            disk.client.flush()
        reading = Crew([iter(disk.ranges) for disk in disks], settings.threads_per_disk)
        reading.run(settings.threads, lambda: _Reader(disks, hasher), tick)
    finally:
        for disk in disks:
            disk.client.close()
        log.close()
    tick()
    done = {disk.disk.disk_key: disk.result() for disk in disks}
    nothing = encode_updates(GranuleRecorder(hasher.zero_checksum(GRANULE)).build())
    return tuple(
        done.get(part.disk_key) or WrittenDisk(part.disk_key, SectorSet().encode(), (), nothing, 0, 0, 0) for part in job.disks
    )
