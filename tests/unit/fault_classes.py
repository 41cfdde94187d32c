"""Whether the class of a row agrees with what the catalogue and the planning do with its kind."""

from datetime import timedelta

from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.model.faults import FaultClass, FaultRow
from deltaferry.planning.failure import Course, after_failure

PATIENT = timedelta(seconds=20)
"""The least pause between two attempts while somebody has to act."""

TRIED_AGAIN = (FaultClass.RETRY, FaultClass.RE_LOGIN, FaultClass.RE_READ_HOST)


def disagreement(row: FaultRow) -> str | None:
    """Return why a row's class is not what the system does with its kind, or None."""
    if (row.kind is None) != (row.answer is FaultClass.SETTLED):
        return "only a settled fault leaves as no error"
    if row.kind is None:
        return None
    record = CATALOGUE[row.kind]
    at_once = after_failure(row.kind, 1).course
    in_the_end = after_failure(row.kind, 2).course
    if row.answer in TRIED_AGAIN:
        if not record.retryable:
            return "its kind is not tried again"
        if in_the_end is Course.REPAIR:
            return "an outage must never lead to a repair"
    elif row.answer is FaultClass.REPAIR:
        if record.retryable or (at_once, in_the_end) != (Course.NEXT_CYCLE, Course.REPAIR):
            return "the next cycle is not what repairs it"
    elif row.answer in (FaultClass.RESYNC, FaultClass.RESET_CBT):
        if record.retryable or at_once is not Course.REPAIR:
            return "it does not lead to a resync at once"
        if (row.answer is FaultClass.RESET_CBT) != (row.kind is ErrorKind.CBT_CORRUPT):
            return "tracking is reset for a damaged tracking file, and for nothing else"
    elif row.answer is FaultClass.FALL_BACK:
        if record.retryable or in_the_end is Course.REPAIR:
            return "the step does not go on without it"
    elif record.retryable and (record.retry_after is None or record.retry_after < PATIENT):
        return "an operator is not waited for patiently"
    return None
