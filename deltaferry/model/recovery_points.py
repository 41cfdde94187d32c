"""A recovery point as it is listed, kept and restored: a consistent point in time of all of a VM's seed disks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from deltaferry.model.replication import RecoveryPoint, ReplicatedDisk


class PointKind(StrEnum):
    """What a point is consistent with. Recorded is what was obtained, never what was asked for."""

    CRASH_CONSISTENT = "crash-consistent"
    FILE_SYSTEM_CONSISTENT = "file-system-consistent"
    """File systems were frozen, and nothing says that an application held its writes back."""
    APP_CONSISTENT = "app-consistent"


@dataclass(frozen=True, slots=True)
class PointDisk:
    """One disk of a point: a snapshot of its seed's page blob."""

    disk_key: int
    snapshot: str
    """The blob snapshot's id."""
    capacity_bytes: int
    """The disk's size at that time: it may have grown since."""
    changed_bytes: int | None = None
    """How much the point's cycle changed of the disk, or None where nobody counted."""


@dataclass(frozen=True, slots=True)
class RecoveryPointRecord:
    """All that is stored of a point. It is written once, last of all, and never changed: pins are kept beside it."""

    cycle_key: str
    """The key of the cycle that committed it."""
    kind: PointKind
    taken_at: datetime
    """When the source snapshot was taken: the point's age is measured from it."""
    committed_at: datetime
    fence: int
    """The seal's number, which every disk's snapshot carries. Points are in its order: it only rises, whatever clocks say, and
    also where a replication was taken up again from an older record."""
    disks: tuple[PointDisk, ...]
    """In disk order."""
    note: str = ""
    """Why the point is not of the kind that its cycle asked for; empty where it is."""
    shared_key: str = ""
    """What the points of a replication group have in common that were taken together; empty for a point of its own."""

    @property
    def changed_bytes(self) -> int | None:
        """How much the point's cycle changed of all disks, or None where that is not known of each."""
        sizes = [disk.changed_bytes for disk in self.disks]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True, slots=True)
class SharedPoint:
    """The points of a replication group that were taken together, once every member has committed its own."""

    key: str
    """`shared_key` of each of them."""
    taken_at: datetime
    """When the first of the snapshots was taken."""
    spread: timedelta
    """From the first snapshot to the last, by the clock that dated them."""
    members: tuple[str, ...]
    """Workflow ids."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a point must not be pruned: somebody, by workflow id, works with it."""

    cycle_key: str
    holder: str
    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class PointCopy:
    """A disk of a point as a page blob of its own, whole, ready to be imported into a managed disk."""

    disk_key: int
    name: str
    """The blob's name in the seed container."""
    size_bytes: int


def record_of(
    point: RecoveryPoint,
    disks: Iterable[ReplicatedDisk],
    committed_at: datetime,
    *,
    kind: PointKind = PointKind.CRASH_CONSISTENT,
    changed_bytes: Mapping[int, int] | None = None,
    note: str = "",
    shared_key: str = "",
) -> RecoveryPointRecord:
    """Return the record of a point that a cycle sealed; `disks` are the replication's, `changed_bytes` by disk key."""
    capacities = {disk.key: disk.capacity_bytes for disk in disks}
    changed = changed_bytes or {}
    taken = tuple(PointDisk(key, snapshot, capacities[key], changed.get(key)) for key, snapshot in point.snapshots)
    return RecoveryPointRecord(point.cycle_key, kind, point.taken_at, committed_at, point.seal, taken, note, shared_key)
