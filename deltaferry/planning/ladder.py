"""How much precision a resync gives up, one rung at a time (spec §4), and which rung comes next."""

from dataclasses import dataclass
from enum import StrEnum

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.failure import CBT_CANNOT_REPAIR, INTEGRITY


class Rung(StrEnum):
    """What a resync compares, from the most precise to the plainest."""

    ALLOCATED = "checksums over what is allocated on the source or present on the seed"
    WHOLE = "checksums over the whole disk"
    FULL = "full copy"


_LADDER = (Rung.ALLOCATED, Rung.WHOLE, Rung.FULL)


def failed_in_itself(kind: ErrorKind) -> bool:
    """Return whether a resync that ended with `kind` says something of its rung: an outage, a refusal or a lost claim does not."""
    return kind in INTEGRITY or (kind in CBT_CANNOT_REPAIR and kind is not ErrorKind.CLAIM_LOST)


@dataclass(frozen=True, slots=True)
class Step:
    """The rung of the next resync, and the sentence that says why it is that one."""

    rung: Rung
    reason: str


def first_step(cause: ErrorKind | None, reason: str) -> Step:
    """Return the rung that a resync begins on: where change tracking missed changes, its word on what is allocated is in doubt too."""
    if cause is ErrorKind.CBT_MISSED_CHANGES:
        return Step(Rung.WHOLE, f"{reason}: {Rung.WHOLE}, since change tracking is what is in doubt")
    return next_step(None, reason)


def next_step(failed: Rung | None, cause: str) -> Step:
    """Return the rung that follows on one that failed in itself; None where no resync for this cause has failed yet.

    A resync that an outage cut, or a person, did not fail in itself: it is repeated on its own rung. The plainest rung is
    repeated until an operator ends it.
    """
    if failed is None:
        return Step(Rung.ALLOCATED, f"{cause}: {Rung.ALLOCATED}")
    position = _LADDER.index(failed)
    if position + 1 == len(_LADDER):
        return Step(failed, f"{cause}: {failed}, again")
    return Step(_LADDER[position + 1], f"the resync by {failed} failed, so the next is by {_LADDER[position + 1]}")
