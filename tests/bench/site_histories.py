"""What the server's histories say of a site's run: leases, workflow tasks, events of a cycle, how long a grant took."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from workflows import names

_AT_A_TIME = 16

Run = Sequence[HistoryEvent]


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when is counted, by the server's clock."""

    begin: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        return (self.end - self.begin).total_seconds()

    def __contains__(self, event: HistoryEvent) -> bool:
        return self.begin <= time_of(event) < self.end


def time_of(event: HistoryEvent) -> datetime:
    """Return when an event was written."""
    return event.event_time.ToDatetime(tzinfo=UTC)


async def runs_of(client: Client, workflow_id: str) -> list[Run]:
    """Return the histories of a workflow, over continue-as-new, oldest first."""
    found: list[Run] = []
    run_id: str | None = None
    while run_id != "":
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        events = [event async for event in handle.fetch_history_events()]
        found.insert(0, events)
        run_id = events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return found


async def all_runs(client: Client, workflow_ids: Iterable[str]) -> list[Run]:
    """Return the histories of many workflows."""
    at_a_time = asyncio.Semaphore(_AT_A_TIME)

    async def one(workflow_id: str) -> list[Run]:
        async with at_a_time:
            return await runs_of(client, workflow_id)

    return [run for runs in await asyncio.gather(*map(one, workflow_ids)) for run in runs]


def grants(runs: Iterable[Run], window: Window) -> int:
    """Return how many grants replications received."""
    return sum(_is_granted(event) and event in window for run in runs for event in run)


def workflow_tasks(runs: Iterable[Run], window: Window) -> int:
    """Return how many workflow tasks were completed."""
    completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    return sum(event.event_type == completed and event in window for run in runs for event in run)


def events_per_cycle(runs: Iterable[Run], window: Window) -> list[int]:
    """Return of each delta cycle in a window how many events it took: from its request for slots to the next one's."""
    found = []
    for run in runs:
        asked = [event.event_id for event in run if _is_request(event) and event in window]
        found += [after - before for before, after in pairwise(asked)]
    return found


def delays(runs: Iterable[Run], window: Window) -> list[timedelta]:
    """Return how long it took from each request for slots that was made in a window to its grant."""
    found = []
    for run in runs:
        asked: HistoryEvent | None = None
        for event in run:
            if _is_request(event):
                asked = event
            elif _is_granted(event) and asked is not None:
                if asked in window:
                    found.append(time_of(event) - time_of(asked))
                asked = None
    return found


def _is_request(event: HistoryEvent) -> bool:
    attributes = event.signal_external_workflow_execution_initiated_event_attributes
    return attributes.signal_name == names.SLOTS_REQUESTED


def _is_granted(event: HistoryEvent) -> bool:
    return event.workflow_execution_signaled_event_attributes.signal_name == names.SLOTS_GRANTED
