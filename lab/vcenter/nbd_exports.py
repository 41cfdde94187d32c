"""What an NBD server serves: a snapshot's disk, read-only, and a running VM's disk, for its guest."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from lab.vcenter.disk import VirtualDisk
from lab.vcenter.disk_backing import FileRange, Run
from lab.vcenter.disk_frozen import FrozenDisk
from lab.vcenter.faults_disk import DiskClosed


class Export(Protocol):
    """One connection's view of a disk. Offsets and lengths are whole sectors inside the disk."""

    @property
    def size(self) -> int:
        """The disk's size in bytes."""

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""

    @property
    def uses_nfc_budget(self) -> bool:
        """Whether a connection counts against the host's NFC memory."""

    @property
    def exclusive(self) -> bool:
        """Whether it is VDDK's writer: nobody else may be connected, and nothing can be trimmed."""

    def open(self, interrupt: Callable[[], None]) -> None:
        """Begin to serve a connection; `interrupt` cuts it, and may be called from any thread when the disk goes away."""

    def reading(self) -> AbstractContextManager[None]:
        """Keep what is read unchanged while the context lasts. Raises DiskFault when the disk is gone."""

    def locate(self, offset: int, length: int) -> Sequence[FileRange] | None:
        """Return the files that hold a range, unchanging inside `reading`; None where only `read_into` will do."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""

    def extents(self, offset: int, length: int) -> Iterator[Run]:
        """Yield a range's allocated parts and holes. Use inside `reading`."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write data."""

    def zero(self, offset: int, length: int, *, allocate: bool) -> None:
        """Make a range read as zero; without `allocate` its space is given back."""

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable (FUA), or all that was written."""

    def close(self) -> None:
        """End serving the connection; nothing is written through the export any more."""


class SnapshotExport:
    """A snapshot's disk. The connection is cut when the snapshot is removed."""

    read_only = True
    uses_nfc_budget = True
    exclusive = False

    def __init__(self, frozen: FrozenDisk) -> None:
        self._frozen = frozen
        self._interrupt: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self._frozen.capacity_bytes

    def open(self, interrupt: Callable[[], None]) -> None:
        """Have the connection cut with the snapshot. Raises SnapshotGone."""
        self._frozen.gate.add_interruption(interrupt)
        self._interrupt = interrupt

    def reading(self) -> AbstractContextManager[None]:
        """Keep the snapshot's removal waiting while the context lasts. Raises SnapshotGone."""
        return self._frozen.gate.reading()

    def locate(self, offset: int, length: int) -> Sequence[FileRange]:
        """Return the backings that hold a range."""
        return self._frozen.locate(offset, length)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""
        self._frozen.read_into(offset, target)

    def extents(self, offset: int, length: int) -> Iterator[Run]:
        """Yield a range's allocated parts and holes."""
        return self._frozen.runs(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        """Refuse."""
        raise PermissionError(f"{self._frozen!r} is read-only")

    def zero(self, offset: int, length: int, *, allocate: bool) -> None:
        """Refuse."""
        raise PermissionError(f"{self._frozen!r} is read-only")

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Need nothing: nothing was written."""

    def close(self) -> None:
        """Forget the connection."""
        if self._interrupt is not None:
            self._frozen.gate.remove_interruption(self._interrupt)


class GuestExport:
    """A VM's disk as its guest sees it: waits while the VM is stunned, and goes away when the VM stops."""

    read_only = False
    uses_nfc_budget = False
    exclusive = False

    def __init__(self, disk: VirtualDisk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._closed = False

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self._disk.capacity_bytes

    def open(self, interrupt: Callable[[], None]) -> None:
        """Need nothing: the server cuts guests' connections when their VM stops."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Check that the guest still runs."""
        self._check()
        yield

    def locate(self, offset: int, length: int) -> None:
        """Return None: what a guest reads may be written while it is sent."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""
        self._check()
        self._disk.read_into(offset, target)

    def extents(self, offset: int, length: int) -> Iterator[Run]:
        """Yield a range's allocated parts and holes."""
        return iter(self._disk.extents(offset, length))

    def write(self, offset: int, data: memoryview) -> None:
        """Write data. Raises DiskClosed when the VM was stopped."""
        with self._lock:
            self._check()
            self._disk.write(offset, data)

    def zero(self, offset: int, length: int, *, allocate: bool) -> None:
        """Make a range read as zero. Raises DiskClosed when the VM was stopped."""
        with self._lock:
            self._check()
            self._disk.zero(offset, length, allocate=allocate)

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Need nothing: what the guest wrote survives all that happens to its host here."""

    def close(self) -> None:
        """Refuse what comes from now on, after a write that runs has ended."""
        with self._lock:
            self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise DiskClosed("the guest's connection was closed")
