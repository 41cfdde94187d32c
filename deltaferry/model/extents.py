"""Ranges of a disk, in bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A range of a disk. Says nothing of its content: whether it is a hole is said beside it, never by it."""

    offset_bytes: int
    length_bytes: int

    @property
    def end_bytes(self) -> int:
        """The first byte behind the range."""
        return self.offset_bytes + self.length_bytes
