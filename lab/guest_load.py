"""What a guest does to its disks all the time: it takes the next write, makes it, and journals it.

One load for all guests of the lab: over NBD in a process of its own for a VM of vSphere (`guest_writer`), and in the
lab's Azure for a running Azure VM (`arm.guests`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deltaferry.model.extents import Extent
from lab.guest_journal import JournalWriter, WriteKind, digest_of
from lab.guest_writes import GuestWrite, guest_writes
from lab.nbd_guest import DiskGone

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
        self._disks = tuple(disks)
        self._writes = guest_writes([disk.ranges for disk in disks], seed)
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
            for disk in self._disks:
                disk.target.close()
        self._journal.end(reason)
        return reason

    def _write(self) -> str:
        started, written = time.monotonic(), 0
        while not self._reason:
            chosen = next(self._writes)
            self._write_one(self._disks[chosen.disk], chosen)
            written += len(chosen.data)
            ahead = written / self._bytes_per_second - (time.monotonic() - started)
            if ahead > 0:
                self._pause(min(ahead, _LONGEST_PAUSE_S))
        for disk in self._disks:
            disk.target.flush()
        return self._reason

    def _write_one(self, disk: LoadedDisk, chosen: GuestWrite) -> None:
        offset, length, digest = chosen.offset, len(chosen.data), digest_of(chosen.data)
        began_at = time.time()
        try:
            if chosen.kind is WriteKind.ZERO:
                disk.target.write_zeroes(offset, length)
            else:
                disk.target.write(offset, chosen.data)
        except DiskGone:
            self._journal.add(disk.key, offset, length, WriteKind.UNANSWERED, digest, began_at)
            raise
        self._journal.add(disk.key, offset, length, chosen.kind, digest, began_at)
