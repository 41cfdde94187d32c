"""Disk content for lab VMs, built at run time.

A boot disk with a real file system and real files, a raw data disk, and the user's own images. Every build says
where a guest may write: inside files that were preallocated, so that the file system stays whole.
"""

import mmap
import os
import re
import secrets
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR, round_up
from lab.filesystems import make_filesystem
from lab.processes import LabError

BOOT_DISK_BYTES = 1024 * MIB
DATA_DISK_BYTES = 512 * MIB + 37 * SECTOR
"""A size that is a multiple neither of 1 MiB nor of 64 KiB nor of 4 KiB."""

PARTITION_START = MIB
"""Where the only partition begins, as every partitioning tool of today aligns it."""

_POOL_BYTES = 8 * MIB
_WRITE_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class DiskImage:
    """A raw disk image, and where a running guest may write without harm."""

    path: Path
    size_bytes: int
    writable: tuple[Extent, ...]
    """Ascending, whole sectors, not overlapping; empty for a user's own image."""


@dataclass(frozen=True, slots=True)
class BootContent:
    """How much of what the boot disk's file system holds."""

    random_bytes: int = 72 * MIB
    """Does not compress."""
    compressible_bytes: int = 56 * MIB
    preallocated_bytes: int = 48 * MIB
    """Files that the guest writer overwrites."""
    with_sources: bool = True
    """Python's own standard library: some hundred real files."""


def build_boot_disk(path: Path, size_bytes: int = BOOT_DISK_BYTES, content: BootContent | None = None) -> DiskImage:
    """Build a disk with an MBR and one partition: ext4 where `mkfs.ext4` is installed, else FAT32."""
    content = content or BootContent()
    marker = secrets.token_bytes(16)
    tree = path.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    try:
        _write_files(tree, content, marker)
        with path.open("wb") as image:
            image.truncate(size_bytes)
        partition_type = make_filesystem(path, PARTITION_START, size_bytes - PARTITION_START, tree)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    _write_partition_table(path, size_bytes, partition_type)
    return DiskImage(path, size_bytes, marked_ranges(path, marker))


