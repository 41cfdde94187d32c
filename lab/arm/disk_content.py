"""The bytes of one managed disk and of its snapshots, which share what they have in common.

Taking a snapshot copies nothing. From then on the bytes that a sector had are put aside, into the newest snapshot's
file, before the sector is written for the first time. So a snapshot is a point in time whatever the guest does
afterwards, and the sectors that were put aside between two snapshots are their true difference: also those that were
rewritten with what they held. A snapshot that goes away leaves what it put aside to the one before it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import RLock

from lab.arm import disk_bytes
from lab.sectors import SECTOR, SectorMap

_STEP_BYTES = 1 << 20
_ZEROS = bytes(_STEP_BYTES)

Span = tuple[int, int]
"""Start and end in bytes, whole sectors."""


class SnapshotContent:
    """A snapshot's bytes: never change. Every method may be called from any thread."""

    def __init__(self, disk: "DiskContent", path: Path, size_bytes: int, written: SectorMap, discarded: SectorMap) -> None:
        self.disk = disk
        self.path = path
        self.size_bytes = size_bytes
        self.kept = SectorMap()
        """What was put aside here: the sectors that were written after this snapshot and before the next one."""
        self._written = written
        self._discarded = discarded
        self._allocated: SectorMap | None = None

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of a range."""
        return self.disk.read_snapshot(self, start, end)

    def allocated(self, start: int, end: int) -> Iterator[Span]:
        """Yield the runs of sectors inside a range that hold data or were written, joined and in order."""
        if self._allocated is None:
            self._allocated = allocated_map(self, self.disk.data_steps(self), self._written)
        return _spans(self._allocated, start, min(end, self.size_bytes))

    def changed_since(self, previous: "SnapshotContent", start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (start, end, cleared) of what was written or given back after `previous`, in order; both are of one disk."""
        for first, last in _spans(self.disk.written_between(previous, self), start, min(end, self.size_bytes)):
            position = first
            for gone_first, gone_last in _spans(self._discarded, first, last):
                if position < gone_first:
                    yield position, gone_first, False
                yield gone_first, gone_last, True
                position = gone_last
            if position < last:
                yield position, last, False

    def is_newer_than(self, other: "SnapshotContent") -> bool:
        """Return whether a snapshot of the same disk was taken before this one."""
        return self.disk.position(self) > self.disk.position(other)

    def copy_to(self, path: Path) -> None:
        """Write the bytes to a new sparse file."""
        disk_bytes.create_sparse(path, self.size_bytes)
        with path.open("r+b") as file:
            for step in self.disk.data_steps(self):
                data = self.read(step, min(step + _STEP_BYTES, self.size_bytes))
                if data != _ZEROS[: len(data)]:
                    os.pwrite(file.fileno(), data, step)

    def release(self) -> None:
        """Let the snapshot go; what earlier ones need of it stays."""
        self.disk.forget(self)


