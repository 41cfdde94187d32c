"""Whether something may start now, from the occurrences of blackout windows: no time-zone arithmetic, so that workflows can ask.

Everything here is pure; instants are aware datetimes in UTC.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from deltaferry.planning.windows import ENDLESS, Windows, inside, next_start


@dataclass(frozen=True, slots=True)
class Closure:
    """One occurrence of windows that follow each other without a gap."""

    start: datetime
    end: datetime | None
    """None: it never ends."""


def occurrences(windows: Windows, zone: tzinfo, start: datetime, until: datetime) -> tuple[Closure, ...]:
    """Return the windows' occurrences that cover or follow `start` and begin before `until`, in order."""
    found: list[Closure] = []
    instant = start.astimezone(UTC)
    end = inside(windows, zone, instant)
    if end is ENDLESS:
        return (Closure(instant, None),)
    if isinstance(end, datetime):
        found.append(Closure(instant, end))
        instant = end
    while True:
        begin = next_start(windows, zone, instant)
        if begin is None or begin >= until:
            return tuple(found)
        end = inside(windows, zone, begin)
        assert isinstance(end, datetime), "windows that begin are not endless"
        found.append(Closure(begin, end))
        instant = end


NEVER = timedelta(days=365 * 100)
"""How far away an end is shown that does not come: operators have to change the windows."""


def open_again_at(closures: Iterable[Closure], now: datetime) -> datetime | None:
    """Return the first instant from now on that no closure covers; None if that is now.

    Closures of several windows may overlap or follow each other.
    """
    instant, moved = now, True
    known = sorted(closures, key=lambda closure: closure.start)
    while moved:
        moved = False
        for closure in known:
            if closure.start <= instant and (closure.end is None or instant < closure.end):
                instant = closure.end or now + NEVER
                moved = closure.end is not None
    return instant if instant > now else None
