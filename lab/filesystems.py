"""Makes a file system with files inside an image, without root: ext4 by the system's tool, else FAT32 from PyPI."""

import os
import shutil
import subprocess
import tarfile
import warnings
from pathlib import Path

from lab.processes import LabError

with warnings.catch_warnings():
    # The `fs` package, which pyfatfs builds on, still declares its namespace by setuptools' old way, and warns.
    warnings.simplefilter("ignore")
    from pyfatfs.PyFat import PyFat
    from pyfatfs.PyFatFS import PyFatFS

LINUX = 0x83
FAT32_LBA = 0x0C
"""Partition types, as the MBR names them."""

_SYSTEM_TOOLS = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/local/sbin"))
_SINGLE_FILES_UP_TO = 20
"""pyfatfs writes its whole allocation table for each file, so a directory of more files is stored as one archive."""


def make_filesystem(image: Path, offset_bytes: int, size_bytes: int, tree: Path) -> int:
    """Make a file system with a directory's content at an offset of an image; return the partition type for it.

    Raises LabError when mkfs.ext4 fails.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), _SYSTEM_TOOLS))
    tool = shutil.which("mkfs.ext4", path=path)
    if tool is not None:
        make_ext4(tool, image, offset_bytes, size_bytes, tree)
        return LINUX
    make_fat32(image, offset_bytes, size_bytes, tree)
    return FAT32_LBA


def make_ext4(tool: str, image: Path, offset_bytes: int, size_bytes: int, tree: Path) -> None:
    """Make an ext4 file system with `mkfs.ext4 -d`, which copies a directory in without mounting."""
    options = f"offset={offset_bytes},root_owner=0:0,nodiscard,lazy_itable_init=1,lazy_journal_init=1"
    block_bytes = 4096
    command = [tool, "-q", "-F", "-b", str(block_bytes), "-L", "deltaferry", "-E", options, "-d", str(tree), str(image)]
    done = subprocess.run([*command, str(size_bytes // block_bytes)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"mkfs.ext4 ended with status {done.returncode}: {done.stderr.strip()}")


def make_fat32(image: Path, offset_bytes: int, size_bytes: int, tree: Path) -> None:
    """Make a FAT32 file system by pyfatfs; a directory of many files becomes one tar file in it."""
    made = PyFat(offset=offset_bytes)
    made.mkfs(str(image), PyFat.FAT_TYPE_FAT32, size=size_bytes, label="DELTAFERRY")
    made.close()
    filesystem = PyFatFS(str(image), offset=offset_bytes)
    try:
        for directory in sorted(path for path in tree.iterdir() if path.is_dir()):
            files = [path for path in directory.rglob("*") if path.is_file()]
            if len(files) > _SINGLE_FILES_UP_TO:
                with filesystem.openbin(f"{directory.name}.tar", "w") as archive, tarfile.open(fileobj=archive, mode="w|") as tar:
                    tar.add(directory, directory.name)
                continue
            filesystem.makedir(directory.name)
            for file in files:
                with filesystem.openbin(f"{directory.name}/{file.name}", "w") as copy:
                    copy.write(file.read_bytes())
    finally:
        filesystem.close()
