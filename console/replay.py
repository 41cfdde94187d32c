"""Replaying a history against the checked-out code, offline, and telling what was decided in it and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import temporalio.api.history.v1
from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.worker import Replayer

from console.client import quiet_runtime
from console.histories import FoundHistory
from workflows import names
from workflows.messages.replication_state import CycleRecord, EndInput, ReplicateVmInput
from workflows.messages.step import SettleInput
from workflows.plugin import DeltaferryPayloadConverter
from workflows.plugin import plugin as new_plugin
from workflows.register import WORKFLOWS

Event = temporalio.api.history.v1.HistoryEvent

_CONVERTER = DataConverter(payload_converter_class=DeltaferryPayloadConverter)
_SETTLE = "settle_cycle"
_CARRIES_STATE = {names.REPLICATE_VM: ReplicateVmInput, names.STOP_REPLICATION: EndInput, names.COMPLETE_MIGRATION: EndInput}


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened in a run, in words."""

    event_id: int
    at: datetime
    what: str
    summary: str


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """What the replay of one history came to."""

    origin: str
    workflow_id: str
    run_id: str
    workflow_type: str
    build: str
    """The worker deployment's version that made it, as far as the history says."""
    events: int
    deterministic: bool
    error: str
    timeline: tuple[TimelineEntry, ...] = ()
    cycles: tuple[CycleRecord, ...] = ()
    """The finished cycles that the history tells of, with what was decided after each."""


async def replay(found: FoundHistory, *, explain: bool) -> ReplayOutcome:
    """Replay one history with the workflows of this code. A history of an unknown workflow type is a failed replay, too."""
    history = found.history
    started = history.events[0].workflow_execution_started_event_attributes
    replayer = Replayer(workflows=WORKFLOWS, plugins=[new_plugin()], runtime=quiet_runtime())
    result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    failure = result.replay_failure
    return ReplayOutcome(
        origin=found.origin,
        workflow_id=history.workflow_id,
        run_id=started.original_execution_run_id,
        workflow_type=started.workflow_type.name,
        build=_build(history.events),
        events=len(history.events),
        deterministic=failure is None,
        error=f"{type(failure).__name__}: {failure}" if failure is not None else "",
        timeline=tuple(timeline(history)) if explain else (),
        cycles=decided_cycles(history) if explain else (),
    )


def timeline(history: WorkflowHistory) -> list[TimelineEntry]:
    """Return what happened in a run, with the summaries that the workflow gave its steps, timers and children."""
    named: dict[int, str] = {}
    entries = []
    for event in history.events:
        told = _told(event, named)
        if told is not None:
            what, summary = told
            entries.append(TimelineEntry(event.event_id, event.event_time.ToDatetime(UTC), what, summary))
    return entries


def decided_cycles(history: WorkflowHistory) -> tuple[CycleRecord, ...]:
    """Return the cycles in the states that a run was started with, wrote to its commit records, or continued with."""
    records: dict[str, CycleRecord] = {}
    for event in history.events:
        for state in _states(event):
            records.update({record.cycle_key: record for record in state.cycles})
    return tuple(records.values())


def _states(event: Event) -> list[Any]:
    """Return the replication's state in an event's input, if there is one that this code can read."""
    carried: type | None = None
    payloads: Sequence[Payload] = ()
    if event.HasField("workflow_execution_started_event_attributes"):
        started = event.workflow_execution_started_event_attributes
        carried, payloads = _CARRIES_STATE.get(started.workflow_type.name), started.input.payloads
    elif event.HasField("workflow_execution_continued_as_new_event_attributes"):
        continued = event.workflow_execution_continued_as_new_event_attributes
        carried, payloads = _CARRIES_STATE.get(continued.workflow_type.name), continued.input.payloads
    elif event.HasField("activity_task_scheduled_event_attributes"):
        scheduled = event.activity_task_scheduled_event_attributes
        carried, payloads = (SettleInput if scheduled.activity_type.name == _SETTLE else None), scheduled.input.payloads
    if carried is None or not payloads:
        return []
    try:
        return [_CONVERTER.payload_converter.from_payload(payloads[0], carried).state]
    except ValidationError:
        return []  # written by other code than this: the replay says so, the timeline does without


def _told(event: Event, named: dict[int, str]) -> tuple[str, str] | None:
    """Return an event in words with its summary; None for what only the server needs. `named` collects what ends later."""
    summary = _summary(event)
    kind = event.WhichOneof("attributes")
    attributes: Any = getattr(event, kind) if kind else None
    match event.event_type if attributes is not None else None:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            return f"started as {attributes.workflow_type.name}", summary
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            named[event.event_id] = attributes.activity_type.name
            return f"step {attributes.activity_type.name}", summary
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            return f"step {named.get(attributes.scheduled_event_id, '?')} done", ""
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            return f"step {named.get(attributes.scheduled_event_id, '?')} failed", attributes.failure.message
        case EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            return f"step {named.get(attributes.scheduled_event_id, '?')} timed out", attributes.failure.message
        case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            return f"step {named.get(attributes.scheduled_event_id, '?')} cancelled", ""
        case EventType.EVENT_TYPE_TIMER_STARTED:
            wait_s = attributes.start_to_fire_timeout.ToTimedelta().total_seconds()
            named[event.event_id] = summary
            return f"sleeps up to {wait_s:,.1f} s", summary
        case EventType.EVENT_TYPE_TIMER_FIRED:
            return "woken by its timer", named.get(attributes.started_event_id, "")
        case EventType.EVENT_TYPE_TIMER_CANCELED:
            return "woken before its timer", named.get(attributes.started_event_id, "")
        case EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
            return f"starts {attributes.workflow_type.name} {attributes.workflow_id}", summary
        case EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED:
            return f"{attributes.workflow_type.name} {attributes.workflow_id} was not started", "it runs already"
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            return f"signal {attributes.signal_name}", ""
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            return f"update {attributes.accepted_request.input.name}", ""
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            return "cancellation was asked for", attributes.cause
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            return f"continued as {attributes.workflow_type.name}", ""
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            return "completed", ""
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            return "failed", attributes.failure.message
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            return "terminated", attributes.reason
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            return "cancelled", ""
        case EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            return "a workflow task failed", attributes.failure.message
        case _:
            return None


def _summary(event: Event) -> str:
    if not event.HasField("user_metadata") or not event.user_metadata.HasField("summary"):
        return ""
    text: str = _CONVERTER.payload_converter.from_payload(event.user_metadata.summary, str)
    return text


def _build(events: Sequence[Event]) -> str:
    """Return the worker deployment that completed the last workflow task."""
    for event in reversed(events):
        if event.HasField("workflow_task_completed_event_attributes"):
            version = event.workflow_task_completed_event_attributes.deployment_version
            return f"{version.deployment_name} {version.build_id}" if version.build_id else ""
    return ""
