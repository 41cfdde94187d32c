"""What the guest writer did, as JSON lines, and how it is compared with a disk afterwards.

A write is journaled once it is acknowledged. A run's last line says why the guest stopped; where the journal goes on, the
next run follows it. A write without an answer is journaled as `unanswered`: it may be on the disk or not, so what lies
under it proves nothing.
"""

import bisect
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TextIO


class WriteKind(StrEnum):
    """What a line of the journal tells of."""

    OVERWRITE = "overwrite"
    APPEND = "append"
    HOT = "hot"
    ZERO = "zero"
    UNANSWERED = "unanswered"
    STOPPED = "stopped"
    """The last line of a run of the guest, once its writes are on the disks: no write."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One write of the guest."""

    sequence: int
    disk: int
    """vSphere's device key; of an Azure VM 0 for the OS disk, and its LUN and 1 for a data disk."""
    offset: int
    length: int
    kind: WriteKind
    digest: str
    """BLAKE2b-128 of the bytes written; for STOPPED the reason."""
    began_at: float = 0.0
    """When the write was begun, and when it was answered: seconds since 1970, of this machine's clock."""
    ended_at: float = 0.0


def digest_of(data: bytes | memoryview) -> str:
    """Return the digest that the journal carries of a write."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class JournalWriter:
    """Appends entries; they are durable at most `sync_every_s` after they were added, and at the end."""

    def __init__(self, path: Path, sync_every_s: float = 0.5, after: int | None = None) -> None:
        """Begin a journal, or go on with one whose last sequence number is `after`."""
        self._file: TextIO = path.open("w" if after is None else "a", encoding="utf-8")
        self._sync_every_s = sync_every_s
        self._synced_at = time.monotonic()
        self._sequence = after or 0

    @property
    def sequence(self) -> int:
        """The last entry's number; 0 before the first."""
        return self._sequence

    def add(self, disk: int, offset: int, length: int, kind: WriteKind, digest: str, began_at: float = 0.0) -> None:
        """Add an entry of what has ended just now."""
        self._sequence += 1
        entry = JournalEntry(self._sequence, disk, offset, length, kind, digest, began_at, time.time())
        self._file.write(json.dumps(asdict(entry)) + "\n")
        if time.monotonic() - self._synced_at >= self._sync_every_s:
            self.sync()

    def sync(self) -> None:
        """Make all entries durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced_at = time.monotonic()

    def end(self, reason: str) -> None:
        """Add why the guest stopped, as the run's last entry, and close."""
        self.add(0, 0, 0, WriteKind.STOPPED, reason)
        self.close()

    def close(self) -> None:
        """Make all entries durable and close the file."""
        self.sync()
        self._file.close()


def read_journal(path: Path) -> tuple[JournalEntry, ...]:
    """Return a journal's entries in order; a last line that was cut off is left out."""
    return tuple(_entries(path.read_text(encoding="utf-8").splitlines(keepends=True)))


def _entries(lines: Iterable[str]) -> Iterator[JournalEntry]:
    for line in lines:
        if line.endswith("\n"):
            fields = json.loads(line)
            yield JournalEntry(**{**fields, "kind": WriteKind(fields["kind"])})


def stop_reason(entries: Iterable[JournalEntry]) -> str | None:
    """Return why the guest stopped last, or None if it has not since it last began."""
    last = None
    for entry in entries:
        last = entry.digest if entry.kind is WriteKind.STOPPED else None
    return last


def surviving(entries: Iterable[JournalEntry], disk: int) -> tuple[JournalEntry, ...]:
    """Return a disk's writes of which no byte was written again, newest first: each must be on the disk as journaled."""
    starts: list[int] = []
    ends: list[int] = []
    kept: list[JournalEntry] = []
    for entry in sorted(
        (entry for entry in entries if entry.disk == disk and entry.length > 0), key=lambda entry: -entry.sequence
    ):
        end = entry.offset + entry.length
        first = bisect.bisect_right(ends, entry.offset)
        last = bisect.bisect_left(starts, end)
        if first == last and entry.kind is not WriteKind.UNANSWERED:
            kept.append(entry)
        start = min([entry.offset, *starts[first:last][:1]])
        end = max([end, *ends[first:last][-1:]])
        starts[first:last] = [start]
        ends[first:last] = [end]
    return tuple(kept)


def lost_writes(entries: Iterable[JournalEntry], disk: int, image: Path) -> tuple[JournalEntry, ...]:
    """Return the surviving writes that a raw disk image does not hold as journaled."""
    lost: list[JournalEntry] = []
    with image.open("rb") as file:
        for entry in surviving(entries, disk):
            if digest_of(os.pread(file.fileno(), entry.length, entry.offset)) != entry.digest:
                lost.append(entry)
    return tuple(lost)
