"""A replication against a model of it: disks in memory, and what the last committed cycle must have made of the replica.

A state machine chooses what happens next: the guest writes, somebody takes a snapshot, the next step of a cycle, a step
that is cut in the middle, a crash with or without tidying up. The steps are the product's activities, against the lab's
real vCenter, disks and stores. `--sequences` says how many are tried, `--seed` repeats a run; a failure is shrunk.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from temporalio.client import Client

from deltaferry.model.replication import CycleKind, DiskBase, RecoveryPoint
from deltaferry.model.units import MIB, SECTOR
from tests.e2e.by_hand import ByHand
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated
from workflows.messages.step import AppliedChunk, BegunCycle, ChunkDisk, SentChunk

pytestmark = pytest.mark.chaos

_NO_TEMPORAL = cast("Client", None)
_SEQUENCES, _STEPS = 8, 25
_SIZES = st.sampled_from((SECTOR, 129 * SECTOR, 2 * MIB + SECTOR, 5 * MIB + 3 * SECTOR))


@dataclass
class Pass:
    """A cycle that has begun, and how far it is."""

    kind: CycleKind
    key: str
    begun: BegunCycle
    frozen: list[bytes]
    """The model's disks when the snapshot was taken."""
    left: list[ChunkDisk]
    sent: list[tuple[SentChunk, ...]] = field(default_factory=list)
    applied: list[AppliedChunk] = field(default_factory=list)


