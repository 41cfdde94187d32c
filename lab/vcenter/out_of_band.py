"""Writes to a powered-off VM's disk past its change tracking: VDDK's, and what tracking makes of them."""

import threading
from enum import StrEnum

from lab.sectors import SECTOR


class OutOfBandWrites(StrEnum):
    """What change tracking does about a disk that is written while its VM is off.

    "Once you start restoring virtual disk, the change tracking mechanism will misreport" (VDDK programming guide,
    restoring): whoever wrote has to reset it. The content id changes in each case.
    """

    UNSEEN = "not seen"
    """The tracking UUID stays, change ids go on to be answered, and the answers leave out what was written."""
    TRACKED = "tracked"
    """As the guest's writes."""
    RESET = "reset"
    """Tracking begins a new UUID when the disk is opened for writing."""


class UnflushedWrites:
    """What was on a disk before the writes that were not flushed yet: a crash of the host brings it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: dict[int, bytes] = {}
        """By sector: what it held at the last flush."""

    def note(self, offset: int, before: bytes) -> None:
        """Note what a range held that is about to be written."""
        with self._lock:
            for index in range(0, len(before), SECTOR):
                self._before.setdefault((offset + index) // SECTOR, before[index : index + SECTOR])

    def settle(self, offset: int, length: int) -> None:
        """Note that a range is durable as it is now."""
        with self._lock:
            for sector in range(offset // SECTOR, (offset + length) // SECTOR):
                self._before.pop(sector, None)

    def take_all(self) -> dict[int, bytes]:
        """Return what a crash brings back, by sector, and forget it."""
        with self._lock:
            taken, self._before = self._before, {}
            return taken
