"""The memory that a worker and its data processes share for the throttle: one row for each transfer.

Every word has one writer, so that no lock is needed, and nobody who was killed or stopped can hold one: the worker writes what
may be sent, a data process what it has taken and what it wants. Words are 8 bytes in the machine's own order, read and written
whole. The memory belongs to a file without a name, passed on by its descriptor: it is gone with the last process that has it.
"""

import mmap
from dataclasses import dataclass
from enum import IntEnum

ROWS = 1024
_HEADER_WORDS = _ROW_WORDS = 8
_WORD_BYTES = 8
_LIMITED = 0
SIZE_BYTES = (_HEADER_WORDS + ROWS * _ROW_WORDS) * _WORD_BYTES


class Word(IntEnum):
    """The words of a row. All count bytes; the sums are those since the row was taken."""

    GRANTED = 0
    """The worker: how much may be sent in all. It falls only when what was not taken yet is called back."""
    QUANTUM = 1
    """The worker: how much to wait for before sending the next slice."""
    RATE = 2
    """The worker: about how much is granted in a second, so that the process knows when to look again."""
    TAKEN = 3
    """The data process: how much it has taken to send."""
    WANTED = 4
    """The data process: `TAKEN`, and what its threads wait to send."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A data process's place in the memory, as it is handed over: an inherited descriptor, and a row."""

    descriptor: int
    row: int


class BudgetRows:
    """The shared memory, seen from one process."""

    def __init__(self, descriptor: int) -> None:
        """Map the file of a descriptor, which may be closed afterwards."""
        self._map = mmap.mmap(descriptor, 0)
        self._words = memoryview(self._map).cast("q")

    @property
    def limited(self) -> bool:
        """Whether anything is limited at all."""
        return self._words[_LIMITED] != 0

    @limited.setter
    def limited(self, limited: bool) -> None:
        self._words[_LIMITED] = int(limited)

    def get(self, row: int, word: Word) -> int:
        """Return a word of a row."""
        return self._words[_HEADER_WORDS + row * _ROW_WORDS + word]

    def put(self, row: int, word: Word, value: int) -> None:
        """Write a word of a row."""
        self._words[_HEADER_WORDS + row * _ROW_WORDS + word] = value

    def clear(self, row: int) -> None:
        """Make a row that nobody uses all zero."""
        for word in Word:
            self.put(row, word, 0)

    def close(self) -> None:
        """Give the memory back; nothing may be read or written afterwards."""
        self._words.release()
        self._map.close()
