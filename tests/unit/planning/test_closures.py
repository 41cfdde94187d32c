from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.closures import NEVER, Closure, occurrences, open_again_at
from deltaferry.planning.windows import inside, parse_windows

_MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
_HOUR = timedelta(hours=1)


def _at(hours: float) -> datetime:
    return _MONDAY + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Monday;7:00;7h", [(7, 14), (7 + 168, 14 + 168)]),
        ("Sunday;23:00;2h", [(0, 1), (167, 169)]),  # open when asked for: it began on the Sunday before
        ("Monday;7:00;1h | Monday;8:00;1h", [(7, 9), (175, 177)]),
        ("Monday;7:00;3h | Monday;8:00;1h", [(7, 10), (175, 178)]),
    ],
)
def test_occurrences_are_unions_from_the_instant_on(text: str, expected: list[tuple[int, int]]) -> None:
    found = occurrences(parse_windows(text), UTC, _MONDAY, _MONDAY + timedelta(days=9))
    assert [(closure.start, closure.end) for closure in found] == [(_at(start), _at(end)) for start, end in expected]


def test_windows_that_cover_the_week_never_end() -> None:
    assert occurrences(parse_windows("Monday;0:00;7d"), UTC, _MONDAY, _at(1)) == (Closure(_MONDAY, None),)
    assert open_again_at([Closure(_MONDAY, None)], _at(5)) == _at(5) + NEVER


@pytest.mark.parametrize(
    ("closures", "now", "expected"),
    [
        ([], 5, None),
        ([(7, 9)], 5, None),
        ([(7, 9)], 7, 9),
        ([(7, 9)], 8.5, 9),
        ([(7, 9)], 9, None),
        ([(7, 9), (9, 11)], 8, 11),
        ([(8, 12), (7, 9)], 7.5, 12),
        ([(7, 9), (10, 11)], 8, 9),
    ],
)
def test_it_opens_again_at_the_end_of_what_follows_without_a_gap(
    closures: list[tuple[int, int]], now: float, expected: int | None
) -> None:
    found = open_again_at([Closure(_at(start), _at(end)) for start, end in closures], _at(now))
    assert found == (None if expected is None else _at(expected))


@given(
    hours=st.integers(min_value=0, max_value=24 * 400),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    text=st.sampled_from(["Sunday;1:30;3h", "Saturday;22:00;1d7h | Sunday;2:00;8h", "Monday;0:00;6d23h", "Tuesday;9:00;8m"]),
)
def test_the_occurrences_say_the_same_as_the_windows_themselves(hours: int, zone: str, text: str) -> None:
    windows, clock = parse_windows(text), ZoneInfo(zone)
    asked = datetime(2026, 1, 1, tzinfo=UTC)
    now = asked + hours * _HOUR / 2
    closures = occurrences(windows, clock, asked, now + timedelta(days=1))
    assert open_again_at(closures, now) == inside(windows, clock, now)
