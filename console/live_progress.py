"""How far the running steps of a replication are: read from the heartbeats of its and its job's pending activities."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from activities.progress import StepProgress
from deltaferry.model.errors import CATALOGUE, ErrorKind
from workflows.messages.views import StatusView

_MOVES_OUT = "transfer"
"""The activity that reads the source: its progress is a cycle's progress; applying follows behind it."""
_COMPARES = "compare_source"
_RUNS_AHEAD = "check_seed"
"""Of a resync it is one chunk ahead of the comparison; as a scrub it has a percentage of its own."""


@dataclass(frozen=True, slots=True)
class LiveStep:
    """One pending activity. `bytes_total` is 0 where it has not said how far it is."""

    activity: str
    step: str
    """What it does, in its own words."""
    working: bool
    """False: no worker has taken it, or it waits for its next attempt."""
    attempt: int
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_sent: int = 0
    bytes_per_s: float | None = None
    eta_s: float | None = None
    last_failure: str = ""
    """What its attempt before this one failed with."""

    @property
    def percent(self) -> float | None:
        """Return how much of it is done, as far as it has said."""
        return round(100 * self.bytes_done / self.bytes_total, 1) if self.bytes_total else None


@dataclass(frozen=True, slots=True)
class LiveProgress:
    """A replication's progress at this moment, within the running chunk too."""

    percent: float | None
    """Of the initial replication, the resync or the running cycle: an estimate that may step back at a chunk's end.

    None: nothing of them runs.
    """
    bytes_done: int
    bytes_total: int
    bytes_sent: int
    bytes_per_s: float | None
    eta_s: float | None
    steps: tuple[LiveStep, ...]


async def read_progress(client: Client, workflow_id: str, view: StatusView) -> LiveProgress:
    """Return the progress of a replication whose status is known, with that of its job."""
    steps: list[LiveStep] = []
    for source in filter(None, (workflow_id, view.job_id)):
        steps += [await _step(client.data_converter, pending) for pending in await _pending(client, source)]
    return summed_up(view.percent, steps)


def summed_up(copied_percent: float | None, steps: Iterable[LiveStep]) -> LiveProgress:
    """Return steps as one progress. `copied_percent` is what an initial replication has copied, or a resync compared and sent."""
    kept = tuple(steps)
    known = [step for step in kept if step.bytes_total and step.activity != _RUNS_AHEAD]
    leading = (step for activity in (_MOVES_OUT, _COMPARES) for step in known if step.activity == activity)
    moving = next(leading, known[0] if known else None)
    percent = copied_percent
    if moving is not None and moving.percent is not None:
        base = copied_percent or 0.0
        percent = (
            round(base + (100 - base) * moving.percent / 100, 1)
            if moving.activity == _MOVES_OUT or copied_percent is None
            else base
        )
    return LiveProgress(
        percent=percent,
        bytes_done=moving.bytes_done if moving else 0,
        bytes_total=moving.bytes_total if moving else 0,
        bytes_sent=moving.bytes_sent if moving else 0,
        bytes_per_s=moving.bytes_per_s if moving else None,
        eta_s=moving.eta_s if moving else None,
        steps=kept,
    )


async def _pending(client: Client, workflow_id: str) -> Iterable[PendingActivityInfo]:
    try:
        described = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return ()  # a job that ended long ago: the server keeps nothing of it
    return described.raw_description.pending_activities


def _last_failure(pending: PendingActivityInfo) -> str:
    """Return what an attempt failed with: the catalogue's sentence for its kind, and the particulars."""
    failure = pending.last_failure
    try:
        record = CATALOGUE[ErrorKind(failure.application_failure_info.type)]
    except ValueError:
        return failure.message
    return f"{record.cause} {record.remedy} ({failure.message})"


async def _step(converter: DataConverter, pending: PendingActivityInfo) -> LiveStep:
    name = pending.activity_type.name
    working = pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    failure = _last_failure(pending) if pending.HasField("last_failure") else ""
    said = await _progress(converter, pending)
    if said is None:
        return LiveStep(name, name.replace("_", " "), working, pending.attempt, last_failure=failure)
    beaten_at = pending.last_heartbeat_time.ToDatetime(UTC) if pending.HasField("last_heartbeat_time") else datetime.now(UTC)
    elapsed_s = beaten_at.timestamp() - said.started_at_s
    rate = said.bytes_done / elapsed_s if elapsed_s > 0 and said.bytes_done else None
    return LiveStep(
        activity=name,
        step=said.step,
        working=working,
        attempt=pending.attempt,
        bytes_done=said.bytes_done,
        bytes_total=said.bytes_total,
        bytes_sent=said.bytes_sent,
        bytes_per_s=rate,
        eta_s=(said.bytes_total - said.bytes_done) / rate if rate else None,
        last_failure=failure,
    )


async def _progress(converter: DataConverter, pending: PendingActivityInfo) -> StepProgress | None:
    """Return an activity's last report; None for a step that beats without numbers."""
    payloads = pending.heartbeat_details.payloads
    if not payloads:
        return None
    plain: list[Any] = await converter.decode(payloads)
    if not isinstance(plain[0], dict):
        return None
    decoded: list[StepProgress] = await converter.decode(payloads, [StepProgress])
    return decoded[0]
