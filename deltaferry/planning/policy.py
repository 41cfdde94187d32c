"""Whether a replication policy can be kept: a sentence for each contradiction, and for each price that it has (spec §8).

Everything here is pure. A policy with contradictions is refused with all of them at once; cautions are shown and change nothing.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from deltaferry.model.policy import AccountKind, FailbackPolicy, ReplicationPolicy
from deltaferry.planning.phrases import duration_text
from deltaferry.planning.schedule import MAXIMUM_INTERVAL, next_delta_after

MAX_RETENTION = timedelta(days=15)
"""Spec §8, fixed."""

MIN_APP_CONSISTENT = timedelta(hours=1)
MAX_APP_CONSISTENT = timedelta(hours=12)
"""Spec §8, fixed: the bounds of the application-consistent frequency."""

MIN_REVERSE_INTERVAL = timedelta(minutes=5)
"""Each reverse delta takes a snapshot of every disk; Azure allows 7 per disk in 5 minutes (facts A2), of which retries need some."""

MAX_REVERSE_INTERVAL = timedelta(hours=12)
"""As a site's longest wait between delta cycles."""

PREMIUM_SNAPSHOTS = 100
"""A page blob of a premium account has at most 100 snapshots, else 409 SnapshotCountExceeded
(learn.microsoft.com/rest/api/storageservices/using-blob-service-operations-with-azure-premium-storage)."""

PREMIUM_SNAPSHOT_INTERVAL = timedelta(minutes=10)
"""There a snapshot of one blob may be taken every ten minutes, else 409 SnapshotOperationRateExceeded (same page)."""

SPARE_SNAPSHOTS = 2
"""Beside the retained points: that of the cycle being sealed, and the latest application-consistent one, kept beyond the retention."""

_TICK = timedelta(seconds=1)
"""The shortest time between two cycles that is reckoned with: a site may have no minimum interval at all."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a site's schedule can do: the bounds of the wait between cycles, and what is known of this site."""

    minimum_interval: timedelta
    maximum_interval: timedelta
    account: AccountKind = AccountKind.STANDARD
    """The kind of the account that the seed disks are in."""
    longest_window: timedelta = timedelta(0)
    """The longest blackout window: no cycle starts inside it."""


ANY_SITE = Schedule(timedelta(0), MAXIMUM_INTERVAL)
"""A schedule that can keep any threshold: what a site's own cannot is refused when the policy is given to a replication."""


def fastest_rpo(schedule: Schedule, cycle: timedelta = timedelta(0)) -> timedelta:
    """Return the age that the latest point reaches before the next one is committed, with cycles that take `cycle`.

    A point is as old as its snapshot: a whole cycle when it is committed, then the wait, then another whole cycle.
    """
    return 2 * cycle + next_delta_after(cycle, schedule.minimum_interval, schedule.maximum_interval)


def points_kept(policy: ReplicationPolicy, schedule: Schedule) -> int:
    """Return how many snapshots of one seed disk the policy can lead to, with the shortest cycles."""
    return math.ceil(policy.retention / max(schedule.minimum_interval, _TICK)) + SPARE_SNAPSHOTS


def contradictions(policy: ReplicationPolicy, schedule: Schedule) -> tuple[str, ...]:
    """Return one sentence for each reason why the policy cannot be kept; none if it can."""
    return (
        *_name(policy),
        *_retention(policy),
        *_app_consistency(policy),
        *_threshold(policy, schedule),
        *_snapshots(policy, schedule),
        *failback_contradictions(policy.failback),
    )


def cautions(policy: ReplicationPolicy, schedule: Schedule, cycle: timedelta | None = None) -> tuple[str, ...]:
    """Return one sentence for each thing that a policy that can be kept costs or will do; `cycle` is the last cycle's duration."""
    return tuple(_cautions(policy, schedule, cycle))


def failback_contradictions(policy: FailbackPolicy) -> tuple[str, ...]:
    """Return one sentence for each reason why a failback policy cannot be kept."""
    found = []
    if not MIN_REVERSE_INTERVAL <= policy.interval <= MAX_REVERSE_INTERVAL:
        found.append(
            f"The failback interval is {duration_text(policy.interval)}: write between "
            f"{duration_text(MIN_REVERSE_INTERVAL)} and {duration_text(MAX_REVERSE_INTERVAL)}."
        )
    if policy.rpo_threshold is not None and policy.rpo_threshold <= policy.interval:
        found.append(
            f"The failback RPO threshold of {duration_text(policy.rpo_threshold)} cannot be met with a reverse delta every "
            f"{duration_text(policy.interval)}: write a longer threshold or a shorter failback interval."
        )
    return tuple(found)


