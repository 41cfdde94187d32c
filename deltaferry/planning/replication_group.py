"""Replication groups: which ones can be, when their next shared point is due, and which points are shared. All pure (spec §8).

A point is shared if the snapshots of all members were taken within the group's spread, and every member committed its own.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from deltaferry.planning.phrases import count_text, duration_text
from deltaferry.planning.slot_vectors import SlotLimits

MOST_MEMBERS = 16
"""As many as Azure Site Recovery has in a replication group: all of them pay for each."""
LONGEST_WAIT = timedelta(hours=1)
LONGEST_SPREAD = timedelta(minutes=5)
DEFAULT_WAIT = timedelta(minutes=15)
DEFAULT_SPREAD = timedelta(seconds=10)
"""vCenter takes most snapshots in a second or two; guests that write to each other meanwhile are consistent within this."""

WARNING = (
    "The whole group pays for its shared points: all members are stunned at the same moment, all of them wait for the slowest "
    "to become idle before each point, and their snapshots are held together. Group only VMs that have to be consistent with each other."
)
"""Spec §8: shown when a group is made."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class GroupRules:
    """What an operator decides about a group."""

    interval: timedelta | None = None
    """Between the beginnings of two shared points; None: the site's shortest interval between cycles."""
    wait: timedelta = DEFAULT_WAIT
    """How long is waited until all members are idle and there are slots; then they go alone."""
    max_spread: timedelta = DEFAULT_SPREAD
    """How far apart the members' snapshots may be taken; if they are further, the point is not shared."""


@dataclass(frozen=True, slots=True)
class MemberNeed:
    """What a member's cycle needs slots of."""

    vm: str
    host: str
    disks: int
    datastores: tuple[tuple[str, int], ...]
    """(datastore, disk snapshots on it)."""


@dataclass(frozen=True, slots=True)
class MemberPoint:
    """What became of one member's part of a point."""

    member: str
    committed: bool
    sentence: str = ""


def contradictions(name: str, members: Collection[str], rules: GroupRules) -> tuple[str, ...]:
    """Return one sentence for each reason why there cannot be such a group; none if there can."""
    found = []
    if not _NAME.fullmatch(name):
        found.append(f"{name[:80]!r} names no group: write 1 to 63 letters, digits, dots, underscores and hyphens.")
    if len(members) > MOST_MEMBERS:
        found.append(f"The group would have {len(members)} members; at most {MOST_MEMBERS} can be consistent with each other.")
    if len(set(members)) < len(members):
        found.append("A VM is named twice.")
    if rules.interval is not None and rules.interval <= timedelta(0):
        found.append("The interval between shared points must be longer than nothing: write for example PT1H.")
    if not timedelta(0) < rules.wait <= LONGEST_WAIT:
        found.append(
            f"The wait must be longer than nothing and at most {duration_text(LONGEST_WAIT)}: all members are idle meanwhile."
        )
    if not timedelta(0) < rules.max_spread <= LONGEST_SPREAD:
        found.append(f"The spread must be longer than nothing and at most {duration_text(LONGEST_SPREAD)}.")
    return tuple(found)


def misfits(members: Iterable[MemberNeed], limits: SlotLimits) -> tuple[str, ...]:
    """Return one sentence for each datastore on which the group's snapshots could never be held together.

    Transfer slots are no reason: what does not fit goes in turns, from snapshots that are held.
    """
    needed: dict[str, int] = {}
    for member in members:
        for name, disks in member.datastores:
            needed[name] = needed.get(name, 0) + disks
    limit = limits.snapshots_per_datastore
    return tuple(
        f"The group has {count_text(disks, 'disk')} on the datastore {name}, where {limit} disk snapshots may be held at a time: "
        "leave members out, move some to another datastore, or raise snapshots_per_datastore."
        for name, disks in sorted(needed.items())
        if disks > limit
    )


def spread(taken_at: Collection[datetime]) -> timedelta:
    """Return how far apart snapshots were taken, by the one clock that dated them."""
    return max(taken_at) - min(taken_at)


def why_not_shared(points: Iterable[MemberPoint], seen: timedelta, allowed: timedelta) -> str:
    """Return why a point is not shared, in words; empty if it is."""
    if seen > allowed:
        return f"the snapshots were taken {duration_text(seen)} apart, and {duration_text(allowed)} are allowed"
    failed = [point for point in points if not point.committed]
    return "; ".join(f"{point.member} did not commit it" + (f": {point.sentence}" if point.sentence else "") for point in failed)


def next_point(began: datetime, ended: datetime, interval: timedelta) -> datetime:
    """Return when the next shared point is due: an interval after the last began, and at least half of what that took after its end.

    As the spec has it for a VM's own cycles: a long one must not be followed at once by the next.
    """
    return max(began + interval, ended + (ended - began) / 2)


def offered(points: Iterable[tuple[str, datetime]], retention: Mapping[str, timedelta | None], now: datetime) -> tuple[str, ...]:
    """Return the keys of the shared points that every member still keeps, oldest first; `points` are keys and times.

    The shortest retention among the members decides. A member without one keeps its latest point alone: then at most the
    latest shared point is offered, as long as that member has committed nothing since, which its own listing says.
    """
    ordered = sorted(points, key=lambda point: (point[1], point[0]))
    kept = [given for given in retention.values() if given is not None]
    if len(kept) < len(retention):
        return tuple(key for key, _ in ordered[-1:])
    shortest = min(kept, default=timedelta(0))
    return tuple(key for key, at in ordered if now - at <= shortest)
