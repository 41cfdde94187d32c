"""Change block tracking as facts B1 and F1-F4 have it."""

import re

import pytest

from lab.vcenter.faults_disk import (
    BadChangeId,
    BadStartOffset,
    CannotGetChanges,
    CannotGetChangesReason,
    CorruptTracking,
    NoEpoch,
    NoTrack,
)
from lab.vcenter.tracking import StarAnswer

GRANULE = 64 * 1024


@pytest.fixture
def tracked(disk):
    disk.tracking.enable()
    disk.on_power_on()
    return disk


def cycle(disk, name: str):
    """Take a snapshot, and remove it as replication does; return its change id."""
    change_id = disk.freeze(name).change_id
    disk.release(name)
    disk.consolidate()
    return change_id


def pages(disk, frozen, change_id: str, page_limit: int = 2000):
    found, offset = [], 0
    while offset < frozen.capacity_bytes:
        start, length, areas = disk.tracking.changed_areas(frozen, change_id, offset, page_limit)
        assert start == offset
        found.append((start, length, areas))
        offset += length
    return found


def test_a_change_id_has_vmwares_form(tracked):
    change_id = tracked.freeze("s1").change_id
    assert re.fullmatch(r"52( [0-9a-f]{2}){7}-[0-9a-f]{2}( [0-9a-f]{2}){7}/2", change_id)
    assert tracked.freeze("s2").change_id == change_id[:-1] + "3"


def test_tracking_takes_effect_at_the_next_snapshot_or_power_on(disk, tmp_path):
    disk.tracking.enable()
    disk.write(0, b"x" * 512)
    assert not disk.tracking.active
    first = disk.freeze("s1")
    assert first.change_id is not None
    assert (tmp_path / "web-01-ctk.vmdk").exists()
    disk.tracking.disable()
    assert disk.tracking.active
    disk.release("s1")
    assert not disk.tracking.active
    assert not (tmp_path / "web-01-ctk.vmdk").exists()
    assert disk.freeze("s2").change_id is None
    disk.tracking.enable()
    disk.on_power_on()
    assert disk.tracking.active


def test_areas_are_whole_granules_since_the_change_id_and_nothing_later(tracked):
    tracked.write(0, b"a" * 512)
    since = cycle(tracked, "s1")
    tracked.write(3 * GRANULE - 512, b"b" * 1024)
    frozen = tracked.freeze("s2")
    tracked.write(10 * GRANULE, b"c" * 512)
    assert tracked.tracking.changed_areas(frozen, since, 0) == (0, tracked.capacity_bytes, [(2 * GRANULE, 2 * GRANULE)])
    assert tracked.tracking.changed_areas(frozen, frozen.change_id, 0)[2] == []


def test_several_epochs_are_joined(tracked):
    since = cycle(tracked, "s1")
    for number in range(3):
        tracked.write(number * 2 * GRANULE, b"x" * 512)
        cycle(tracked, f"c{number}")
    areas = tracked.tracking.changed_areas(tracked.freeze("last"), since, 0)[2]
    assert areas == [(0, GRANULE), (2 * GRANULE, GRANULE), (4 * GRANULE, GRANULE)]


def test_zeroing_is_a_change(tracked):
    tracked.write(0, b"x" * GRANULE)
    since = cycle(tracked, "s1")
    tracked.zero(0, 512)
    tracked.zero(GRANULE, 512, allocate=False)
    assert tracked.tracking.changed_areas(tracked.freeze("s2"), since, 0)[2] == [(0, 2 * GRANULE)]


def test_consolidation_and_reading_change_nothing(tracked, read_all):
    tracked.write(0, b"x" * 512)
    frozen = tracked.freeze("s1")
    since = frozen.change_id
    read_all(frozen)
    tracked.release("s1")
    tracked.consolidate()
    assert tracked.tracking.changed_areas(tracked.freeze("s2"), since, 0)[2] == []


