"""The taxonomy's way through Temporal: `DeltaferryError` becomes an `ApplicationError` of the same type name."""

import errno
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.shortage import ShortOfSpaceError

P = ParamSpec("P")
R = TypeVar("R")


def application_error(error: DeltaferryError) -> ApplicationError:
    """Return the error as Temporal carries it: its kind as type, its number as detail, its retry rule from the catalogue.

    The names of datastores that are short of space follow as a second detail.
    """
    record = error.record
    further = (list(error.datastores),) if isinstance(error, ShortOfSpaceError) else ()
    return ApplicationError(
        error.detail,
        error.number,
        *further,
        type=error.kind.value,
        non_retryable=not record.retryable,
        next_retry_delay=error.retry_after or record.retry_after,
    )


def translated(step: Callable[P, R]) -> Callable[P, R]:
    """Wrap an activity, asynchronous or not, so that its errors leave as the taxonomy's.

    What is not of the taxonomy is a defect: it leaves as it is, is retried, and shows as INTERNAL in the end. The chain
    behind an error is cut, since a library's own message may hold what must not be stored.
    """
    if inspect.iscoroutinefunction(step):

        @functools.wraps(step)
        async def awaiting(*args: P.args, **kwargs: P.kwargs) -> Any:
            with _translating():
                return await step(*args, **kwargs)

        return cast("Callable[P, R]", awaiting)

    @functools.wraps(step)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with _translating():
            return step(*args, **kwargs)

    return wrapper


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except DeltaferryError as error:
        raise application_error(error) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            full = DeltaferryError(ErrorKind.LOCAL_DISK_FULL, "No space left on the worker's own disk.")
            raise application_error(full) from None
        raise
