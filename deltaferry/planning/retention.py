"""Which recovery points go, and which one is meant: by kind, time and cycle alone (spec §8). Everything here is pure.

Points are in the order of their fence numbers, which only rise; clocks, the source's too, may jump. So *the latest* is the
one committed last, and a point's age counts from the earlier of its source time and its commit, so that a date in the
future keeps nothing for ever.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from deltaferry.model.recovery_points import PointKind, RecoveryPointRecord


class Choice(StrEnum):
    """How an operator says which point is meant."""

    LATEST = "latest"
    LATEST_APP_CONSISTENT = "latest-app-consistent"
    CHOSEN = "chosen"
    """By its cycle key."""
    AT_OR_BEFORE = "at-or-before"
    """The latest one whose source time is not later than an instant."""
    SHARED = "shared"
    """The one that was taken together with those of its replication group, by their common key."""


@dataclass(frozen=True, slots=True)
class PointChoice:
    """Which point: `cycle_key` for CHOSEN, `instant` for AT_OR_BEFORE, `shared_key` for SHARED."""

    choice: Choice = Choice.LATEST
    cycle_key: str = ""
    instant: datetime | None = None
    shared_key: str = ""


_KEY = r"[0-9]+-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_CYCLE_KEY = re.compile(_KEY)
_SHARED = re.compile(f"shared:({_KEY})")


def parse_choice(text: str) -> PointChoice | str:
    """Return which point an operator's text means, or a sentence that says what to write."""
    if text in (Choice.LATEST, Choice.LATEST_APP_CONSISTENT):
        return PointChoice(Choice(text))
    if _CYCLE_KEY.fullmatch(text):
        return PointChoice(Choice.CHOSEN, text)
    shared = _SHARED.fullmatch(text)
    if shared is not None:
        return PointChoice(Choice.SHARED, shared_key=shared[1])
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        return (
            f"{text[:80]!r} names no recovery point: write latest, latest-app-consistent, a point's cycle key, "
            "shared:KEY for a point shared with its replication group, or an instant with its time zone, such as 2026-11-22T12:00:00Z."
        )
    return PointChoice(Choice.AT_OR_BEFORE, instant=instant)


def in_order(points: Iterable[RecoveryPointRecord]) -> list[RecoveryPointRecord]:
    """Return points in the order of their commits, oldest first."""
    return sorted(points, key=lambda point: (point.fence, point.cycle_key))


def latest(points: Iterable[RecoveryPointRecord], kind: PointKind | None = None) -> RecoveryPointRecord | None:
    """Return the latest point, of a kind if one is given, or None if there is none."""
    ordered = in_order(point for point in points if kind in (None, point.kind))
    return ordered[-1] if ordered else None


def expired(
    points: Collection[RecoveryPointRecord], retention: timedelta | None, now: datetime, held: Collection[str]
) -> tuple[str, ...]:
    """Return the cycle keys of the points to prune, oldest first.

    Kept are: what is inside the retention; the latest point, and the latest application-consistent one, however old;
    what is `held` (pinned or in use, by cycle key). Without a retention only the latest point is kept, beside what is held.
    """
    kept = set(held)
    newest = latest(points)
    if newest is not None:
        kept.add(newest.cycle_key)
    if retention is not None:
        app_consistent = latest(points, PointKind.APP_CONSISTENT)
        if app_consistent is not None:
            kept.add(app_consistent.cycle_key)
        kept.update(point.cycle_key for point in points if now - min(point.taken_at, point.committed_at) <= retention)
    return tuple(point.cycle_key for point in in_order(points) if point.cycle_key not in kept)


def all_but(points: Iterable[RecoveryPointRecord], kept: str, held: Collection[str]) -> tuple[str, ...]:
    """Return the cycle keys of all points but one and those that are held: what a failover's commit deletes."""
    return tuple(point.cycle_key for point in in_order(points) if point.cycle_key != kept and point.cycle_key not in held)


def choose(points: Collection[RecoveryPointRecord], choice: PointChoice) -> RecoveryPointRecord | str:
    """Return the point that is meant, or a sentence that says why there is none."""
    found: RecoveryPointRecord | None
    match choice.choice:
        case Choice.LATEST:
            found, missing = latest(points), "There is no recovery point yet: wait for the first committed cycle."
        case Choice.LATEST_APP_CONSISTENT:
            found = latest(points, PointKind.APP_CONSISTENT)
            missing = "There is no app-consistent recovery point: ask for the latest one, or for one by its cycle."
        case Choice.CHOSEN:
            found = next((point for point in points if point.cycle_key == choice.cycle_key), None)
            missing = f"There is no recovery point of cycle {choice.cycle_key!r}: it was pruned, or never committed."
        case Choice.AT_OR_BEFORE:
            instant = choice.instant
            if instant is None or instant.tzinfo is None:
                return "A point by time needs an instant with its time zone, such as 2026-11-22T12:00:00Z."
            found = latest(point for point in points if point.taken_at <= instant)
            missing = f"There is no recovery point as old as {instant.isoformat()}: the retention has passed."
        case Choice.SHARED:
            found = latest(point for point in points if point.shared_key and point.shared_key == choice.shared_key)
            missing = f"There is no recovery point that is shared as {choice.shared_key!r}: it was pruned, or never committed."
    return found if found is not None else missing
