"""Sparse files: copying, reading and writing in full, allocated ranges, punching, and VMDK descriptors."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab.sectors import SECTOR

_FICLONE: Final = 0x40049409
_FALLOC_KEEP_SIZE_PUNCH_HOLE: Final = 0x01 | 0x02
_COPY_STEP: Final = 64 * 1024 * 1024
_ZEROS: Final = memoryview(bytes(1024 * 1024))
_NO_REFLINK: Final = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def read_full(fd: int, offset: int, target: memoryview) -> None:
    """Fill `target` from `offset` on. Raises OSError(EIO) where the file ends early."""
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the backing file is shorter than the disk")
        done += count


def write_full(fd: int, offset: int, data: memoryview) -> None:
    """Write all of `data` at `offset`."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write zeros that occupy space, as a guest's write of zeros to a thin disk does."""
    end = offset + length
    while offset < end:
        offset += os.pwrite(fd, _ZEROS[: end - offset], offset)


def punch(fd: int, offset: int, length: int) -> None:
    """Make a range read as zero and give its space back; writes zeros where the file system cannot punch."""
    if _libc.fallocate(fd, _FALLOC_KEEP_SIZE_PUNCH_HOLE, offset, length) == 0:
        return
    code = ctypes.get_errno()
    if code != errno.EOPNOTSUPP:
        raise OSError(code, os.strerror(code))
    write_zeros(fd, offset, length)


def data_ranges(fd: int, offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges `(start, end)` of a file that occupy space, in order, in units of the file system's blocks."""
    position = offset
    while position < end:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start >= end:
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, min(position, end)


def create_sparse(path: Path, size: int, content: Path | None, *, move: bool) -> int:
    """Create a new file of `size` bytes and return its descriptor, open for reading and writing.

    Its beginning is `content`, if given: moved there, shared by reflink, or copied hole for hole. Raises ValueError
    where the content is larger than the file, FileExistsError where the file exists.
    """
    if content is not None and content.stat().st_size > size:
        raise ValueError(f"content of {content.stat().st_size} bytes does not fit into {size} bytes")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if content is not None and move and content.stat().st_dev == path.parent.stat().st_dev:
            os.close(fd)
            fd = -1
            content.replace(path)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        elif content is not None:
            _copy(content, fd)
            if move:
                content.unlink()
        os.truncate(fd, size)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    return fd


def _copy(source: Path, target_fd: int) -> None:
    with source.open("rb") as file:
        source_fd = file.fileno()
        try:
            fcntl.ioctl(target_fd, _FICLONE, source_fd)
            return
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
        for start, end in data_ranges(source_fd, 0, os.fstat(source_fd).st_size):
            position = start
            while position < end:
                step = min(_COPY_STEP, end - position)
                position += os.copy_file_range(source_fd, target_fd, step, position, position)


def write_descriptor(path: Path, *, extent: Path, capacity: int, uuid: str, parent: Path | None) -> None:
    """Write a VMDK text descriptor (VMware Virtual Disk Format 1.1) that names one extent, and a delta's parent."""
    kind = "vmfs" if parent is None else "vmfsSparse"
    lines = ["# Disk DescriptorFile", "version=1", 'encoding="UTF-8"', f'createType="{kind}"']
    if parent is not None:
        lines.append(f'parentFileNameHint="{parent.name}"')
    extent_kind = "VMFS" if parent is None else "VMFSSPARSE"
    lines += [f'RW {capacity // SECTOR} {extent_kind} "{extent.name}"', 'ddb.adapterType = "lsilogic"', f'ddb.uuid = "{uuid}"']
    staged = path.with_name(path.name + ".new")
    staged.write_text("\n".join(lines) + "\n", encoding="utf-8")
    staged.replace(path)
