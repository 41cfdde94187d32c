"""The order of snapshots, and what is left of them: complaints 7 and 8."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import snapshot_name
from deltaferry.model.replication import CycleKind
from deltaferry.model.units import GRANULE, MIB, SECTOR
from lab.vcenter.faults import FaultName, FaultRequest
from tests.e2e.by_hand import ByHand, random_write
from tests.regressions.whole_cycles import carry_delta, carry_on, copy_everything


def left_behind(hand: ByHand, cycle: str = "9999-00000000-0000-4000-8000-000000000000") -> None:
    """Leave a snapshot of ours on the VM, as a run that was lost does."""
    hand.world.vcenter_control.take_snapshot(hand.vm.source.moref, snapshot_name(hand.replication.ref, cycle))


def locked_removal(hand: ByHand) -> None:
    """Leave a delta on the VM that cannot be merged for now, without any snapshot."""
    control, source = hand.world.vcenter_control, hand.vm.source
    theirs = control.take_snapshot(source.moref, "nightly backup")
    control.lock_consolidation(source.moref, locked=True)
    control.remove_snapshot(source.moref, theirs)
    assert control.vm(source.name).consolidation_needed


def refused_removal(hand: ByHand) -> None:
    """Leave a snapshot of ours on the VM whose removal fails for now."""
    left_behind(hand)
    hand.world.vcenter_control.ask(FaultRequest(FaultName.METHOD, count=0, method="RemoveSnapshot_Task", fault="FileLocked"))


@pytest.mark.parametrize(
    ("obstacle", "kind"),
    [(refused_removal, ErrorKind.VSPHERE_FAULT), (locked_removal, ErrorKind.CONSOLIDATION_STUCK)],
    ids=["not removed", "not consolidated"],
)
def test_complaint_8_the_last_snapshot_is_removed_and_consolidated_before_the_next_is_taken(
    by_hand: Callable[..., ByHand], dice: random.Random, obstacle: Callable[[ByHand], None], kind: ErrorKind
) -> None:
    """Forklift, MTV-1656: the next snapshot taken before the last was removed, or merged, corrupted file systems."""
    hand = by_hand("c8", MIB)
    control, source = hand.world.vcenter_control, hand.vm.source
    hand.prepare()
    copy_everything(hand)
    hand.vm.write(0, 0, dice.randbytes(GRANULE))
    obstacle(hand)
    before = control.calls().get("CreateSnapshotEx_Task", 0)
    with pytest.raises(ApplicationError) as caught:
        hand.begin(CycleKind.DELTA)
    assert (caught.value.type, caught.value.non_retryable) == (kind.value, False)
    assert control.calls().get("CreateSnapshotEx_Task", 0) == before

    control.clear_faults()
    control.lock_consolidation(source.moref, locked=False)
    key, begun = hand.begin(CycleKind.DELTA)
    assert len(control.vm(source.name).snapshots) == 1
    carry_on(hand, key, begun)
    assert not control.vm(source.name).consolidation_needed


@contextmanager
def writing(hand: ByHand, seed: int) -> Iterator[None]:
    """Have the guest write all the time inside the block."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        source = random.Random(seed)
        try:
            while not stop.is_set():
                random_write(hand.vm, source, 64)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed == []


def test_complaint_8_what_a_guest_writes_while_snapshots_come_go_and_merge_is_in_the_next_cycle(
    by_hand: Callable[..., ByHand],
) -> None:
    """Forklift MTV-1656, CDI #3534 and #3242: file systems were damaged after warm migrations. Every byte is compared."""
    hand = by_hand("c8-writing", 2 * MIB + SECTOR, MIB)
    control = hand.world.vcenter_control
    control.set_times(consolidation_s=0.3, snapshot_s=0.1)
    try:
        with writing(hand, 8):
            hand.prepare()
            copy_everything(hand)
            for _ in range(2):
                carry_delta(hand)
    finally:
        control.set_times(consolidation_s=0.02, snapshot_s=0.02)


def test_complaint_7_what_lost_runs_left_is_removed_and_nothing_of_others(by_hand: Callable[..., ByHand]) -> None:
    """Forklift #301 and #3283, PegaProx #411 and #438: snapshots stay on vCenter after a success or a failure.

    Where a removal failed, what is left is found by its name: by the next cycle, and by the end of the replication.
    """
    hand = by_hand("c7", MIB)
    control, source = hand.world.vcenter_control, hand.vm.source
    hand.prepare()
    copy_everything(hand)
    theirs = control.take_snapshot(source.moref, "before an update")
    for number in (7, 8):
        left_behind(hand, f"{number}-00000000-0000-4000-8000-000000000000")
    carry_delta(hand)
    assert [snapshot.moref for snapshot in control.vm(source.name).snapshots] == [theirs]

    hand.begin(CycleKind.DELTA)
    left_behind(hand)
    control.ask(FaultRequest(FaultName.METHOD, method="RemoveSnapshot_Task", fault="FileLocked"))
    with pytest.raises(ApplicationError) as caught:
        hand.clean()
    assert not caught.value.non_retryable
    assert control.vm(source.name).extra_config.get("deltaferry.claim"), "the claim is removed last: the VM stays ours to clean"
    hand.clean()
    after = control.vm(source.name)
    assert [snapshot.moref for snapshot in after.snapshots] == [theirs]
    assert (after.change_tracking, after.extra_config.get("deltaferry.claim", "")) == (False, "")
