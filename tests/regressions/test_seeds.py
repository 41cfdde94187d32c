"""What the replica's disks hold: complaints 4 and 24."""

import itertools
import random
from collections.abc import Callable
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.client import Client

from deltaferry.blocks.plan import decode_plan, encode_plan, make_plan
from deltaferry.model.extents import Extent
from deltaferry.model.replication import CycleKind
from deltaferry.model.units import GRANULE, MAX_SEED_BYTES, MIB, SECTOR
from lab.settings import DATASTORES, ESXI_HOSTS, NETWORKS
from lab.vcenter.inventory_file import DiskSpec, NicSpec, VmSpec
from lab.world import World
from tests.e2e.by_hand import ByHand
from tests.e2e.replicated import Replicated
from tests.regressions.whole_cycles import carry_delta, copy_everything

CAPACITIES = st.integers(1, MAX_SEED_BYTES // SECTOR).map(lambda sectors: sectors * SECTOR)


@settings(max_examples=200, deadline=None)
@given(capacity=CAPACITIES, areas=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 200)), max_size=8))
def test_complaint_4_no_read_goes_beyond_a_disk_of_any_size(capacity: int, areas: list[tuple[float, int]]) -> None:
    """migratekit #53, #65 and #77, XO #9233, WAC #307: areas in whole 64 KiB end behind an odd disk, and its last read fails.

    Four products lost hours at 98 %. Every plan ends with the disk, and covers it to its last sector.
    """
    granules = -(-capacity // GRANULE)
    told = [Extent(int(at * (granules - 1)) * GRANULE, length * GRANULE) for at, length in areas]
    told.append(Extent((granules - 1) * GRANULE, GRANULE))
    plan = decode_plan(encode_plan(make_plan(capacity, told, [Extent(0, capacity)])))
    entries = list(itertools.chain.from_iterable(plan.segment(number) for number in range(plan.segments)))
    assert all(second.extent.offset_bytes == first.extent.end_bytes for first, second in itertools.pairwise(entries))
    assert (entries[0].extent.offset_bytes, entries[-1].extent.end_bytes) == (0, capacity)
    assert not entries[-1].hole
    assert plan.covered_bytes == capacity


def test_complaint_4_disks_of_odd_sizes_are_carried_to_their_last_sector(
    by_hand: Callable[..., ByHand], dice: random.Random
) -> None:
    """The same, carried out: one sector; one less and one more than a granule and than a block; nothing after the end."""
    hand = by_hand("c4", SECTOR, GRANULE - SECTOR, GRANULE + SECTOR, 4 * MIB - SECTOR, 4 * MIB + SECTOR)
    hand.prepare()
    copy_everything(hand)
    for number, disk in enumerate(hand.vm.source.disks):
        hand.vm.write(number, disk.capacity_bytes - SECTOR, dice.randbytes(SECTOR))
    carry_delta(hand)


def test_complaint_24_what_became_a_hole_is_cleared_on_a_seed_that_was_written_before(
    world: World, by_hand: Callable[..., ByHand], dice: random.Random
) -> None:
    """vJailbreak #2208: zeros are left out on a target that does not read as zero, which corrupts it.

    A copy that was lost has written to the seed; the VM is reverted, so that what it wrote is not allocated any more; the
    copy that begins again clears it. Only a seed that nobody has written to is taken to read as zero.
    """
    spec = VmSpec(
        name=f"c24-{dice.randrange(1 << 32):08x}",
        host=ESXI_HOSTS[0].name,
        datastore=DATASTORES[0].name,
        disks=(DiskSpec(2 * MIB, "Hard disk 1"),),
        nics=(NicSpec(NETWORKS[0]),),
    )
    control = world.vcenter_control
    vm = Replicated(world, cast("Client", None), spec.name, control.add_vm(spec), dice)
    hand = by_hand(spec.name, vm=vm)
    hand.prepare()
    empty = control.take_snapshot(vm.source.moref, "before the installation")
    vm.write(0, 3 * GRANULE, dice.randbytes(GRANULE))
    key, begun = hand.begin(CycleKind.INITIAL)
    sent, left = hand.send(key, begun, hand.unsent(begun))
    assert not left
    hand.apply(key, sent, CycleKind.INITIAL)
    assert any(hand.present_seeds()[0])
    hand.release()
    hand.discard_logs()

    control.revert(vm.source.moref, empty)
    control.power_on(vm.source.moref)
    copy_everything(hand)
    assert hand.present_seeds() == [bytes(2 * MIB)]
