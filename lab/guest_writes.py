"""Which writes a guest makes: a stream without end that depends on nothing but a seed and the ranges of its disks.

So what a guest wrote can be made a second time from its journal, which keeps digests only (`lab.guest_replay`).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deltaferry.model.extents import Extent
from deltaferry.model.units import SECTOR
from lab.guest_journal import WriteKind

_SIZES = (1, 8, 8, 16, 64, 128, 512)
"""Lengths of writes in sectors, as a guest with a 4 KiB file system makes them."""

_WHEEL = (*[WriteKind.OVERWRITE] * 5, *[WriteKind.HOT] * 3, *[WriteKind.APPEND] * 2, WriteKind.ZERO)
_POOL_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GuestWrite:
    """One write, as it is chosen."""

    disk: int
    """Which of the guest's disks, counted from 0."""
    offset: int
    kind: WriteKind
    data: bytes
    """For ZERO as many zeros as are to be written."""


def guest_writes(disks: Sequence[tuple[Extent, ...]], seed: int = 0) -> Iterator[GuestWrite]:
    """Yield the writes of a guest that may write in these ranges of its disks, in order, for ever."""
    source = random.Random(seed)
    pool = source.randbytes(_POOL_BYTES)
    regions = [_Region(ranges, source) for ranges in disks]
    number = 0
    while True:
        disk = number % len(regions)
        kind = source.choice(_WHEEL)
        offset, length = regions[disk].choose(kind)
        data = bytes(length) if kind is WriteKind.ZERO else _content(source, pool, number, length)
        yield GuestWrite(disk, offset, kind, data)
        number += 1


def _content(source: random.Random, pool: bytes, number: int, length: int) -> bytes:
    """Return bytes that differ from write to write: half of them compress."""
    head = b"guest write %016d\n" % number
    if number % 2:
        return (head * (length // len(head) + 1))[:length]
    start = source.randrange(_POOL_BYTES - length)
    return (head + pool[start : start + length])[:length]


class _Region:
    """Chooses the next write on one disk: a hot block, an append position that wraps, or anywhere in the ranges."""

    def __init__(self, ranges: tuple[Extent, ...], source: random.Random) -> None:
        self._ranges = ranges
        self._weights = [extent.length_bytes for extent in ranges]
        self._source = source
        self._tail = max(ranges, key=lambda extent: extent.length_bytes)
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
