"""Reading a whole disk for an oracle: a sparse raw dump, and a digest."""

import os
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from lab.vcenter.disk_backing import Run

_STEP = 4 << 20


class ReadableDisk(Protocol):
    """A disk's present or frozen content."""

    @property
    def capacity_bytes(self) -> int:
        """The size."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""

    def extents(self, offset: int, length: int) -> list[Run]:
        """Return allocated parts and holes."""


def dump(disk: ReadableDisk, path: Path) -> int:
    """Write the content as a raw file with holes where nothing was ever written; return how many bytes were not holes."""
    buffer = memoryview(bytearray(_STEP))
    copied = 0
    with path.open("wb") as file:
        file.truncate(disk.capacity_bytes)
        for run in disk.extents(0, disk.capacity_bytes):
            if not run.allocated:
                continue
            for offset in range(run.offset, run.offset + run.length, _STEP):
                part = buffer[: min(_STEP, run.offset + run.length - offset)]
                disk.read_into(offset, part)
                os.pwrite(file.fileno(), part, offset)
                copied += len(part)
    return copied


def digest(disk: ReadableDisk) -> str:
    """Return the BLAKE3 digest of the whole content, in hexadecimal."""
    buffer = memoryview(bytearray(_STEP))
    hasher = blake3()
    for offset in range(0, disk.capacity_bytes, _STEP):
        part = buffer[: min(_STEP, disk.capacity_bytes - offset)]
        disk.read_into(offset, part)
        hasher.update(part)
    return hasher.hexdigest()
