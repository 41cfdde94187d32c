"""What the steps of disaster recovery are asked and what they answer: references, totals and a few points, never a long list."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from deltaferry.model.recovery_points import PointCopy, PointKind, RecoveryPointRecord
from deltaferry.model.replication import ObjectRef
from deltaferry.planning.retention import PointChoice
from workflows.replication_state import Replication

NEWEST = 5
"""How many points a listing names itself: fifteen days of points are a megabyte, and stay in the gateway store."""


@dataclass(frozen=True, slots=True)
class PointView:
    """A recovery point as it is listed."""

    cycle_key: str
    kind: PointKind
    taken_at: datetime
    fence: int
    changed_bytes: int | None
    """What the point's cycle changed; None if nobody counted."""
    stored_bytes: int | None = None
    """What the point holds that the point before does not: what it costs. None if it was not asked for, or is not known."""
    note: str = ""
    shared_key: str = ""
    pinned_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PointBook:
    """All points of a replication, oldest first: what the gateway object of a listing holds, as JSON."""

    listed_at: datetime
    points: tuple[PointView, ...]
    incomplete: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListPointsInput:
    """List a replication's recovery points."""

    replication: Replication
    now: datetime
    with_sizes: bool = False
    """Count what the newest points cost: some calls for each of their disks."""


@dataclass(frozen=True, slots=True)
class PointList:
    """A listing: counts, the newest few, and where all of them are."""

    book: ObjectRef
    """A `PointBook` as JSON; the next listing replaces it."""
    total: int
    app_consistent: int
    pinned: int
    newest: tuple[PointView, ...]
    """At most `NEWEST`, newest first."""
    latest_app_consistent: PointView | None
    oldest_at: datetime | None
    incomplete: int = 0
    """Records of which a disk's snapshot is gone: no points. Audit should name them."""
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class RecordPointInput:
    """After a commit: make its recovery point exist."""

    replication: Replication
    point: RecoveryPointRecord


@dataclass(frozen=True, slots=True)
class PrunePointsInput:
    """Delete the points that are due, what earlier prunings left, and snapshots that belong to no point."""

    replication: Replication
    now: datetime
    committed_fence: int
    """The seal of the last commit: snapshots of ours below it that no record names are of cycles that never committed."""
    retention: timedelta | None = None
    """None without a policy: only the latest point is kept."""
    in_use: tuple[str, ...] = ()
    """Cycle keys of points that are kept whatever their age, beside the pinned ones."""
    keep_only: str = ""
    """At a failover's commit: the one point to keep; the retention is not asked."""


@dataclass(frozen=True, slots=True)
class PrunedResult:
    """What a pruning did, and what there is now."""

    pruned: int
    orphans: int
    points: PointList


@dataclass(frozen=True, slots=True)
class PinPointInput:
    """Choose a point and keep it from being pruned. The same holder may ask again."""

    replication: Replication
    choice: PointChoice
    holder: str
    """Workflow id of whoever works with the point."""
    reason: str
    now: datetime


@dataclass(frozen=True, slots=True)
class PinnedPoint:
    """The point that was meant."""

    point: RecoveryPointRecord


@dataclass(frozen=True, slots=True)
class UnpinPointInput:
    """Take back a holder's pin on a point, or all its pins."""

    replication: Replication
    holder: str
    cycle_key: str = ""
    """Empty for all."""


@dataclass(frozen=True, slots=True)
class CopyPointInput:
    """Copy the disks of a pinned point to page blobs of their own."""

    replication: Replication
    cycle_key: str
    holder: str
    """Whose pin keeps the point meanwhile."""
    job: str
    """Names the copies: `[a-z0-9-]`, unique in the replication."""


@dataclass(frozen=True, slots=True)
class CopiedPoint:
    """Whole copies with a VHD footer, one for each disk of the point, ready to be imported. They outlive the point."""

    point: RecoveryPointRecord
    copies: tuple[PointCopy, ...]


@dataclass(frozen=True, slots=True)
class DeleteCopiesInput:
    """Abort and delete everything that a job has copied."""

    replication: Replication
    job: str


@dataclass(frozen=True, slots=True)
class DeletedCopies:
    """How many copies there were."""

    count: int
