"""The order of a cycle on the source, and zeros on a used seed: step by step, against the lab's real vCenter and stores."""

from collections.abc import Iterator
from typing import cast

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.units import MIB, SECTOR
from tests.e2e.by_hand import ByHand
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated

_CAPACITY = 5 * MIB + 3 * SECTOR
_NO_TEMPORAL = cast("Client", None)


@pytest.fixture
def hand(lab: Lab, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ByHand]:
    """A prepared replication of one disk, whose steps the test takes itself."""
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)
    vm = Replicated.create(lab.world, _NO_TEMPORAL, request.node.name, (_CAPACITY,))
    hand = ByHand(vm, 64 * MIB, lambda: False)
    try:
        hand.prepare()
        yield hand
        hand.clean()
    finally:
        hand.close()


def our_snapshots(hand: ByHand) -> list[str]:
    return [snapshot.moref for snapshot in hand.world.vcenter_control.vm(hand.vm.name).snapshots]


def test_no_snapshot_is_taken_beside_one_of_an_earlier_cycle(hand: ByHand) -> None:
    """A cycle that left its snapshot behind, as by a crash, is cleared away before the next one's is taken."""
    _, left_over = hand.begin(CycleKind.INITIAL)
    hand.vm.write(0, 0, b"x" * SECTOR)
    _, begun = hand.begin(CycleKind.INITIAL)
    assert begun.snapshot != left_over.snapshot
    assert our_snapshots(hand) == [begun.snapshot]


def test_a_cycles_lost_snapshot_is_not_replaced(hand: ByHand) -> None:
    """A repetition under another snapshot would mix two moments in one cycle."""
    key, _ = hand.begin(CycleKind.INITIAL)
    hand.release()
    with pytest.raises(ApplicationError) as caught:
        hand.begin_again(key, CycleKind.INITIAL)
    assert caught.value.type == ErrorKind.SNAPSHOT_LOST.value
    assert our_snapshots(hand) == []


def test_a_second_first_copy_clears_what_the_first_one_left(hand: ByHand) -> None:
    """The first copy was applied and lost; meanwhile the guest zeroed what it had brought."""
    hand.vm.write(0, MIB, b"\xa5" * (256 * 1024))
    key, begun = hand.begin(CycleKind.INITIAL)
    sent, _ = hand.send(key, begun, hand.unsent(begun))
    hand.apply(key, sent, CycleKind.INITIAL)
    hand.release()
    hand.discard_logs()
    hand.vm.write(0, MIB, bytes(256 * 1024))
    key, begun = hand.begin(CycleKind.INITIAL)
    frozen = hand.snapshot_bytes(begun)
    sent, rest = hand.send(key, begun, hand.unsent(begun))
    assert rest == []
    hand.verify(key, begun, hand.apply(key, sent, CycleKind.INITIAL))
    hand.release()
    point = hand.seal(key, begun, (), tuple((disk.disk_key, disk.plan.segments) for disk in begun.disks))
    assert hand.seeds(point) == frozen
