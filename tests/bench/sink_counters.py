"""What the sink counted: a memory-mapped file, written by its processes and read by the bench."""

import mmap
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

PUT, GET, HEAD, PAGE = range(4)
_KINDS = 4
_ROW = struct.Struct(f"<{2 * _KINDS}Q")


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests by kind, and the bytes that their bodies brought."""

    requests: tuple[int, ...]
    bytes_in: tuple[int, ...]

    @property
    def log_store(self) -> int:
        """How many requests the log store took: objects put, fetched and asked about."""
        return self.requests[PUT] + self.requests[GET] + self.requests[HEAD]

    def since(self, before: "Counts") -> "Counts":
        """Return what was counted after an earlier reading."""
        return Counts(
            tuple(now - then for now, then in zip(self.requests, before.requests, strict=True)),
            tuple(now - then for now, then in zip(self.bytes_in, before.bytes_in, strict=True)),
        )


class SinkCounters:
    """One process's row of the file."""

    def __init__(self, path: Path, row: int) -> None:
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._at = row * _ROW.size
        self._numbers = [0] * (2 * _KINDS)
        self._lock = threading.Lock()

    @staticmethod
    def create(path: Path, rows: int) -> None:
        """Make the file, all zero."""
        path.write_bytes(bytes(rows * _ROW.size))

    def count(self, kind: int, size_bytes: int) -> None:
        """Count a request."""
        with self._lock:
            self._numbers[kind] += 1
            self._numbers[_KINDS + kind] += size_bytes
            _ROW.pack_into(self._map, self._at, *self._numbers)


def read_counts(path: Path) -> Counts:
    """Return the sum of all rows."""
    rows = list(_ROW.iter_unpack(path.read_bytes()))
    totals = [sum(column) for column in zip(*rows, strict=True)]
    return Counts(tuple(totals[:_KINDS]), tuple(totals[_KINDS:]))
