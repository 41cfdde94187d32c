from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.recovery_points import PointDisk, PointKind, RecoveryPointRecord
from deltaferry.planning.replication_group import (
    GroupRules,
    MemberNeed,
    MemberPoint,
    contradictions,
    misfits,
    next_point,
    offered,
    spread,
    why_not_shared,
)
from deltaferry.planning.retention import Choice, PointChoice, choose, expired, parse_choice
from deltaferry.planning.slot_vectors import SlotLimits

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
H, S = timedelta(hours=1), timedelta(seconds=1)
KEY = "7-00000000-0000-4000-8000-000000000007"


@pytest.mark.parametrize(
    ("name", "members", "rules", "part"),
    [
        ("shop", ("a", "b"), GroupRules(), None),
        ("shop-2.eu", ("a", "b"), GroupRules(H, H, 300 * S), None),
        ("", ("a", "b"), GroupRules(), "names no group"),
        ("a/b", ("a", "b"), GroupRules(), "names no group"),
        ("shop", tuple(map(str, range(17))), GroupRules(), "at most 16"),
        ("shop", ("a", "a"), GroupRules(), "named twice"),
        ("shop", ("a", "b"), GroupRules(timedelta(0)), "interval"),
        ("shop", ("a", "b"), GroupRules(wait=timedelta(0)), "The wait"),
        ("shop", ("a", "b"), GroupRules(wait=H + S), "at most 1 h"),
        ("shop", ("a", "b"), GroupRules(max_spread=timedelta(0)), "The spread"),
        ("shop", ("a", "b"), GroupRules(max_spread=301 * S), "at most 5 min"),
    ],
)
def test_a_group_that_contradicts_itself_is_refused(
    name: str, members: tuple[str, ...], rules: GroupRules, part: str | None
) -> None:
    found = contradictions(name, members, rules)
    assert found == () if part is None else len(found) == 1 and part in found[0]


def test_snapshots_that_could_never_be_held_together_are_refused_by_datastore() -> None:
    limits = SlotLimits(snapshots_per_datastore=4)
    members = [MemberNeed("a", "h1", 3, (("ds1", 2), ("ds2", 1))), MemberNeed("b", "h2", 3, (("ds1", 3),))]
    (sentence,) = misfits(members, limits)
    assert sentence.startswith("The group has 5 disks on the datastore ds1, where 4 ")
    assert misfits(members, SlotLimits(snapshots_per_datastore=5, disks_per_host=1)) == ()


@given(st.lists(st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 2)), min_size=1, max_size=16))
def test_the_spread_is_that_of_the_first_and_the_last(times: list[datetime]) -> None:
    ordered = sorted(times)
    assert spread(times) == ordered[-1] - ordered[0] >= timedelta(0)


@given(st.lists(st.booleans(), min_size=2, max_size=16), st.timedeltas(timedelta(0), 20 * S), st.timedeltas(timedelta(0), 20 * S))
def test_a_point_is_shared_if_and_only_if_all_committed_within_the_spread(
    committed: list[bool], seen: timedelta, allowed: timedelta
) -> None:
    points = [MemberPoint(f"vm-{number}", one) for number, one in enumerate(committed)]
    assert (why_not_shared(points, seen, allowed) == "") == (all(committed) and seen <= allowed)


def test_who_did_not_commit_a_point_is_named_with_the_cause() -> None:
    points = [MemberPoint("web", True), MemberPoint("db", False, "ChecksumMismatch: granule 7"), MemberPoint("mq", False)]
    assert why_not_shared(points, S, 2 * S) == "db did not commit it: ChecksumMismatch: granule 7; mq did not commit it"


@pytest.mark.parametrize(("took_h", "interval_h", "after_h"), [(0.1, 1, 1), (1, 1, 1.5), (4, 1, 6), (4, 12, 12)])
def test_the_next_point_is_an_interval_after_the_last_began_but_not_at_once_after_a_long_one(
    took_h: float, interval_h: float, after_h: float
) -> None:
    assert next_point(NOW, NOW + took_h * H, interval_h * H) == NOW + after_h * H


@pytest.mark.parametrize(
    ("retentions", "kept"),
    [([24, 24], (1, 5, 24)), ([24, 4], (1,)), ([24, None], (1,)), ([None, None], (1,)), ([1, 0.5], ())],
)
def test_a_shared_point_is_offered_as_long_as_every_member_keeps_its_own(
    retentions: list[float | None], kept: tuple[int, ...]
) -> None:
    ages = (24, 5, 1, 30)
    points = [(f"{age}", NOW - age * H) for age in ages]
    of_members = {f"vm-{n}": None if one is None else one * H for n, one in enumerate(retentions)}
    assert sorted(map(int, offered(points, of_members, NOW))) == sorted(kept)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=12, unique=True), st.lists(st.integers(1, 360), min_size=2, max_size=4))
def test_what_is_offered_is_still_kept_by_the_retention_of_each_member(ages: list[int], retentions: list[int]) -> None:
    """Each member prunes its own points: what the group offers must be among those that all of them keep."""
    points = [
        RecoveryPointRecord(
            f"{n}-x", PointKind.CRASH_CONSISTENT, NOW - age * H, NOW - age * H, n, (PointDisk(1, "s", 1),), shared_key=str(age)
        )
        for n, age in enumerate(sorted(ages, reverse=True))
    ]
    of_members = {str(n): one * H for n, one in enumerate(retentions)}
    offers = offered([(point.shared_key, point.taken_at) for point in points], of_members, NOW)
    for retention in of_members.values():
        gone = set(expired(points, retention, NOW, ()))
        assert not {point.shared_key for point in points if point.cycle_key in gone} & set(offers)


def test_a_shared_point_is_chosen_by_its_common_key() -> None:
    disks = (PointDisk(1, "s", 1),)
    own = RecoveryPointRecord("1-x", PointKind.CRASH_CONSISTENT, NOW, NOW, 1, disks)
    shared = RecoveryPointRecord("2-x", PointKind.CRASH_CONSISTENT, NOW, NOW, 2, disks, shared_key=KEY)
    choice = parse_choice(f"shared:{KEY}")
    assert choice == PointChoice(Choice.SHARED, shared_key=KEY)
    assert isinstance(choice, PointChoice)
    assert choose([own, shared], choice) == shared
    missing = choose([own], choice)
    assert isinstance(missing, str) and KEY in missing
    assert choose([own], PointChoice(Choice.SHARED)) != own


@pytest.mark.parametrize("text", ["shared:", "shared:latest", f"shared:{KEY} ", KEY.upper() + "x"])
def test_what_names_no_shared_point_is_refused_with_what_to_write(text: str) -> None:
    sentence = parse_choice(text)
    assert isinstance(sentence, str) and "shared:KEY" in sentence
