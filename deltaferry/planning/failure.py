"""What follows from a failed cycle (spec §4)."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from deltaferry.model.errors import ErrorKind

_K = ErrorKind

CBT_CANNOT_REPAIR = frozenset(
    {
        _K.CBT_OFF,
        _K.CBT_RESET,
        _K.CBT_CHANGE_ID_REJECTED,
        _K.CBT_CORRUPT,
        _K.CBT_MISSED_CHANGES,
        _K.SEED_MISSING,
        _K.DISKS_CHANGED,
        _K.SOURCE_LOST_POWER,
        _K.CLAIM_LOST,
    }
)
"""Causes that the next delta cannot mend: the replication is marked for resync at once."""

TRACKING_VOID = frozenset({_K.CBT_OFF, _K.CBT_RESET, _K.CBT_CHANGE_ID_REJECTED, _K.CBT_CORRUPT})
"""Causes that make worthless what a copy under way has reached under an earlier snapshot: it starts from nothing."""

INTEGRITY = frozenset(
    {
        _K.CHECKSUM_MISMATCH,
        _K.SEGMENT_DAMAGED,
        _K.COVERAGE_MISMATCH,
        _K.MANIFEST_MISMATCH,
        _K.STORE_OBJECT_MISSING,
        _K.KEY_UNAVAILABLE,
        _K.SNAPSHOT_LOST,
        _K.FENCED,
        _K.INTERNAL,
    }
)
"""Causes that say something of the cycle itself: the first failure is repaired by the next cycle, the second is not."""

WAITS_FOR_ROOM = frozenset({_K.DATASTORE_FULL})
"""Causes that say nothing of the copy: its snapshot is released, and it goes on by itself when there is room (spec §2.7)."""

_ROOM_AGAIN = timedelta(minutes=10)
"""How long a copy waits for room. Snapshots come and go meanwhile; an operator who has made room does not wait for long."""

_FAILURES_UNTIL_REPAIR = 2
"""Spec §4: from the second failure in a row the replication is marked for resync."""


class Course(StrEnum):
    """How a replication goes on after a failed cycle."""

    NEXT_CYCLE = "next cycle"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True)
class AfterFailure:
    """The decision and the sentence part that explains it."""

    course: Course
    reason: str


def after_failure(kind: ErrorKind, integrity_failures_in_row: int) -> AfterFailure:
    """Decide what follows from a cycle that failed with `kind`; the count includes this failure.

    An outage (a vCenter or a store that does not answer) says nothing about the seed disk and does not lead to a
    repair, however long it lasts: docs/decisions/0004-what-counts-as-a-failed-cycle.md. Nor does a full datastore.
    """
    if kind in CBT_CANNOT_REPAIR:
        return AfterFailure(Course.REPAIR, "change block tracking cannot repair this")
    if kind in INTEGRITY and integrity_failures_in_row >= _FAILURES_UNTIL_REPAIR:
        return AfterFailure(Course.REPAIR, "the second failed cycle in a row")
    if kind in WAITS_FOR_ROOM:
        return AfterFailure(Course.NEXT_CYCLE, "the next cycle covers its range too, once there is room for its snapshot")
    return AfterFailure(Course.NEXT_CYCLE, "the next cycle starts from the last committed change ids and repairs it")


def wait_for_room(minimum_interval: timedelta) -> timedelta:
    """Return how long an initial replication or a resync waits after a datastore was short, before it takes another snapshot.

    A site whose interval between cycles is shorter than that does not wait longer for room, either.
    """
    return min(_ROOM_AGAIN, minimum_interval)
