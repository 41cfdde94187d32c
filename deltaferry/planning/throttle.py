"""The throttle's weekly schedule: how much an appliance may send, and when (spec §3).

Written as a rate, `100 Mbit/s`, or as a rate and weekly windows with a rate each, with `|` between them:
`100 Mbit/s | Monday;7:00;10h;10 Mbit/s | Saturday;0:00;2d;unlimited`. The rate without a window holds outside all windows;
left out it is `unlimited`, and so is an empty text. A window replaces it, whether it is lower or higher; where windows
overlap, the lowest of their rates holds. Day, start and duration are those of `deltaferry.planning.windows`: what the clock on
the wall shows, in the site's time zone.

A rate is a number and a unit: `bit/s`, `kbit/s`, `Mbit/s` or `Gbit/s`, decimal (1 Mbit/s is 1,000,000 bit/s). It is at least
1 Mbit/s: with less, a single 4 MiB object of one of 52 transfers would take longer than a step may, and be begun again for ever.

Everything here is pure: the caller brings the instant and the zone. Instants are aware datetimes; those returned are UTC.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from deltaferry.planning.windows import Window, Windows, inside, next_start, read_window

BITS_PER_BYTE = 8
_UNITS: Mapping[str, int] = {"Gbit/s": 10**9, "Mbit/s": 10**6, "kbit/s": 10**3, "bit/s": 1}
_FACTORS = {unit.lower(): factor for unit, factor in _UNITS.items()}
_LOWEST_BITS_PER_S = 10**6
_RATE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,3}))? ?([a-z]+/s)")
_UNLIMITED = "unlimited"
_HOW_TO_WRITE = "Write a number and a unit, such as 100 Mbit/s (bit/s, kbit/s, Mbit/s or Gbit/s), or unlimited."
_LOOK_AHEAD = timedelta(weeks=3)
"""A window may be skipped in one week, where the clock is put forward over it."""


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """How much may be sent in a second."""

    bits_per_s: int

    def __post_init__(self) -> None:
        """Raise ValueError for a rate at which a transfer would not get on."""
        if self.bits_per_s < _LOWEST_BITS_PER_S:
            raise ValueError(f"A rate is at least {_LOWEST_BITS_PER_S:,} bit/s.")

    @property
    def bytes_per_s(self) -> float:
        """The same in bytes."""
        return self.bits_per_s / BITS_PER_BYTE

    def __str__(self) -> str:
        """Return it in the largest unit that shows it exactly."""
        for unit, factor in _UNITS.items():
            whole, rest = divmod(self.bits_per_s, factor)
            if whole and rest * 1000 % factor == 0:
                decimals = f".{rest * 1000 // factor:03d}".rstrip("0") if rest else ""
                return f"{whole}{decimals} {unit}"
        raise AssertionError("a rate is at least 1 bit/s")


@dataclass(frozen=True, slots=True)
class RatedWindow:
    """A weekly window and what may be sent in it; None is unlimited."""

    window: Window
    rate: Rate | None


@dataclass(frozen=True, slots=True)
class Throttle:
    """A weekly schedule: a rate outside of all windows, None for unlimited, and the windows as they were written."""

    default: Rate | None = None
    windows: tuple[RatedWindow, ...] = ()


UNLIMITED = Throttle()
"""Nothing is throttled at any time."""


def parse_throttle(text: str) -> Throttle:
    """Return the schedule that a text in the grammar stands for; an empty one means unlimited.

    Case does not count, nor do blanks around words and units. Raises ValueError with sentences that say which part is
    wrong, and what to write; they never repeat the text. Windows are counted from 1, without the rate that has none.
    """
    if not text.strip():
        return UNLIMITED
    defaults: list[Rate | None] = []
    windows: list[RatedWindow] = []
    for part in text.split("|"):
        if not part.strip():
            raise ValueError(
                "There is nothing before, after or between two `|`. Write a rate or a window there, or remove the `|`."
            )
        if ";" in part:
            windows.append(_rated_window(len(windows) + 1, part))
        else:
            defaults.append(_rate("The rate without a window", part))
    if len(defaults) > 1:
        raise ValueError(
            "There is more than one rate without a window. "
            "Keep the one that holds outside of all windows, and write the others as day;start;duration;rate."
        )
    return Throttle(defaults[0] if defaults else None, tuple(windows))


def rate_text(rate: Rate | None) -> str:
    """Return a rate as people write it."""
    return _UNLIMITED if rate is None else str(rate)


def rate_at(throttle: Throttle, zone: tzinfo, instant: datetime) -> Rate | None:
    """Return what may be sent at an instant; None for as much as the line takes. Raises ValueError for a naive instant."""
    if instant.utcoffset() is None:
        raise ValueError("An instant needs a time zone.")
    covering = [entry.rate for entry in throttle.windows if inside(Windows((entry.window,)), zone, instant) is not None]
    if not covering:
        return throttle.default
    return min((rate for rate in covering if rate is not None), default=None)


def next_change(throttle: Throttle, zone: tzinfo, instant: datetime) -> datetime | None:
    """Return the first instant after the given one from which on another rate holds; None if the rate never changes.

    Raises ValueError for a naive instant.
    """
    present = rate_at(throttle, zone, instant)
    limit = instant.astimezone(UTC) + _LOOK_AHEAD
    at = instant.astimezone(UTC)
    while (boundary := _next_boundary(throttle, zone, at)) is not None and boundary <= limit:
        if rate_at(throttle, zone, boundary) != present:
            return boundary
        at = boundary
    return None


def _next_boundary(throttle: Throttle, zone: tzinfo, instant: datetime) -> datetime | None:
    """Return when the next window begins or ends after an instant, by itself: those that cover a week have neither."""
    found: list[datetime] = []
    for entry in throttle.windows:
        window = Windows((entry.window,))
        end, start = inside(window, zone, instant), next_start(window, zone, instant)
        found += [boundary for boundary in (end, start) if isinstance(boundary, datetime)]
    return min(found, default=None)


def _rated_window(number: int, text: str) -> RatedWindow:
    fields = text.split(";")
    if len(fields) != 4:
        raise ValueError(
            f"Window {number} does not have four parts. Write day;start;duration;rate, such as Monday;7:00;10h;10 Mbit/s, "
            "and `|` between windows."
        )
    day, start, duration, rate = fields
    return RatedWindow(read_window(number, day, start, duration), _rate(f"The rate of window {number}", rate))


def _rate(which: str, text: str) -> Rate | None:
    plain = " ".join(text.split()).lower()
    if plain == _UNLIMITED:
        return None
    match = _RATE.fullmatch(plain)
    if match is None or match[3] not in _FACTORS:
        raise ValueError(f"{which} cannot be read. {_HOW_TO_WRITE}")
    thousandths = int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0"))
    bits_per_s, rest = divmod(thousandths * _FACTORS[match[3]], 1000)
    if rest:
        raise ValueError(f"{which} is not a whole number of bits. {_HOW_TO_WRITE}")
    if bits_per_s < _LOWEST_BITS_PER_S:
        raise ValueError(
            f"{which} is below 1 Mbit/s, at which a transfer would not get on. Write at least 1 Mbit/s, or pause the replications."
        )
    return Rate(bits_per_s)
