"""Resync and scrub, step by step: what differs is found where it is, only that is sent, and the seed is the source again."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import cast

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import checksum_map_prefix, gateway_container, seed_container, seed_name
from deltaferry.model.replication import CycleKind
from deltaferry.model.units import GRANULE, MIB, SECTOR
from deltaferry.planning.ladder import Rung
from lab.vcenter.tracking import StarAnswer
from tests.e2e.by_hand import ByHand
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated
from workflows.messages.replication_state import DiskPosition

_NO_TEMPORAL = cast("Client", None)
_DISKS = (9 * MIB + 37 * SECTOR, 5 * MIB)
Make = Callable[..., ByHand]


@pytest.fixture
def replicated(lab: Lab, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Make a VM whose initial replication is committed; every step from then on can be carried out twice."""
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)
    made: list[ByHand] = []

    def make(*, twice: bool = False, chunk_max: timedelta = timedelta(minutes=15), disks: tuple[int, ...] = _DISKS) -> ByHand:
        vm = Replicated.create(lab.world, _NO_TEMPORAL, request.node.name, disks)
        again = False
        hand = ByHand(vm, 64 * MIB, lambda: again, chunk_max)
        made.append(hand)
        hand.prepare()
        hand.initial()
        again = twice
        return hand

    yield make
    for hand in made:
        try:
            hand.clean()
        finally:
            hand.close()


def flip(hand: ByHand, disk: int, offset: int) -> None:
    """Change a byte of a seed as decay of the storage would: behind our back, under whatever number."""
    key = hand.vm.source.disks[disk].key
    service = hand.vm.blobs("seed")
    with service, service.get_blob_client(seed_container(hand.replication.ref), seed_name(key)) as blob:
        sector = offset // SECTOR * SECTOR
        page = bytearray(blob.download_blob(sector, SECTOR).readall())
        page[offset - sector] ^= 1
        blob.upload_page(bytes(page), sector, SECTOR)


def test_a_flipped_byte_is_found_where_it_is_and_only_its_granule_is_sent(replicated: Make) -> None:
    hand = replicated()
    offset = 5 * GRANULE + 777
    flip(hand, 1, offset)
    first, second = hand.scrub()
    assert (first.differing_bytes, first.first_differences) == (0, ())
    assert (second.differing_bytes, second.first_differences) == (GRANULE, (5 * GRANULE,))
    found, frozen, point = hand.resync()
    assert found.differing_bytes == GRANULE
    assert hand.seeds(point) == frozen == hand.present_seeds()
    assert [seed.differing_bytes for seed in hand.scrub()] == [0, 0]


@pytest.mark.parametrize("rung", [Rung.ALLOCATED, Rung.WHOLE])
@pytest.mark.chaos
def test_a_resync_without_any_change_id_brings_what_changed_and_nothing_else(replicated: Make, rung: Rung) -> None:
    hand = replicated()
    hand.vm.write(0, 3 * MIB + 512, b"changed" * 512)
    hand.vm.write(0, _DISKS[0] - SECTOR, b"e" * SECTOR)
    hand.vm.write(1, 2 * GRANULE, bytes(GRANULE))
    source = hand.vm.source_bytes(0), hand.vm.source_bytes(1)
    before = hand.present_seeds()
    changed = sum(
        len(new[at : at + GRANULE])
        for old, new in zip(before, source, strict=True)
        for at in range(0, len(new), GRANULE)
        if old[at : at + GRANULE] != new[at : at + GRANULE]
    )
    hand.vm.world.vcenter_control.set_tracking(hand.vm.source.moref, reset=True)
    found, frozen, point = hand.resync(rung)
    assert found.differing_bytes == changed
    assert tuple(frozen) == source
    assert hand.seeds(point) == frozen
    if rung is Rung.WHOLE:
        assert found.compared_bytes == sum(_DISKS)
    hand.vm.write(0, 0, b"next" * 128)
    hand.delta()
    assert hand.present_seeds() == [hand.vm.source_bytes(0), hand.vm.source_bytes(1)]


@pytest.mark.chaos
def test_a_resync_in_the_smallest_chunks_with_every_step_twice_ends_the_same(replicated: Make) -> None:
    hand = replicated(twice=True, chunk_max=timedelta(0), disks=(4 * MIB + 3 * SECTOR, MIB))
    hand.vm.scribble(5)
    flip(hand, 0, 2 * MIB)
    _, frozen, point = hand.resync(Rung.WHOLE)
    assert hand.repeated >= {"begin_resync", "check_seed", "compare_source", "plan_resync"}
    assert hand.seeds(point) == frozen == hand.present_seeds()


@pytest.mark.chaos
def test_a_full_copy_in_the_ladder_reads_nothing_to_compare_and_sends_everything(replicated: Make) -> None:
    hand = replicated()
    flip(hand, 0, 4 * MIB)
    found, frozen, point = hand.resync(Rung.FULL)
    assert (found.compared_bytes, found.differing_bytes) == (0, sum(_DISKS))
    assert hand.seeds(point) == frozen


