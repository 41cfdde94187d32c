"""Hashing snapshots of managed disks: what failback's full comparison sends to the site in place of data.

The unit of work is up to 4 MiB of granules that hold pages, carried by one thread from the read to its checksums. All other
granules read as zero: their checksums are known without reading.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deltaferry.blocks.checksums import CHECKSUM_BYTES, Hasher
from deltaferry.blocks.crew import Crew
from deltaferry.blocks.granules import GranuleSet
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.snapshot_reader import SnapshotReader
from deltaferry.model.units import BLOCK, GRANULE
from deltaferry.ports.data_plane import DataProgress
from deltaferry.ports.reverse_plane import HashDisk, HashedDisk, HashJob

_BATCH = BLOCK // GRANULE


@dataclass(frozen=True, slots=True)
class _Batch:
    """Granules that follow each other."""

    first: int
    count: int


class _Disk:
    """One snapshot's checksums, zeros from the start. Changes under the lock."""

    def __init__(self, part: HashDisk, hasher: Hasher, settings: Settings) -> None:
        self.part = part
        self.reader = SnapshotReader(part.source, settings.http, settings.page_blob_bytes_per_s)
        self._wanted = GranuleSet.decode(part.granules).within(part.first_granule, part.end_granule)
        self._lock = threading.Lock()
        self._checksums = bytearray(hasher.zero_checksum(GRANULE) * (part.end_granule - part.first_granule))
        tail_bytes = self.length_bytes(part.end_granule - 1, part.end_granule)
        if self._checksums and tail_bytes < GRANULE:
            self._checksums[-CHECKSUM_BYTES:] = hasher.zero_checksum(tail_bytes)
        self.total_bytes = self._wanted.size_bytes(part.capacity_bytes)
        self.done_bytes = 0

    def work(self) -> Iterator[_Batch]:
        """Yield what has to be read, in order."""
        for first, count in self._wanted.runs():
            for start in range(first, first + count, _BATCH):
                yield _Batch(start, min(_BATCH, first + count - start))

    def length_bytes(self, first: int, end: int) -> int:
        """Return how many bytes granules `[first, end)` have: the disk's last one may be short."""
        return max(0, min(end * GRANULE, self.part.capacity_bytes) - first * GRANULE)

    def record(self, batch: _Batch, checksums: bytes) -> None:
        """Note a batch's checksums."""
        start = (batch.first - self.part.first_granule) * CHECKSUM_BYTES
        with self._lock:
            self._checksums[start : start + len(checksums)] = checksums
            self.done_bytes += self.length_bytes(batch.first, batch.first + batch.count)

    def result(self) -> HashedDisk:
        """Return all checksums, once everything is read."""
        return HashedDisk(self.part.disk_key, bytes(self._checksums), self.done_bytes)


class _Worker:
    """One thread's buffer, and the steps of a batch."""

    def __init__(self, disks: Sequence[_Disk], hasher: Hasher) -> None:
        self._disks = disks
        self._hasher = hasher
        self._buffer = memoryview(bytearray(BLOCK))

    def __call__(self, index: int, batch: _Batch) -> None:
        """Read a batch and hash its granules."""
        disk = self._disks[index]
        data = self._buffer[: disk.length_bytes(batch.first, batch.first + batch.count)]
        disk.reader.read_many([(batch.first * GRANULE, data)])
        pieces = (data[start : start + GRANULE] for start in range(0, len(data), GRANULE))
        disk.record(batch, b"".join(self._hasher.checksum(piece) for piece in pieces))


def run_hash(job: HashJob, settings: Settings, report: Callable[[DataProgress], None]) -> tuple[HashedDisk, ...]:
    """Carry out a hashing in this process. `report` is called once a second."""
    hasher = Hasher(job.data_key)
    disks = [_Disk(part, hasher, settings) for part in job.disks]
    total_bytes = sum(disk.total_bytes for disk in disks)

    def tick() -> None:
        by_disk = tuple((disk.part.disk_key, disk.done_bytes) for disk in disks)
        report(DataProgress(sum(done for _, done in by_disk), total_bytes, 0, by_disk))

    try:
        crew = Crew([disk.work() for disk in disks], settings.threads_per_disk)
        crew.run(settings.threads, lambda: _Worker(disks, hasher), tick)
    finally:
        for disk in disks:
            disk.reader.close()
    tick()
    return tuple(disk.result() for disk in disks)
