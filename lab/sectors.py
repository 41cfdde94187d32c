"""A set of sector numbers: which sectors of a disk were written, put aside, or given back.

One integer of 8,192 bits for each 4 MiB of disk: a guest write is one shift and one OR, and runs come out by bit
arithmetic in time proportional to their number, not to the number of sectors.
"""

from collections.abc import Iterator
from typing import Final

SECTOR: Final = 512
_BLOCK_SECTORS: Final = 8192


class SectorMap:
    """A set of sector numbers, written in runs and read in runs. Not synchronised."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def __len__(self) -> int:
        return sum(bits.bit_count() for bits in self._blocks.values())

    def __repr__(self) -> str:
        return f"SectorMap({len(self)} sectors)"

    def add(self, first: int, end: int) -> None:
        """Add the sectors from `first` up to, not including, `end`."""
        blocks = self._blocks
        while first < end:
            index, bit = divmod(first, _BLOCK_SECTORS)
            count = min(_BLOCK_SECTORS - bit, end - first)
            blocks[index] = blocks.get(index, 0) | ((1 << count) - 1) << bit
            first += count

    def remove(self, first: int, end: int) -> None:
        """Take out the sectors from `first` up to, not including, `end`; those that are not in the set are no matter."""
        for index in self._indexes(first, end):
            low = max(0, first - index * _BLOCK_SECTORS)
            high = min(_BLOCK_SECTORS, end - index * _BLOCK_SECTORS)
            left = self._blocks[index] & ~(((1 << (high - low)) - 1) << low)
            if left:
                self._blocks[index] = left
            else:
                del self._blocks[index]

    def copy(self) -> "SectorMap":
        """Return a set of its own with the same sectors."""
        result = SectorMap()
        result._blocks = dict(self._blocks)
        return result

    def union(self, other: "SectorMap") -> "SectorMap":
        """Return a new set of all sectors of both."""
        result = SectorMap()
        result._blocks = dict(self._blocks)
        for index, bits in other._blocks.items():
            result._blocks[index] = result._blocks.get(index, 0) | bits
        return result

    def runs(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the maximal runs `(first, end)` inside the window, in order, cut off at the window's edges."""
        open_first = open_end = -1
        for index in self._indexes(first, end):
            base = index * _BLOCK_SECTORS
            bits = self._blocks[index]
            if end - base < _BLOCK_SECTORS:
                bits &= (1 << (end - base)) - 1
            position = max(0, first - base)
            bits >>= position
            while bits:
                gap = (bits & -bits).bit_length() - 1
                bits >>= gap
                count = (~bits & (bits + 1)).bit_length() - 1
                bits >>= count
                run_first = base + position + gap
                position += gap + count
                if run_first == open_end:
                    open_end = base + position
                    continue
                if open_end >= 0:
                    yield open_first, open_end
                open_first, open_end = run_first, base + position
        if open_end >= 0:
            yield open_first, open_end

    def _indexes(self, first: int, end: int) -> list[int]:
        """Return the numbers of the blocks that have sectors and touch the window, in order."""
        if end <= first:
            return []
        window = range(first // _BLOCK_SECTORS, (end - 1) // _BLOCK_SECTORS + 1)
        if len(window) <= len(self._blocks):
            return [index for index in window if index in self._blocks]
        return sorted(index for index in self._blocks if index in window)
