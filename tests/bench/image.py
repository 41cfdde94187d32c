"""The disk image that everything is measured with: half of it zero, half of it bytes of this machine's own files."""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaferry.model.units import MIB

GIB = 1024 * MIB
_ROOTS = ("/usr/lib", "/usr/bin", "/usr/share")
_RUNS_MIB = (1, 2, 4, 8, 16, 32, 64)
_SEED = 20_260_101
_PIECE_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class Image:
    """A raw image without holes: its zeros are written, so that only reading finds them."""

    path: Path
    size_bytes: int

    def warm(self) -> None:
        """Bring the image into the page cache, so that no measure waits for this machine's disk."""
        buffer = bytearray(_PIECE_BYTES)
        with self.path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                continue


def make_image(directory: Path, size_bytes: int) -> Image:
    """Return the image of a size, building it once: runs of 1 to 64 MiB, by turns zeros and files, always the same cut."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"image-{size_bytes // MIB}.raw"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            files = _file_bytes()
            for length, zero in _runs(size_bytes):
                for start in range(0, length, _PIECE_BYTES):
                    size = min(_PIECE_BYTES, length - start)
                    file.write(bytes(size) if zero else _take(files, size))
        unfinished.rename(path)
    image = Image(path, size_bytes)
    image.warm()
    return image


def _runs(size_bytes: int) -> Iterator[tuple[int, bool]]:
    """Yield (length, whether zero): pairs of equal length, so that exactly half is zero."""
    source = random.Random(_SEED)
    position = 0
    while position < size_bytes:
        length = min(source.choice(_RUNS_MIB) * MIB, (size_bytes - position) // 2)
        yield length, False
        yield length, True
        position += 2 * length


def _take(files: Iterator[bytes], size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        parts += next(files)
    return bytes(parts[:size])


def _file_bytes() -> Iterator[bytes]:
    """Yield parts of regular files of the operating system, in the order of their names, without end."""
    while True:
        found = False
        for root in _ROOTS:
            for folder, folders, names in os.walk(root):
                folders.sort()
                for name in sorted(names):
                    for part in _parts(Path(folder, name)):
                        found = True
                        yield part
        if not found:
            raise OSError(f"none of {', '.join(_ROOTS)} holds a file that can be read")


def _parts(path: Path) -> Iterator[bytes]:
    if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
        return
    with path.open("rb") as file:
        while part := file.read(_PIECE_BYTES):
            yield part
