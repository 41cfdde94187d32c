"""What a cycle takes as its base, and that it carries every disk: B2, B3, B7, B8 and B12."""

import random
from collections.abc import Callable
from typing import cast

import pytest
from temporalio.client import Client

from deltaferry.model.naming import COMMIT_RECORD, gateway_container
from deltaferry.model.replication import CycleKind
from deltaferry.model.units import GRANULE, MIB, SECTOR
from lab.vcenter.inventory_file import DiskSpec
from lab.world import World
from tests.e2e.by_hand import ByHand
from tests.e2e.replicated import Replicated
from tests.regressions.whole_cycles import carry_delta, carry_on, changed, copy_everything, marked

MANY = 12
"""Disks, and snapshots of others: more than the ten behind which a peer lost them."""


def test_b2_a_first_copy_that_failed_is_no_base_for_a_delta(by_hand: Callable[..., ByHand], dice: random.Random) -> None:
    """os-migrate, migrate.go: the change id is stored before the first copy, so that deltas follow on a half-empty disk.

    Here a pass after a first copy that failed covers everything above the mark up to which the copy was proved, and below
    it what changed since; and no commit record exists that a replication could be started from.
    """
    capacity = 20 * MIB + SECTOR
    hand = by_hand("b2", capacity, chunk_max_bytes=1)
    hand.prepare()
    key, begun = hand.begin(CycleKind.INITIAL)
    hand.mark_dirty(begun)
    sent, left = hand.send(key, begun, hand.unsent(begun))
    assert left, "the copy is cut in its middle"
    hand.apply(key, sent, CycleKind.INITIAL)
    hand.release()
    hand.discard_logs()

    unproved = hand.begin(CycleKind.DELTA)[1]
    assert changed(unproved) == {base.disk_key: capacity for base in hand.state.bases}
    hand.release()

    marked(hand, begun, sent[0].position_bytes)
    hand.state.dirty = ()
    hand.vm.write(0, 0, dice.randbytes(SECTOR))
    key, again = hand.begin(CycleKind.DELTA)
    assert changed(again) == {hand.vm.source.disks[0].key: GRANULE + capacity - sent[0].position_bytes}
    names = [name for name in hand.picture() if name.startswith(f"{gateway_container(hand.replication.ref)}/{COMMIT_RECORD}")]
    assert names == []
    carry_on(hand, key, again)


def test_b3_what_a_commit_carried_is_not_carried_again(by_hand: Callable[..., ByHand], dice: random.Random) -> None:
    """os-migrate never advances its change id: every sync sends again all that changed since the first day."""
    hand = by_hand("b3", 8 * MIB)
    hand.prepare()
    copy_everything(hand)
    (disk,) = hand.vm.source.disks
    for number in range(3):
        hand.vm.write(0, number * 4 * GRANULE, dice.randbytes(GRANULE))
        assert changed(carry_delta(hand)) == {disk.key: GRANULE}
    assert changed(carry_delta(hand)) == {disk.key: 0}


def test_b7_each_disk_has_its_own_change_id_whatever_order_vcenter_lists_them_in(
    world: World, by_hand: Callable[..., ByHand], dice: random.Random
) -> None:
    """vJailbreak, vmops.go: a snapshot's disks are taken for the VM's by index, so that disk B gets disk A's change id.

    The lab's vCenter lists a snapshot's disks in another order than the VM's, as real ones do; here one of the keys in the
    middle is also missing, and all disks are of one size, so that nothing but the key tells them apart.
    """
    vm = Replicated.create(world, cast("Client", None), "b7", (MIB,))
    control, source = world.vcenter_control, vm.source
    keys = [control.add_disk(source.moref, DiskSpec(MIB, f"Hard disk {number}")) for number in (2, 3, 4)]
    control.remove_disk(source.moref, keys[1])
    vm.source = control.vm(source.name)
    hand = by_hand("b7", vm=vm)
    hand.prepare()
    copy_everything(hand)
    for number, _ in enumerate(hand.vm.source.disks):
        hand.vm.write(number, number * GRANULE, dice.randbytes((number + 1) * GRANULE))
    begun = carry_delta(hand)
    expected = {disk.key: disk.tracking_uuid for disk in control.vm(source.name).disks}
    assert len(set(expected.values())) == 3
    assert {disk.disk_key: disk.change_id.partition("/")[0] for disk in begun.disks} == expected
    assert changed(begun) == {disk.key: (number + 1) * GRANULE for number, disk in enumerate(hand.vm.source.disks)}


def test_b8_a_disk_without_changes_does_not_end_the_cycle_for_the_disks_after_it(
    by_hand: Callable[..., ByHand], dice: random.Random
) -> None:
    """Coriolis, replicator.py: a `return` inside the loop over a VM's disks, where one has no changes, skips all others."""
    hand = by_hand("b8", MIB, MIB, MIB)
    hand.prepare()
    copy_everything(hand)
    for busy, disk in enumerate(hand.vm.source.disks):
        hand.vm.write(busy, 0, dice.randbytes(SECTOR))
        assert changed(carry_delta(hand)) == {
            other.key: GRANULE if other.key == disk.key else 0 for other in hand.vm.source.disks
        }


@pytest.mark.chaos
def test_b12_no_disk_is_lost_on_a_vm_with_many_disks_and_many_snapshots_of_others(
    by_hand: Callable[..., ByHand], dice: random.Random
) -> None:
    """Xen Orchestra, before PR #10194: of a VM with ten snapshots or disks or more, the rest was silently left out."""
    hand = by_hand("b12", *(MIB + number * SECTOR for number in range(MANY)))
    control, source = hand.world.vcenter_control, hand.vm.source
    hand.prepare()
    theirs = [control.take_snapshot(source.moref, f"nightly {number}") for number in range(MANY)]
    assert len(copy_everything(hand).disks) == MANY
    for number, disk in enumerate(source.disks):
        hand.vm.write(number, disk.capacity_bytes - SECTOR, dice.randbytes(SECTOR))
    covered = changed(carry_delta(hand))
    assert len(covered) == MANY
    assert all(covered.values())
    assert [snapshot.moref for snapshot in control.vm(source.name).snapshots] == theirs
