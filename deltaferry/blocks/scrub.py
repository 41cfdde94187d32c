"""Comparing disks with their checksum maps: a snapshot over NBD, or a seed's page blob where it is.

The unit of work is up to 4 MiB of granules, carried by one thread from the read to the comparison. What need not be read
is passed over in bulk: on a seed it counts as zeros, on a source it is somebody else's to know.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deltaferry.blocks.blob_http import BlobClient, Role
from deltaferry.blocks.checksums import CHECKSUM_BYTES, Hasher
from deltaferry.blocks.crew import Crew
from deltaferry.blocks.granules import GranuleSet
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.nbd import NbdClient
from deltaferry.blocks.pacing import Pacer
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import BLOCK, GRANULE
from deltaferry.ports.access import NbdAddress
from deltaferry.ports.data_plane import CheckJob, CompareJob, DataProgress, GranuleRange, ScrubbedDisk

_BATCH = BLOCK // GRANULE
_READERS = 4
"""Of each disk, at most: nothing is computed for long, and threads that take turns with the interpreter every 16 KiB of TLS cost
each other more than they bring. Four batches on their way are a page blob's 60 MiB/s up to 250 ms away."""
_ZEROS_AT_ONCE = 4096
"""How many granules' checksums are first compared with those of zeros as one."""

Read = Callable[[int, memoryview], None]
"""Fills a buffer with a disk's bytes from an offset on."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Granules to read, as (first, count) runs, and how far the disk is done with them: from `start` to `end`."""

    runs: tuple[tuple[int, int], ...]
    start: int
    end: int


class _Disk:
    """One disk's comparison: what is left to hand out, and what was found. Changes under the lock."""

    def __init__(self, part: GranuleRange, deadline_s: float) -> None:
        self.part = part
        self.end = part.first_granule + len(part.checksums) // CHECKSUM_BYTES
        self._deadline_s = deadline_s
        self._wanted = GranuleSet.decode(part.granules).within(part.first_granule, self.end)
        self._lock = threading.Lock()
        self._differing = GranuleSet()
        self._next = part.first_granule
        self.total_bytes = self.length_bytes(part.first_granule, self.end)
        self.done_bytes = self._read_bytes = 0

    def work(self) -> Iterator[_Batch]:
        """Yield the batches in order until the range or the time is used up; the first one whatever the time is."""
        runs: list[tuple[int, int]] = []
        room = _BATCH
        for first, count in self._wanted.runs():
            position, left = first, count
            while left:
                taken = min(left, room)
                runs.append((position, taken))
                position, left, room = position + taken, left - taken, room - taken
                if not room:
                    yield self._hand_out(runs, position)
                    if time.monotonic() >= self._deadline_s:
                        return
                    runs, room = [], _BATCH
        yield self._hand_out(runs, self.end)

    def _hand_out(self, runs: Sequence[tuple[int, int]], end: int) -> _Batch:
        batch = _Batch(tuple(runs), self._next, end)
        self._next = end
        return batch

    def length_bytes(self, first: int, end: int) -> int:
        """Return how many bytes granules `[first, end)` have: the disk's last one may be short."""
        return max(0, min(end * GRANULE, self.part.capacity_bytes) - first * GRANULE)

    def expected(self, first: int, count: int) -> memoryview:
        """Return the map's checksums of granules."""
        start = (first - self.part.first_granule) * CHECKSUM_BYTES
        return memoryview(self.part.checksums)[start : start + count * CHECKSUM_BYTES]

    def record(self, batch: _Batch, differing: Sequence[int], read_bytes: int) -> None:
        """Note a batch that is done."""
        with self._lock:
            for granule in differing:
                self._differing.add(granule)
            self._read_bytes += read_bytes
            self.done_bytes += self.length_bytes(batch.start, batch.end)

    def result(self) -> ScrubbedDisk:
        """Return what was found, once all that was handed out is done."""
        return ScrubbedDisk(self.part.disk_key, self._next, self._differing.encode(), self._read_bytes)


