"""How much a snapshot is expected to grow while it is held, from what the last cycles changed (spec §2.7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

_BURST = 2
"""Writes come in bursts, and a sector that is written again within an interval is counted once: twice the mean rate."""


@dataclass(frozen=True, slots=True)
class PastCycle:
    """What a committed cycle found changed since the one before it."""

    started_at: datetime
    duration: timedelta
    """From the snapshot to the commit: at least as long as the snapshot was held."""
    changed_bytes: tuple[tuple[int, int], ...]
    """(disk key, bytes) of each disk."""


def expected_growth(
    cycles: Sequence[PastCycle], capacities_bytes: Mapping[int, int], held: timedelta | None = None
) -> tuple[tuple[int, int], ...]:
    """Return (disk key, bytes) that the next snapshot's delta of each disk is expected to grow to; nothing where nothing is known.

    `cycles` are the committed ones, oldest first: what one found changed, over the time since the one before, is a rate.
    Reckoned is with the highest of them, and with a snapshot that is held for `held`, or for as long as the longest of
    these cycles took. A delta never gets larger than its disk.
    """
    if held is None:
        held = max((cycle.duration for cycle in cycles), default=timedelta(0))
    rates: dict[int, float] = {}
    for before, cycle in pairwise(cycles):
        interval_s = (cycle.started_at - before.started_at).total_seconds()
        if interval_s <= 0:
            continue
        for key, changed in cycle.changed_bytes:
            rates[key] = max(rates.get(key, 0.0), changed / interval_s)
    grown = {key: int(_BURST * rate * held.total_seconds()) for key, rate in rates.items() if key in capacities_bytes}
    return tuple((key, min(grown[key], capacities_bytes[key])) for key in sorted(grown) if grown[key] > 0)