def test_what_a_crash_left_half_applied_is_found_and_mended(replicated: Make) -> None:
    hand = replicated()
    hand.vm.write(1, 4 * GRANULE, b"half" * (GRANULE // 4))
    key, begun = hand.begin(CycleKind.DELTA)
    sent, _ = hand.send(key, begun, hand.unsent(begun))
    hand.apply(key, sent, CycleKind.DELTA)
    hand.release()
    _, second = hand.scrub()
    assert (second.differing_bytes, second.first_differences) == (GRANULE, (4 * GRANULE,))
    hand.vm.write(1, 4 * GRANULE, b"last" * (GRANULE // 4))
    _, frozen, point = hand.resync()
    assert hand.seeds(point) == frozen
    assert frozen[1] == hand.vm.source_bytes(1)


def test_pages_where_the_source_has_nothing_are_cleared(replicated: Make) -> None:
    hand = replicated()
    zeros = next(at for at in range(0, 5 * MIB, GRANULE) if not any(hand.vm.source_bytes(1)[at : at + GRANULE]))
    flip(hand, 1, zeros + 3)
    found, frozen, point = hand.resync()
    assert found.differing_bytes == GRANULE
    assert hand.seeds(point) == frozen


@pytest.mark.chaos
def test_where_the_datastore_cannot_tell_what_is_allocated_everything_is_compared(replicated: Make) -> None:
    hand = replicated()
    hand.vm.world.vcenter_control.set_tracking(hand.vm.source.moref, star=StarAnswer.NO_EPOCH)
    found, frozen, point = hand.resync()
    assert (found.compared_bytes, found.differing_bytes) == (sum(_DISKS), 0)
    assert hand.seeds(point) == frozen


@pytest.mark.chaos
def test_a_damaged_checksum_map_is_compared_as_unknown_and_is_whole_again_afterwards(replicated: Make) -> None:
    hand = replicated()
    container = gateway_container(hand.replication.ref)
    name = f"{checksum_map_prefix(hand.vm.source.disks[1].key)}{0:06d}"
    with hand.vm.blobs("gateway") as service:
        blob = service.get_blob_client(container, name)
        stored = bytearray(blob.download_blob().readall())
        stored[99] ^= 4
        blob.upload_blob(bytes(stored), overwrite=True)
    found, frozen, point = hand.resync()
    assert found.differing_bytes == _DISKS[1]
    assert hand.seeds(point) == frozen
    assert [seed.differing_bytes for seed in hand.scrub()] == [0, 0]


@pytest.mark.chaos
def test_a_seal_that_is_behind_the_seeds_is_refused_with_the_number_found(replicated: Make) -> None:
    hand = replicated()
    hand.state.fence -= 2
    with pytest.raises(ApplicationError) as caught:
        hand.check_seeds("9-x", tuple(DiskPosition(disk.key, 0) for disk in hand.replication.disks), seal=True)
    assert caught.value.type == ErrorKind.FENCED.value
    assert caught.value.details[0] == hand.state.fence + 1


def test_an_overtaken_apply_cannot_change_what_was_checked(replicated: Make) -> None:
    hand = replicated()
    hand.vm.write(1, 0, random.Random(1).randbytes(SECTOR))
    key, begun = hand.begin(CycleKind.DELTA)
    sent, _ = hand.send(key, begun, hand.unsent(begun))
    late = hand.apply_request(key, sent, CycleKind.DELTA)
    hand.release()
    checked = hand.check_seeds("8-x", (DiskPosition(hand.replication.disks[1].key, 0),), seal=True)
    with pytest.raises(ApplicationError) as caught:
        hand.do(hand.applies.apply, late)
    assert caught.value.type == ErrorKind.FENCED.value
    assert checked[0].differing_bytes == 0


def test_a_change_that_tracking_does_not_report_is_found_by_the_samples_turn_and_mended_by_a_resync(replicated: Make) -> None:
    hand = replicated()
    key = hand.vm.source.disks[1].key
    hand.vm.world.vcenter_control.set_tracking(hand.vm.source.moref, keys=(key,), omitted=(60 * GRANULE, 2 * GRANULE))
    hand.vm.write(1, 60 * GRANULE + 512, b"missed" * 512)
    hand.vm.write(1, 0, b"reported" * 64)
    _, begun = hand.begin(CycleKind.DELTA, 0.5, 0)
    half = -(-_DISKS[0] // GRANULE) // 2 * GRANULE
    assert begun.sampled_bytes == half + 5 * MIB // 2 - GRANULE, "what is planned is not sampled"
    hand.release()
    with pytest.raises(ApplicationError) as caught:
        hand.begin(CycleKind.DELTA, 0.5, 1)
    assert caught.value.type == ErrorKind.CBT_MISSED_CHANGES.value
    assert "Hard disk 2" in caught.value.message and f"offset {60 * GRANULE}." in caught.value.message
    found, frozen, point = hand.resync(Rung.WHOLE)
    assert found.differing_bytes == 2 * GRANULE
    assert hand.seeds(point) == frozen == [hand.vm.source_bytes(0), hand.vm.source_bytes(1)]
    _, begun = hand.begin(CycleKind.DELTA, 1.0, 7)
    assert begun.sampled_bytes == sum(_DISKS)
    hand.release()


@pytest.mark.chaos
def test_an_honest_cycle_is_sampled_without_complaint_and_one_without_share_reads_nothing(replicated: Make) -> None:
    hand = replicated()
    hand.vm.scribble(5)
    _, begun = hand.begin(CycleKind.DELTA)
    assert begun.sampled_bytes == 0
    hand.release()
    _, begun = hand.begin(CycleKind.DELTA, 1.0)
    planned = sum(disk.plan.covered_bytes for disk in begun.disks)
    assert begun.sampled_bytes == sum(_DISKS) - planned
    hand.release()
