"""The bytes of managed disks and snapshots: sparse raw files, without footer."""

import os
from collections.abc import Iterator
from pathlib import Path

SECTOR_BYTES = 512
_STEP_BYTES = 1 << 20
_ZEROS = bytes(_STEP_BYTES)


def create_sparse(path: Path, size_bytes: int) -> None:
    """Create (or empty) a file that reads as zero."""
    with path.open("wb") as file:
        file.truncate(size_bytes)


def resize(path: Path, size_bytes: int) -> None:
    """Cut or extend a file; what is added reads as zero."""
    os.truncate(path, size_bytes)


def data_extents(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the file's parts in [start, end) that are not holes."""
    end = min(end, os.fstat(descriptor).st_size)
    while start < end:
        try:
            data = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but hole up to the end
            return
        if data >= end:
            return
        start = min(os.lseek(descriptor, data, os.SEEK_HOLE), end)
        yield data, start


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, keeping its holes."""
    with source.open("rb") as reader, target.open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        for start, end in data_extents(reader.fileno(), 0, size):
            while start < end:
                start += os.copy_file_range(reader.fileno(), writer.fileno(), end - start, start, start)


def clear(path: Path, start: int, end: int) -> None:
    """Make [start, end) read as zero."""
    with path.open("r+b") as file:
        for data_start, data_end in list(data_extents(file.fileno(), start, end)):
            position = data_start
            while position < data_end:
                position += os.pwrite(file.fileno(), _ZEROS[: data_end - position], position)


def allocated_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of sectors that are not zero."""
    yield from _ranges(path, None)


def changed_ranges(path: Path, previous: Path) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of sectors in which two files differ."""
    yield from _ranges(path, previous)


def _ranges(path: Path, previous: Path | None) -> Iterator[tuple[int, int]]:
    run: tuple[int, int] | None = None
    for start, end in _differing_sectors(path, previous):
        if run is not None and start <= run[1]:
            run = (run[0], max(run[1], end))
            continue
        if run is not None:
            yield run
        run = (start, end)
    if run is not None:
        yield run


def _differing_sectors(path: Path, previous: Path | None) -> Iterator[tuple[int, int]]:
    before = os.open(previous, os.O_RDONLY) if previous is not None else None
    now = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(now).st_size
        for start in _touched_steps(now, before, size):
            length = min(_STEP_BYTES, size - start)
            left = os.pread(now, length, start)
            right = os.pread(before, length, start).ljust(length, b"\0") if before is not None else _ZEROS[:length]
            if left == right:
                continue
            for offset in range(0, length, SECTOR_BYTES):
                if left[offset : offset + SECTOR_BYTES] != right[offset : offset + SECTOR_BYTES]:
                    yield start + offset, start + offset + SECTOR_BYTES
    finally:
        os.close(now)
        if before is not None:
            os.close(before)


def _touched_steps(now: int, before: int | None, size: int) -> list[int]:
    steps: set[int] = set()
    for descriptor in (now, before):
        if descriptor is not None:
            for start, end in data_extents(descriptor, 0, size):
                steps.update(range(start // _STEP_BYTES * _STEP_BYTES, end, _STEP_BYTES))
    return sorted(steps)
