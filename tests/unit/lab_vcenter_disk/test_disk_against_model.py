"""Random histories of a disk against a reference model."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lab.vcenter.disk import VirtualDisk
from lab.vcenter.tracking import GRANULE
from tests.unit.lab_vcenter_disk.model import ModelDisk, sectors_that_differ

SECTORS = 1024 + 37
CAPACITY = SECTORS * 512


def read_disk(disk, offset=0, length=CAPACITY) -> bytes:
    target = bytearray(length)
    disk.read_into(offset, memoryview(target))
    return bytes(target)


def ask_areas(disk: VirtualDisk, frozen, change_id: str, page_limit: int = 2000) -> list[tuple[int, int]]:
    areas, offset = [], 0
    while offset < frozen.capacity_bytes:
        start, length, page = disk.tracking.changed_areas(frozen, change_id, offset, page_limit)
        assert start == offset
        assert length > 0
        assert len(page) <= page_limit
        assert all(start <= a and a + n <= start + length and n > 0 for a, n in page)
        areas += page
        offset = start + length
    assert offset == frozen.capacity_bytes
    return areas


def sectors_of(areas: list[tuple[int, int]]) -> set[int]:
    return {sector for start, length in areas for sector in range(start // 512, (start + length) // 512)}


class DiskMachine(RuleBasedStateMachine):
    """Writes, zeros, snapshots of several owners in any order, consolidations whole and broken off, reverts, tracking."""

    @initialize(tracked=st.booleans())
    def make(self, tracked: bool) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.disk = VirtualDisk.create(self.directory, "vm", CAPACITY)
        self.model = ModelDisk(CAPACITY)
        self.serial = 0
        if tracked:
            self.disk.tracking.enable()

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.disk.delete()
            assert list(self.directory.iterdir()) == []
            shutil.rmtree(self.directory)

    @rule(first=st.integers(0, SECTORS - 1), count=st.integers(1, 200), seed=st.integers(1, 255))
    def write(self, first: int, count: int, seed: int) -> None:
        count = min(count, SECTORS - first)
        data = bytes([seed]) * (count * 512)
        self.disk.write(first * 512, data)
        self.model.write(first * 512, data)

    @rule(first=st.integers(0, SECTORS - 1), count=st.integers(1, 400))
    def zero(self, first: int, count: int) -> None:
        count = min(count, SECTORS - first)
        self.disk.zero(first * 512, count * 512)
        self.model.write(first * 512, bytes(count * 512))

    @precondition(lambda self: len(self.model.snapshots) < 4)
    @rule()
    def freeze(self) -> None:
        self.serial += 1
        name = f"snapshot-{self.serial}"
        with self.disk.stunned():
            frozen = self.disk.freeze(name)
        assert (frozen.change_id is not None) == self.disk.tracking.active
        self.model.freeze(name, frozen.change_id)

    @precondition(lambda self: self.model.snapshots)
    @rule(data=st.data(), consolidate=st.booleans())
    def release(self, data: st.DataObject, consolidate: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.snapshots)))
        self.disk.release(name)
        del self.model.snapshots[name]
        if consolidate:
            self.consolidate()

    @rule()
    def consolidate(self) -> None:
        self.disk.consolidate()
        assert not self.disk.needs_consolidation
        if not self.model.snapshots:
            assert not self.disk.is_delta

    @precondition(lambda self: self.disk.needs_consolidation)
    @rule(first=st.integers(0, SECTORS - 9), seed=st.integers(1, 255), broken=st.booleans())
    def guest_writes_while_consolidating(self, first: int, seed: int, broken: bool) -> None:
        written = False

        def beat() -> None:
            nonlocal written
            if not written:
                written = True
                data = bytes([seed]) * (8 * 512)
                self.disk.write(first * 512, data)
                self.model.write(first * 512, data)
            if broken:
                raise InterruptedError

        try:
            self.disk.consolidate(beat)
        except InterruptedError:
            assert self.disk.needs_consolidation

    @precondition(lambda self: self.model.snapshots)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.snapshots)))
        before = self.disk.tracking.uuid
        self.disk.revert(name)
        self.model.revert(name)
        assert before is None or self.disk.tracking.uuid != before

    @invariant()
    def present_content_is_the_model(self) -> None:
        if hasattr(self, "disk"):
            assert read_disk(self.disk) == bytes(self.model.content)

    @invariant()
    def frozen_content_is_the_model(self) -> None:
        if hasattr(self, "disk"):
            for name, state in self.model.snapshots.items():
                assert read_disk(self.disk.frozen(name)) == state.content

    @invariant()
    def holes_were_never_written(self) -> None:
        if hasattr(self, "disk"):
            for name, state in self.model.snapshots.items():
                position = 0
                for run in self.disk.frozen(name).extents(0, CAPACITY):
                    assert run.offset == position
                    position += run.length
                    if not run.allocated:
                        assert not any(state.written[run.offset // 512 : position // 512])
                assert position == CAPACITY

    @invariant()
    def no_change_is_missed(self) -> None:
        if not hasattr(self, "disk"):
            return
        for name, state in self.model.snapshots.items():
            frozen = self.disk.frozen(name)
            if state.change_id is None:
                continue
            uuid, epoch = state.change_id.split("/")
            for change_id, content in self.model.past.items():
                if change_id.split("/")[0] == uuid and int(change_id.split("/")[1]) <= int(epoch):
                    areas = ask_areas(self.disk, frozen, change_id, page_limit=3)
                    assert sectors_of(areas) >= sectors_that_differ(content, state.content)
                    assert all(a % GRANULE == 0 and ((a + n) % GRANULE == 0 or a + n == CAPACITY) for a, n in areas)
            allocated = sectors_of(ask_areas(self.disk, frozen, "*", page_limit=3))
            assert allocated >= {sector for sector, flag in enumerate(state.written) if flag}


DiskMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestDiskAgainstModel = DiskMachine.TestCase
