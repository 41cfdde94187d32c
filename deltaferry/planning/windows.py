"""Weekly windows of time: blackout windows, and the off-hours window of automatic resyncs (spec §3).

Written `Monday;7:00;7h | Tuesday;8:00;1d7h | Friday;13:00;8m`: day, start, and duration in days, hours and minutes,
repeating weekly in a site's time zone.

A window is what a clock on the wall shows, its end too: it ends when that clock shows start plus duration. Where the
time zone's offset changes inside a window, its elapsed time is therefore longer or shorter than its duration. Operators
write 22:00 and 8 hours so that something ends at 6:00, when others begin to work; with elapsed time it would run until
7:00 on the day on which clocks go forward, and a window of seven days would leave an hour of the longest week uncovered
(docs/decisions/0010-weekly-windows.md). In detail:

- A local time that occurs twice (clocks go back) means its first occurrence, for starts and ends alike.
- A local time that does not occur (clocks go forward) means the first instant after the gap. A window that lies wholly
  in the gap does not occur on that date.

So windows hold on a clock that is never turned back: during the repeated hour it stands still.

Everything here is pure: the caller brings the instant and the zone. Instants are aware datetimes; those returned are UTC.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import Enum, IntEnum
from functools import lru_cache

_WEEK = timedelta(weeks=1)
_MINUTE = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)

_START = re.compile(r"([0-9]{1,2}) ?: ?([0-9]{2})")
_DURATION = re.compile(r"(?:([0-9]{1,5}) ?d)? ?(?:([0-9]{1,5}) ?h)? ?(?:([0-9]{1,5}) ?m)?")

_WEEKS = range(-2, 6)
"""The weeks looked at around an instant's. A window is at most one week long; the rest is for windows that lie in a gap."""


class Weekday(IntEnum):
    """A day of the week, numbered as `date.weekday()` does."""

    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


_DAYS = {day.name: day for day in Weekday}


class Endless(Enum):
    """What is said in place of an end where windows cover the whole week."""

    ENDLESS = "endless"


