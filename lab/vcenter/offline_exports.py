"""A powered-off VM's disks as an ESXi host serves them: read-only, or to one writer.

The writer is what nbdkit's VDDK plugin is without `--readonly`: alone, unable to trim, and durable only by flush or FUA.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lab.vcenter.disk_backing import FileRange, Run
from lab.vcenter.disk_locks import DiskLocks
from lab.vcenter.disk_present import PresentDisk
from lab.vcenter.faults_disk import DiskClosed, DiskFull, SnapshotGone
from lab.vcenter.out_of_band import OutOfBandWrites, UnflushedWrites
from lab.vcenter.virtual_machine import VirtualMachine
from lab.vcenter.world import World


class OfflineExport:
    """What both have in common: the disk's lock, held from `open` to `close`, and reading."""

    read_only = True
    uses_nfc_budget = True
    exclusive = False

    def __init__(self, world: World, locks: DiskLocks, vm: VirtualMachine, key: int) -> None:
        self._world, self._locks = world, locks
        self._vm, self._key = vm, key
        self._disk = vm.disks[key].disk
        self._lock = threading.Lock()
        self._held = False
        self._closed = False

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self._disk.capacity_bytes

    def open(self, interrupt: Callable[[], None]) -> None:
        """Take the disk's lock, with which the VM cannot be powered on. Raises DiskLocked, SnapshotGone if it is on by now."""
        with self._world.lock, self._lock:
            if self._closed or self._vm.running or self._key not in self._vm.disks:
                raise SnapshotGone("the VM is on, or the disk is gone")
            self._locks.take(self._vm.moref, self._key, writing=not self.read_only)
            self._held = True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Check that the connection was not closed."""
        self._check()
        yield

    def locate(self, offset: int, length: int) -> Sequence[FileRange] | None:
        """Return None: a consolidation may run meanwhile."""
        return None

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""
        self._disk.read_into(offset, target)

    def extents(self, offset: int, length: int) -> Iterator[Run]:
        """Yield a range's allocated parts and holes."""
        return PresentDisk(self._disk).runs(offset, length)

    def close(self) -> None:
        """End serving the connection, after a write that runs has ended, and give the disk's lock back."""
        with self._lock:
            self._end()

    def crash(self) -> int:
        """End serving as a crash of the host's service does; return how many sectors were lost."""
        with self._lock:
            self._closed = True
            lost = self._lose_unflushed()
            self._end()
            return lost

    def _end(self) -> None:
        self._closed = True
        if self._held:
            self._held = False
            self._locks.give_back(self._vm.moref, self._key)

    def _lose_unflushed(self) -> int:
        return 0

    def _check(self) -> None:
        if self._closed:
            raise DiskClosed("the connection was closed")


class PresentExport(OfflineExport):
    """A powered-off VM's disk as it is, read-only, together with other readers."""

    def write(self, offset: int, data: memoryview) -> None:
        """Refuse."""
        raise PermissionError("the export is read-only")

    def zero(self, offset: int, length: int, *, allocate: bool) -> None:
        """Refuse."""
        raise PermissionError("the export is read-only")

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Need nothing: nothing was written."""


class WritableExport(OfflineExport):
    """A powered-off VM's disk for its one writer, who may read it too."""

    read_only = False
    exclusive = True

    def __init__(self, world: World, locks: DiskLocks, vm: VirtualMachine, key: int, *, volatile: bool) -> None:
        """With `volatile`, what is not flushed is lost when the host's service crashes."""
        super().__init__(world, locks, vm, key)
        self._datastore = vm.disks[key].datastore
        self._unflushed = UnflushedWrites() if volatile else None

    def open(self, interrupt: Callable[[], None]) -> None:
        """Take the disk's lock, alone. Raises DiskLocked, SnapshotGone."""
        super().open(interrupt)
        if self._disk.tracking.behaviour.out_of_band is OutOfBandWrites.RESET:
            self._disk.reset_tracking()

    def write(self, offset: int, data: memoryview) -> None:
        """Write data. Raises DiskClosed, DiskFull."""
        with self._writing(offset, len(data)):
            self._disk.write(offset, data, from_guest=False)

    def zero(self, offset: int, length: int, *, allocate: bool) -> None:
        """Make a range read as zero; it takes space, since VDDK cannot give any back. Raises DiskClosed, DiskFull."""
        with self._writing(offset, length):
            self._disk.zero(offset, length, from_guest=False)

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable (FUA), or all."""
        if self._unflushed is not None:
            self._unflushed.settle(offset, self.size - offset if length is None else length)

    def _lose_unflushed(self) -> int:
        lost = {} if self._unflushed is None else self._unflushed.take_all()
        for sector, before in lost.items():
            self._disk.write(sector * len(before), before, from_guest=False)
        return len(lost)

    @contextmanager
    def _writing(self, offset: int, length: int) -> Iterator[None]:
        with self._lock:
            self._check()
            # Only a filled datastore is asked: counting used blocks costs more than a write.
            if self._datastore.filler_bytes and not self._datastore.free_bytes():
                raise DiskFull(f"datastore {self._datastore.name} is full")
            if self._unflushed is not None:
                before = bytearray(length)
                self._disk.read_into(offset, memoryview(before))
                self._unflushed.note(offset, bytes(before))
            yield
