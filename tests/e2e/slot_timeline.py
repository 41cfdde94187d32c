"""Who had a snapshot, and who held slots, when a datastore had too many: read from the histories, to explain a failed assertion."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from workflows import names

_BEGINS = frozenset({"begin_cycle", "begin_resync"})
_SWITCHES = frozenset({"prepare_source", "clean_source", "reset_tracking"})
"""Steps that take a snapshot and remove it at once, to make change tracking take effect."""
_SHOWN = 12
_ENDED = frozenset(
    {
        EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
    }
)


@dataclass(slots=True)
class Span:
    """Something that a VM's replication had for a while."""

    vm: str
    what: str
    begin: datetime
    end: datetime | None = None

    def covers(self, at: datetime) -> bool:
        """Return whether it was so at an instant."""
        return self.begin <= at and (self.end is None or at <= self.end)


async def explain(client: Client, replications: Mapping[str, str], together: Iterable[str]) -> str:
    """Return when the VMs of `together` all had a snapshot at a time, and what each then held; `replications` has their ids."""
    spans = [span for vm in together for span in await _spans(client, vm, replications[vm])]
    snapshots = [span for span in spans if span.what != _SLOTS]
    vms = {span.vm for span in spans}
    lines: list[str] = []
    for at in sorted(span.begin for span in snapshots):
        here = [span for span in snapshots if span.covers(at)]
        if {span.vm for span in here} == vms:
            lines.append(f"at {at:%H:%M:%S.%f}:")
            for span in here:
                slots = next((one for one in spans if one.what == _SLOTS and one.vm == span.vm and one.covers(at)), None)
                held = f"slots since {slots.begin:%H:%M:%S.%f}" if slots else "NO SLOTS"
                lines.append(f"  {span.vm}: {span.what} since {span.begin:%H:%M:%S.%f} until {span.end}, with {held}")
    return "\n".join(lines[: _SHOWN * (len(vms) + 1)]) or f"the histories show no instant with snapshots of all of {sorted(vms)}"


_SLOTS = "slots"


async def _spans(client: Client, vm: str, workflow_id: str) -> list[Span]:
    """Return what a replication and its jobs had, over all their runs."""
    events: list[HistoryEvent] = []
    async for execution in client.list_workflows(f"WorkflowId STARTS_WITH '{workflow_id}'"):
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        found = [event async for event in handle.fetch_history_events()]
        events += found
    return list(_read(vm, sorted(_named(events), key=lambda entry: entry[0])))


def _named(events: Iterable[HistoryEvent]) -> list[tuple[datetime, str]]:
    """Return (when, what) of the events that matter, of several histories one after the other."""
    found: list[tuple[datetime, str]] = []
    steps: dict[int, str] = {}
    for event in events:
        at = event.event_time.ToDatetime(tzinfo=UTC)
        if event.event_id == 1:
            steps = {}
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            steps[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
            if steps[event.event_id] in _BEGINS | _SWITCHES:
                found.append((at, f"begins {steps[event.event_id]}"))
        elif event.event_type in _ENDED:
            kind = event.WhichOneof("attributes")
            step = steps.get(getattr(event, kind or "").scheduled_event_id, "")
            if step in {"release_snapshot", *_SWITCHES}:
                found.append((at, f"ends {step}"))
        elif event.workflow_execution_signaled_event_attributes.signal_name == names.SLOTS_GRANTED:
            found.append((at, "granted"))
        elif event.signal_external_workflow_execution_initiated_event_attributes.signal_name == names.SLOTS_RELEASED:
            found.append((at, "released"))
    return found


def _read(vm: str, entries: Iterable[tuple[datetime, str]]) -> Iterable[Span]:
    open_spans: dict[str, Span] = {}
    for at, what in entries:
        verb, _, step = what.partition(" ")
        if what == "granted":
            open_spans.setdefault(_SLOTS, Span(vm, _SLOTS, at))
        elif what == "released":
            if _SLOTS in open_spans:
                yield _ended(open_spans.pop(_SLOTS), at)
        elif verb == "begins":
            label = "a snapshot" if step in _BEGINS else f"the snapshot of {step}"
            open_spans.setdefault(label, Span(vm, label, at))
        else:
            label = "a snapshot" if step == "release_snapshot" else f"the snapshot of {step}"
            if label in open_spans:
                yield _ended(open_spans.pop(label), at)
    yield from open_spans.values()


def _ended(span: Span, at: datetime) -> Span:
    span.end = at
    return span
