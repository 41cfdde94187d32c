"""Property: whatever was written, and wherever cycles were cut, the seed is the source's snapshot after every committed cycle.

The activities run here in the test's own process, against the lab's real stores, vCenter and disks.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st
from temporalio.client import Client

from deltaferry.model.replication import CycleKind, DiskBase
from deltaferry.model.units import MIB, SECTOR
from lab.vcenter.control import VcenterControl
from tests.e2e.by_hand import NO_CONTAINER, ByHand, random_write
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated
from workflows.messages.step import AppliedChunk, BegunCycle, SentChunk


class Cut(StrEnum):
    """Where a cycle ends."""

    NOWHERE = "committed"
    AFTER_BEGIN = "after the snapshot"
    IN_TRANSFER = "in the middle of a transfer"
    AFTER_A_CHUNK = "after the first chunk was sent"
    IN_APPLY = "in the middle of an apply"
    AFTER_AN_APPLY = "after the first chunk was applied"
    BEFORE_COMMIT = "after the recovery point was taken, before the commit"


@dataclass(frozen=True, slots=True)
class Cycle:
    """One cycle of a history."""

    cut: Cut
    tidy: bool
    """Whether a cycle that fails gives its snapshot and log back; else they are left over, as by a crash."""
    writes: int
    stranger: bool
    """Whether somebody else takes a snapshot before it."""
    requests: int
    """How many requests a step that is cut gets through."""


@dataclass(frozen=True, slots=True)
class History:
    """A VM's life under replication. `seed` decides contents, and which steps are carried out twice."""

    seed: int
    disks: tuple[int, ...]
    chunk_max_bytes: int
    initial: tuple[Cycle, ...]
    cycles: tuple[Cycle, ...]
    repeated: float = 0.15
    """The share of steps that are carried out twice."""


