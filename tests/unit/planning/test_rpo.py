from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.rpo import RpoChange, RpoWatch, crosses_at, look, rpo

T0 = datetime(2026, 11, 22, 12, tzinfo=UTC)
M = timedelta(minutes=1)


def test_the_age_counts_from_the_source_snapshot_and_is_never_negative() -> None:
    assert rpo(T0, T0 + 90 * M) == 90 * M
    assert rpo(T0 + M, T0) == timedelta(0)


def test_a_crossing_and_its_recovery_are_each_told_once() -> None:
    watch, told = RpoWatch(), []
    for taken, now in [(0, 30), (0, 60), (0, 61), (0, 70), (0, 300), (290, 310), (290, 320), (290, 351)]:
        watch, event = look(watch, T0 + taken * M, T0 + now * M, 60 * M)
        if event:
            told.append((event.change, (event.at - T0) // M, event.rpo // M))
    assert told == [(RpoChange.CROSSED, 61, 61), (RpoChange.RECOVERED, 310, 20), (RpoChange.CROSSED, 351, 61)]


def test_a_look_at_the_instant_of_crossing_tells_it_and_one_just_before_does_not() -> None:
    at = crosses_at(T0, 60 * M)
    assert look(RpoWatch(), T0, at, 60 * M)[1] is not None
    assert look(RpoWatch(), T0, at - timedelta(microseconds=1), 60 * M)[1] is None


def test_a_policy_changed_meanwhile_decides_from_the_next_look_on() -> None:
    watch, event = look(RpoWatch(), T0, T0 + 90 * M, 60 * M)
    assert event is not None
    watch, event = look(watch, T0, T0 + 91 * M, 240 * M)
    assert event is not None and event.change is RpoChange.RECOVERED
    watch, event = look(watch, T0, T0 + 92 * M, 60 * M)
    assert event is not None and event.change is RpoChange.CROSSED


def test_without_a_threshold_any_more_a_crossing_that_was_told_is_taken_back() -> None:
    watch, _ = look(RpoWatch(), T0, T0 + 90 * M, 60 * M)
    watch, event = look(watch, T0, T0 + 91 * M, None)
    assert event is not None and event.change is RpoChange.RECOVERED
    assert look(watch, T0, T0 + 92 * M, None) == (RpoWatch(), None)


def test_an_event_says_both_numbers() -> None:
    _, event = look(RpoWatch(), T0, T0 + 90 * M, 60 * M)
    assert event is not None and "1 h 30 min" in event.sentence and "1 h 00 min" in event.sentence


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.sampled_from([None, 30, 60, 240])), max_size=40))
def test_events_alternate_beginning_with_a_crossing(looks: list[tuple[int, int, int | None]]) -> None:
    watch, told = RpoWatch(), []
    for taken, now, threshold in looks:
        watch, event = look(watch, T0 + taken * M, T0 + now * M, None if threshold is None else threshold * M)
        told += [event.change] if event else []
        assert (watch.crossed_at is not None) is (threshold is not None and (now - taken) > threshold)
    turns = [RpoChange.CROSSED, RpoChange.RECOVERED] * len(told)
    assert told == turns[: len(told)]


@pytest.mark.parametrize("threshold", [M, 60 * M])
def test_a_repeated_look_gives_no_event(threshold: timedelta) -> None:
    watch, _ = look(RpoWatch(), T0, T0 + 90 * M, threshold)
    assert look(watch, T0, T0 + 90 * M, threshold) == (watch, None)
