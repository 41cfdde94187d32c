"""A cancellation that a workflow learns of together with the end of what it waits for: the clean-up is whole all the same."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from tests.workflows.servers import start_dev_server
from tests.workflows.site_bench import Bench, control_worker, eventually, site_bench, step_workers
from tests.workflows.stand_ins import StandIns
from tests.workflows.world import Hold, new_profile
from workflows import names
from workflows.messages.site import Placement, SiteProfile
from workflows.messages.slot import SlotsReleased, SlotsWanted
from workflows.slots.holding import SlotHolder

_QUEUE = "cancelled-meanwhile"
_TRIES = 20
_SIGNALED = EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED
_CANCEL_REQUESTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
_TASK_STARTED = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED


# --- slots that are asked for ---


@workflow.defn(name="ArbiterThatNeverGrants", sandboxed=False)
class ArbiterThatNeverGrants:
    """Notes who waits, and lets them wait."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()

    @workflow.signal(name=names.SLOTS_REQUESTED)
    def requested(self, wanted: SlotsWanted) -> None:
        self._waiting.add(wanted.request_id)

    @workflow.signal(name=names.SLOTS_RELEASED)
    def released(self, released: SlotsReleased) -> None:
        self._waiting.discard(released.request_id)

    @workflow.query
    def waiting(self) -> int:
        return len(self._waiting)

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


class Gate:
    """Keeps a workflow from asking before its worker has been told to stop."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


_gates: dict[str, Gate] = {}


@workflow.defn(name="HolderWhoseCycleIsATask", sandboxed=False)
class HolderWhoseCycleIsATask:
    """Asks for slots in a task that the main one waits for, as a replication's cycle does."""

    @workflow.run
    async def run(self, profile: SiteProfile) -> None:
        gate = _gates[workflow.info().workflow_id]
        gate.reached.set()
        gate.opened.wait()
        slots = SlotHolder(workflow.info().workflow_id)
        cycle = asyncio.create_task(slots.acquire(profile, CycleKind.DELTA, 1, Placement()))
        try:
            await workflow.wait_condition(cycle.done)
        except asyncio.CancelledError:
            cycle.cancel()
            await asyncio.gather(cycle, return_exceptions=True)
            raise


def _worker(client: Client) -> Worker:
    return Worker(client, task_queue=_QUEUE, workflows=[ArbiterThatNeverGrants, HolderWhoseCycleIsATask])


async def _ask_and_cancel(client: Client, workflow_id: str, site: str) -> bool:
    """Cancel a holder whose worker went away as it asked, and start that again; return whether it learned of both at once."""
    gate = _gates[workflow_id] = Gate()
    worker = _worker(client)
    work = asyncio.create_task(worker.run())
    holder = await client.start_workflow(HolderWhoseCycleIsATask.run, new_profile(site), id=workflow_id, task_queue=_QUEUE)
    await asyncio.to_thread(gate.reached.wait)
    leaving = asyncio.create_task(worker.shutdown())
    await asyncio.sleep(0)  # that it is told to leave comes before what the workflow asks for
    gate.opened.set()
    await asyncio.gather(leaving, work)

    async def asked() -> bool:
        return any([event.event_type == _SIGNALED async for event in holder.fetch_history_events()])

    await eventually(asked, "the request")
    await holder.cancel()
    async with _worker(client):
        with pytest.raises(WorkflowFailureError):
            await holder.result()
    events = [event.event_type async for event in holder.fetch_history_events()]
    return _TASK_STARTED not in events[events.index(_SIGNALED) : events.index(_CANCEL_REQUESTED)]


async def test_a_request_for_slots_is_taken_back_by_a_cancellation_that_comes_with_its_delivery(
    dev_server: WorkflowEnvironment,
) -> None:
    client, site = dev_server.client, "asked-and-cancelled"
    arbiter = await client.start_workflow(ArbiterThatNeverGrants.run, id=names.slots_id(site), task_queue=_QUEUE)
    for number in range(_TRIES):
        if await _ask_and_cancel(client, f"vm/{site}/{number}", site):
            break
    else:
        raise AssertionError("the worker never went away in time")

    async def nobody_waits() -> bool:
        return await arbiter.query(ArbiterThatNeverGrants.waiting) == 0

    async with _worker(client):
        await eventually(nobody_waits, "an arbiter whom nobody asks")
    await arbiter.terminate()


# --- steps ---


@dataclass(frozen=True, slots=True)
class Workshop:
    """A site, and the worker of its workflows, which can be taken away."""

    bench: Bench
    worker: AsyncExitStack

    async def start_worker(self) -> None:
        """Let workflows go on."""
        await self.worker.enter_async_context(control_worker(self.bench.client, self.bench.stand_ins))

    async def steps_ended(self, workflow_id: str) -> int:
        """Return how many steps of a workflow have ended."""
        events = self.bench.client.get_workflow_handle(workflow_id).fetch_history_events()
        return sum([event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED async for event in events])

    async def end_step_and_cancel(self, workflow_id: str, hold: Hold) -> None:
        """End a step once it runs, and cancel its workflow, which learns of neither before both have happened."""
        await hold.reached()
        await self.worker.aclose()
        before = await self.steps_ended(workflow_id)
        hold.release()

        async def has_ended() -> bool:
            return await self.steps_ended(workflow_id) > before

        await eventually(has_ended, f"the end of {hold.activity}")
        await self.bench.client.get_workflow_handle(workflow_id).cancel()
        await self.start_worker()


@pytest_asyncio.fixture(loop_scope="session")
async def workshop() -> AsyncIterator[Workshop]:
    """A server of its own, since nobody else's workflows go on while the worker is away."""
    stand_ins = StandIns()
    async with (
        await start_dev_server() as server,
        step_workers(server.client, stand_ins),
        AsyncExitStack() as worker,
        site_bench(server.client, stand_ins, "workshop") as bench,
    ):
        ready = Workshop(bench, worker)
        await ready.start_worker()
        yield ready


@pytest.mark.parametrize("step", ["begin_cycle", "apply"])
async def test_a_cycle_that_is_cancelled_as_a_step_ends_leaves_no_snapshot_and_no_slots(workshop: Workshop, step: str) -> None:
    bench = workshop.bench
    hold = bench.world.hold(step, deaf=True)
    running = await bench.replicated(due=True)
    await workshop.end_step_and_cancel(running.workflow_id, hold)
    with pytest.raises(WorkflowFailureError):
        await running.ended()
    assert bench.world.snapshots == {}
    await bench.until_no_leases(running.workflow_id)


@pytest.mark.parametrize("step", ["begin_cycle", "apply"])
async def test_a_first_copy_that_is_cancelled_as_a_step_ends_leaves_no_snapshot_and_no_slots(
    workshop: Workshop, step: str
) -> None:
    bench = workshop.bench
    hold = bench.world.hold(step, deaf=True)
    running = await bench.enable()
    copy = names.initial_id(running.workflow_id, 1)
    await workshop.end_step_and_cancel(copy, hold)
    await running.until_state(ReplicationState.INITIAL_FAILED)
    assert bench.world.snapshots == {}
    await bench.until_no_leases(copy)
    await running.update("retry")
    await running.until_committed(1)
