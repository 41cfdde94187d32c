from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaferry.planning.throttle import (
    UNLIMITED,
    Rate,
    RatedWindow,
    Throttle,
    next_change,
    parse_throttle,
    rate_at,
    rate_text,
)
from deltaferry.planning.windows import Windows, format_windows, parse_windows

LONDON = ZoneInfo("Europe/London")
EXAMPLE = "100 Mbit/s | Monday;7:00;10h;10 Mbit/s | Saturday;0:00;2d;unlimited"
MBIT = 10**6


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# The grammar


@pytest.mark.parametrize("text", ["", "  ", "unlimited", " Unlimited "])
def test_nothing_or_unlimited_is_no_limit(text: str) -> None:
    assert parse_throttle(text) == UNLIMITED


@pytest.mark.parametrize(
    ("text", "bits_per_s", "usual"),
    [
        ("100 Mbit/s", 100 * MBIT, "100 Mbit/s"),
        ("  100mbit/S ", 100 * MBIT, "100 Mbit/s"),
        ("2.5 Gbit/s", 2500 * MBIT, "2.5 Gbit/s"),
        ("1000 Mbit/s", 1000 * MBIT, "1 Gbit/s"),
        ("1500 kbit/s", 1_500_000, "1.5 Mbit/s"),
        ("1.001 Mbit/s", 1_001_000, "1.001 Mbit/s"),
        ("1000001 bit/s", 1_000_001, "1000.001 kbit/s"),
        ("12345678 bit/s", 12_345_678, "12345.678 kbit/s"),
    ],
)
def test_a_rate_alone_holds_always(text: str, bits_per_s: int, usual: str) -> None:
    assert parse_throttle(text) == Throttle(Rate(bits_per_s))
    assert rate_text(Rate(bits_per_s)) == usual
    assert Rate(bits_per_s).bytes_per_s == bits_per_s / 8


def test_the_example_is_a_rate_and_two_windows() -> None:
    monday, saturday = parse_windows("Monday;7:00;10h | Saturday;0:00;2d").entries
    assert parse_throttle(EXAMPLE) == Throttle(
        Rate(100 * MBIT), (RatedWindow(monday, Rate(10 * MBIT)), RatedWindow(saturday, None))
    )


