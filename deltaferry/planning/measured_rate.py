"""How fast one VM is copied, by what a site's cycles measured. Everything here is pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from deltaferry.model.units import MIB
from deltaferry.planning.phrases import count_text, size_text

ASSUMED_BYTES_PER_S = 30.0 * MIB
"""What one VM's first copy is assumed to read where nothing was measured: half of what one page blob takes (60 MiB/s, facts A1)."""

_LEAST_SAMPLE_BYTES = 1 * MIB
"""Cycles that read less measure snapshots and round trips, not throughput."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one committed cycle measured."""

    initial: bool
    read_bytes: int
    duration: timedelta
    """From snapshot to commit, without the wait for slots."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one VM is copied, and where the number is from."""

    bytes_per_s: float
    measured: bool
    sentence: str


def rate_of(samples: Iterable[Sample]) -> Rate:
    """Return how fast first copies are by what was measured: those of first copies, else of other cycles, else an assumption."""
    usable = [sample for sample in samples if sample.read_bytes >= _LEAST_SAMPLE_BYTES and sample.duration > timedelta(0)]
    initial = [sample for sample in usable if sample.initial]
    chosen, what = (initial, "initial replication") if initial else (usable, "cycle")
    if not chosen:
        return Rate(
            ASSUMED_BYTES_PER_S,
            False,
            f"Nothing was measured at this site yet: {size_text(int(ASSUMED_BYTES_PER_S))}/s for each VM is assumed.",
        )
    speed = sum(sample.read_bytes for sample in chosen) / sum(sample.duration.total_seconds() for sample in chosen)
    return Rate(speed, True, f"{size_text(int(speed))}/s for each VM, as {count_text(len(chosen), what)} of this site measured.")
