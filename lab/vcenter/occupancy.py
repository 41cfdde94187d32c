"""How much was in use at a time: disks that readers had open, for each host, and snapshots' disks, for each datastore.

Noted at the moment when something more comes into use, so that no peak is missed between two looks. What a peer has hung up on
counts no longer, even if the thread that serves it has not noticed yet.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from lab.vcenter.virtual_machine import VirtualMachine

ReadersOf = Mapping[str, tuple[str, ...]]
"""Host to the exports that were open there."""
SnapshotsOf = Mapping[str, Mapping[str, int]]
"""Datastore to VM to how many of its disks had a snapshot, or were not consolidated yet."""

_KEPT = 200_000


class Occupancy:
    """Every increase since the lab started, oldest first. Safe to use from several threads."""

    def __init__(self, readers: Callable[[], ReadersOf], vms: Callable[[], Iterable[VirtualMachine]]) -> None:
        """`readers` and `vms` say what is there now."""
        self._readers_now = readers
        self._vms_now = vms
        self._lock = threading.Lock()
        self._readers: list[ReadersOf] = []
        self._snapshots: list[SnapshotsOf] = []

    def opened(self) -> None:
        """Note who reads, now that one more does."""
        with self._lock:
            if len(self._readers) < _KEPT:
                self._readers.append(self._readers_now())

    def snapshot_taken(self) -> None:
        """Note which snapshots there are, now that there is one more."""
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        with self._lock:
            for vm in self._vms_now():
                held = vm.current is not None
                for attached in list(vm.disks.values()):
                    if (held and attached.in_snapshots) or attached.disk.needs_consolidation:
                        of_datastore = found[attached.datastore.name]
                        of_datastore[vm.name] = of_datastore.get(vm.name, 0) + 1
            if len(self._snapshots) < _KEPT:
                self._snapshots.append(found)

    def readers(self) -> tuple[ReadersOf, ...]:
        """Return who read, each time that a reader came."""
        with self._lock:
            return tuple(self._readers)

    def snapshots(self) -> tuple[SnapshotsOf, ...]:
        """Return which disks had snapshots, each time that one was taken."""
        with self._lock:
            return tuple(self._snapshots)
