from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.policy import AccountKind, FailbackPolicy, ReplicationPolicy
from deltaferry.planning.policy import (
    PREMIUM_SNAPSHOTS,
    Schedule,
    cautions,
    contradictions,
    failback_contradictions,
    fastest_rpo,
    points_kept,
)

H, M, D = (timedelta(**{unit: 1}) for unit in ("hours", "minutes", "days"))
SITE = Schedule(1 * H, 12 * H)
FINE = ReplicationPolicy("gold", rpo_threshold=4 * H, app_consistent_every=4 * H)
PREMIUM = replace(SITE, account=AccountKind.PREMIUM)


def test_the_defaults_are_a_day_of_crash_consistent_points() -> None:
    policy = ReplicationPolicy("gold", 4 * H)
    assert (policy.retention, policy.app_consistent_every) == (24 * H, None)
    assert contradictions(policy, SITE) == ()
    assert cautions(policy, SITE) == ()


@pytest.mark.parametrize(
    ("policy", "schedule", "part"),
    [
        (replace(FINE, name=""), SITE, "name"),
        (replace(FINE, name="-x"), SITE, "name"),
        (replace(FINE, name="x" * 64), SITE, "name"),
        (replace(FINE, retention=15 * D + M), SITE, "at most 15 days"),
        (replace(FINE, retention=0 * H, app_consistent_every=None), SITE, "keep the latest recovery point only"),
        (replace(FINE, app_consistent_every=59 * M), SITE, "between 1 and 12 hours"),
        (replace(FINE, app_consistent_every=12 * H + M), SITE, "between 1 and 12 hours"),
        (replace(FINE, retention=4 * H), SITE, "not shorter than the retention"),
        (replace(FINE, retention=3 * H), SITE, "not shorter than the retention"),
        (replace(FINE, rpo_threshold=1 * H), SITE, "cannot be met"),
        (replace(FINE, rpo_threshold=-1 * H), SITE, "longer than nothing"),
        (replace(FINE, retention=15 * D), PREMIUM, "write a retention of at most 98 h"),
        (FINE, replace(PREMIUM, minimum_interval=9 * M), "every 10 min at most"),
        (replace(FINE, failback=FailbackPolicy(interval=4 * M)), SITE, "failback interval"),
        (replace(FINE, failback=FailbackPolicy(1 * H, rpo_threshold=1 * H)), SITE, "failback RPO threshold"),
    ],
)
def test_a_contradiction_is_one_sentence_that_says_what_to_write(
    policy: ReplicationPolicy, schedule: Schedule, part: str
) -> None:
    found = contradictions(policy, schedule)
    assert [part in sentence for sentence in found].count(True) == 1, found
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in found)


@pytest.mark.parametrize(
    "policy",
    [
        replace(FINE, retention=15 * D),
        replace(FINE, retention=4 * H + M),
        replace(FINE, app_consistent_every=1 * H),
        replace(FINE, app_consistent_every=12 * H),
        replace(FINE, rpo_threshold=1 * H + M),
        replace(FINE, failback=FailbackPolicy(5 * M, rpo_threshold=6 * M)),
    ],
)
def test_what_is_just_inside_the_bounds_is_taken(policy: ReplicationPolicy) -> None:
    assert contradictions(policy, SITE) == ()


def test_all_contradictions_are_told_at_once() -> None:
    wrong = ReplicationPolicy("", 0 * H, 16 * D, 13 * H, FailbackPolicy(1 * M, 1 * M))
    assert len(contradictions(wrong, SITE)) == 6


def test_a_standard_account_takes_any_number_of_snapshots() -> None:
    assert contradictions(replace(FINE, retention=15 * D, rpo_threshold=1 * H), replace(SITE, minimum_interval=5 * M)) == ()


@given(st.integers(1, 15 * 24), st.integers(10, 12 * 60))
def test_a_premium_account_is_never_asked_for_more_snapshots_than_it_allows(hours: int, minutes: int) -> None:
    schedule = replace(PREMIUM, minimum_interval=minutes * M)
    policy = ReplicationPolicy("p", 13 * H, hours * H)
    refused = contradictions(policy, schedule)
    assert bool(refused) is (points_kept(policy, schedule) > PREMIUM_SNAPSHOTS)


@given(st.integers(1, 12 * 60), st.integers(0, 24 * 60), st.integers(1, 100 * 60))
def test_a_threshold_that_is_taken_can_be_met_with_quick_cycles(minimum: int, cycle: int, threshold: int) -> None:
    schedule = Schedule(minimum * M, 12 * H)
    policy = ReplicationPolicy("p", threshold * M)
    if not contradictions(policy, schedule):
        assert fastest_rpo(schedule) < policy.rpo_threshold
    assert fastest_rpo(schedule, cycle * M) >= fastest_rpo(schedule)


@pytest.mark.parametrize(
    ("policy", "schedule", "cycle", "part"),
    [
        (FINE, SITE, None, "slows the application"),
        (replace(FINE, app_consistent_every=1 * H), replace(SITE, minimum_interval=2 * H), None, "come every 2 h"),
        (ReplicationPolicy("p", 4 * H, 30 * M), SITE, None, "only the latest recovery point"),
        (ReplicationPolicy("p", 4 * H), SITE, 2 * H, "will be crossed each time"),
        (ReplicationPolicy("p", 4 * H), replace(SITE, longest_window=31 * H), None, "blackout window lasts 31 h"),
    ],
)
def test_what_a_policy_costs_is_said_and_refuses_nothing(
    policy: ReplicationPolicy, schedule: Schedule, cycle: timedelta | None, part: str
) -> None:
    assert contradictions(policy, schedule) == ()
    assert any(part in sentence for sentence in cautions(policy, schedule, cycle))


def test_a_site_without_a_minimum_interval_is_reckoned_with_too() -> None:
    assert contradictions(FINE, replace(PREMIUM, minimum_interval=0 * H)) != ()
    assert contradictions(FINE, replace(SITE, minimum_interval=0 * H)) == ()


def test_a_failback_policy_is_judged_alone_too() -> None:
    assert failback_contradictions(FailbackPolicy()) == ()
    assert len(failback_contradictions(FailbackPolicy(13 * H, 1 * H))) == 2