def build_data_disk(path: Path, size_bytes: int = DATA_DISK_BYTES) -> DiskImage:
    """Build a disk without partitions: random, repetitive, zero and never written regions, and a written tail."""
    random = memoryview(os.urandom(_POOL_BYTES))
    repetitive = memoryview((b"Deltaferry lab data disk, record %08d\n" % 1) * (_WRITE_BYTES // 39 + 1))
    zeros = memoryview(bytes(_WRITE_BYTES))
    with path.open("wb") as image:
        image.truncate(size_bytes)
        for number, offset in enumerate(range(0, size_bytes, _WRITE_BYTES)):
            length = min(_WRITE_BYTES, size_bytes - offset)
            match number % 12:
                case 0 | 3:
                    start = (number * 64 * 1024 + number) % (_POOL_BYTES - _WRITE_BYTES)
                    body = random[start : start + length]
                case 1:
                    body = repetitive[:length]
                case 5:
                    body = zeros[:length]
                case _:
                    continue
            os.pwrite(image.fileno(), body, offset)
            if number % 12 != 5:
                os.pwrite(image.fileno(), b"block %010d" % number, offset)
        tail = size_bytes % MIB or SECTOR
        os.pwrite(image.fileno(), random[:tail], size_bytes - tail)
    return DiskImage(path, size_bytes, (Extent(0, size_bytes),))


def import_image(source: Path, directory: Path) -> DiskImage:
    """Return a user's own image as a raw one: itself, or converted into `directory` by `qemu-img`.

    Raises LabError for a missing file, and for VMDK, VHD, VHDX and qcow2 where `qemu-img` is missing or fails.
    """
    if not source.is_file():
        raise LabError(f"There is no disk image {source}.")
    kind = image_format(source)
    if kind == "raw" and source.stat().st_size % SECTOR == 0:
        return DiskImage(source, source.stat().st_size, ())
    target = directory / f"{source.stem}.raw"
    if kind == "raw":
        shutil.copyfile(source, target)
    else:
        _convert(source, kind, target)
    size_bytes = round_up(target.stat().st_size, SECTOR)
    os.truncate(target, size_bytes)
    return DiskImage(target, size_bytes, ())


def image_format(path: Path) -> str:
    """Return an image's format, as `qemu-img` calls it, by its first and last bytes."""
    with path.open("rb") as image:
        head = image.read(32)
        image.seek(max(0, path.stat().st_size - SECTOR))
        tail = image.read(8)
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.startswith(b"vhdxfile"):
        return "vhdx"
    if head.startswith((b"KDMV", b"COWD", b"# Disk DescriptorFile"[:32])):
        return "vmdk"
    return "vpc" if b"conectix" in (head[:8], tail) else "raw"


def marked_ranges(path: Path, marker: bytes) -> tuple[Extent, ...]:
    """Return the sectors of an image that begin with a marker, merged: where the preallocated files lie."""
    ranges: list[Extent] = []
    with path.open("rb") as image, mmap.mmap(image.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for found in re.finditer(re.escape(marker), content):
            start = found.start()
            if ranges and ranges[-1].end_bytes == start:
                ranges[-1] = Extent(ranges[-1].offset_bytes, ranges[-1].length_bytes + SECTOR)
            else:
                ranges.append(Extent(start, SECTOR))
    return tuple(ranges)


def _convert(source: Path, kind: str, target: Path) -> None:
    tool = shutil.which("qemu-img")
    if tool is None:
        raise LabError(
            f"{source} is a {kind} image: converting it needs qemu-img, which is not installed. Install it, or give a raw image."
        )
    command = [tool, "convert", "-f", kind, "-O", "raw", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"qemu-img could not convert {source}: {done.stderr.strip()}")


def _write_files(tree: Path, content: BootContent, marker: bytes) -> None:
    guest = tree / "guest"
    guest.mkdir(parents=True)
    names = ("random.dat", "append.log", "hot.dat")
    for name in names:
        (guest / name).write_bytes(b"".join(_marked_sectors(marker, content.preallocated_bytes // len(names) // SECTOR)))
    documents = tree / "documents"
    documents.mkdir()
    (documents / "photographs.bin").write_bytes(os.urandom(content.random_bytes))
    line = b"2026-01-01T00:00:00Z host web-01 service started, request 000000 answered with 200\n"
    (documents / "service.log").write_bytes((line * (content.compressible_bytes // len(line) + 1))[: content.compressible_bytes])
    if content.with_sources:
        library = Path(os.__file__).parent
        for source in _sources(library):
            copy = tree / "usr" / "lib" / "python" / source.relative_to(library)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def _marked_sectors(marker: bytes, count: int) -> Iterator[bytes]:
    filler = bytes(range(256)) * 2
    for number in range(count):
        yield marker + number.to_bytes(8, "little") + filler[: SECTOR - 24]


def _sources(library: Path) -> Iterator[Path]:
    yield from sorted(library.glob("*.py"))
    for package in ("asyncio", "collections", "concurrent", "email", "encodings", "http", "importlib", "json", "logging", "xml"):
        yield from sorted((library / package).rglob("*.py"))


def _write_partition_table(path: Path, size_bytes: int, partition_type: int) -> None:
    """Write a classic MBR: no boot code, one active partition, its geometry left to the sector numbers."""
    no_geometry = b"\xfe\xff\xff"
    start, count = PARTITION_START // SECTOR, (size_bytes - PARTITION_START) // SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, no_geometry, partition_type, no_geometry, start, count)
    with path.open("r+b") as image:
        image.seek(440)
        image.write(secrets.token_bytes(4) + b"\0\0" + entry + bytes(48) + b"\x55\xaa")
