"""What a guest's disks held at an instant, made again from what they held before and its journal alone.

It needs nothing of what is to be proved with it: no replica, no vCenter, no Azure. A guest makes one write at a time, so
at any instant all of its writes but at most one are certainly on its disks or not; that one, which was under way, may be.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from deltaferry.model.extents import Extent
from lab.guest_journal import JournalEntry, WriteKind, digest_of, read_journal
from lab.guest_writes import guest_writes


class ReplayError(Exception):
    """A journal is not that of the guest whose writes were to be made again."""


@dataclass(frozen=True, slots=True)
class RecordedDisk:
    """A disk of a guest."""

    key: int
    """How the journal names it."""
    ranges: tuple[Extent, ...]
    """Where the guest may write; nowhere if empty."""
    before: Path
    """A raw image of it before the guest's first write."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A guest's disks, its seed, and where its journal is."""

    disks: tuple[RecordedDisk, ...]
    journal: Path
    seed: int = 0

    def reaches(self, instant: float) -> bool:
        """Return whether the journal, as far as it can be read, tells all that was written before an instant."""
        entries = read_journal(self.journal) if self.journal.exists() else ()
        return bool(entries) and (entries[-1].kind is WriteKind.STOPPED or entries[-1].began_at > instant)

    def written_after(self, instant: float) -> int:
        """Return how many writes were begun after an instant, as far as the journal can be read."""
        return sum(1 for entry in read_journal(self.journal) if entry.length > 0 and entry.began_at > instant)

    def images(self, folder: Path, instant: float | None = None) -> Iterator[tuple[Path, ...]]:
        """Yield what the disks held at an instant (None: at the end), as raw images in a folder.

        Where a write was under way then, there are two answers: without it, and with it. Each yield replaces the images of the one before. Raises ReplayError if the journal is not this guest's.
        """
        entries = read_journal(self.journal)
        folder.mkdir(parents=True, exist_ok=True)
        for count in possible_counts(entries, instant):
            made = tuple(folder / f"disk-{number}.raw" for number, _ in enumerate(self.disks))
            for disk, image in zip(self.disks, made, strict=True):
                shutil.copyfile(disk.before, image)
            self._replay(entries[:count], made)
            yield made

    def _replay(self, entries: Sequence[JournalEntry], images: Sequence[Path]) -> None:
        written = [(disk, image) for disk, image in zip(self.disks, images, strict=True) if disk.ranges]
        with ExitStack() as stack:
            files = [stack.enter_context(image.open("r+b")) for _, image in written]
            ranges = [disk.ranges for disk, _ in written]
            chosen = guest_writes(ranges, self.seed)
            for entry in entries:
                if entry.kind is WriteKind.STOPPED:
                    chosen = guest_writes(ranges, self.seed)  # its next run begins as the first did
                    continue
                write = next(chosen)
                key = written[write.disk][0].key
                if (entry.disk, entry.offset, entry.digest) != (key, write.offset, digest_of(write.data)):
                    raise ReplayError(f"Entry {entry.sequence} of {self.journal} is not what its guest wrote there.")
                os.pwrite(files[write.disk].fileno(), write.data, write.offset)


def possible_counts(entries: Sequence[JournalEntry], instant: float | None) -> tuple[int, ...]:
    """Return how many entries of a journal were on the disks at an instant: one number, or two where a write was under way.

    None: after the last entry. A write that was never answered is one that may be on the disk or not.
    """
    count = len(entries)
    if instant is not None:
        count = next((number for number, entry in enumerate(entries) if entry.ended_at > instant), count)
        if count < len(entries) and entries[count].length > 0 and entries[count].began_at < instant:
            return count, count + 1
    while count and entries[count - 1].kind is WriteKind.STOPPED:
        count -= 1
    if count and entries[count - 1].kind is WriteKind.UNANSWERED:
        return count - 1, count
    return (count,)