_NO_TEMPORAL = cast("Client", None)
"""In the place of the client that these tests do without."""
_STEPS = {
    *("prepare_target", "prepare_source", "begin_cycle", "transfer", "apply", "verify_chunks", "seal_cycle"),
    *("settle_cycle", "release_snapshot", "discard_logs", "clean_source", "clean_target"),
}
_SECTORS = st.sampled_from((1, 127, 129, 2047, 2049, 5 * MIB // SECTOR + 3))
_CUTS = st.sampled_from(list(Cut)[1:])


def _cycle(cut: st.SearchStrategy[Cut]) -> st.SearchStrategy[Cycle]:
    return st.builds(Cycle, cut, st.booleans(), st.integers(0, 6), st.booleans(), st.integers(0, 4))


_COMMITTED = _cycle(st.just(Cut.NOWHERE))
_FAILED = _cycle(_CUTS)

HISTORIES = st.builds(
    History,
    seed=st.integers(0, 2**32 - 1),
    disks=st.lists(_SECTORS.map(lambda sectors: sectors * SECTOR), min_size=1, max_size=3).map(tuple),
    chunk_max_bytes=st.sampled_from((1, 64 * MIB)),
    initial=st.tuples(_FAILED) | st.just(()),
    cycles=st.tuples(_FAILED, _COMMITTED) | st.tuples(_COMMITTED, _FAILED, _FAILED, _COMMITTED),
)


@pytest.fixture
def secrets(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the environment that a worker has."""
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)


@settings(
    max_examples=3,
    deadline=None,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=HISTORIES)
@pytest.mark.chaos
def test_the_seed_is_the_sources_snapshot_after_every_committed_cycle(lab: Lab, secrets: None, history: History) -> None:
    note(f"seed {history.seed}")
    event(f"{len(history.cycles)} cycles: {', '.join(sorted({cycle.cut for cycle in history.cycles + history.initial}))}")
    Play(lab, history).run()


@pytest.mark.chaos
def test_every_step_carried_out_twice_with_the_same_input_ends_in_the_same_world(lab: Lab, secrets: None) -> None:
    cycle = Cycle(Cut.NOWHERE, tidy=True, writes=4, stranger=True, requests=0)
    failed = Cycle(Cut.AFTER_AN_APPLY, tidy=True, writes=4, stranger=False, requests=0)
    history = History(7, (5 * MIB + 3 * SECTOR, 129 * SECTOR), 1, (), (failed, cycle), repeated=1.0)
    played = Play(lab, history)
    played.run()
    assert played.repeated_steps >= _STEPS


class Play:
    """Plays a history."""

    def __init__(self, lab: Lab, history: History) -> None:
        self._history = history
        self._random = random.Random(history.seed)
        self._vm = Replicated.create(lab.world, _NO_TEMPORAL, f"history-{history.seed:08x}", history.disks)
        self._hand = ByHand(self._vm, history.chunk_max_bytes, lambda: self._random.random() < history.repeated)
        self._strangers: list[str] = []

    @property
    def repeated_steps(self) -> set[str]:
        """The names of the steps that were carried out twice."""
        return self._hand.repeated

    @property
    def _vcenter(self) -> VcenterControl:
        return self._vm.world.vcenter_control

    def run(self) -> None:
        try:
            self._hand.prepare()
            for attempt in self._history.initial:
                self._initial(attempt)
            self._initial(None)
            for cycle in self._history.cycles:
                self._delta(cycle)
            self._hand.clean()
            self._assert_only_strangers_left()
        finally:
            self._hand.close()

    def _write(self, times: int) -> None:
        for _ in range(times):
            random_write(self._vm, self._random, self._random.choice((1, 8, 128, 700)))

    def _before(self, cycle: Cycle) -> None:
        self._write(cycle.writes)
        if cycle.stranger:
            self._strangers.append(self._vcenter.take_snapshot(self._vm.source.moref, "somebody else's"))

    def _give_up(self, cycle: Cycle) -> None:
        """Do what follows a failed cycle; or nothing, as where a run was thrown away."""
        self._write(1)
        if cycle.tidy:
            self._hand.release()
            self._hand.discard_logs()

    def _initial(self, cycle: Cycle | None) -> None:
        """Copy everything; a pass that is cut keeps its mark, and the next one goes on above it."""
        hand = self._hand
        if cycle is not None:
            self._before(cycle)
        cut = cycle.cut if cycle is not None else Cut.NOWHERE
        kind = CycleKind.INITIAL
        key, begun = hand.begin(kind)
        frozen = hand.snapshot_bytes(begun)
        self._write(2)
        left = hand.unsent(begun)
        hand.mark_dirty(begun)
        while left and cut is not Cut.AFTER_BEGIN:
            if cycle is not None and cut is Cut.IN_TRANSFER:
                hand.cut(hand.transfers.transfer, hand.transfer_request(key, begun, left), "PutBlob", "log", cycle.requests)
                break
            sent, left = hand.send(key, begun, left)
            if cut is Cut.AFTER_A_CHUNK:
                break
            if cycle is not None and cut is Cut.IN_APPLY:
                hand.cut(hand.applies.apply, hand.apply_request(key, sent, kind), "PutPage", "seed", cycle.requests)
                break
            hand.verify(key, begun, hand.apply(key, sent, kind))
            self._advance(begun, sent)
            if cut is Cut.AFTER_AN_APPLY:
                break
        if cut not in (Cut.NOWHERE, Cut.BEFORE_COMMIT):
            assert cycle is not None
            self._give_up(cycle)
            return
        hand.release()
        point = hand.seal(key, begun, (), tuple((disk.disk_key, disk.plan.segments) for disk in begun.disks))
        assert hand.seeds(point) == frozen
        if cut is Cut.NOWHERE:
            hand.commit(begun, point)

    def _advance(self, begun: BegunCycle, sent: tuple[SentChunk, ...]) -> None:
        change_ids = {disk.disk_key: disk.change_id for disk in begun.disks}
        marks = {base.disk_key: base for base in self._hand.state.bases}
        for chunk in sent:
            if chunk.position_bytes >= marks[chunk.disk_key].copied_up_to_bytes:
                marks[chunk.disk_key] = DiskBase(chunk.disk_key, change_ids[chunk.disk_key], chunk.position_bytes)
                self._hand.state.dirty = tuple((key, plan) for key, plan in self._hand.state.dirty if key != chunk.disk_key)
        self._hand.state.bases = tuple(marks.values())

    def _delta(self, cycle: Cycle) -> None:
        hand, kind = self._hand, CycleKind.DELTA
        self._before(cycle)
        before = hand.state.point
        key, begun = hand.begin(kind)
        frozen = hand.snapshot_bytes(begun)
        self._write(2)
        if self._carry(cycle, key, begun, frozen):
            return
        self._give_up(cycle)
        assert hand.state.point == before

    def _carry(self, cycle: Cycle, key: str, begun: BegunCycle, frozen: list[bytes]) -> bool:
        """Carry a delta cycle as far as it goes; return whether it was committed."""
        hand, kind, cut = self._hand, CycleKind.DELTA, cycle.cut
        left = hand.unsent(begun)
        if cut is Cut.AFTER_BEGIN:
            return False
        if cut is Cut.IN_TRANSFER and left:
            hand.cut(hand.transfers.transfer, hand.transfer_request(key, begun, left), "PutBlob", "log", cycle.requests)
            return False
        rounds = []
        while left:
            sent, left = hand.send(key, begun, left)
            rounds.append(sent)
            if cut is Cut.AFTER_A_CHUNK:
                return False
        if rounds:
            hand.mark_dirty(begun)
        applied: list[AppliedChunk] = []
        for sent in rounds:
            if cut is Cut.IN_APPLY:
                hand.cut(hand.applies.apply, hand.apply_request(key, sent, kind), "PutPage", "seed", cycle.requests)
                return False
            applied += hand.apply(key, sent, kind)
            if cut is Cut.AFTER_AN_APPLY:
                return False
        point = hand.seal(key, begun, tuple(applied))
        assert hand.seeds(point) == frozen
        assert hand.present_seeds() == frozen
        if cut is not Cut.NOWHERE:
            return False
        hand.commit(begun, point)
        hand.release()
        assert hand.seeds(point) == frozen, "the recovery point is what settling keeps"
        return True

    def _assert_only_strangers_left(self) -> None:
        vm = self._vcenter.vm(self._vm.name)
        assert [snapshot.moref for snapshot in vm.snapshots] == self._strangers
        assert not vm.change_tracking
        assert not any(vm.extra_config.values())
        left = {name for name, value in self._hand.picture().items() if value == NO_CONTAINER}
        assert len(left) == 3
