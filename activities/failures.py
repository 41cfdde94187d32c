"""The taxonomy's way through Temporal: `DeltaferryError` becomes an `ApplicationError` of the same type name."""

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import DeltaferryError, ErrorKind

P = ParamSpec("P")
R = TypeVar("R")


def application_error(error: DeltaferryError) -> ApplicationError:
    """Return the error as Temporal carries it: its kind as type, its number as detail, its retry rule from the catalogue."""
    record = error.record
    return ApplicationError(
        error.detail,
        error.number,
        type=error.kind.value,
        non_retryable=not record.retryable,
        next_retry_delay=error.retry_after or record.retry_after,
    )


def translated(step: Callable[P, R]) -> Callable[P, R]:
    """Wrap an activity so that its errors leave as the taxonomy's.

    What is not of the taxonomy is a defect: it leaves as it is, is retried, and shows as INTERNAL in the end. The chain
    behind an error is cut, since a library's own message may hold what must not be stored.
    """

    @functools.wraps(step)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return step(*args, **kwargs)
        except DeltaferryError as error:
            raise application_error(error) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                full = DeltaferryError(ErrorKind.LOCAL_DISK_FULL, "No space left on the worker's own disk.")
                raise application_error(full) from None
            raise

    return wrapper
