"""How recovery points are listed: a few of them wherever they are carried, all of them in the gateway store."""

from dataclasses import dataclass
from datetime import datetime

from deltaferry.model.recovery_points import PointKind
from deltaferry.model.replication import ObjectRef

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