ENDLESS = Endless.ENDLESS
"""The windows cover the whole week: there is no end."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window: every week on `day` at `start`, for `duration` as the wall clock shows it."""

    day: Weekday
    start: time
    """Of the day, in whole minutes, without a zone."""
    duration: timedelta
    """In whole minutes: from one minute to one week."""

    def __post_init__(self) -> None:
        """Raise ValueError for what the grammar cannot say."""
        if self.start.tzinfo is not None or self.start.second or self.start.microsecond:
            raise ValueError("A window starts at a local time in whole minutes.")
        if self.duration % _MINUTE or not _MINUTE <= self.duration <= _WEEK:
            raise ValueError("A window lasts whole minutes, from one minute to seven days.")

    @property
    def begins_after(self) -> timedelta:
        """How long after the week's begin, Monday 0:00 on the wall clock, it starts."""
        return timedelta(days=self.day, hours=self.start.hour, minutes=self.start.minute)


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows that hold together, in the order in which they were written; they may overlap. Without any: never."""

    entries: tuple[Window, ...] = ()


def parse_windows(text: str) -> Windows:
    """Return the windows that a text in the grammar stands for; an empty one means none.

    Case does not count, nor do blanks around words and units. Raises ValueError with sentences that say which window
    and which of its fields is wrong, and what to write; they never repeat the text.
    """
    if not text.strip():
        return Windows()
    return Windows(tuple(_entry(number, entry) for number, entry in enumerate(text.split("|"), start=1)))


def _duration_text(duration: timedelta) -> str:
    hours, minutes = divmod(duration.seconds // 60, 60)
    parts = ((duration.days, "d"), (hours, "h"), (minutes, "m"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)


def format_windows(windows: Windows) -> str:
    """Return the text that `parse_windows` reads as these windows, in its usual form."""
    return " | ".join(
        f"{entry.day.name.capitalize()};{entry.start.hour}:{entry.start.minute:02d};{_duration_text(entry.duration)}"
        for entry in windows.entries
    )


def every_day(start: time, duration: timedelta) -> str:
    """Return the text of a window that starts at the same time every day. Raises ValueError as `Window` does."""
    return format_windows(Windows(tuple(Window(day, start, duration) for day in Weekday)))


DEFAULT_OFF_HOURS = every_day(time(22), timedelta(hours=8))
"""When automatic resyncs may start unless a site says otherwise: every day at 22:00 for 8 hours (spec §3)."""


def covers_whole_week(windows: Windows) -> bool:
    """Return whether no minute of the week is outside the windows."""
    spans = ((entry.begins_after + shift, entry.duration) for entry in windows.entries for shift in (-_WEEK, timedelta(0)))
    covered = timedelta(0)
    for begin, duration in sorted(spans):
        if begin > covered:
            return False
        covered = max(covered, begin + duration)
    return covered >= _WEEK


def inside(windows: Windows, zone: tzinfo, instant: datetime) -> datetime | Endless | None:
    """Return when the windows that cover the instant end; None if none covers it.

    The end is that of their union: where one window ends as or after another begins, it is the later one's. ENDLESS if
    the windows cover the whole week. A window's start is inside it, its end is not. Raises ValueError for a naive instant.
    """
    week = _week_of(zone, instant)
    if covers_whole_week(windows):
        return ENDLESS
    return next((end for begin, end in _unions(windows, zone, week) if begin <= instant < end), None)


def next_start(windows: Windows, zone: tzinfo, instant: datetime) -> datetime | None:
    """Return the first instant after the given one at which time passes from outside the windows to inside.

    Inside a window that is the start after the union's end. None if there is none: without windows, and where they
    cover the whole week. Raises ValueError for a naive instant.
    """
    week = _week_of(zone, instant)
    if covers_whole_week(windows):
        return None
    return next((begin for begin, _ in _unions(windows, zone, week) if begin > instant), None)


def _entry(number: int, text: str) -> Window:
    fields = text.split(";")
    if not text.strip():
        raise ValueError(f"Window {number} is empty. Write a window such as Monday;7:00;7h there, or remove its `|`.")
    if len(fields) != 3:
        raise ValueError(
            f"Window {number} does not have three parts. Write day;start;duration, such as Monday;7:00;7h, and `|` between windows."
        )
    return read_window(number, *fields)


def read_window(number: int, day: str, start: str, duration: str) -> Window:
    """Return the window of three fields of the grammar; `number` says in a refusal which window it is. Raises ValueError."""
    return Window(_day(number, _plain(day)), _start(number, _plain(start)), _duration(number, _plain(duration)))


def _plain(field: str) -> str:
    return " ".join(field.split())


def _day(number: int, text: str) -> Weekday:
    day = _DAYS.get(text.upper())
    if day is None:
        raise ValueError(f"Window {number} has a day that is not a day of the week. Write Monday, Tuesday, … or Sunday.")
    return day


def _start(number: int, text: str) -> time:
    match = _START.fullmatch(text)
    if match is None or int(match[1]) >= 24 or int(match[2]) >= 60:
        raise ValueError(
            f"Window {number} has a start that is not a time of day. Write hours and minutes, from 0:00 to 23:59, such as 7:00."
        )
    return time(int(match[1]), int(match[2]))


def _duration(number: int, text: str) -> timedelta:
    match = _DURATION.fullmatch(text.lower())
    if match is None or not any(match.groups()):
        raise ValueError(
            f"Window {number} has a duration that cannot be read. Write days, hours and minutes in this order, such as 1d7h, 7h or 8m."
        )
    days, hours, minutes = (int(part or 0) for part in match.groups())
    duration = timedelta(days=days, hours=hours, minutes=minutes)
    if not duration:
        raise ValueError(f"Window {number} has a duration of zero. Write at least 1m, or remove the window.")
    if duration > _WEEK:
        raise ValueError(f"Window {number} has a duration of more than a week, after which it repeats. Write at most 7d.")
    return duration


def _week_of(zone: tzinfo, instant: datetime) -> date:
    """Return the local Monday on or before an instant. Raises ValueError for a naive one, which has no zone to convert from."""
    if instant.utcoffset() is None:
        raise ValueError("An instant needs a time zone.")
    today = instant.astimezone(zone).date()
    return today - timedelta(days=today.weekday())


@lru_cache(maxsize=256)
def _unions(windows: Windows, zone: tzinfo, monday: date) -> tuple[tuple[datetime, datetime], ...]:
    """Return (begin, end) of the unions of windows in the weeks around, in UTC and in order.

    Kept for the next question: it is asked again and again for the same week.
    """
    unions: list[tuple[datetime, datetime]] = []
    for begin, end in sorted(_spans(windows, zone, monday)):
        if unions and begin <= unions[-1][1]:
            unions[-1] = (unions[-1][0], max(unions[-1][1], end))
        elif begin < end:
            unions.append((begin, end))
    return tuple(unions)


def _spans(windows: Windows, zone: tzinfo, monday: date) -> Iterator[tuple[datetime, datetime]]:
    for week in _WEEKS:
        midnight = datetime.combine(monday, time()) + week * _WEEK
        for entry in windows.entries:
            begin = midnight + entry.begins_after
            yield _instant(begin, zone), _instant(begin + entry.duration, zone)


def _instant(local: datetime, zone: tzinfo) -> datetime:
    """Return the first instant at which a clock in the zone shows a local time, or is past it where it skips it (PEP 495)."""
    first = local.replace(tzinfo=zone).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None, fold=0) == local:
        return first
    # In a gap fold=0 counts with the offset before it, which leads to an instant after it, and fold=1 the other way round.
    before, after = local.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    offset_before = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if middle.astimezone(zone).utcoffset() == offset_before:
            before = middle
        else:
            after = middle
    return after
