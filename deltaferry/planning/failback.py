"""What reprotect and failback decide: how far a pass is, when the next one begins, and when everything is compared again."""

from dataclasses import dataclass
from datetime import timedelta

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.failure import INTEGRITY
from deltaferry.planning.phrases import duration_text
from deltaferry.planning.schedule import retry_after_failure

_K = ErrorKind

BASE_LOST = frozenset({_K.SOURCE_MOVED_ON, _K.AZURE_NOT_FOUND})
"""Causes that say that the base is none any more: somebody wrote to the disks at the site, or deleted its snapshots."""

NEEDS_OPERATOR = frozenset({_K.OPERATION_REFUSED, _K.VM_NOT_FOUND, _K.CLAIM_LOST, _K.ALREADY_PROTECTED, _K.DISKS_CHANGED})
"""Causes that no repetition mends, but a person does: the pass is tried again at the policy's interval, not sooner."""

_HASHED, _COMPARED = 0.2, 0.6
"""Up to which share of a full pass the disks in Azure are hashed, and those at the site compared: the rest is writing."""


@dataclass(frozen=True, slots=True)
class NextPass:
    """When the next pass begins, what it does, and why."""

    wait: timedelta
    full: bool
    reason: str


def after_commit(interval: timedelta) -> NextPass:
    """Return what follows a pass that was committed: a delta after the policy's interval."""
    return NextPass(interval, False, f"{duration_text(interval)} after the last pass, by the failback policy")


def after_failed_pass(kind: ErrorKind, failures_in_row: int, interval: timedelta, *, had_base: bool) -> NextPass:
    """Return what follows a pass that failed with `kind`; the count includes this failure.

    A delta covers its range again, since the base stays. Where the base is lost, or a second delta in a row failed in itself,
    everything is compared again: precision is given up last.
    """
    full = not had_base or kind in BASE_LOST or (kind in INTEGRITY and failures_in_row > 1)
    early = None if kind in NEEDS_OPERATOR else retry_after_failure(failures_in_row)
    wait = interval if early is None else min(early, interval)
    if had_base and kind in BASE_LOST:
        wait = timedelta(0) if failures_in_row == 1 else wait
    what = "everything is compared again" if full else "the next delta covers its range too"
    return NextPass(wait, full, f"{duration_text(wait)} after a failed pass; {what}")


def progress_of(
    *, full: bool, total_bytes: int, hashed_bytes: int, compared_bytes: int, segments: int | None, segments_done: int
) -> float:
    """Return how far a pass is, in percent. `segments` is None until it is planned."""
    if segments is None:
        if not full:
            return 0.0
        share = _HASHED * hashed_bytes + (_COMPARED - _HASHED) * compared_bytes
        return round(100 * share / max(total_bytes, 1), 1)
    start = _COMPARED if full else 0.0
    done = 1.0 if segments == 0 else segments_done / segments
    return round(100 * (start + (1 - start) * done), 1)
