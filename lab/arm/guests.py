"""The guests of running Azure VMs: they write to the VM's disks, and keep a journal for each VM.

Off unless asked for, for one VM by name or for all. A guest begins when its VM runs and has stopped, all of its writes
on the disks and the journal's last entry written, before the VM is stopped, deallocated or deleted.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread

from deltaferry.model.extents import Extent
from lab.arm.disk_content import DiskContent
from lab.arm.world import Resource
from lab.guest_journal import JournalWriter
from lab.guest_load import GuestLoad, LoadedDisk

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GuestWish:
    """How a VM's guest is to write."""

    bytes_per_second: int
    seed: int = 0
    ranges: Mapping[int, tuple[Extent, ...]] = field(default_factory=dict)
    """By disk, as the journal counts them: 0 the OS disk, LUN and 1 a data disk. All of a disk that is not named; nothing of one
    that is named without any."""


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A disk of a VM, by the journal's key."""

    key: int
    content: DiskContent
    size_bytes: int


def _ranges(wish: GuestWish, disk: GuestDisk) -> tuple[Extent, ...]:
    return wish.ranges.get(disk.key, (Extent(0, disk.size_bytes),))


class _ContentTarget:
    """Writes straight to a disk's content; zeros are given back, as a guest's TRIM does."""

    def __init__(self, content: DiskContent) -> None:
        self._content = content

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Write bytes."""
        self._content.write(offset_bytes, data)

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        """Give a range back."""
        self._content.discard(offset_bytes, offset_bytes + length_bytes)

    def flush(self) -> None:
        """Need nothing: a write is on the disk when it returns."""

    def close(self) -> None:
        """Need nothing."""


class _Running:
    """One run of one guest, on a thread of its own."""

    def __init__(self, wish: GuestWish, disks: Sequence[GuestDisk], journal: JournalWriter) -> None:
        self._stopping = Event()
        loaded = [LoadedDisk(disk.key, _ContentTarget(disk.content), ranges) for disk in disks if (ranges := _ranges(wish, disk))]
        self._load = GuestLoad(loaded, journal, wish.bytes_per_second, wish.seed, self._stopping.wait)
        self._thread = Thread(target=self._run, name="guest", daemon=True)
        self._thread.start()

    def stop(self, reason: str) -> None:
        """Return when the guest has stopped."""
        self._load.stop(reason)
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._load.run()
        except OSError:
            _log.exception("a guest broke")


class Guests:
    """All guests. Safe to use from several threads; takes no lock of the world's.

    A wish is for the VMs of a name, those to come too; a journal is of one VM (by its `vmId`) for as long as it exists.
    """

    def __init__(self, directory: Path, bytes_per_second: int = 0) -> None:
        """Journals are written to `directory`; with a rate, every VM has a guest unless it was switched off."""
        self._directory = directory
        self._lock = Lock()
        self._wishes: dict[str, GuestWish | None] = {}
        self._default = GuestWish(bytes_per_second) if bytes_per_second else None
        self._running: dict[str, _Running] = {}
        self._journals: dict[str, JournalWriter] = {}

    def switch(self, name: str, wish: GuestWish | None) -> None:
        """Set whether and how the guests of VMs of a name write, from their next start on."""
        with self._lock:
            self._wishes[name.lower()] = wish

    def start(self, vm: Resource, disks: Sequence[GuestDisk]) -> None:
        """Begin a run of a VM's guest on its disks, if it is switched on and does not run."""
        key = vm.properties["vmId"]
        with self._lock:
            wish = self._wishes.get(vm.id.leaf.lower(), self._default)
            if wish is None or key in self._running or not any(_ranges(wish, disk) for disk in disks):
                return
            before = self._journals.get(key)
            journal = JournalWriter(self.journal(vm), after=None if before is None else before.sequence)
            self._journals[key] = journal
            self._running[key] = _Running(wish, disks, journal)

    def stop(self, vm: Resource, reason: str) -> None:
        """Return when a VM's guest does not write any more; `reason` ends its journal."""
        with self._lock:
            running = self._running.pop(vm.properties["vmId"], None)
            if running is not None:
                running.stop(reason)

    def runs(self, vm: Resource) -> bool:
        """Return whether a VM's guest writes."""
        with self._lock:
            return vm.properties["vmId"] in self._running

    def writes(self, vm: Resource) -> int:
        """Return the number of the last entry of a VM's journal, all runs together."""
        with self._lock:
            journal = self._journals.get(vm.properties["vmId"])
            return 0 if journal is None else journal.sequence

    def journal(self, vm: Resource) -> Path:
        """Return where a VM's journal is, or will be."""
        return (self._directory / f"{vm.id.leaf.lower()}-{vm.properties['vmId'][:8]}.journal").absolute()
