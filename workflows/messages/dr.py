"""What the steps of disaster recovery are asked and what they answer: references, totals and a few points, never a long list."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from deltaferry.model.recovery_points import PointCopy, RecoveryPointRecord
from deltaferry.planning.retention import PointChoice
from workflows.messages.operator_input import TargetProperties
from workflows.messages.point_views import PointList
from workflows.messages.replication_state import Replication


@dataclass(frozen=True, slots=True)
class ListPointsInput:
    """List a replication's recovery points."""

    replication: Replication
    now: datetime
    with_sizes: bool = False
    """Count what the newest points cost: some calls for each of their disks."""


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


@dataclass(frozen=True, slots=True)
class ImportCopiesInput:
    """Import the copies of a point's disks into managed disks."""

    replication: Replication
    target: TargetProperties
    job: str
    """The tag of what is made."""
    point: RecoveryPointRecord
    copies: tuple[PointCopy, ...]
    isolated_from: TargetProperties | None = None
    """The properties whose network the VM must not be in."""