def test_the_rate_outside_of_windows_may_stand_anywhere_and_is_unlimited_where_left_out() -> None:
    assert parse_throttle("Monday;7:00;10h;10 Mbit/s | 100 Mbit/s").default == Rate(100 * MBIT)
    assert parse_throttle("monday ; 7:00 ; 10 h ; 10Mbit/s").default is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fast", "The rate without a window cannot be read. Write a number and a unit, such as 100 Mbit/s"),
        ("100", "The rate without a window cannot be read."),
        ("100 MB/s", "The rate without a window cannot be read."),
        ("100 Mbps", "The rate without a window cannot be read."),
        ("-5 Mbit/s", "The rate without a window cannot be read."),
        ("1e3 Mbit/s", "The rate without a window cannot be read."),
        (
            "0 Mbit/s",
            "The rate without a window is below 1 Mbit/s, at which a transfer would not get on. Write at least 1 Mbit/s",
        ),
        ("999 kbit/s", "The rate without a window is below 1 Mbit/s"),
        ("1000000.5 bit/s", "The rate without a window is not a whole number of bits."),
        ("100 Mbit/s | 10 Mbit/s", "There is more than one rate without a window. Keep the one"),
        ("100 Mbit/s |", "There is nothing before, after or between two `|`. Write a rate or a window there, or remove the `|`."),
        ("100 Mbit/s | Monday;7:00;10h", "Window 1 does not have four parts. Write day;start;duration;rate"),
        ("100 Mbit/s | Monday;7:00;10h;10 Mbit/s | Sunday;7:00;10h;5", "The rate of window 2 cannot be read. Write a number and"),
        ("Moonday;7:00;10h;10 Mbit/s", "Window 1 has a day that is not a day of the week."),
        ("10 Mbit/s | Monday;7;10h;10 Mbit/s", "Window 1 has a start that is not a time of day."),
        ("Monday;7:00;8d;10 Mbit/s", "Window 1 has a duration of more than a week"),
    ],
)
def test_a_mistake_is_a_sentence_that_says_where_and_what_to_write(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_throttle(text)
    assert str(caught.value).startswith(sentence)


RATES = st.one_of(st.none(), st.integers(MBIT, 10**13).map(Rate))
WINDOWS = st.builds(
    lambda day, hour, minute, minutes, rate: RatedWindow(parse_windows(f"{day};{hour}:{minute:02};{minutes}m").entries[0], rate),
    st.sampled_from(["Monday", "Saturday", "Sunday"]),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(1, 10_080),
    RATES,
)
THROTTLES = st.builds(Throttle, RATES, st.lists(WINDOWS, max_size=4).map(tuple))


def written(throttle: Throttle) -> str:
    windows = (f"{format_windows(Windows((entry.window,)))};{rate_text(entry.rate)}" for entry in throttle.windows)
    return " | ".join((rate_text(throttle.default), *windows))


@given(THROTTLES)
def test_what_is_written_is_read_as_the_same(throttle: Throttle) -> None:
    assert parse_throttle(written(throttle)) == throttle


@given(
    st.text(max_size=60) | st.lists(st.sampled_from([*"|; 1.:", "Monday", "7:00", "10h", "100 Mbit/s"]), max_size=20).map("".join)
)
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    try:
        throttle = parse_throttle(text)
    except ValueError:
        return
    assert parse_throttle(written(throttle)) == throttle


def test_a_rate_below_the_least_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least"):
        Rate(MBIT - 1)


# What holds when


@pytest.mark.parametrize(
    ("text", "instant", "rate", "change"),
    [
        (EXAMPLE, "2026-03-02T06:59", "100 Mbit/s", "2026-03-02T07:00"),
        (EXAMPLE, "2026-03-02T07:00", "10 Mbit/s", "2026-03-02T17:00"),
        (EXAMPLE, "2026-03-02T17:00", "100 Mbit/s", "2026-03-07T00:00"),
        (EXAMPLE, "2026-03-07T12:00", "unlimited", "2026-03-09T00:00"),
        # in British summer time from 29 March on
        (EXAMPLE, "2026-03-30T05:59", "100 Mbit/s", "2026-03-30T06:00"),
        # overlapping: the lowest holds, and one that is lowest may end inside another
        ("Monday;7:00;10h;10 Mbit/s | Monday;8:00;1h;5 Mbit/s", "2026-03-02T08:30", "5 Mbit/s", "2026-03-02T09:00"),
        ("Monday;7:00;10h;10 Mbit/s | Monday;8:00;1h;20 Mbit/s", "2026-03-02T08:30", "10 Mbit/s", "2026-03-02T17:00"),
        ("Monday;7:00;10h;10 Mbit/s | Monday;8:00;20h;unlimited", "2026-03-02T08:30", "10 Mbit/s", "2026-03-02T17:00"),
        # a window replaces the rate outside, also by a higher one; where both are the same nothing changes
        ("10 Mbit/s | Monday;7:00;10h;100 Mbit/s", "2026-03-02T08:00", "100 Mbit/s", "2026-03-02T17:00"),
        ("10 Mbit/s | Monday;7:00;10h;10 Mbit/s", "2026-03-02T08:00", "10 Mbit/s", None),
        ("10 Mbit/s | Monday;7:00;10h;5 Mbit/s | Monday;17:00;1h;5 Mbit/s", "2026-03-02T08:00", "5 Mbit/s", "2026-03-02T18:00"),
        ("10 Mbit/s", "2026-03-02T08:00", "10 Mbit/s", None),
        ("100 Mbit/s | Monday;0:00;7d;10 Mbit/s", "2026-03-04T08:00", "10 Mbit/s", None),
        ("100 Mbit/s | Monday;0:00;7d;10 Mbit/s | Friday;0:00;1h;5 Mbit/s", "2026-03-04T08:00", "10 Mbit/s", "2026-03-06T00:00"),
        ("", "2026-03-02T08:00", "unlimited", None),
        # skipped on 29 March, when the clock goes from 1:00 to 2:00
        ("10 Mbit/s | Sunday;1:15;30m;5 Mbit/s", "2026-03-28T12:00", "10 Mbit/s", "2026-04-05T00:15"),
    ],
)
def test_the_rate_and_when_it_changes(text: str, instant: str, rate: str, change: str | None) -> None:
    throttle = parse_throttle(text)
    assert rate_text(rate_at(throttle, LONDON, utc(instant))) == rate
    assert next_change(throttle, LONDON, utc(instant)) == (change and utc(change))


def test_a_naive_instant_is_refused() -> None:
    for question in (rate_at, next_change):
        with pytest.raises(ValueError, match="time zone"):
            question(UNLIMITED, UTC, datetime(2026, 3, 2))


@settings(max_examples=60, deadline=None)
@given(THROTTLES, st.integers(0, 21 * 1440), st.lists(st.integers(0, 7 * 1440 * 60), max_size=8))
def test_between_an_instant_and_the_next_change_the_rate_is_the_same(throttle: Throttle, minute: int, seconds: list[int]) -> None:
    instant = utc("2026-03-20") + timedelta(minutes=minute)
    rate, change = rate_at(throttle, LONDON, instant), next_change(throttle, LONDON, instant)
    if change is not None:
        assert change > instant
        assert rate_at(throttle, LONDON, change) != rate
    for later in (instant + timedelta(seconds=after) for after in seconds):
        if change is None or later < change:
            assert rate_at(throttle, LONDON, later) == rate
