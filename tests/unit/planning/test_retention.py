from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.recovery_points import PointDisk, PointKind, RecoveryPointRecord
from deltaferry.planning.retention import Choice, PointChoice, all_but, choose, expired, in_order, latest

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
H = timedelta(hours=1)
CRASH, APP = PointKind.CRASH_CONSISTENT, PointKind.APP_CONSISTENT


def point(number: int, age_h: float, kind: PointKind = CRASH) -> RecoveryPointRecord:
    taken = NOW - age_h * H
    return RecoveryPointRecord(key(number), kind, taken, taken, number, (PointDisk(2000, f"s{number}", 512),))


def key(number: int) -> str:
    return f"{number}-00000000-0000-4000-8000-{number:012d}"


def keys(*numbers: int) -> tuple[str, ...]:
    return tuple(key(number) for number in numbers)


@pytest.mark.parametrize(
    ("points", "retention_h", "held", "gone"),
    [
        ([], 24, (), ()),
        ([point(1, 0)], 24, (), ()),
        ([point(1, 100)], 24, (), ()),
        ([point(1, 24), point(2, 1)], 24, (), ()),
        ([point(1, 24.01), point(2, 1)], 24, (), (1,)),
        ([point(1, 30), point(2, 26), point(3, 25)], 24, (), (1, 2)),
        ([point(1, 30, APP), point(2, 26), point(3, 25)], 24, (), (2,)),
        ([point(1, 40, APP), point(2, 30, APP), point(3, 1)], 24, (), (1,)),
        ([point(1, 40), point(2, 30, APP)], 24, (), (1,)),
        ([point(1, 30), point(2, 26), point(3, 25)], 24, (1,), (2,)),
        ([point(1, 30), point(2, 26), point(3, 25)], None, (2,), (1,)),
        ([point(1, 2, APP), point(2, 1)], None, (), (1,)),
        ([point(9, 30), point(10, 29), point(11, 1)], 24, (), (9, 10)),
    ],
    ids=str,
)
def test_pruning(
    points: list[RecoveryPointRecord], retention_h: float | None, held: tuple[int, ...], gone: tuple[int, ...]
) -> None:
    retention = None if retention_h is None else retention_h * H
    assert expired(points, retention, NOW, keys(*held)) == keys(*gone)


def test_the_latest_is_the_one_committed_last_whatever_the_source_clock_says() -> None:
    points = [point(1, -1000), point(2, 30)]
    assert latest(points) == points[1]
    assert expired(points, 24 * H, NOW, ()) == ()
    committed = replace(points[0], committed_at=NOW - 48 * H)
    assert expired([committed, points[1]], 24 * H, NOW, ()) == keys(1)


POINTS = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(-10, 400), st.sampled_from(PointKind)),
    max_size=30,
    unique_by=lambda entry: entry[0],
).map(lambda entries: [point(*entry) for entry in entries])
RETENTIONS = st.one_of(st.none(), st.integers(0, 360).map(lambda hours: hours * H))


@given(POINTS, RETENTIONS, st.data())
def test_what_must_stay_stays_and_everything_else_goes(
    points: list[RecoveryPointRecord], retention: timedelta | None, data: st.DataObject
) -> None:
    held = set(data.draw(st.lists(st.sampled_from([p.cycle_key for p in points]), max_size=5))) if points else set()
    gone = set(expired(points, retention, NOW, held))
    left = [p for p in points if p.cycle_key not in gone]
    assert latest(left) == latest(points)
    assert not gone & held
    for p in points:
        if retention is not None and NOW - p.taken_at <= retention:
            assert p.cycle_key not in gone
    if retention is not None:
        assert latest(left, APP) == latest(points, APP)
    allowed = held | {p.cycle_key for p in (latest(points), latest(points, APP)) if p}
    for p in left:
        inside = retention is not None and NOW - p.taken_at <= retention
        assert inside or p.cycle_key in allowed
    assert expired(left, retention, NOW, held) == ()


@given(POINTS, st.integers(1, 200), st.integers(1, 200))
def test_a_longer_retention_never_prunes_more(points: list[RecoveryPointRecord], short: int, more: int) -> None:
    assert set(expired(points, (short + more) * H, NOW, ())) <= set(expired(points, short * H, NOW, ()))


def test_a_commit_of_a_failover_deletes_all_points_but_its_own_and_those_in_use() -> None:
    points = [point(3, 1), point(1, 3), point(2, 2), point(4, 0)]
    assert all_but(points, key(2), {key(4)}) == keys(1, 3)


@pytest.mark.parametrize(
    ("choice", "number"),
    [
        (PointChoice(), 4),
        (PointChoice(Choice.LATEST_APP_CONSISTENT), 2),
        (PointChoice(Choice.CHOSEN, cycle_key=key(1)), 1),
        (PointChoice(Choice.AT_OR_BEFORE, instant=NOW - 2.5 * H), 1),
        (PointChoice(Choice.AT_OR_BEFORE, instant=NOW - 2 * H), 2),
    ],
)
def test_a_point_is_chosen_by_kind_cycle_or_time(choice: PointChoice, number: int) -> None:
    points = [point(4, 0), point(1, 3), point(2, 2, APP), point(3, 1)]
    found = choose(points, choice)
    assert isinstance(found, RecoveryPointRecord) and found.fence == number


@pytest.mark.parametrize(
    "choice",
    [
        PointChoice(Choice.LATEST_APP_CONSISTENT),
        PointChoice(Choice.CHOSEN, cycle_key=key(99)),
        PointChoice(Choice.AT_OR_BEFORE, instant=NOW - 9 * H),
        PointChoice(Choice.AT_OR_BEFORE),
        PointChoice(Choice.AT_OR_BEFORE, instant=NOW.replace(tzinfo=None)),
    ],
)
def test_a_point_that_is_not_there_is_a_sentence(choice: PointChoice) -> None:
    said = choose([point(1, 1)], choice)
    assert isinstance(said, str) and said.endswith(".")
    assert isinstance(choose([], PointChoice()), str)


def test_the_changed_bytes_are_known_only_if_they_are_of_every_disk() -> None:
    one = point(1, 1)
    disks = (PointDisk(2000, "a", 512, 5), PointDisk(2001, "b", 512, 7))
    assert replace(one, disks=disks).changed_bytes == 12
    assert replace(one, disks=(*disks, PointDisk(2002, "c", 512))).changed_bytes is None


def test_points_are_in_the_order_of_their_fence_numbers() -> None:
    assert [p.fence for p in in_order([point(10, 1), point(9, 2), point(100, 0)])] == [9, 10, 100]
