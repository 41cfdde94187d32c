"""How much a replication's next snapshot is expected to grow, from the cycles that it remembers (spec §2.7)."""

from datetime import timedelta

from deltaferry.planning.growth import PastCycle, expected_growth
from workflows.messages.replication_state import EntityState, Replication


def growth_of_cycle(replication: Replication, state: EntityState) -> tuple[tuple[int, int], ...]:
    """Return (disk key, bytes) for a cycle's snapshot, which is held for as long as those of the last cycles."""
    return _growth(replication, state, None)


def growth_of_resync(replication: Replication, state: EntityState) -> tuple[tuple[int, int], ...]:
    """Return (disk key, bytes) for a resync's snapshot, which is held for as long as the longest resync that is known."""
    held = max((record.ended_at - record.started_at for record in state.resyncs), default=None)
    return _growth(replication, state, held)


def _growth(replication: Replication, state: EntityState, held: timedelta | None) -> tuple[tuple[int, int], ...]:
    cycles = [
        PastCycle(record.started_at, record.duration, record.changed_by_disk) for record in state.cycles if record.committed
    ]
    return expected_growth(cycles, {disk.key: disk.capacity_bytes for disk in replication.disks}, held)
