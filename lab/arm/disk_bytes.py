"""Sparse raw files, without footer: the bytes of managed disks and snapshots."""

import os
from collections.abc import Iterator
from pathlib import Path

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


def clear(path: Path, start: int, end: int) -> None:
    """Make [start, end) read as zero."""
    with path.open("r+b") as file:
        for data_start, data_end in list(data_extents(file.fileno(), start, end)):
            position = data_start
            while position < data_end:
                position += os.pwrite(file.fileno(), _ZEROS[: data_end - position], position)
