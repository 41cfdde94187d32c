"""Who has the disks of powered-off VMs open: any number of readers of a disk, or one writer.

As VMFS locks a disk's files: opened for writing they are locked for everybody else, opened for reading they are locked
for writers. A VM of which any disk is open cannot be powered on.
"""

import threading

from lab.vcenter.faults_disk import DiskLocked

_WRITER = -1


class DiskLocks:
    """The locks by VM (moref) and disk (key). Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[tuple[str, int], int] = {}
        """How many readers, or `_WRITER`."""

    def take(self, vm: str, key: int, *, writing: bool) -> None:
        """Open a disk. Raises DiskLocked."""
        with self._lock:
            present = self._holders.get((vm, key), 0)
            if present == _WRITER or (writing and present):
                raise DiskLocked(
                    f"Failed to lock the file of disk {key}: it is open{' for writing' if present == _WRITER else ''}."
                )
            self._holders[vm, key] = _WRITER if writing else present + 1

    def give_back(self, vm: str, key: int) -> None:
        """Close what `take` opened."""
        with self._lock:
            left = self._holders.pop((vm, key), 0) - 1
            if left > 0:
                self._holders[vm, key] = left

    def held(self, vm: str) -> tuple[int, ...]:
        """Return which disks of a VM are open."""
        with self._lock:
            return tuple(sorted(key for moref, key in self._holders if moref == vm))
