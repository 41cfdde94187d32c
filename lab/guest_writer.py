"""`python -m lab.guest_writer SETTINGS.json`: a guest that changes its disks all the time and keeps a journal.

It writes over NBD to the exports of the lab's ESXi host, so it is stopped as a guest is: when the VM powers off, the
host ends the connection. On SIGTERM it finishes the write at hand.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter

from deltaferry.model.extents import Extent
from lab.guest_journal import JournalWriter
from lab.guest_load import GuestLoad, LoadedDisk
from lab.nbd_guest import DiskGone, GuestDisk


@dataclass(frozen=True, slots=True)
class GuestDiskSettings:
    """One disk, and the ranges of it that the guest may write in."""

    key: int
    export: str
    ranges: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """Everything a guest writer needs."""

    host: str
    port: int
    journal: Path
    disks: tuple[GuestDiskSettings, ...]
    bytes_per_second: int
    seed: int = 0

    def save(self, path: Path) -> None:
        """Write the settings as the JSON that the process reads."""
        path.write_text(json.dumps({**asdict(self), "journal": str(self.journal)}))


class GuestWriter:
    """The guest load of one VM over NBD."""

    def __init__(self, settings: GuestSettings) -> None:
        self._settings = settings
        self._load: GuestLoad | None = None
        self._stopping = False

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Stop after the write at hand; fit as a signal handler."""
        self._stopping = True
        if self._load is not None:
            self._load.stop()

    def run(self) -> str:
        """Write until the end, journal why, and return it. Raises OSError when an export refuses a write."""
        settings = self._settings
        journal = JournalWriter(settings.journal)
        disks: list[LoadedDisk] = []
        try:
            for disk in settings.disks:
                disks.append(LoadedDisk(disk.key, GuestDisk(settings.host, settings.port, disk.export), disk.ranges))
        except DiskGone as gone:
            for opened in disks:
                opened.target.close()
            journal.end(f"the VM stopped: {gone}")
            return f"the VM stopped: {gone}"
        self._load = GuestLoad(disks, journal, settings.bytes_per_second, settings.seed)
        if self._stopping:
            self._load.stop()
        sys.stdout.write(json.dumps({"pid": os.getpid(), "disks": len(disks)}) + "\n")
        sys.stdout.flush()
        return self._load.run()


def main() -> None:
    """Run the guest writer that a settings file describes."""
    settings = TypeAdapter(GuestSettings).validate_json(Path(sys.argv[1]).read_bytes())
    writer = GuestWriter(settings)
    signal.signal(signal.SIGTERM, writer.stop)
    sys.stderr.write(f"stopped: {writer.run()}\n")


if __name__ == "__main__":
    main()
