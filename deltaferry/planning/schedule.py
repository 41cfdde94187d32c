"""When the next delta cycle starts, and why (spec §2.3, architecture "Sleeping").

The duration of a cycle runs from snapshot creation to commit or failure, without the wait for slots; on-demand
cycles and resyncs do not count. The caller measures it; everything here only computes.
"""

from dataclasses import dataclass
from datetime import timedelta

from deltaferry.planning.phrases import duration_text

MINIMUM_INTERVAL = timedelta(hours=1)
"""The default of a site's shortest wait between delta cycles (spec §2.3)."""

MAXIMUM_INTERVAL = timedelta(hours=12)
"""The default of a site's longest wait between delta cycles (spec §2.3)."""

_AFTER_FAILURES = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15))
"""Architecture, "Sleeping": after a failed cycle the next starts after 1, 5, then 15 minutes, then by the formula."""

_ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class NextCycle:
    """How long after the end of the last cycle the next one starts, and the reason as the part of a sentence."""

    wait: timedelta
    reason: str


def next_delta_after(previous_duration: timedelta, minimum: timedelta, maximum: timedelta) -> timedelta:
    """Return `min(max(minimum, previous_duration / 2), maximum)`: the wait from the end of one delta cycle to the next."""
    return min(max(minimum, previous_duration / 2), maximum)


def retry_after_failure(consecutive_failures: int) -> timedelta | None:
    """Return the wait after that many failed cycles in a row, or None where the formula applies (none, or more than three)."""
    if 1 <= consecutive_failures <= len(_AFTER_FAILURES):
        return _AFTER_FAILURES[consecutive_failures - 1]
    return None


def next_cycle(
    previous_duration: timedelta | None, consecutive_failures: int, minimum: timedelta, maximum: timedelta
) -> NextCycle:
    """Return the wait until the next delta cycle with its reason.

    `previous_duration` is that of the previous delta cycle, committed or failed; None before the first one, which
    follows the initial replication at once.
    """
    retry = retry_after_failure(consecutive_failures)
    if retry is not None:
        ordinal = _ORDINALS[consecutive_failures - 1]
        return NextCycle(retry, f"{duration_text(retry)} after the {ordinal} failed cycle in a row")
    if previous_duration is None:
        return NextCycle(timedelta(0), "the first delta cycle follows the initial replication at once")
    wait = next_delta_after(previous_duration, minimum, maximum)
    half, last = previous_duration / 2, duration_text(previous_duration)
    if wait == half:
        return NextCycle(wait, f"half of the last cycle's {last}")
    limit, relation = ("minimum", "less") if half < wait else ("maximum", "more")
    return NextCycle(wait, f"the {limit} of {duration_text(wait)}, as half of the last cycle's {last} is {relation}")
