"""How much room a snapshot needs, and how much it is expected to take (spec §2.7)."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.errors import ErrorKind
from deltaferry.model.vm import DatastoreSpace, SourceDisk
from deltaferry.planning.datastores import (
    Shortage,
    growth_by_datastore,
    shortages_before,
    shortages_while_held,
)
from deltaferry.planning.failure import Course, after_failure, wait_for_room
from deltaferry.planning.growth import PastCycle, expected_growth

GIB = 1 << 30
MIB = 1 << 20
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def space(free_gib: int, name: str = "ds1") -> DatastoreSpace:
    return DatastoreSpace(name, 100 * GIB, free_gib * GIB)


def disk(key: int, datastore: str) -> SourceDisk:
    return SourceDisk(key, "", f"disk {key}", GIB, "", datastore, 0, 0, False, False, False, False, False)


def cycle(after: timedelta, changed: int, *, took: timedelta = timedelta(minutes=6), key: int = 2000) -> PastCycle:
    return PastCycle(NOON + after, took, ((key, changed),))


@pytest.mark.parametrize(("free", "growth", "short"), [(10, 0, False), (9, 0, True), (10, 11, True), (30, 30, False)])
def test_before_a_snapshot_ten_percent_or_the_expected_growth_are_free(free: int, growth: int, short: bool) -> None:
    assert bool(shortages_before([space(free)], {"ds1": growth * GIB, "ds2": 90 * GIB})) is short


def test_every_datastore_that_is_short_is_named_with_its_numbers() -> None:
    found = shortages_before([space(9, "ds1"), space(50, "ds2"), space(20, "ds3")], {"ds3": 25 * GIB})
    assert found == (
        Shortage("ds1", "Datastore ds1 has 9 GiB free of 100 GiB; a snapshot needs 10 GiB to be free."),
        Shortage("ds3", "Datastore ds3 has 20 GiB free of 100 GiB; a snapshot needs 25 GiB to be free."),
    )


def test_a_held_snapshot_is_released_below_ten_percent_with_the_numbers() -> None:
    assert shortages_while_held([space(10, "ds1"), space(9, "ds2")]) == (
        Shortage("ds2", "Datastore ds2 has 9 GiB free of 100 GiB; while a snapshot is held, 10 GiB have to stay free."),
    )


@given(
    capacity=st.integers(10, 1 << 44),
    growth=st.integers(0, 1 << 44),
    free=st.integers(0, 1 << 44),
    grown=st.fractions(min_value=0, max_value=1),
)
def test_a_snapshot_that_grows_as_expected_is_never_released_for_its_growth(
    capacity: int, growth: int, free: int, grown: float
) -> None:
    free = min(free, capacity)
    if shortages_before([DatastoreSpace("ds1", capacity, free)], {"ds1": growth}):
        return
    left = free - int(growth * grown)
    released = bool(shortages_while_held([DatastoreSpace("ds1", capacity, left)]))
    assert released is (left < capacity * 10 // 100)


def test_growth_counts_on_the_datastore_of_each_disk() -> None:
    disks = [disk(2000, "ds1"), disk(2001, "ds2"), disk(2002, "ds2")]
    by_datastore = growth_by_datastore(disks, ((2000, 5), (2001, 7), (2002, 1), (2999, 100)))
    assert dict(by_datastore) == {"ds1": 5, "ds2": 8}
    assert growth_by_datastore(disks, ()).get("ds1", 0) == 0


def test_growth_is_the_rate_of_change_over_the_time_that_a_snapshot_is_held_twice() -> None:
    cycles = [cycle(timedelta(0), 999 * MIB), cycle(timedelta(hours=1), 600 * MIB)]
    assert expected_growth(cycles, {2000: GIB}) == ((2000, 2 * 60 * MIB),)
    assert expected_growth(cycles, {2000: GIB}, timedelta(hours=1)) == ((2000, GIB),)


def test_the_busiest_interval_and_the_longest_cycle_count() -> None:
    cycles = [
        cycle(timedelta(0), 0),
        cycle(timedelta(hours=1), 600 * MIB),
        cycle(timedelta(hours=3), 600 * MIB, took=timedelta(minutes=12)),
    ]
    assert expected_growth(cycles, {2000: GIB}) == ((2000, 4 * 60 * MIB),)


def test_a_delta_never_gets_larger_than_its_disk() -> None:
    cycles = [cycle(timedelta(0), 0), cycle(timedelta(seconds=1), GIB)]
    assert expected_growth(cycles, {2000: GIB}) == ((2000, GIB),)


@pytest.mark.parametrize(
    "cycles",
    [[], [cycle(timedelta(0), GIB)], [cycle(timedelta(0), GIB), cycle(timedelta(0), GIB)]],
    ids=["none", "one", "two at once"],
)
def test_where_nothing_is_known_no_growth_is_expected(cycles: list[PastCycle]) -> None:
    assert expected_growth(cycles, {2000: GIB}) == ()


def test_a_disk_that_is_no_longer_replicated_is_not_expected_to_grow() -> None:
    assert expected_growth([cycle(timedelta(0), 0), cycle(timedelta(hours=1), GIB)], {2001: GIB}) == ()


@pytest.mark.parametrize("integrity_failures", [0, 1, 2, 9])
def test_a_full_datastore_never_leads_to_a_repair(integrity_failures: int) -> None:
    decision = after_failure(ErrorKind.DATASTORE_FULL, integrity_failures)
    assert decision.course is Course.NEXT_CYCLE
    assert "once there is room" in decision.reason


def test_a_copy_waits_some_minutes_for_room_but_not_longer_than_the_sites_interval() -> None:
    assert wait_for_room(timedelta(hours=1)) == timedelta(minutes=10)
    assert wait_for_room(timedelta(seconds=2)) == timedelta(seconds=2)
