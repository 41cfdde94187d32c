from datetime import UTC, datetime, time, timedelta, timezone
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltaferry.planning.windows import (
    DEFAULT_OFF_HOURS,
    ENDLESS,
    Weekday,
    Window,
    Windows,
    covers_whole_week,
    every_day,
    format_windows,
    inside,
    next_start,
    parse_windows,
)

LONDON, NEW_YORK, LORD_HOWE, KOLKATA = (
    ZoneInfo(name) for name in ("Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
)
ALL_WEEK = parse_windows("Monday;0:00;7d")
D, H, M = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# The grammar


def test_the_example_of_the_specification_is_three_windows() -> None:
    assert parse_windows("Monday;7:00;7h | Tuesday;8:00;1d7h | Friday;13:00;8m") == Windows(
        (
            Window(Weekday.MONDAY, time(7), 7 * H),
            Window(Weekday.TUESDAY, time(8), 31 * H),
            Window(Weekday.FRIDAY, time(13), 8 * M),
        )
    )


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("  mOnDaY ; 07 : 00;\t1D 7H30 m ", "Monday;7:00;1d7h30m"),
        ("SUNDAY;23:59;7d|Sunday;0:00;1m", "Sunday;23:59;7d | Sunday;0:00;1m"),
        ("Friday;9:05;90m", "Friday;9:05;1h30m"),
        ("Friday;9:05;168h", "Friday;9:05;7d"),
        ("Friday;9:05;0d0h8m", "Friday;9:05;8m"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_case_and_blanks_are_tolerated(text: str, usual: str) -> None:
    assert format_windows(parse_windows(text)) == usual


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Monday;7:00;7h |", "Window 2 is empty. Write a window such as Monday;7:00;7h there, or remove its `|`."),
        ("|", "Window 1 is empty."),
        ("Monday;7:00", "Window 1 does not have three parts. Write day;start;duration"),
        ("Monday;7:00;7h;", "Window 1 does not have three parts."),
        ("Monday;7:00;7h, Tuesday;7:00;7h", "Window 1 does not have three parts."),
        (
            "Monday;7:00;7h | Moonday;7:00;7h",
            "Window 2 has a day that is not a day of the week. Write Monday, Tuesday, … or Sunday.",
        ),
        ("Mon;7:00;7h", "Window 1 has a day"),
        (";7:00;7h", "Window 1 has a day"),
        ("Monday;24:00;7h", "Window 1 has a start that is not a time of day. Write hours and minutes, from 0:00 to 23:59"),
        ("Monday;7:60;7h", "Window 1 has a start"),
        ("Monday;7;7h", "Window 1 has a start"),
        ("Monday;7:5;7h", "Window 1 has a start"),
        ("Monday;\u0667:00;7h", "Window 1 has a start"),
        ("Monday;7:00;", "Window 1 has a duration that cannot be read. Write days, hours and minutes in this order"),
        ("Monday;7:00;7", "Window 1 has a duration that cannot be read."),
        ("Monday;7:00;7h1d", "Window 1 has a duration that cannot be read."),
        ("Monday;7:00;-7h", "Window 1 has a duration that cannot be read."),
        ("Monday;7:00;1.5h", "Window 1 has a duration that cannot be read."),
        ("Monday;7:00;7s", "Window 1 has a duration that cannot be read."),
        ("Monday;7:00;0h", "Window 1 has a duration of zero. Write at least 1m"),
        ("Monday;7:00;7d1m", "Window 1 has a duration of more than a week, after which it repeats. Write at most 7d."),
    ],
)
def test_a_mistake_names_window_and_field_and_what_to_write(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="Window") as caught:
        parse_windows(text)
    assert str(caught.value).startswith(sentence)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("MondayFri;:|0123456789dhm \t", max_size=60))
@example("Monday;7:00;1d" + " " * 100_000 + "x")
def test_any_text_is_windows_or_a_value_error(text: str) -> None:
    try:
        windows = parse_windows(text)
    except ValueError as error:
        assert str(error).startswith("Window ")
    else:
        assert parse_windows(format_windows(windows)) == windows


ENTRIES = st.builds(
    Window,
    st.sampled_from(Weekday),
    st.builds(time, st.integers(0, 23), st.integers(0, 59)),
    st.integers(1, 7 * 24 * 60).map(lambda minutes: minutes * M) | st.integers(1, 180).map(lambda minutes: minutes * M),
)


