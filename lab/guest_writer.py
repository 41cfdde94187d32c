"""`python -m lab.guest_writer SETTINGS.json`: a guest that changes its disks all the time and keeps a journal.

It writes over NBD to the exports of the lab's ESXi host, so it is stopped as a guest is: when the VM powers off, the
host ends the connection. On SIGTERM it finishes the write at hand.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter

from deltaferry.model.extents import Extent
from deltaferry.model.units import SECTOR
from lab.guest_journal import JournalWriter, WriteKind, digest_of
from lab.nbd_guest import DiskGone, GuestDisk

_SIZES = (1, 8, 8, 16, 64, 128, 512)
"""Lengths of writes in sectors, as a guest with a 4 KiB file system makes them."""

_WHEEL = (*[WriteKind.OVERWRITE] * 5, *[WriteKind.HOT] * 3, *[WriteKind.APPEND] * 2, WriteKind.ZERO)
_POOL_BYTES = 1024 * 1024


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


class _Region:
    """Chooses the next write on one disk: a hot block, an append position that wraps, or anywhere in the ranges."""

    def __init__(self, disk: GuestDisk, settings: GuestDiskSettings, source: random.Random) -> None:
        self.disk = disk
        self.key = settings.key
        self._ranges = settings.ranges
        self._weights = [extent.length_bytes for extent in settings.ranges]
        self._source = source
        self._tail = max(settings.ranges, key=lambda extent: extent.length_bytes)
        self._hot = self._tail.offset_bytes
        self._append_at = self._tail.offset_bytes + self._tail.length_bytes // 2 // SECTOR * SECTOR

    def choose(self, kind: WriteKind) -> tuple[int, int]:
        """Return offset and length of the next write, whole sectors inside one range."""
        sectors = self._source.choice(_SIZES)
        if kind is WriteKind.HOT:
            return self._hot, min(8 * SECTOR, self._tail.length_bytes)
        if kind is WriteKind.APPEND:
            start = self._append_at if self._append_at < self._tail.end_bytes else self._tail.offset_bytes
            length = min(sectors * SECTOR, self._tail.end_bytes - start)
            self._append_at = start + length
            return start, length
        extent = self._source.choices(self._ranges, self._weights)[0]
        at = self._source.randrange(extent.length_bytes // SECTOR) * SECTOR
        return extent.offset_bytes + at, min(sectors * SECTOR, extent.length_bytes - at)


class GuestWriter:
    """Writes until it is told to stop or its disks go away."""

    def __init__(self, settings: GuestSettings) -> None:
        self._settings = settings
        self._source = random.Random(settings.seed)
        self._pool = self._source.randbytes(_POOL_BYTES)
        self._journal = JournalWriter(settings.journal)
        self._stopping = False

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Stop after the write at hand; fit as a signal handler."""
        self._stopping = True

    def run(self) -> str:
        """Write until the end, journal why, and return it. Raises OSError when an export refuses a write."""
        regions: list[_Region] = []
        try:
            for disk in self._settings.disks:
                connection = GuestDisk(self._settings.host, self._settings.port, disk.export)
                regions.append(_Region(connection, disk, self._source))
            sys.stdout.write(json.dumps({"pid": os.getpid(), "disks": len(regions)}) + "\n")
            sys.stdout.flush()
            reason = self._write(regions)
        except DiskGone as gone:
            reason = f"the VM stopped: {gone}"
        finally:
            for region in regions:
                region.disk.close()
        self._journal.add(0, 0, 0, WriteKind.STOPPED, reason)
        self._journal.close()
        return reason

    def _write(self, regions: list[_Region]) -> str:
        started, written = time.monotonic(), 0
        for number in self._numbers():
            region = regions[number % len(regions)]
            kind = self._source.choice(_WHEEL)
            offset, length = region.choose(kind)
            self._write_one(region, kind, offset, length, number)
            written += length
            ahead = written / self._settings.bytes_per_second - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(min(ahead, 0.5))
        for region in regions:
            region.disk.flush()
        return "asked to stop"

    def _numbers(self) -> Iterator[int]:
        number = 0
        while not self._stopping:
            yield number
            number += 1

    def _write_one(self, region: _Region, kind: WriteKind, offset: int, length: int, number: int) -> None:
        zero = kind is WriteKind.ZERO
        data = bytes(length) if zero else self._content(number, length)
        digest = digest_of(data)
        try:
            if zero:
                region.disk.write_zeroes(offset, length)
            else:
                region.disk.write(offset, data)
        except DiskGone:
            self._journal.add(region.key, offset, length, WriteKind.UNANSWERED, digest)
            raise
        self._journal.add(region.key, offset, length, kind, digest)

    def _content(self, number: int, length: int) -> bytes:
        """Return bytes that differ from write to write: half of them compress."""
        head = b"guest write %016d\n" % number
        if number % 2:
            return (head * (length // len(head) + 1))[:length]
        start = self._source.randrange(_POOL_BYTES - length)
        return (head + self._pool[start : start + length])[:length]


def main() -> None:
    """Run the guest writer that a settings file describes."""
    settings = TypeAdapter(GuestSettings).validate_json(Path(sys.argv[1]).read_bytes())
    writer = GuestWriter(settings)
    signal.signal(signal.SIGTERM, writer.stop)
    sys.stderr.write(f"stopped: {writer.run()}\n")


if __name__ == "__main__":
    main()
