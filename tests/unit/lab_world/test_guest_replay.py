"""What a guest wrote can be made again from its journal, as of any instant."""

import itertools
from pathlib import Path

import pytest

from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR
from lab.guest_journal import JournalEntry, JournalWriter, WriteKind, digest_of, read_journal
from lab.guest_load import GuestLoad, LoadedDisk
from lab.guest_replay import RecordedDisk, Recording, ReplayError, possible_counts
from lab.guest_writes import guest_writes
from lab.nbd_guest import DiskGone

SEED = 5
CAPACITIES = (2 * MIB, MIB)
RANGES = ((Extent(64 * SECTOR, 512 * SECTOR), Extent(2048 * SECTOR, 1024 * SECTOR)), (Extent(0, MIB),))
KEYS = (2000, 2001)


class Disk:
    """A disk in memory that goes away after so many writes."""

    def __init__(self, capacity: int, writes: int, *, also_the_last: bool) -> None:
        self.held = bytearray(b"\x11" * capacity)
        self._left = writes
        self._also_the_last = also_the_last

    def write(self, offset_bytes: int, data: bytes) -> None:
        self._left -= 1
        if self._left >= 0 or self._also_the_last:
            self.held[offset_bytes : offset_bytes + len(data)] = data
        if self._left < 0:
            raise DiskGone("the VM is off")

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        self.write(offset_bytes, bytes(length_bytes))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def load(folder: Path, writes: int, *, also_the_last: bool) -> tuple[tuple[Disk, ...], Recording]:
    """Let a guest write until its disks go away; return them, and the recording of it."""
    disks = tuple(Disk(capacity, writes, also_the_last=also_the_last) for capacity in CAPACITIES)
    before = tuple(folder / f"before-{number}" for number, _ in enumerate(disks))
    for disk, image in zip(disks, before, strict=True):
        image.write_bytes(disk.held)
    journal = folder / "journal"
    loaded = [LoadedDisk(key, disk, ranges) for key, disk, ranges in zip(KEYS, disks, RANGES, strict=True)]
    GuestLoad(loaded, JournalWriter(journal), 1 << 40, SEED).run()
    recorded = tuple(RecordedDisk(key, ranges, image) for key, ranges, image in zip(KEYS, RANGES, before, strict=True))
    return disks, Recording(recorded, journal, SEED)


@pytest.mark.parametrize("also_the_last", [False, True])
def test_a_journal_and_the_images_before_it_give_the_disks_again_with_or_without_the_unanswered_write(
    also_the_last: bool, tmp_path: Path
) -> None:
    disks, recording = load(tmp_path, 121, also_the_last=also_the_last)
    made = [tuple(image.read_bytes() for image in images) for images in recording.images(tmp_path / "made")]
    assert len(made) == 2
    held = tuple(bytes(disk.held) for disk in disks)
    assert (made[1] if also_the_last else made[0]) == held
    assert made[0] != made[1]


def test_an_instant_divides_the_writes_that_were_answered_from_those_that_came_later(tmp_path: Path) -> None:
    _, recording = load(tmp_path, 40, also_the_last=False)
    middle = read_journal(recording.journal)[29]
    (images,) = recording.images(tmp_path / "made", middle.ended_at)
    expected = [bytearray(b"\x11" * capacity) for capacity in CAPACITIES]
    for write in itertools.islice(guest_writes(RANGES, SEED), 30):
        expected[write.disk][write.offset : write.offset + len(write.data)] = write.data
    assert [image.read_bytes() for image in images] == expected
    assert recording.written_after(middle.ended_at) == len(read_journal(recording.journal)) - 31  # the 30, and the STOPPED


def test_a_journal_of_another_guest_is_refused(tmp_path: Path) -> None:
    _, recording = load(tmp_path, 10, also_the_last=False)
    with pytest.raises(ReplayError, match="Entry 1 of"):
        next(Recording(recording.disks, recording.journal, SEED + 1).images(tmp_path / "made"))


def _entry(sequence: int, began_at: float, ended_at: float, kind: WriteKind = WriteKind.HOT) -> JournalEntry:
    return JournalEntry(sequence, 0, 0, 0 if kind is WriteKind.STOPPED else 512, kind, digest_of(b""), began_at, ended_at)


ANSWERED = (_entry(1, 1.0, 2.0), _entry(2, 3.0, 4.0), _entry(3, 5.0, 6.0))
CUT_OFF = (*ANSWERED, _entry(4, 7.0, 8.0, WriteKind.UNANSWERED), _entry(5, 8.0, 8.0, WriteKind.STOPPED))


@pytest.mark.parametrize(
    ("entries", "instant", "counts"),
    [
        ((), None, (0,)),
        ((), 1.0, (0,)),
        (ANSWERED, None, (3,)),
        (ANSWERED, 0.5, (0,)),
        (ANSWERED, 4.5, (2,)),
        (ANSWERED, 3.5, (1, 2)),
        (ANSWERED, 9.0, (3,)),
        (CUT_OFF, None, (3, 4)),
        (CUT_OFF, 6.5, (3,)),
        (CUT_OFF, 7.5, (3, 4)),
        (CUT_OFF, 9.0, (3, 4)),
    ],
)
def test_at_an_instant_at_most_one_write_is_uncertain(
    entries: tuple[JournalEntry, ...], instant: float | None, counts: tuple[int, ...]
) -> None:
    assert possible_counts(entries, instant) == counts


def test_a_recording_reaches_an_instant_once_a_later_write_or_the_end_is_journaled(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    recording = Recording((), journal)
    assert not recording.reaches(0.0)
    writer = JournalWriter(journal)
    writer.add(0, 0, 512, WriteKind.HOT, digest_of(b""), 10.0)
    writer.sync()
    assert recording.reaches(9.0) and not recording.reaches(11.0)
    writer.end("switched")
    assert recording.reaches(11.0)