@given(st.lists(ENTRIES, max_size=5).map(lambda entries: Windows(tuple(entries))))
def test_what_is_formatted_is_read_as_the_same_windows(windows: Windows) -> None:
    assert parse_windows(format_windows(windows)) == windows


@pytest.mark.parametrize(
    ("start", "duration"), [(time(7), timedelta(0)), (time(7), 7 * D + M), (time(7), timedelta(seconds=90)), (time(7, 0, 1), H)]
)
def test_what_the_grammar_cannot_say_is_no_window(start: time, duration: timedelta) -> None:
    with pytest.raises(ValueError, match="A window"):
        Window(Weekday.MONDAY, start, duration)


def test_the_default_off_hours_are_every_day_from_22_for_8_hours() -> None:
    windows = parse_windows(DEFAULT_OFF_HOURS)
    assert every_day(time(22), 8 * H) == DEFAULT_OFF_HOURS
    assert [entry.day for entry in windows.entries] == list(Weekday)
    assert {(entry.start, entry.duration) for entry in windows.entries} == {(time(22), 8 * H)}


# Inside, next start. 2026-03-02 is a Monday.

EXAMPLE = "Monday;7:00;7h | Tuesday;8:00;1d7h | Friday;13:00;8m"


@pytest.mark.parametrize(
    ("text", "instant", "until", "following"),
    [
        (EXAMPLE, "2026-03-02T06:59:59.999999", None, "2026-03-02T07:00"),
        (EXAMPLE, "2026-03-02T07:00", "2026-03-02T14:00", "2026-03-03T08:00"),
        (EXAMPLE, "2026-03-02T13:59:59.999999", "2026-03-02T14:00", "2026-03-03T08:00"),
        (EXAMPLE, "2026-03-02T14:00", None, "2026-03-03T08:00"),
        (EXAMPLE, "2026-03-04T14:59", "2026-03-04T15:00", "2026-03-06T13:00"),
        (EXAMPLE, "2026-03-06T13:07", "2026-03-06T13:08", "2026-03-09T07:00"),
        (EXAMPLE, "2026-03-06T13:08", None, "2026-03-09T07:00"),
        # over the week's end, and longer than the days left of it
        ("Sunday;20:00;8h", "2026-03-02T03:59", "2026-03-02T04:00", "2026-03-08T20:00"),
        ("Saturday;12:00;6d", "2026-03-04T00:00", "2026-03-06T12:00", "2026-03-07T12:00"),
        # overlapping and adjoining windows are one union; what a longer one contains does not end it
        ("Monday;7:00;2h | Monday;8:00;2h", "2026-03-02T07:30", "2026-03-02T10:00", "2026-03-09T07:00"),
        ("Monday;7:00;2h | Monday;9:00;2h", "2026-03-02T07:30", "2026-03-02T11:00", "2026-03-09T07:00"),
        ("Monday;7:00;5h | Monday;8:00;1h", "2026-03-02T08:30", "2026-03-02T12:00", "2026-03-09T07:00"),
        ("Sunday;22:00;2h | Monday;0:00;2h", "2026-03-01T23:00", "2026-03-02T02:00", "2026-03-08T22:00"),
        ("Monday;0:00;6d23h59m", "2026-03-02T00:00", "2026-03-08T23:59", "2026-03-09T00:00"),
        ("", "2026-03-02T00:00", None, None),
    ],
)
def test_windows_without_clock_changes(text: str, instant: str, until: str | None, following: str | None) -> None:
    windows, moment = parse_windows(text), utc(instant)
    assert inside(windows, UTC, moment) == (until and utc(until))
    assert next_start(windows, UTC, moment) == (following and utc(following))


@pytest.mark.parametrize(
    "text",
    ["Monday;0:00;7d", "Thursday;9:13;7d", "Monday;0:00;4d | Thursday;12:00;3d12h", "Sunday;1:00;3d | Tuesday;0:00;5d2h"],
)
@pytest.mark.parametrize("zone", [UTC, LONDON, LORD_HOWE])
def test_windows_over_the_whole_week_have_no_end(text: str, zone: ZoneInfo) -> None:
    windows, moment = parse_windows(text), utc("2026-10-25T00:30")
    assert covers_whole_week(windows)
    assert inside(windows, zone, moment) is ENDLESS
    assert next_start(windows, zone, moment) is None


