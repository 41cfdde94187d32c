"""The journal proves of each write that nothing overwrote whether it is on a disk."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lab.guest_journal import JournalEntry, JournalWriter, WriteKind, digest_of, lost_writes, read_journal, stop_reason, surviving

KEY = 2000
SIZE = 4096


def entry(sequence: int, offset: int, length: int, kind: WriteKind = WriteKind.OVERWRITE, data: bytes = b"") -> JournalEntry:
    return JournalEntry(sequence, KEY, offset, length, kind, digest_of(data))


writes = st.lists(
    st.tuples(st.integers(0, 63), st.integers(1, 16), st.sampled_from([WriteKind.OVERWRITE, WriteKind.UNANSWERED])), max_size=40
)


@given(writes)
def test_exactly_the_writes_of_which_no_byte_was_written_again_survive(planned: list[tuple[int, int, WriteKind]]) -> None:
    entries = [entry(number, offset, length, kind) for number, (offset, length, kind) in enumerate(planned, start=1)]
    expected = {
        one.sequence
        for one in entries
        if one.kind is not WriteKind.UNANSWERED
        and not any(
            later.sequence > one.sequence and later.offset < one.offset + one.length and one.offset < later.offset + later.length
            for later in entries
        )
    }
    assert {one.sequence for one in surviving(entries, KEY)} == expected
    assert surviving(entries, KEY + 1) == ()


def test_a_lost_write_is_found_and_an_unanswered_one_may_be_there_or_not(tmp_path: Path) -> None:
    image, journal = tmp_path / "disk", JournalWriter(tmp_path / "journal")
    disk = bytearray(SIZE)
    for offset in (0, 512, 1024):
        data = os.urandom(512)
        disk[offset : offset + 512] = data
        journal.add(KEY, offset, 512, WriteKind.OVERWRITE, digest_of(data))
    journal.add(KEY, 1024, 512, WriteKind.UNANSWERED, digest_of(b"never written"))
    journal.add(0, 0, 0, WriteKind.STOPPED, "the VM stopped")
    journal.close()
    image.write_bytes(disk)
    entries = read_journal(tmp_path / "journal")
    assert [one.sequence for one in surviving(entries, KEY)] == [2, 1]
    assert lost_writes(entries, KEY, image) == ()
    assert stop_reason(entries) == "the VM stopped"
    disk[600] ^= 1
    image.write_bytes(disk)
    assert [one.offset for one in lost_writes(entries, KEY, image)] == [512]


def test_a_line_that_was_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "journal")
    journal.add(KEY, 0, 512, WriteKind.HOT, digest_of(b""))
    journal.close()
    with (tmp_path / "journal").open("a") as file:
        file.write('{"sequence": 2, "disk": 2000, "off')
    assert len(read_journal(tmp_path / "journal")) == 1
    assert stop_reason(read_journal(tmp_path / "journal")) is None
