from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.schedule import (
    MAXIMUM_INTERVAL,
    MINIMUM_INTERVAL,
    NextCycle,
    next_cycle,
    next_delta_after,
    retry_after_failure,
)

H, M = timedelta(hours=1), timedelta(minutes=1)
DURATIONS = st.timedeltas(timedelta(0), timedelta(days=10))


@pytest.mark.parametrize(
    ("previous", "wait"),
    [
        (4 * H, 2 * H),
        (timedelta(0), H),
        (10 * M, H),
        (2 * H, H),
        (2 * H + 2 * M, H + M),
        (24 * H, 12 * H),
        (30 * H, 12 * H),
        (23 * H, 11.5 * H),
    ],
)
def test_the_next_delta_starts_after_half_the_last_between_one_and_twelve_hours(previous: timedelta, wait: timedelta) -> None:
    assert next_delta_after(previous, MINIMUM_INTERVAL, MAXIMUM_INTERVAL) == wait


@given(DURATIONS, DURATIONS, DURATIONS)
def test_the_wait_is_never_above_the_maximum_nor_below_both_bounds(
    previous: timedelta, minimum: timedelta, maximum: timedelta
) -> None:
    wait = next_delta_after(previous, minimum, maximum)
    assert min(minimum, maximum) <= wait <= maximum


@pytest.mark.parametrize(
    ("failures", "wait"), [(0, None), (1, 1 * M), (2, 5 * M), (3, 15 * M), (4, None), (40, None), (-1, None)]
)
def test_after_failures_the_waits_are_1_5_and_15_minutes_then_the_formula(failures: int, wait: timedelta | None) -> None:
    assert retry_after_failure(failures) == wait


@pytest.mark.parametrize(
    ("previous", "failures", "expected"),
    [
        (None, 0, NextCycle(timedelta(0), "the first delta cycle follows the initial replication at once")),
        (4 * H, 0, NextCycle(2 * H, "half of the last cycle's 4 h 00 min")),
        (2 * H, 0, NextCycle(1 * H, "half of the last cycle's 2 h 00 min")),
        (10 * M, 0, NextCycle(1 * H, "the minimum of 1 h 00 min, as half of the last cycle's 10 min is less")),
        (30 * H, 0, NextCycle(12 * H, "the maximum of 12 h 00 min, as half of the last cycle's 30 h 00 min is more")),
        (4 * H, 1, NextCycle(1 * M, "1 min after the first failed cycle in a row")),
        (None, 3, NextCycle(15 * M, "15 min after the third failed cycle in a row")),
        (4 * H, 4, NextCycle(2 * H, "half of the last cycle's 4 h 00 min")),
    ],
)
def test_the_reason_explains_the_wait(previous: timedelta | None, failures: int, expected: NextCycle) -> None:
    assert next_cycle(previous, failures, MINIMUM_INTERVAL, MAXIMUM_INTERVAL) == expected


@given(DURATIONS, st.integers(4, 9), DURATIONS, DURATIONS)
def test_with_a_previous_cycle_the_wait_is_the_formulas(
    previous: timedelta, failures: int, minimum: timedelta, maximum: timedelta
) -> None:
    assert next_cycle(previous, failures, minimum, maximum).wait == next_delta_after(previous, minimum, maximum)