@pytest.mark.parametrize("text", ["", "Monday;0:00;6d23h59m", "Sunday;1:00;3d | Tuesday;0:00;5d59m", "Monday;0:01;6d23h59m"])
def test_a_minute_outside_is_not_the_whole_week(text: str) -> None:
    assert not covers_whole_week(parse_windows(text))


@pytest.mark.parametrize("zone", [UTC, LONDON])
@pytest.mark.parametrize("windows", [ALL_WEEK, Windows()])
def test_a_naive_instant_is_refused(windows: Windows, zone: ZoneInfo) -> None:
    naive = datetime(2026, 3, 2)
    for question in (inside, next_start):
        with pytest.raises(ValueError, match="time zone"):
            question(windows, zone, naive)


def test_an_instant_counts_and_not_the_zone_it_is_written_in() -> None:
    windows, moment = parse_windows("Monday;9:00;1h"), datetime(2026, 3, 2, 23, 30, tzinfo=timezone(14 * H))
    assert inside(windows, UTC, moment) == utc("2026-03-02T10:00")


# Clock changes, each with the window's begin and end in UTC. 2026: London 29 March and 25 October, New York 8 March and
# 1 November, Lord Howe 4 October (forward) and 5 April (back), by half an hour, at 2:00.


@pytest.mark.parametrize(
    ("zone", "text", "begin", "end"),
    [
        # an end is what the clock shows: 6:00, after seven hours in March and nine in October
        (LONDON, "Saturday;22:00;8h", "2026-03-28T22:00", "2026-03-29T05:00"),
        (LONDON, "Saturday;22:00;8h", "2026-10-24T21:00", "2026-10-25T06:00"),
        # over the weekend until Monday 8:00
        (LONDON, "Friday;18:00;2d14h", "2026-03-27T18:00", "2026-03-30T07:00"),
        (LONDON, "Friday;18:00;2d14h", "2026-10-23T17:00", "2026-10-26T08:00"),
        # 1:00 to 2:00 does not exist in March: a start there is at 2:00 summer time, an end too
        (LONDON, "Sunday;1:30;2h", "2026-03-29T01:00", "2026-03-29T02:30"),
        (LONDON, "Sunday;0:30;1h", "2026-03-29T00:30", "2026-03-29T01:00"),
        # 1:00 to 2:00 is twice in October: the first counts
        (LONDON, "Sunday;1:15;30m", "2026-10-25T00:15", "2026-10-25T00:45"),
        (LONDON, "Sunday;0:30;1h", "2026-10-24T23:30", "2026-10-25T00:30"),
        (LONDON, "Sunday;1:15;1h", "2026-10-25T00:15", "2026-10-25T02:15"),
        (LONDON, "Sunday;1:00;1h", "2026-10-25T00:00", "2026-10-25T02:00"),
        (NEW_YORK, "Saturday;22:00;8h", "2026-03-08T03:00", "2026-03-08T10:00"),
        (NEW_YORK, "Saturday;22:00;8h", "2026-11-01T02:00", "2026-11-01T11:00"),
        (NEW_YORK, "Sunday;2:30;1h", "2026-03-08T07:00", "2026-03-08T07:30"),
        (NEW_YORK, "Sunday;1:30;1h", "2026-11-01T05:30", "2026-11-01T07:30"),
        # +10:30 and +11
        (LORD_HOWE, "Saturday;22:00;8h", "2026-10-03T11:30", "2026-10-03T19:00"),
        (LORD_HOWE, "Saturday;22:00;8h", "2026-04-04T11:00", "2026-04-04T19:30"),
        (LORD_HOWE, "Sunday;2:10;1h", "2026-10-03T15:30", "2026-10-03T16:10"),
        (LORD_HOWE, "Sunday;1:40;10m", "2026-04-04T14:40", "2026-04-04T14:50"),
        (LORD_HOWE, "Sunday;1:40;30m", "2026-04-04T14:40", "2026-04-04T15:40"),
        (KOLKATA, "Saturday;22:00;8h", "2026-03-28T16:30", "2026-03-29T00:30"),
        (UTC, "Saturday;22:00;8h", "2026-03-28T22:00", "2026-03-29T06:00"),
    ],
)
def test_a_window_begins_and_ends_when_the_wall_clock_says_so(zone: ZoneInfo, text: str, begin: str, end: str) -> None:
    windows, begins, ends = parse_windows(text), utc(begin), utc(end)
    instant = timedelta(microseconds=1)
    assert next_start(windows, zone, begins - D) == begins
    assert inside(windows, zone, begins - instant) is None
    assert inside(windows, zone, begins) == ends
    assert inside(windows, zone, ends - instant) == ends
    assert inside(windows, zone, ends) is None


