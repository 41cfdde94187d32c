"""What a guest does to its disks all the time: it chooses writes, makes them, and journals them.

One load for all guests of the lab: over NBD in a process of its own for a VM of vSphere (`guest_writer`), and in the
lab's Azure for a running Azure VM (`arm.guests`).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from deltaferry.model.extents import Extent
from deltaferry.model.units import SECTOR
from lab.guest_journal import JournalWriter, WriteKind, digest_of
from lab.nbd_guest import DiskGone

_SIZES = (1, 8, 8, 16, 64, 128, 512)
"""Lengths of writes in sectors, as a guest with a 4 KiB file system makes them."""

_WHEEL = (*[WriteKind.OVERWRITE] * 5, *[WriteKind.HOT] * 3, *[WriteKind.APPEND] * 2, WriteKind.ZERO)
_POOL_BYTES = 1024 * 1024
_LONGEST_PAUSE_S = 0.5


class GuestTarget(Protocol):
    """A disk as a guest writes to it; a call returns once the write is on the disk."""

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Write bytes. Raises DiskGone when it is not known whether they were written; OSError when they were not."""

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range read as zero. Raises as `write`."""

    def flush(self) -> None:
        """Make acknowledged writes durable. Raises as `write`."""

    def close(self) -> None:
        """End writing."""


@dataclass(frozen=True, slots=True)
class LoadedDisk:
    """One disk, and the ranges of it that the guest may write in."""

    key: int
    """How the journal names it."""
    target: GuestTarget
    ranges: tuple[Extent, ...]


class GuestLoad:
    """Writes until it is told to stop or its disks go away."""

    def __init__(
        self,
        disks: Sequence[LoadedDisk],
        journal: JournalWriter,
        bytes_per_second: int,
        seed: int = 0,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """`pause` waits for at most so many seconds; one that ends early lets `stop` be heard at once."""
        self._source = random.Random(seed)
        self._pool = self._source.randbytes(_POOL_BYTES)
        self._regions = [_Region(disk, self._source) for disk in disks]
        self._journal = journal
        self._bytes_per_second = bytes_per_second
        self._pause = pause
        self._reason = ""

    def stop(self, reason: str = "asked to stop") -> None:
        """Stop after the write at hand; fit to be called by a signal handler."""
        self._reason = reason

    def run(self) -> str:
        """Write until the end, flush, journal why it ended, and return it. Raises OSError when a disk refuses a write."""
        try:
            reason = self._write()
        except DiskGone as gone:
            reason = f"the VM stopped: {gone}"
        finally:
            for region in self._regions:
                region.disk.target.close()
        self._journal.end(reason)
        return reason

    def _write(self) -> str:
        started, written = time.monotonic(), 0
        for number in self._numbers():
            region = self._regions[number % len(self._regions)]
            kind = self._source.choice(_WHEEL)
            offset, length = region.choose(kind)
            self._write_one(region.disk, kind, offset, length, number)
            written += length
            ahead = written / self._bytes_per_second - (time.monotonic() - started)
            if ahead > 0:
                self._pause(min(ahead, _LONGEST_PAUSE_S))
        for region in self._regions:
            region.disk.target.flush()
        return self._reason

    def _numbers(self) -> Iterator[int]:
        number = 0
        while not self._reason:
            yield number
            number += 1

    def _write_one(self, disk: LoadedDisk, kind: WriteKind, offset: int, length: int, number: int) -> None:
        zero = kind is WriteKind.ZERO
        data = bytes(length) if zero else self._content(number, length)
        digest = digest_of(data)
        try:
            if zero:
                disk.target.write_zeroes(offset, length)
            else:
                disk.target.write(offset, data)
        except DiskGone:
            self._journal.add(disk.key, offset, length, WriteKind.UNANSWERED, digest)
            raise
        self._journal.add(disk.key, offset, length, kind, digest)

    def _content(self, number: int, length: int) -> bytes:
        """Return bytes that differ from write to write: half of them compress."""
        head = b"guest write %016d\n" % number
        if number % 2:
            return (head * (length // len(head) + 1))[:length]
        start = self._source.randrange(_POOL_BYTES - length)
        return (head + self._pool[start : start + length])[:length]


class _Region:
    """Chooses the next write on one disk: a hot block, an append position that wraps, or anywhere in the ranges."""

    def __init__(self, disk: LoadedDisk, source: random.Random) -> None:
        self.disk = disk
        self._ranges = disk.ranges
        self._weights = [extent.length_bytes for extent in disk.ranges]
        self._source = source
        self._tail = max(disk.ranges, key=lambda extent: extent.length_bytes)
        self._hot = self._tail.offset_bytes
        self._append_at = self._tail.offset_bytes + self._tail.length_bytes // 2 // SECTOR * SECTOR

    def choose(self, kind: WriteKind) -> tuple[int, int]:
        """Return offset and length of the next write, whole sectors inside one range."""
        sectors = self._source.choice(_SIZES)
        if kind is WriteKind.HOT:
            return self._hot, min(8 * SECTOR, self._tail.length_bytes)
        if kind is WriteKind.APPEND:
            start = self._append_at if self._append_at < self._tail.end_bytes else self._tail.offset_bytes
            length = min(sectors * SECTOR, self._tail.end_bytes - start)
            self._append_at = start + length
            return start, length
        extent = self._source.choices(self._ranges, self._weights)[0]
        at = self._source.randrange(extent.length_bytes // SECTOR) * SECTOR
        return extent.offset_bytes + at, min(sectors * SECTOR, extent.length_bytes - at)
