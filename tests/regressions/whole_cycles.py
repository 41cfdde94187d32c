"""Cycles carried out by hand from their snapshot to their commit, each compared with what the snapshot froze."""

from deltaferry.model.replication import CycleKind, DiskBase, RecoveryPoint
from tests.e2e.by_hand import ByHand
from workflows.messages.step import AppliedChunk, BegunCycle


def copy_everything(hand: ByHand) -> BegunCycle:
    """Carry out an initial replication and commit it."""
    key, begun = hand.begin(CycleKind.INITIAL)
    frozen = hand.snapshot_bytes(begun)
    hand.mark_dirty(begun)
    left = hand.unsent(begun)
    while left:
        sent, left = hand.send(key, begun, left)
        hand.verify(key, begun, hand.apply(key, sent, CycleKind.INITIAL))
    point = hand.seal(key, begun, (), tuple((disk.disk_key, disk.plan.segments) for disk in begun.disks))
    finish(hand, begun, point, frozen)
    return begun


def carry_delta(hand: ByHand) -> BegunCycle:
    """Carry out a delta cycle and commit it."""
    return carry_on(hand, *hand.begin(CycleKind.DELTA))


def carry_on(hand: ByHand, key: str, begun: BegunCycle) -> BegunCycle:
    """Carry out the rest of a delta cycle that has begun, and commit it."""
    frozen = hand.snapshot_bytes(begun)
    hand.mark_dirty(begun)
    left = hand.unsent(begun)
    applied: list[AppliedChunk] = []
    while left:
        sent, left = hand.send(key, begun, left)
        applied += hand.apply(key, sent, CycleKind.DELTA)
    finish(hand, begun, hand.seal(key, begun, tuple(applied)), frozen)
    return begun


def finish(hand: ByHand, begun: BegunCycle, point: RecoveryPoint, frozen: list[bytes]) -> None:
    """Compare a cycle's recovery point with its snapshot, commit it, and give the snapshot back."""
    assert hand.seeds(point) == frozen
    hand.commit(begun, point)
    hand.release()
    assert hand.vm.our_snapshots() == []


def changed(begun: BegunCycle) -> dict[int, int]:
    """Return how many bytes of each disk a cycle covers, by key."""
    return {disk.disk_key: disk.plan.covered_bytes for disk in begun.disks}


def marked(hand: ByHand, begun: BegunCycle, up_to_bytes: int) -> None:
    """Note that every disk was copied up to a mark, under a cycle's change ids, as a first copy that was cut leaves it."""
    hand.state.bases = tuple(DiskBase(disk.disk_key, disk.change_id, up_to_bytes) for disk in begun.disks)