class Life(RuleBasedStateMachine):
    """One VM under replication."""

    lab: ClassVar[Lab]

    def __init__(self) -> None:
        super().__init__()
        self.hand: ByHand | None = None
        self.now: Pass | None = None
        self.disks: list[bytearray] = []
        self.committed: tuple[RecoveryPoint, list[bytes]] | None = None
        self.strangers: list[str] = []

    @property
    def replication(self) -> ByHand:
        assert self.hand is not None
        return self.hand

    @initialize(sizes=st.lists(_SIZES, min_size=1, max_size=2), seed=st.integers(0, 2**32 - 1), one_by_one=st.booleans())
    def enable(self, sizes: list[int], seed: int, one_by_one: bool) -> None:
        vm = Replicated.create(self.lab.world, _NO_TEMPORAL, f"model-{seed:08x}", tuple(sizes))
        repeats = random.Random(seed)
        self.hand = ByHand(vm, 1 if one_by_one else 64 * MIB, lambda: repeats.random() < 0.1)
        self.hand.prepare()
        self.disks = [bytearray(vm.source_bytes(disk)) for disk, _ in enumerate(sizes)]

    # --- the world

    @rule(data=st.data())
    def guest_writes(self, data: st.DataObject) -> None:
        disk = data.draw(st.integers(0, len(self.disks) - 1))
        sectors = len(self.disks[disk]) // SECTOR
        first = data.draw(st.integers(0, sectors - 1))
        count = data.draw(st.integers(1, min(sectors - first, 700)))
        seed = data.draw(st.none() | st.integers(0, 2**32 - 1))
        content = bytes(count * SECTOR) if seed is None else random.Random(seed).randbytes(count * SECTOR)
        self.replication.vm.write(disk, first * SECTOR, content)
        self.disks[disk][first * SECTOR : (first + count) * SECTOR] = content

    @precondition(lambda self: len(self.strangers) < 2)
    @rule()
    def somebody_takes_a_snapshot(self) -> None:
        vm = self.replication.vm
        self.strangers.append(vm.world.vcenter_control.take_snapshot(vm.source.moref, "somebody else's"))

    # --- the steps of a cycle

    @precondition(lambda self: self.now is None)
    @rule()
    def begin(self) -> None:
        hand = self.replication
        kind = CycleKind.INITIAL if hand.state.point is None else CycleKind.DELTA
        frozen = [bytes(disk) for disk in self.disks]
        key, begun = hand.begin(kind)
        self.now = Pass(kind, key, begun, frozen, hand.unsent(begun))
        if kind is CycleKind.INITIAL:
            hand.mark_dirty(begun)

    @precondition(lambda self: self.now is not None and self.now.left)
    @rule()
    def send(self) -> None:
        hand, now = self.replication, self.running
        chunks, now.left = hand.send(now.key, now.begun, now.left)
        now.sent.append(chunks)

    @precondition(lambda self: self.now is not None and self.now.sent)
    @rule()
    def apply(self) -> None:
        hand, now = self.replication, self.running
        chunks = now.sent.pop(0)
        if now.kind is CycleKind.DELTA and not now.applied:
            hand.mark_dirty(now.begun)
        applied = hand.apply(now.key, chunks, now.kind)
        now.applied += applied
        if now.kind is CycleKind.INITIAL:
            hand.verify(now.key, now.begun, applied)
            self._advance(chunks)

    @precondition(lambda self: self.now is not None and not self.now.left and not self.now.sent)
    @rule()
    def commit(self) -> None:
        hand, now = self.replication, self.running
        hand.release()
        verified = tuple((disk.disk_key, disk.plan.segments) for disk in now.begun.disks)
        initial = now.kind is CycleKind.INITIAL
        point = hand.seal(now.key, now.begun, () if initial else tuple(now.applied), verified if initial else ())
        assert hand.seeds(point) == now.frozen, "the sealed replica is not the disks as the snapshot froze them"
        hand.commit(now.begun, point)
        self.committed = point, now.frozen
        self.now = None

    @precondition(lambda self: self.now is not None and self.now.left)
    @rule(requests=st.integers(0, 3), tidy=st.booleans())
    def transfer_is_cut(self, requests: int, tidy: bool) -> None:
        hand, now = self.replication, self.running
        hand.cut(hand.transfers.transfer, hand.transfer_request(now.key, now.begun, now.left), "PutBlob", "log", requests)
        self.crash(tidy)

    @precondition(lambda self: self.now is not None and self.now.sent)
    @rule(requests=st.integers(0, 3), tidy=st.booleans())
    def apply_is_cut(self, requests: int, tidy: bool) -> None:
        hand, now = self.replication, self.running
        if now.kind is CycleKind.DELTA and not now.applied:
            hand.mark_dirty(now.begun)
        hand.cut(hand.applies.apply, hand.apply_request(now.key, now.sent[0], now.kind), "PutPage", "seed", requests)
        self.crash(tidy)

    @precondition(lambda self: self.now is not None)
    @rule(tidy=st.booleans())
    def crash(self, tidy: bool) -> None:
        """The cycle ends here; the snapshot and the log are given back, or left over for the next one to deal with."""
        if tidy:
            self.replication.release()
            self.replication.discard_logs()
        self.now = None

    # --- what must hold

    @invariant()
    def the_last_point_is_one_moment_of_the_source(self) -> None:
        """Whatever was begun, cut or left over since."""
        if self.committed is not None:
            point, frozen = self.committed
            assert self.replication.seeds(point) == frozen

    @property
    def running(self) -> Pass:
        assert self.now is not None
        return self.now

    def _advance(self, chunks: tuple[SentChunk, ...]) -> None:
        """Move the marks of the initial replication, as the procedure does after a verified chunk."""
        state = self.replication.state
        change_ids = {disk.disk_key: disk.change_id for disk in self.running.begun.disks}
        marks = {base.disk_key: base for base in state.bases}
        for chunk in chunks:
            if chunk.position_bytes >= marks[chunk.disk_key].copied_up_to_bytes:
                marks[chunk.disk_key] = DiskBase(chunk.disk_key, change_ids[chunk.disk_key], chunk.position_bytes)
                state.dirty = tuple((key, plan) for key, plan in state.dirty if key != chunk.disk_key)
        state.bases = tuple(marks.values())

    def teardown(self) -> None:
        """Finish what runs, make one more cycle, compare with the present, and leave nothing behind."""
        if self.hand is None:
            return
        try:
            if self.now is not None:
                self.crash(False)
            self.begin()
            while self.running.left or self.running.sent:
                if self.running.left:
                    self.send()
                else:
                    self.apply()
            self.commit()
            assert self.hand.present_seeds() == [bytes(disk) for disk in self.disks]
            self.hand.clean()
            vm = self.hand.world.vcenter_control.vm(self.hand.vm.name)
            assert [snapshot.moref for snapshot in vm.snapshots] == self.strangers
        finally:
            self.hand.close()


@contextmanager
def _environment(variables: Any, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        yield


def test_a_replication_is_what_its_model_says(
    lab: Lab, chaos_seed: int, sequences: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = type("Life", (Life,), {"lab": lab})
    limits = settings(
        max_examples=sequences or _SEQUENCES,
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        print_blob=True,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    with _environment(lab.world.environment, monkeypatch):
        run_state_machine_as_test(hypothesis.seed(chaos_seed)(machine), settings=limits)