@pytest.mark.parametrize(
    ("zone", "text", "instant", "following"),
    [
        (LONDON, "Sunday;1:15;30m", "2026-03-28T12:00", "2026-04-05T00:15"),
        (NEW_YORK, "Sunday;2:00;1h", "2026-03-07T12:00", "2026-03-15T06:00"),
        (LORD_HOWE, "Sunday;2:00;30m", "2026-10-03T00:00", "2026-10-10T15:00"),
    ],
)
def test_a_window_whose_times_the_clock_skips_does_not_occur_on_that_date(
    zone: ZoneInfo, text: str, instant: str, following: str
) -> None:
    assert next_start(parse_windows(text), zone, utc(instant)) == utc(following)


def test_windows_whose_only_gap_is_skipped_join_two_weeks() -> None:
    windows = parse_windows("Sunday;2:00;6d23h")
    assert inside(windows, LONDON, utc("2026-03-25T12:00")) == utc("2026-04-05T00:00")
    assert next_start(windows, LONDON, utc("2026-03-21T12:00")) == utc("2026-03-22T02:00")


def test_adjoining_windows_leave_no_hole_at_a_clock_change() -> None:
    windows = parse_windows("Saturday;22:00;3h30m | Sunday;1:30;4h30m")
    assert inside(windows, LONDON, utc("2026-10-24T22:00")) == utc("2026-10-25T06:00")
    assert inside(windows, LONDON, utc("2026-03-28T23:00")) == utc("2026-03-29T05:00")


# Brute force: a clock on the wall that is never turned back, read every minute

DAYS = 16
CHANGES = [
    (LONDON, "2026-03-22"), (LONDON, "2026-10-18"), (NEW_YORK, "2026-03-01"), (NEW_YORK, "2026-10-25"),
    (LORD_HOWE, "2026-03-29"), (LORD_HOWE, "2026-09-27"), (KOLKATA, "2026-03-22"), (UTC, "2026-12-26"),
]  # fmt: skip


@cache
def clock(change: tuple[ZoneInfo, str]) -> list[tuple[datetime, int]]:
    """Return every minute with the minute of the week that such a clock shows."""
    zone, first_day = change
    first, latest, shown = utc(first_day), datetime.min, []
    for minute in range(-D // M, DAYS * D // M):
        instant = first + minute * M
        latest = max(latest, instant.astimezone(zone).replace(tzinfo=None))
        shown.append((instant, latest.weekday() * 1440 + latest.hour * 60 + latest.minute))
    return shown[D // M :]


def covered(windows: Windows, minute_of_week: int) -> bool:
    return any(
        (minute_of_week - (entry.day * 1440 + entry.start.hour * 60 + entry.start.minute)) % 10080 < entry.duration // M
        for entry in windows.entries
    )


NEAR_MIDNIGHT = st.builds(
    Window,
    st.sampled_from([Weekday.SATURDAY, Weekday.SUNDAY]),
    st.builds(time, st.sampled_from([0, 1, 2, 3, 22, 23]), st.integers(0, 59)),
    st.integers(1, 300).map(lambda minutes: minutes * M),
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(CHANGES),
    st.lists(ENTRIES | NEAR_MIDNIGHT, max_size=4).map(lambda entries: Windows(tuple(entries))),
    st.lists(st.integers(0, 9 * 1440 - 1), min_size=1, max_size=20),
)
def test_answers_are_those_of_a_clock_that_is_never_turned_back(
    change: tuple[ZoneInfo, str], windows: Windows, minutes: list[int]
) -> None:
    zone, shown = change[0], clock(change)
    hits = [covered(windows, minute_of_week) for _, minute_of_week in shown]
    for at in minutes:
        instant = shown[at][0]
        starts = (shown[i][0] for i in range(at + 1, len(shown)) if hits[i] and not hits[i - 1])
        ends = (shown[i][0] for i in range(at, len(shown)) if not hits[i])
        free = next(ends, None)
        answer = inside(windows, zone, instant)
        if free is None:
            assert answer is ENDLESS or (isinstance(answer, datetime) and answer > shown[-1][0])
        else:
            assert answer == (free if hits[at] else None)
        start, expected = next_start(windows, zone, instant), next(starts, None)
        assert start == expected or (expected is None and start is not None and start > shown[-1][0])
