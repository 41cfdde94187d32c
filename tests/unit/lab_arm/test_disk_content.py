"""A managed disk and its snapshots against plain bytes: a snapshot never changes, and differences are what was written."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lab.arm import disk_bytes
from lab.arm.disk_content import DiskContent

SECTOR = 512
SECTORS = 64
SIZE = SECTORS * SECTOR
spots = st.tuples(st.integers(0, SECTORS - 1), st.integers(1, 12))


class SnapshotsOfADisk(RuleBasedStateMachine):
    """Writes, discards, snapshots and their deletion in any order."""

    directory = None

    def __init__(self):
        super().__init__()
        path = self.directory / f"{random.randrange(1 << 60):x}.raw"
        disk_bytes.create_sparse(path, SIZE)
        self.disk, self.now = DiskContent(path), bytearray(SIZE)
        self.taken, self.number = [], 0

    def touched(self, first, last, cleared):
        for entry in self.taken:
            for sector in range(first, last):
                entry["since"][sector] = cleared

    @rule(spot=spots, fill=st.integers(0, 3))
    def write(self, spot, fill):
        first, last = spot[0], min(SECTORS, sum(spot))
        data = bytes([fill]) * ((last - first) * SECTOR)
        self.disk.write(first * SECTOR, data)
        self.now[first * SECTOR : last * SECTOR] = data
        self.touched(first, last, False)

    @rule(spot=spots)
    def discard(self, spot):
        first, last = spot[0], min(SECTORS, sum(spot))
        self.disk.discard(first * SECTOR, last * SECTOR)
        self.now[first * SECTOR : last * SECTOR] = bytes((last - first) * SECTOR)
        self.touched(first, last, True)

    @precondition(lambda self: len(self.taken) < 5)
    @rule()
    def snapshot(self):
        self.number += 1
        made = self.disk.snapshot(self.disk.path.with_suffix(f".{self.number}"), SIZE)
        changed = [dict(entry["since"]) for entry in self.taken]
        self.taken.append({"content": made, "bytes": bytes(self.now), "since": {}, "from": changed})
        for index, entry in enumerate(self.taken[:-1]):
            entry.setdefault("to", {})[id(made)] = changed[index]

    @precondition(lambda self: self.taken)
    @rule(choice=st.integers(0, 4))
    def delete(self, choice):
        self.taken.pop(choice % len(self.taken))["content"].release()

    @invariant()
    def snapshots_stay_as_they_were(self):
        for entry in self.taken:
            assert entry["content"].read(0, SIZE) == entry["bytes"]
            data = {s for s in range(SECTORS) if any(entry["bytes"][s * SECTOR : (s + 1) * SECTOR])}
            listed = {s for a, b in entry["content"].allocated(0, SIZE) for s in range(a // SECTOR, b // SECTOR)}
            assert data <= listed

    @invariant()
    def differences_are_what_was_written(self):
        for index, older in enumerate(self.taken):
            for newer in self.taken[index + 1 :]:
                told = {}
                for start, end, cleared in newer["content"].changed_since(older["content"], 0, SIZE):
                    told |= {sector: cleared for sector in range(start // SECTOR, end // SECTOR)}
                assert told == older["to"][id(newer["content"])]


def test_snapshots_and_differences_hold_in_any_order(tmp_path):
    machine = type("Machine", (SnapshotsOfADisk,), {"directory": tmp_path}).TestCase
    machine.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
    machine().runTest()


@pytest.fixture
def disk(tmp_path):
    disk_bytes.create_sparse(tmp_path / "disk.raw", SIZE)
    return DiskContent(tmp_path / "disk.raw")


def test_a_rewrite_with_the_same_bytes_is_a_difference(disk, tmp_path):
    disk.write(0, b"a" * SECTOR)
    first = disk.snapshot(tmp_path / "1", SIZE)
    disk.write(0, b"a" * SECTOR)
    second = disk.snapshot(tmp_path / "2", SIZE)
    assert list(second.changed_since(first, 0, SIZE)) == [(0, SECTOR, False)]


def test_a_snapshot_outlives_its_disk_and_then_leaves_no_file(disk, tmp_path):
    disk.write(SECTOR, b"b" * SECTOR)
    kept = disk.snapshot(tmp_path / "1", SIZE)
    disk.release()
    assert kept.read(SECTOR, 2 * SECTOR) == b"b" * SECTOR
    kept.release()
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_of_before_a_growth_keeps_its_size(disk, tmp_path):
    before = disk.snapshot(tmp_path / "1", SIZE)
    disk.resize(2 * SIZE)
    disk.write(SIZE, b"c" * SECTOR)
    after = disk.snapshot(tmp_path / "2", 2 * SIZE)
    assert (before.size_bytes, list(before.allocated(0, 2 * SIZE))) == (SIZE, [])
    assert list(after.changed_since(before, 0, 2 * SIZE)) == [(SIZE, SIZE + SECTOR, False)]
    copy = tmp_path / "copy"
    after.copy_to(copy)
    assert copy.read_bytes() == bytes(SIZE) + b"c" * SECTOR + bytes(SIZE - SECTOR)