class DiskContent:
    """A disk's bytes as they are now, in a raw sparse file, and its snapshots. Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RLock()
        self._snapshots: list[SnapshotContent] = []
        self._written = SectorMap()
        self._discarded = SectorMap()
        self._gone = False
        self._version = 0
        self._allocated: tuple[int, SectorMap] = (-1, SectorMap())

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self.path.stat().st_size

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of a range; what lies behind the file's end reads as zero."""
        with self._lock:
            return _read(self.path, start, end)

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Write whole sectors."""
        end = start + len(data)
        with self._lock:
            self._put_aside(start, end)
            with self.path.open("r+b") as file:
                view = memoryview(data)
                position = start
                while view:
                    count = os.pwrite(file.fileno(), view, position)
                    position, view = position + count, view[count:]
            self._written.add(start // SECTOR, end // SECTOR)
            self._discarded.remove(start // SECTOR, end // SECTOR)

    def discard(self, start: int, end: int) -> None:
        """Give the space of whole sectors back, as Clear Page and a guest's TRIM do; they read as zero."""
        with self._lock:
            self._put_aside(start, end)
            disk_bytes.clear(self.path, start, end)
            self._written.remove(start // SECTOR, end // SECTOR)
            self._discarded.add(start // SECTOR, end // SECTOR)

    def resize(self, size_bytes: int) -> None:
        """Cut or extend the disk; what is added reads as zero. A disk with snapshots is only ever extended."""
        with self._lock:
            self._version += 1
            disk_bytes.resize(self.path, size_bytes)

    def snapshot(self, path: Path, size_bytes: int) -> SnapshotContent:
        """Return the disk as it is at this moment; `path` is where its bytes are put aside."""
        with self._lock:
            made = SnapshotContent(self, path, size_bytes, self._written.copy(), self._discarded.copy())
            disk_bytes.create_sparse(path, size_bytes)
            self._snapshots.append(made)
            return made

    def copy_to(self, path: Path) -> None:
        """Write the bytes of this moment to a new sparse file, while the guest goes on."""
        moment = self.snapshot(path.with_suffix(".moment"), self.size_bytes)
        try:
            moment.copy_to(path)
        finally:
            moment.release()

    def allocated(self, start: int, end: int) -> Iterator[Span]:
        """Yield the runs of sectors inside a range that hold data or were written, joined and in order."""
        with self._lock:
            if self._allocated[0] != self._version:
                steps = _steps([self.path], self.size_bytes)
                self._allocated = (self._version, allocated_map(self, steps, self._written))
            known = self._allocated[1]
        return _spans(known, start, min(end, self.size_bytes))

    def release(self) -> None:
        """Let the disk go; its bytes stay as long as a snapshot needs them."""
        with self._lock:
            self._gone = True
            self._remove_unneeded()

    # --- for its snapshots ---

    def position(self, snapshot: SnapshotContent) -> int:
        """Return a snapshot's place among those of the disk that exist, the oldest's being 0."""
        with self._lock:
            return self._snapshots.index(snapshot)

    def read_snapshot(self, snapshot: SnapshotContent, start: int, end: int) -> bytes:
        """Return what a range held when a snapshot was taken: what it or a later one put aside, else what is there now."""
        with self._lock:
            data = bytearray(end - start)
            missing = [(start, end)]
            for holder in self._snapshots[self._snapshots.index(snapshot) :]:
                left: list[Span] = []
                for first, last in missing:
                    position = first
                    for held_first, held_last in _spans(holder.kept, first, last):
                        left.append((position, held_first))
                        data[held_first - start : held_last - start] = _read(holder.path, held_first, held_last)
                        position = held_last
                    left.append((position, last))
                missing = [(first, last) for first, last in left if first < last]
            for first, last in missing:
                data[first - start : last - start] = _read(self.path, first, last)
            return bytes(data)

    def written_between(self, older: SnapshotContent, newer: SnapshotContent) -> SectorMap:
        """Return the sectors that were written or given back after one snapshot and before another."""
        with self._lock:
            changed = SectorMap()
            for snapshot in self._snapshots[self._snapshots.index(older) : self._snapshots.index(newer)]:
                changed = changed.union(snapshot.kept)
            return changed

    def data_steps(self, snapshot: SnapshotContent) -> list[int]:
        """Return the offsets of the MiB pieces of a snapshot that may hold data."""
        with self._lock:
            paths = [self.path, *(one.path for one in self._snapshots[self._snapshots.index(snapshot) :])]
            return _steps(paths, snapshot.size_bytes)

    def forget(self, snapshot: SnapshotContent) -> None:
        """Take a snapshot out; the one before it keeps what it needs of it, so that later differences stay true."""
        with self._lock:
            index = self._snapshots.index(snapshot)
            if index > 0:
                before = self._snapshots[index - 1]
                for kept_first, kept_last in _spans(snapshot.kept, 0, max(snapshot.size_bytes, self.size_bytes)):
                    for first, last in _missing(before.kept, kept_first, kept_last):
                        _copy(snapshot.path, before.path, first, last)
                before.kept = before.kept.union(snapshot.kept)
            self._snapshots.remove(snapshot)
            snapshot.path.unlink(missing_ok=True)
            self._remove_unneeded()

    def _put_aside(self, start: int, end: int) -> None:
        self._version += 1
        if not self._snapshots:
            return
        newest = self._snapshots[-1]
        for first, last in _missing(newest.kept, start, end):
            _copy(self.path, newest.path, first, last)
        newest.kept.add(start // SECTOR, end // SECTOR)

    def _remove_unneeded(self) -> None:
        if self._gone and not self._snapshots:
            self.path.unlink(missing_ok=True)


Content = DiskContent | SnapshotContent
"""What can be read through a signature."""


def allocated_map(content: Content, steps: list[int], written: SectorMap) -> SectorMap:
    """Return the sectors of a content that hold data or were written."""
    found = written.copy()
    size = content.size_bytes
    for step in steps:
        data = content.read(step, min(step + _STEP_BYTES, size))
        if data == _ZEROS[: len(data)]:
            continue
        first: int | None = None
        for offset in range(0, len(data), SECTOR):
            if data[offset : offset + SECTOR] != _ZEROS[:SECTOR]:
                first = offset if first is None else first
            elif first is not None:
                found.add((step + first) // SECTOR, (step + offset) // SECTOR)
                first = None
        if first is not None:
            found.add((step + first) // SECTOR, (step + len(data)) // SECTOR)
    return found


def _spans(sectors: SectorMap, start: int, end: int) -> Iterator[Span]:
    """Yield the runs of a set inside a range of bytes, cut off at its edges."""
    for first, last in sectors.runs(start // SECTOR, -(-end // SECTOR)):
        yield max(first * SECTOR, start), min(last * SECTOR, end)


def _missing(sectors: SectorMap, start: int, end: int) -> list[Span]:
    """Return the parts of a range that are not in a set."""
    found: list[Span] = []
    position = start
    for first, last in _spans(sectors, start, end):
        found.append((position, first))
        position = last
    found.append((position, end))
    return [(first, last) for first, last in found if first < last]


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), end - start, start).ljust(end - start, b"\0")


def _copy(source: Path, target: Path, start: int, end: int) -> None:
    """Copy a range to a file in which it reads as zero so far."""
    with target.open("r+b") as file:
        for position in range(start, end, _STEP_BYTES):
            data = _read(source, position, min(position + _STEP_BYTES, end))
            if data != _ZEROS[: len(data)]:
                os.pwrite(file.fileno(), data, position)


def _steps(paths: list[Path], size_bytes: int) -> list[int]:
    steps: set[int] = set()
    for path in paths:
        with path.open("rb") as file:
            for start, end in disk_bytes.data_extents(file.fileno(), 0, size_bytes):
                steps.update(range(start // _STEP_BYTES * _STEP_BYTES, end, _STEP_BYTES))
    return sorted(steps)