class _Scrubber:
    """One thread's buffer, and the steps of a batch."""

    def __init__(self, disks: Sequence[_Disk], reads: Sequence[Callable[[Sequence[tuple[int, memoryview]]], None]],
                 hasher: Hasher, zeros_elsewhere: bool) -> None:  # fmt: skip
        self._disks = disks
        self._reads = reads
        self._hasher = hasher
        self._zeros_elsewhere = zeros_elsewhere
        self._buffer = memoryview(bytearray(BLOCK))
        self._pieces = [self._buffer[slot * GRANULE : (slot + 1) * GRANULE] for slot in range(_BATCH)]

    def __call__(self, index: int, batch: _Batch) -> None:
        """Read a batch and compare it, and what lies before and between its runs."""
        disk = self._disks[index]
        slot = 0
        reads = []
        for first, count in batch.runs:
            start = slot * GRANULE
            reads.append((first * GRANULE, self._buffer[start : start + disk.length_bytes(first, first + count)]))
            slot += count
        if reads:
            self._reads[index](reads)
        differing = self._compare(disk, batch)
        if self._zeros_elsewhere:
            position = batch.start
            for first, count in (*batch.runs, (batch.end, 0)):
                differing += self._not_zero(disk, position, first)
                position = first + count
        disk.record(batch, differing, sum(len(buffer) for _, buffer in reads))

    def _compare(self, disk: _Disk, batch: _Batch) -> list[int]:
        differing = []
        checksum = self._hasher.checksum
        tail = disk.part.capacity_bytes // GRANULE
        slot = 0
        for first, count in batch.runs:
            expected = disk.expected(first, count)
            for number in range(count):
                piece = self._pieces[slot]
                if first + number == tail:
                    piece = piece[: disk.part.capacity_bytes % GRANULE]
                if checksum(piece) != expected[number * CHECKSUM_BYTES : (number + 1) * CHECKSUM_BYTES]:
                    differing.append(first + number)
                slot += 1
        return differing

    def _not_zero(self, disk: _Disk, first: int, end: int) -> list[int]:
        """Return which granules of `[first, end)` are not zeros by the map."""
        differing = []
        zero = self._hasher.zero_checksum(GRANULE)
        tail = disk.part.capacity_bytes // GRANULE
        for start in range(first, end, _ZEROS_AT_ONCE):
            count = min(_ZEROS_AT_ONCE, end - start)
            expected = bytes(disk.expected(start, count))
            if expected == zero * count:
                continue
            for number in range(count):
                own = zero if start + number != tail else self._hasher.zero_checksum(disk.part.capacity_bytes % GRANULE)
                if expected[number * CHECKSUM_BYTES : (number + 1) * CHECKSUM_BYTES] != own:
                    differing.append(start + number)
        return differing


class _SnapshotSource:
    """A snapshot's disk: one connection, shared by the disk's threads, made when it is first needed."""

    def __init__(self, part: GranuleRange, address: NbdAddress, timeout_s: float) -> None:
        self._part = part
        self._address = address
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: NbdClient | None = None

    def __call__(self, reads: Sequence[tuple[int, memoryview]]) -> None:
        """Fill the buffers. Raises DISK_READ_FAILED."""
        self._connected().read_many(reads)

    def _connected(self) -> NbdClient:
        with self._lock:
            if self._client is None:
                client = NbdClient(self._address, timeout_s=self._timeout_s)
                if client.size_bytes < self._part.capacity_bytes:
                    client.close()
                    raise DeltaferryError(
                        ErrorKind.DISK_READ_FAILED,
                        f"the export of disk {self._part.disk_key} has {client.size_bytes} bytes"
                        f" where the disk has {self._part.capacity_bytes}",
                    )
                self._client = client
            return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


class _SeedSource:
    """A seed's page blob, read within the rate that one blob takes."""

    def __init__(self, client: BlobClient, name: str, bytes_per_s: float) -> None:
        self._client = client
        self._name = name
        self._pacer = Pacer(bytes_per_s)

    def __call__(self, reads: Sequence[tuple[int, memoryview]]) -> None:
        """Fill the buffers."""
        for offset_bytes, buffer in reads:
            self._client.read_range(self._name, offset_bytes, buffer, self._pacer)


def nothing_to_read(job: CompareJob | CheckJob) -> bool:
    """Return whether a job can be carried out without any read."""
    return not any(len(GranuleSet.decode(part.granules)) for part, _ in job.disks)


def run_scrub(job: CompareJob | CheckJob, settings: Settings, report: Callable[[DataProgress], None]) -> tuple[ScrubbedDisk, ...]:
    """Carry out a comparison or a check in this process. `report` is called once a second."""
    deadline_s = time.monotonic() + job.stop_after.total_seconds()
    disks = [_Disk(part, deadline_s) for part, _ in job.disks]
    total_bytes = sum(disk.total_bytes for disk in disks)
    hasher = Hasher(job.data_key)
    closers: list[Callable[[], None]] = []
    reads: list[_SnapshotSource] | list[_SeedSource]
    if isinstance(job, CompareJob):
        reads = [_SnapshotSource(part, address, settings.nbd_timeout_s) for part, address in job.disks]
        closers += [source.close for source in reads]
    else:
        seed = BlobClient(job.seed, Role.SEED, settings.http)
        reads = [_SeedSource(seed, name, settings.page_blob_bytes_per_s) for _, name in job.disks]
        closers.append(seed.close)

    def tick() -> None:
        by_disk = tuple((disk.part.disk_key, disk.done_bytes) for disk in disks)
        report(DataProgress(sum(done for _, done in by_disk), total_bytes, 0, by_disk))

    try:
        crew = Crew([disk.work() for disk in disks], min(settings.threads_per_disk, _READERS))
        crew.run(settings.threads, lambda: _Scrubber(disks, reads, hasher, isinstance(job, CheckJob)), tick)
    finally:
        for close in closers:
            close()
    tick()
    return tuple(disk.result() for disk in disks)
