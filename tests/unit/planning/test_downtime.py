from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.downtime import NEVER, predict

S = timedelta(seconds=1)
RATES = st.floats(0, 1e12)
TIMES = st.timedeltas(timedelta(0), timedelta(days=100))


def test_an_idle_guest_costs_the_overhead_and_the_import() -> None:
    assert predict(0, 0, 30 * S, 60 * S) == 90 * S


def test_now_the_final_delta_moves_what_changed_since_the_last_snapshot() -> None:
    assert predict(10, 100, 30 * S, 60 * S, since_snapshot=200 * S) == (30 + 20 + 60) * S


def test_repeating_approaches_the_fixed_point() -> None:
    settled = predict(50, 100, 30 * S, 0 * S)
    length = 1000 * S
    for _ in range(50):
        length = predict(50, 100, 30 * S, 0 * S, since_snapshot=length)
    assert settled == 60 * S
    assert abs(length - settled) < S


@pytest.mark.parametrize(("changed", "transfer"), [(100, 100), (200, 100), (1, 0)])
def test_where_changes_outrun_the_transfer_no_repetition_helps(changed: float, transfer: float) -> None:
    assert predict(changed, transfer, 30 * S, 0 * S) == NEVER


@given(RATES, RATES, TIMES, TIMES, st.none() | TIMES)
def test_a_prediction_lies_between_the_import_and_never(
    changed: float, transfer: float, overhead: timedelta, importing: timedelta, since: timedelta | None
) -> None:
    assert min(importing, NEVER) - S <= predict(changed, transfer, overhead, importing, since) <= NEVER