def test_the_last_area_ends_at_the_capacity(tracked):
    since = cycle(tracked, "s1")
    tracked.write(tracked.capacity_bytes - 512, b"x" * 512)
    frozen = tracked.freeze("s2")
    tail = tracked.capacity_bytes // GRANULE * GRANULE
    for change_id in (since, "*"):
        assert tracked.tracking.changed_areas(frozen, change_id, 0)[2] == [(tail, tracked.capacity_bytes - tail)]


def test_star_answers_what_was_allocated_at_the_snapshot(tracked):
    tracked.write(512, b"x" * 512)
    tracked.freeze("s1")
    tracked.write(5 * GRANULE, b"x" * GRANULE)
    frozen = tracked.freeze("s2")
    tracked.write(9 * GRANULE, b"x" * 512)
    assert tracked.tracking.changed_areas(frozen, "*", 0)[2] == [(0, GRANULE), (5 * GRANULE, GRANULE)]


def test_star_depends_on_the_datastore(tracked):
    frozen = tracked.freeze("s1")
    tracked.tracking.behaviour.star = StarAnswer.WHOLE_DISK
    assert tracked.tracking.changed_areas(frozen, "*", 512) == (
        512,
        tracked.capacity_bytes - 512,
        [(512, tracked.capacity_bytes - 512)],
    )
    tracked.tracking.behaviour.star = StarAnswer.NO_EPOCH
    with pytest.raises(NoEpoch):
        tracked.tracking.changed_areas(frozen, "*", 0)


def test_a_page_has_at_most_its_limit_and_the_pages_join_to_the_whole(tracked):
    since = cycle(tracked, "s1")
    expected = [(number * 2 * GRANULE, GRANULE) for number in range(60)]
    for start, _ in expected:
        tracked.write(start, b"x" * 512)
    frozen = tracked.freeze("s2")
    found = pages(tracked, frozen, since, page_limit=7)
    assert [len(areas) for _, _, areas in found] == [7] * 8 + [4]
    assert [area for _, _, areas in found for area in areas] == expected
    assert [area for _, _, areas in pages(tracked, frozen, "*", page_limit=7) for area in areas] == expected
    assert len(pages(tracked, frozen, since)) == 1