def _name(policy: ReplicationPolicy) -> Iterator[str]:
    if not _NAME.fullmatch(policy.name):
        yield (
            "A policy's name has 1 to 63 letters, digits, spaces, dots, hyphens and underscores, "
            f"and begins with a letter or digit: {policy.name[:80]!r} does not."
        )


def _retention(policy: ReplicationPolicy) -> Iterator[str]:
    if policy.retention <= timedelta(0):
        yield "The retention must be longer than nothing: replicate without a policy to keep the latest recovery point only."
    elif policy.retention > MAX_RETENTION:
        yield f"The retention is {duration_text(policy.retention)}: recovery points are kept for at most 15 days."


def _app_consistency(policy: ReplicationPolicy) -> Iterator[str]:
    every = policy.app_consistent_every
    if every is None:
        return
    if not MIN_APP_CONSISTENT <= every <= MAX_APP_CONSISTENT:
        yield f"The app-consistent interval is {duration_text(every)}: write between 1 and 12 hours, or leave it out for never."
    if every >= policy.retention > timedelta(0):
        yield (
            f"The app-consistent interval of {duration_text(every)} is not shorter than the retention of "
            f"{duration_text(policy.retention)}, so that no such point would be left when the next is due: "
            "write a shorter interval or a longer retention."
        )


def _threshold(policy: ReplicationPolicy, schedule: Schedule) -> Iterator[str]:
    if policy.rpo_threshold <= timedelta(0):
        yield "The RPO threshold must be longer than nothing."
    elif policy.rpo_threshold <= fastest_rpo(schedule):
        yield (
            f"The RPO threshold of {duration_text(policy.rpo_threshold)} cannot be met: the site's schedule starts a delta cycle "
            f"{duration_text(schedule.minimum_interval)} after the previous one at the earliest, so that the latest point gets "
            "older than that before every commit: write a longer threshold, or shorten the site's minimum interval."
        )


def _snapshots(policy: ReplicationPolicy, schedule: Schedule) -> Iterator[str]:
    if schedule.account is not AccountKind.PREMIUM:
        return  # "a blob can have any number of snapshots": only premium accounts count them
    if schedule.minimum_interval < PREMIUM_SNAPSHOT_INTERVAL:
        yield (
            f"The seed disks are in a premium storage account, which takes a snapshot of a blob every "
            f"{duration_text(PREMIUM_SNAPSHOT_INTERVAL)} at most, and the site's minimum interval is "
            f"{duration_text(schedule.minimum_interval)}: lengthen that, or use a standard account."
        )
    kept = points_kept(policy, schedule)
    if kept > PREMIUM_SNAPSHOTS:
        room = (PREMIUM_SNAPSHOTS - SPARE_SNAPSHOTS) * schedule.minimum_interval
        yield (
            f"A retention of {duration_text(policy.retention)} can need {kept} snapshots of a seed disk, and a premium storage "
            f"account allows {PREMIUM_SNAPSHOTS}: write a retention of at most {duration_text(room)}, or use a standard account."
        )


def _cautions(policy: ReplicationPolicy, schedule: Schedule, cycle: timedelta | None) -> Iterator[str]:
    if policy.app_consistent_every is not None:
        yield (
            "An app-consistent point takes longer and slows the application while its writes are held back; where the guest "
            "cannot be quiesced the point is crash-consistent, and says so."
        )
        if policy.app_consistent_every < schedule.minimum_interval:
            yield (
                f"App-consistent points come every {duration_text(schedule.minimum_interval)} and not every "
                f"{duration_text(policy.app_consistent_every)}: they are taken by cycles, which do not start more often."
            )
    if policy.retention < schedule.minimum_interval:
        yield (
            f"The retention of {duration_text(policy.retention)} is shorter than the shortest wait between two cycles, so that "
            "only the latest recovery point is kept."
        )
    if cycle is not None and fastest_rpo(schedule) < policy.rpo_threshold <= (reached := fastest_rpo(schedule, cycle)):
        yield (
            f"With cycles that take {duration_text(cycle)}, as the last one did, the latest point gets "
            f"{duration_text(reached)} old: the RPO threshold of {duration_text(policy.rpo_threshold)} will be crossed each time."
        )
    if schedule.longest_window >= policy.rpo_threshold:
        yield (
            f"The site's longest blackout window lasts {duration_text(schedule.longest_window)}, in which no cycle starts: "
            f"the RPO threshold of {duration_text(policy.rpo_threshold)} will be crossed in it."
        )
