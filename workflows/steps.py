"""How a workflow carries out a step, and how it reads what went wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from typing import Any, TypeVar, overload

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, TimeoutError, TimeoutType, is_cancelled_exception

from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import HealthError
from workflows.messages.replication_state import FailureView
from workflows.policies import Step, priority
from workflows.refusals import EXAMPLES

A = TypeVar("A")
R = TypeVar("R")

_DELIVERED = "cancellation delivered before the clean-up"
"""Names the patch of a run's history, as histories of before it hold what became of the clean-up then."""

_TURNS = 10
"""Turns of the event loop in which a cancellation passes from the workflow's main task through those that wait for one another."""


@overload
async def perform(
    step: Callable[[Any, A], Awaitable[R]],
    request: A,
    *,
    queue: str,
    limits: Step,
    summary: str,
    kind: CycleKind | None = None,
    aside: bool = False,
) -> R: ...


@overload
async def perform(
    step: Callable[[Any, A], R],
    request: A,
    *,
    queue: str,
    limits: Step,
    summary: str,
    kind: CycleKind | None = None,
    aside: bool = False,
) -> R: ...


async def perform(
    step: Callable[[Any, A], Any],
    request: A,
    *,
    queue: str,
    limits: Step,
    summary: str,
    kind: CycleKind | None = None,
    aside: bool = False,
) -> Any:
    """Run an activity under a step's limits. `summary` is what the Temporal UI's timeline shows.

    A cancellation is passed on to the activity and its end awaited, so that nothing of it still runs behind us.
    `aside`: the step runs beside the procedure, in a task of its own, and ends as it ends.
    """
    async with nullcontext() if aside else cancellation_kept():
        return await workflow.execute_activity_method(
            step,
            request,
            task_queue=queue,
            start_to_close_timeout=limits.start_to_close,
            heartbeat_timeout=limits.heartbeat,
            schedule_to_start_timeout=limits.schedule_to_start,
            schedule_to_close_timeout=limits.schedule_to_close,
            retry_policy=limits.retry,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=summary,
            priority=priority(kind or CycleKind.DELTA),
        )


async def tell(workflow_id: str, signal: str, *message: object) -> bool:
    """Send a signal; return whether its receiver runs. A cancellation is raised."""
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(signal, args=list(message))
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        return False
    return True


async def told(workflow_id: str, signal: str, *message: object) -> bool:
    """Send a signal as `tell` does, from a handler too: a cancellation raised there would end the workflow, so it counts as not told."""
    try:
        return await tell(workflow_id, signal, *message)
    except FailureError:
        return False


@asynccontextmanager
async def cancellation_kept() -> AsyncIterator[None]:
    """Raise CancelledError behind what is awaited inside if a request to cancel this workflow came meanwhile.

    The SDK hands a cancellation on to the activity or signal that is awaited and forgets it where that then succeeds all
    the same; the server sends no second one. Not for handlers: there the error would end the workflow before its clean-up.
    """
    cancelled_before = workflow.cancellation_reason() is not None
    thrown_away = False
    try:
        yield
    except GeneratorExit:  # the run leaves the worker's memory: there is no workflow to ask any more
        thrown_away = True
        raise
    finally:
        if not thrown_away and not cancelled_before and workflow.cancellation_reason() is not None:
            await _cancellation_delivered()
            raise asyncio.CancelledError


async def _cancellation_delivered() -> None:
    """Let a cancellation that is known but still on its way to this task arrive, where it does so within this activation.

    Where it comes in the same activation as the end of what was awaited, the request is known before it is raised in the
    workflow's main task, and that passes it on to this one. If this one began to clean up before, the clean-up would be cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    if task.cancelling() or not workflow.patched(_DELIVERED):
        return
    for _ in range(_TURNS):
        await asyncio.sleep(0)  # raises it
        if task.cancelling():
            return


def failure_of(error: BaseException) -> FailureView:
    """Return the taxonomy's view of a failed step; by types alone, never by text."""
    cause: BaseException | None = error.cause if isinstance(error, ActivityError) else error
    if isinstance(cause, ApplicationError):
        try:
            kind = ErrorKind(cause.type or "")
        except ValueError:
            return FailureView(ErrorKind.INTERNAL, f"{cause.type}: {cause.message}")
        number = cause.details[0] if cause.details and isinstance(cause.details[0], int) else None
        names = cause.details[1] if len(cause.details) > 1 and isinstance(cause.details[1], list) else ()
        return FailureView(kind, cause.message, number, tuple(name for name in names if isinstance(name, str)))
    if isinstance(cause, TimeoutError):
        where = f" on {error.activity_type}" if isinstance(error, ActivityError) else ""
        reason = cause.type.name.lower().replace("_", " ") if cause.type is not None else "time"
        return FailureView(ErrorKind.INTERRUPTED, f"No worker finished the step in time ({reason} limit{where}).")
    return FailureView(ErrorKind.INTERNAL, f"{type(cause).__name__}: {cause}")


def was_not_taken_up(error: BaseException) -> bool:
    """Return whether a step failed because no worker took it off its queue in time."""
    cause = error.cause if isinstance(error, ActivityError) else None
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START


def health_error(failure: FailureView, at: datetime, *, retried: bool) -> HealthError:
    """Return what a person reads of a failure."""
    record = CATALOGUE[failure.kind]
    return HealthError(failure.kind, failure.detail, record.cause, record.remedy, retried, at)


T = TypeVar("T")


def require_carried(start: T | None) -> T:
    """Return an input that only workflows write. One that is missing or cannot be read is refused, if people sent it.

    If it was carried over by a run of ours, only the workflow task fails: the run stays open, and a deploy heals it.
    """
    if start is not None:
        return start
    if workflow.info().continued_run_id is not None:
        raise RuntimeError("the state carried over by the previous run cannot be read by this version of the code")
    raise refusal(
        ErrorKind.OPERATION_REFUSED,
        f"{workflow.info().workflow_type} is started by Deltaferry itself. Start EnableReplication on the queue control instead,"
        f" for example with {EXAMPLES['EnableInput']}",
    )


def refusal(kind: ErrorKind, sentence: str) -> ApplicationError:
    """Return the error by which a workflow or an update refuses something for good."""
    return ApplicationError(sentence, type=kind.value, non_retryable=True)
