"""The recovery point objective: how old the latest point is, and when that crosses the policy's threshold (spec §8).

The age counts from the moment at which the source's snapshot was taken, not from its commit: what the guest wrote after it
is what a failover would lose. Everything here is pure; each crossing, either way, is told once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from deltaferry.planning.phrases import duration_text


class RpoChange(StrEnum):
    """What an event says."""

    CROSSED = "RPO threshold crossed"
    RECOVERED = "RPO recovered"


@dataclass(frozen=True, slots=True)
class RpoWatch:
    """What is remembered between two looks: carried in the replication's state."""

    crossed_at: datetime | None = None
    """Since when the threshold has been crossed, as far as it was told; None if it is not."""


@dataclass(frozen=True, slots=True)
class RpoEvent:
    """A crossing: shown, metered and sent to the webhook."""

    change: RpoChange
    at: datetime
    rpo: timedelta
    """How old the latest point was."""
    threshold: timedelta | None
    sentence: str


def rpo(taken_at: datetime, now: datetime) -> timedelta:
    """Return how old a point is; never negative, as the source's clock may be ahead of ours."""
    return max(now - taken_at, timedelta(0))


def crosses_at(taken_at: datetime, threshold: timedelta) -> datetime:
    """Return from which instant on the threshold is crossed if no newer point is committed: when to look again."""
    return taken_at + threshold + timedelta(microseconds=1)


def look(
    watch: RpoWatch, taken_at: datetime, now: datetime, threshold: timedelta | None, what: str = "recovery point"
) -> tuple[RpoWatch, RpoEvent | None]:
    """Return the watch after a look at the latest point, and the event that is due, if one is. `what` is its name in sentences.

    A look at the same facts again gives no event. Without a threshold any more, a crossing that was told is taken back.
    """
    age = rpo(taken_at, now)
    is_crossed = threshold is not None and age > threshold
    if is_crossed == (watch.crossed_at is not None):
        return watch, None
    if threshold is not None and is_crossed:
        sentence = f"The latest {what} is {duration_text(age)} old; the policy allows {duration_text(threshold)}."
        return RpoWatch(now), RpoEvent(RpoChange.CROSSED, now, age, threshold, sentence)
    if threshold is None:
        sentence = "The policy sets no RPO threshold any more."
    else:
        sentence = f"The latest {what} is {duration_text(age)} old, within the {duration_text(threshold)} of the policy."
    return RpoWatch(), RpoEvent(RpoChange.RECOVERED, now, age, threshold, sentence)
