"""One file of a virtual disk's chain, and reading through several of them.

A *view* is the chain as one state of the disk sees it: the topmost backing first, the base last. A view is a tuple and
is never changed; who holds an old one still reads the same content from it, because a merge writes to a parent only
what the child above it in every view already says, and a merged child's file stays open while a view names it.
"""

import heapq
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.sectors import SECTOR, SectorMap
from lab.vcenter.disk_files import create_sparse, data_ranges, punch, read_full, write_descriptor, write_full, write_zeros
from lab.vcenter.faults_disk import OutOfBounds


class Backing:
    """A descriptor `<stem>.vmdk` and its extent: `-flat.vmdk` for a base, `-delta.vmdk` for a redo log."""

    def __init__(
        self,
        directory: Path,
        stem: str,
        capacity: int,
        uuid: str,
        parent: "Backing | None",
        content: Path | None = None,
        *,
        move: bool = False,
    ) -> None:
        self.descriptor = directory / f"{stem}.vmdk"
        self.extent = directory / f"{stem}-{'flat' if parent is None else 'delta'}.vmdk"
        self.uuid = uuid
        self.parent = parent
        self.written: SectorMap | None = None if parent is None else SectorMap()
        """A delta's written sectors, the others being the parent's; None for a base. Replaced, never shrunk."""
        self.fd = create_sparse(self.extent, capacity, content, move=move)
        weakref.finalize(self, os.close, self.fd)
        self.describe(capacity)

    def __repr__(self) -> str:
        return f"Backing({self.descriptor.name})"

    def describe(self, capacity: int) -> None:
        """Write the descriptor anew: after creation, growth, or a change of parent."""
        parent = None if self.parent is None else self.parent.descriptor
        write_descriptor(self.descriptor, extent=self.extent, capacity=capacity, uuid=self.uuid, parent=parent)

    def write(self, offset: int, data: memoryview) -> None:
        """Write data; a delta remembers the sectors."""
        write_full(self.fd, offset, data)
        self._remember(offset, len(data))

    def zero(self, offset: int, length: int, *, allocate: bool) -> None:
        """Make a range read as zero. Without `allocate` a base gives its space back; in a delta zeros are data either way."""
        if self.written is None and allocate:
            write_zeros(self.fd, offset, length)
        else:
            punch(self.fd, offset, length)
        self._remember(offset, length)

    def absorb(self, child: "Backing") -> None:
        """Own from now on the sectors that were merged from a child, whose copies are in this file."""
        if self.written is not None and child.written is not None:
            self.written = self.written.union(child.written)

    def relocate(self, directory: Path) -> None:
        """Move both files to another directory of the same file system; who holds the backing reads and writes on."""
        self.descriptor = self.descriptor.rename(directory / self.descriptor.name)
        self.extent = self.extent.rename(directory / self.extent.name)

    def remove_files(self) -> None:
        """Unlink both files; readers that hold the backing read on."""
        self.descriptor.unlink(missing_ok=True)
        self.extent.unlink(missing_ok=True)

    def _remember(self, offset: int, length: int) -> None:
        if self.written is not None:
            self.written.add(offset // SECTOR, (offset + length) // SECTOR)


View = tuple[Backing, ...]


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of a disk that one backing's file holds at the same offset. Keeps the file open."""

    offset: int
    length: int
    backing: Backing

    @property
    def fd(self) -> int:
        """The file's descriptor; valid as long as this object is held."""
        return self.backing.fd


def check_bounds(offset: int, length: int, capacity: int) -> None:
    """Raise OutOfBounds unless the range is made of whole sectors inside the disk."""
    if offset < 0 or length < 0 or offset + length > capacity or offset % SECTOR or length % SECTOR:
        raise OutOfBounds(f"{length} bytes at {offset} are not whole sectors of a disk of {capacity} bytes")


def locate(view: Sequence[Backing], offset: int, length: int) -> list[FileRange]:
    """Return which files hold a range, in order and without gaps."""
    if len(view) == 1:
        return [FileRange(offset, length, view[0])]
    found: list[FileRange] = []
    wanted = [(offset, offset + length)]
    for backing in view:
        left: list[tuple[int, int]] = []
        for start, end in wanted:
            position = start
            for run_start, run_end in _written_bytes(backing, start, end):
                if run_start > position:
                    left.append((position, run_start))
                found.append(FileRange(run_start, run_end - run_start, backing))
                position = run_end
            if position < end:
                left.append((position, end))
        wanted = left
        if not wanted:
            break
    found.sort(key=lambda part: part.offset)
    return found


def read_view(view: Sequence[Backing], offset: int, target: memoryview) -> None:
    """Fill `target` with the view's content."""
    for part in locate(view, offset, len(target)):
        start = part.offset - offset
        read_full(part.fd, part.offset, target[start : start + part.length])


def allocated_ranges(view: Sequence[Backing], offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges `(start, end)` that were ever written in any backing of a view, joined and in order."""
    layers = [
        data_ranges(backing.fd, offset, end) if backing.written is None else _written_bytes(backing, offset, end)
        for backing in view
    ]
    open_start = open_end = -1
    for start, stop in heapq.merge(*layers):
        if start <= open_end:
            open_end = max(open_end, stop)
            continue
        if open_end >= 0:
            yield open_start, open_end
        open_start, open_end = start, stop
    if open_end >= 0:
        yield open_start, open_end


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a disk that was written at some time, or that never was and reads as zero."""

    offset: int
    length: int
    allocated: bool


def runs_of(view: Sequence[Backing], offset: int, length: int) -> Iterator[Run]:
    """Yield a range's allocated parts and holes, in order and without gaps."""
    position, end = offset, offset + length
    for start, stop in allocated_ranges(view, offset, end):
        if start > position:
            yield Run(position, start - position, allocated=False)
        yield Run(start, stop - start, allocated=True)
        position = stop
    if position < end:
        yield Run(position, end - position, allocated=False)


def copy_ranges(source: Backing, target: Backing, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
    """Copy byte ranges `(start, end)` of one backing's file to another's, without marking them written there."""
    for start, end in ranges:
        for position in range(start, end, len(buffer)):
            part = buffer[: min(len(buffer), end - position)]
            read_full(source.fd, position, part)
            write_full(target.fd, position, part)


def _written_bytes(backing: Backing, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges inside a window that a backing itself holds: a base holds everything."""
    if backing.written is None:
        yield start, end
        return
    for first, stop in backing.written.runs(start // SECTOR, end // SECTOR):
        yield first * SECTOR, stop * SECTOR
