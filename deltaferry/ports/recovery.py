"""Recovery points, and the differences between snapshots of a disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deltaferry.model.extents import Extent
from deltaferry.model.recovery_points import Pin, PointCopy, RecoveryPointRecord
from deltaferry.model.replication import ReplicationRef
from deltaferry.ports.access import Beat
from deltaferry.ports.data_plane import DataProgress


@dataclass(frozen=True, slots=True)
class PointListing:
    """A replication's recovery points, oldest first, and what looks like one and is none."""

    points: tuple[RecoveryPointRecord, ...]
    incomplete: tuple[str, ...] = ()
    """Cycle keys of records of which a disk's snapshot is gone, or is not of that cycle and fence number."""
    damaged: tuple[str, ...] = ()
    """Cycle keys of records that cannot be read."""


@dataclass(frozen=True, slots=True)
class PrunedPoints:
    """What a pruning did."""

    pruned: tuple[str, ...]
    pinned: tuple[str, ...]
    """Cycle keys that were asked for and are kept, because somebody has pinned them."""
    orphans: int = 0
    """Snapshots of ours that belonged to no point, and were deleted."""


@dataclass(frozen=True, slots=True)
class PageRange:
    """A range of pages of a disk's snapshot that are present, or that differ from an earlier snapshot."""

    extent: Extent
    cleared: bool
    """The pages were there in the earlier snapshot and are gone: they read as zero now."""


class RecoveryPoints(Protocol):
    """The recovery points of one target's replications: records in the gateway store, snapshots of the seeds' page blobs.

    A point exists only if its record does, which is written last and deleted first, and if the snapshot of each of its disks
    carries the record's cycle key and fence number. So a point is never a mix of two cycles, whatever died when.
    """

    def write(self, replication: ReplicationRef, record: RecoveryPointRecord) -> None:
        """Make a point exist; no-op if it does. Raises SEED_MISSING unless each of its snapshots is there as it should be."""

    def list(self, replication: ReplicationRef) -> PointListing:
        """Return the points; none for a replication without containers."""

    def pins(self, replication: ReplicationRef) -> tuple[Pin, ...]:
        """Return all pins, by cycle key and holder."""

    def pin(self, replication: ReplicationRef, pin: Pin) -> None:
        """Keep a point from being pruned; no-op if this holder does already. Raises OPERATION_REFUSED if there is no such point."""

    def unpin(self, replication: ReplicationRef, holder: str, cycle_key: str | None = None) -> None:
        """Take back a holder's pin on a point, or all its pins; no-op for what is gone."""

    def prune(self, replication: ReplicationRef, cycle_keys: Sequence[str], beat: Beat) -> PrunedPoints:
        """Delete points, and what earlier prunings did not finish. Pinned points stay. What is gone already is not counted."""

    def sweep(self, replication: ReplicationRef, below: int, beat: Beat) -> int:
        """Delete snapshots of ours with a number below `below` that belong to no point; return how many."""

    def stored_bytes(
        self, replication: ReplicationRef, point: RecoveryPointRecord, previous: RecoveryPointRecord | None
    ) -> int | None:
        """Return how many bytes of pages a point holds that the previous one does not; None where counting them is not cheap."""

    def copy(
        self, replication: ReplicationRef, point: RecoveryPointRecord, job: str, progress: Callable[[DataProgress], None]
    ) -> tuple[PointCopy, ...]:
        """Copy each disk of a point to a page blob of its own, with the VHD footer, inside the storage service.

        A copy that an earlier attempt began or finished is taken up. What `progress` raises ends the wait and is passed on; the
        copies are then aborted and deleted, except at INTERRUPTED, since another attempt goes on with them.
        Raises OPERATION_REFUSED if the point is not whole, AZURE_FAILED if the service gave a copy up.
        """

    def delete_copies(self, replication: ReplicationRef, job: str, beat: Beat) -> int:
        """Abort and delete all copies that a job made; return how many there were."""