def test_pages_may_be_empty_in_the_middle(tracked):
    since = cycle(tracked, "s1")
    tracked.write(0, b"x" * 512)
    tracked.write(6 << 20, b"x" * (GRANULE + 512))
    frozen = tracked.freeze("s2")
    tracked.tracking.behaviour.page_cover_bytes = 1 << 20
    found = pages(tracked, frozen, since)
    assert [len(areas) for _, _, areas in found] == [1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert [area for _, _, areas in found for area in areas] == [(0, GRANULE), (6 << 20, 2 * GRANULE)]
    assert sum(length for _, length, _ in found) == tracked.capacity_bytes


@pytest.mark.parametrize("change_id", ["since", "*"])
def test_areas_are_cut_off_at_the_start_offset_and_at_a_pages_edge(tracked, change_id):
    since = cycle(tracked, "s1")
    tracked.write(0, b"x" * (4 * GRANULE))
    frozen = tracked.freeze("s2")
    tracked.tracking.behaviour.page_cover_bytes = GRANULE
    asked = since if change_id == "since" else change_id
    assert tracked.tracking.changed_areas(frozen, asked, GRANULE + 512) == (GRANULE + 512, GRANULE, [(GRANULE + 512, GRANULE)])


def test_areas_may_come_in_any_order(tracked):
    since = cycle(tracked, "s1")
    tracked.write(0, b"x" * 512)
    tracked.write(4 * GRANULE, b"x" * 512)
    tracked.tracking.behaviour.reverse_areas = True
    assert tracked.tracking.changed_areas(tracked.freeze("s2"), since, 0)[2] == [(4 * GRANULE, GRANULE), (0, GRANULE)]


@pytest.mark.parametrize("beyond", [0, 512])
def test_a_start_offset_at_or_behind_the_capacity_is_refused(tracked, beyond):
    with pytest.raises(BadStartOffset):
        tracked.tracking.changed_areas(tracked.freeze("s1"), "*", tracked.capacity_bytes + beyond)
    with pytest.raises(BadStartOffset):
        tracked.tracking.changed_areas(tracked.frozen("s1"), "*", -512)


def test_a_snapshot_without_tracking_is_refused(disk):
    with pytest.raises(NoTrack):
        disk.tracking.changed_areas(disk.freeze("s1"), "*", 0)


def refusal(disk, frozen, change_id: str) -> CannotGetChangesReason:
    with pytest.raises(CannotGetChanges) as caught:
        disk.tracking.changed_areas(frozen, change_id, 0)
    return caught.value.reason


def test_a_change_id_of_another_tracking_is_refused(tracked):
    since = cycle(tracked, "s1")
    tracked.reset_tracking()
    assert refusal(tracked, tracked.freeze("s2"), since) is CannotGetChangesReason.OTHER_UUID


def test_an_epoch_that_the_snapshot_does_not_know_is_refused(tracked):
    frozen = tracked.freeze("s1")
    later = tracked.freeze("s2").change_id
    assert refusal(tracked, frozen, later) is CannotGetChangesReason.UNKNOWN_EPOCH
    assert refusal(tracked, frozen, f"{tracked.tracking.uuid}/0") is CannotGetChangesReason.UNKNOWN_EPOCH


@pytest.mark.parametrize("change_id", ["", "**", "52/1", "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/", "x" * 50])
def test_a_malformed_change_id_is_refused(tracked, change_id):
    with pytest.raises(BadChangeId):
        tracked.tracking.changed_areas(tracked.freeze("s1"), change_id, 0)


def test_corrupt_tracking_is_refused_until_a_reset(tracked):
    tracked.tracking.behaviour.corrupt = True
    with pytest.raises(CorruptTracking):
        tracked.tracking.changed_areas(tracked.freeze("s1"), "*", 0)
    tracked.reset_tracking()
    assert tracked.tracking.changed_areas(tracked.frozen("s1"), "*", 0)


def test_tracking_outlives_power_cycles_but_for_a_hard_power_off_that_loses_it(tracked):
    since = cycle(tracked, "s1")
    tracked.write(0, b"x" * 512)
    tracked.on_power_off(hard=False, reset_tracking=True)
    tracked.on_power_off(hard=True, reset_tracking=False)
    tracked.on_power_on()
    assert tracked.tracking.changed_areas(tracked.freeze("s2"), since, 0)[2] == [(0, GRANULE)]
    tracked.on_power_off(hard=True, reset_tracking=True)
    assert refusal(tracked, tracked.freeze("s3"), since) is CannotGetChangesReason.OTHER_UUID


def test_a_revert_changes_the_tracking_uuid(tracked, read_all):
    frozen = tracked.freeze("s1")
    content = read_all(frozen)
    tracked.write(0, b"x" * 512)
    tracked.revert("s1")
    assert read_all(tracked) == content
    assert refusal(tracked, tracked.freeze("s2"), frozen.change_id) is CannotGetChangesReason.OTHER_UUID


def test_what_is_to_be_left_out_is_missing_from_every_answer_and_nothing_else_is(tracked):
    change_id = cycle(tracked, "s1")
    tracked.write(0, b"x" * 6 * GRANULE)
    frozen = tracked.freeze("s2")
    tracked.tracking.behaviour.omitted = (2 * GRANULE, 3 * GRANULE)
    for asked in (change_id, "*"):
        told = [area for _, _, areas in pages(tracked, frozen, asked) for area in areas]
        assert told == [(0, 2 * GRANULE), (5 * GRANULE, GRANULE)]
    tracked.tracking.behaviour.omitted = None
    assert [area for _, _, areas in pages(tracked, frozen, change_id) for area in areas] == [(0, 6 * GRANULE)]
