"""Merging a redo log into its parent while the guest goes on writing."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from lab.sectors import SECTOR, SectorMap
from lab.vcenter.disk_backing import copy_ranges
from lab.vcenter.disk_tree import Collapse

_PIECE: Final = 1024 * 1024
_WAIT_STEP_S: Final = 0.1
_ROUNDS: Final = 8
_FEW_SECTORS: Final = 8192
"""Once less than this (4 MiB) was written during a round, the rest is merged while the guest waits."""
_BREATH_S: Final = 0.0002
"""Between two pieces under the lock: Python's locks are not fair, and the guest's turn has to come."""

Beat = Callable[[], None]


class Merge:
    """One merge of a child into its parent, which no snapshot needs.

    A child that nothing writes is copied as it is. A live one, the disk's top, is copied in pieces under the disk's
    lock; what the guest rewrites meanwhile is copied again, in rounds, and the last of it by `finish`. Until the disk
    takes the child out of its chain, every reader still finds the child's sectors in the child, so a merge may be given
    up at any time.
    """

    def __init__(self, collapse: Collapse, capacity: int, lock: threading.Condition, *, live: bool) -> None:
        self.collapse = collapse
        self._end = capacity // SECTOR
        self._lock = lock
        self._rewritten = SectorMap() if live else None
        self._buffer = memoryview(bytearray(_PIECE))

    def note(self, offset: int, length: int) -> None:
        """Record a guest's write to the disk's top. Under the disk's lock, after the write."""
        if self._rewritten is not None:
            self._rewritten.add(offset // SECTOR, (offset + length) // SECTOR)

    def copy(self, beat: Beat, deadline: float) -> None:
        """Copy what is there, not before the deadline on the monotonic clock, and catch up with the guest."""
        with self._lock:
            pending = self._ranges(self.collapse.child.written)
        self._copy(pending, beat)
        beat()  # even of a merge that is over at once
        while (rest := deadline - time.monotonic()) > 0:
            time.sleep(min(_WAIT_STEP_S, rest))
            beat()
        for _ in range(_ROUNDS):
            with self._lock:
                rewritten = self._rewritten
                if rewritten is None or len(rewritten) < _FEW_SECTORS:
                    return
                self._rewritten = SectorMap()
            self._copy(self._ranges(rewritten), beat)

    def finish(self) -> None:
        """Copy the rest. Under the disk's lock, which has to be kept until the child is out of the chain."""
        copy_ranges(self.collapse.child, self.collapse.parent, self._ranges(self._rewritten), self._buffer)

    def _copy(self, ranges: list[tuple[int, int]], beat: Beat) -> None:
        child, parent = self.collapse.child, self.collapse.parent
        next_beat = time.monotonic() + _WAIT_STEP_S
        for piece in _pieces(ranges):
            if self._rewritten is None:
                copy_ranges(child, parent, [piece], self._buffer)
            else:
                with self._lock:
                    copy_ranges(child, parent, [piece], self._buffer)
                time.sleep(_BREATH_S)
            if time.monotonic() >= next_beat:
                beat()
                next_beat = time.monotonic() + _WAIT_STEP_S

    def _ranges(self, sectors: SectorMap | None) -> list[tuple[int, int]]:
        runs = sectors.runs(0, self._end) if sectors else ()
        return [(first * SECTOR, end * SECTOR) for first, end in runs]


def _pieces(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in ranges:
        for position in range(start, end, _PIECE):
            yield position, min(position + _PIECE, end)
