"""A site of its own for a test: its world, its queue's worker, and the replications that the test starts on it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from deltaferry.model.recovery_points import record_of
from deltaferry.model.replication import DiskBase, RecoveryPoint, ReplicationRef
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.dr_states import AnyMigrationState
from tests.workflows.stand_ins import StandIns
from tests.workflows.world import APPLIANCE, PLACEMENT, TARGET, World, new_profile
from workflows import names
from workflows.messages.replication_state import CycleRecord, EndResult, EntityState, ReplicateVmInput, Replication
from workflows.messages.site import EnableResult
from workflows.messages.slot import SlotsState
from workflows.messages.step import AdoptResult
from workflows.messages.views import StatusView
from workflows.register import WORKFLOWS

_PATIENCE_S = 120.0
_POLL_S = 0.1
_THROTTLE = timedelta(milliseconds=100)

_MOST_JOBS = 8
"""One more than a test may start of initial replications, resyncs or migrations."""

QUICK = timedelta(milliseconds=300)
"""A site's shortest wait between delta cycles where a test wants many of them."""


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, patience_s: float = _PATIENCE_S) -> None:
    """Ask until a condition holds. Raises AssertionError with `what` if it does not come to hold."""
    try:
        async with asyncio.timeout(patience_s):
            while not await condition():
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"never came to be: {what}") from None


@dataclass(slots=True)
class Running:
    """A replication, as a service sees it."""

    client: Client
    workflow_id: str
    vm: str
    handle: WorkflowHandle[Any, Any]

    async def status(self) -> StatusView:
        view: StatusView = await self.handle.query("status", result_type=StatusView)
        return view

    async def cycles(self) -> list[CycleRecord]:
        records: list[CycleRecord] = await self.handle.query("cycles", result_type=list[CycleRecord])
        return records

    async def until(self, condition: Callable[[StatusView], bool], what: str) -> StatusView:
        """Return the first status that fulfils a condition."""
        last: list[StatusView] = []

        async def holds() -> bool:
            last[:] = [await self.status()]
            return condition(last[0])

        try:
            await eventually(holds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the last status was {last}") from None
        return last[0]

    async def until_state(self, state: ReplicationState) -> StatusView:
        return await self.until(lambda view: view.replication_state == state.value, state.value)

    async def until_migration(self, state: AnyMigrationState) -> StatusView:
        return await self.until(lambda view: view.migration_state == state.value, state.value)

    async def until_committed(self, cycles: int) -> StatusView:
        """Wait until so many cycles have committed, and the last of them has ended."""

        def done(view: StatusView) -> bool:
            ended = view.activity.startswith(("idle", "paused", "Repair", "a blackout window"))
            return view.cycles_committed > cycles or (view.cycles_committed == cycles and ended)

        return await self.until(done, f"{cycles} committed cycles")

    async def until_recorded(self, condition: Callable[[list[CycleRecord]], bool], what: str) -> list[CycleRecord]:
        """Return the first list of ended cycles that fulfils a condition."""
        last: list[CycleRecord] = []

        async def holds() -> bool:
            last[:] = await self.cycles()
            return condition(last)

        await eventually(holds, what)
        return last

    async def update(self, operation: str, argument: object = None) -> str:
        """Send an update; return the sentence of its answer.

        A workflow task that an event overtook at the moment of continuing as new drops the update unanswered
        (FAILED_PRECONDITION, to be sent again): a client has to do the same.
        """
        arguments = [] if argument is None else [argument]
        while True:
            try:
                answer: str = await self.handle.execute_update(operation, args=arguments, result_type=str)
                return answer
            except RPCError as error:
                if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                    raise

    async def refusal(self, operation: str, argument: object = None) -> str:
        """Send an update that must be refused; return the sentence."""
        try:
            await self.update(operation, argument)
        except WorkflowUpdateFailedError as error:
            assert isinstance(error.cause, ApplicationError), error.cause
            assert error.cause.non_retryable
            return error.cause.message
        raise AssertionError(f"{operation} was accepted")

    async def signal(self, operation: str, *arguments: object) -> None:
        await self.handle.signal(operation, args=list(arguments))

    async def refused_signal(self, operation: str, *arguments: object) -> str:
        """Send a signal that must be refused; return the sentence that the status shows then."""
        before = (await self.status()).last_refused
        await self.signal(operation, *arguments)
        view = await self.until(lambda v: v.last_refused is not None and v.last_refused != before, f"{operation} refused")
        assert view.last_refused is not None
        assert view.last_refused.operation == operation
        return view.last_refused.sentence

    async def ended(self) -> EndResult:
        """Wait for the replication's end; return how it ended."""
        handle = self.client.get_workflow_handle(self.workflow_id, result_type=EndResult)
        async with asyncio.timeout(_PATIENCE_S):
            result: EndResult = await handle.result()
        return result

    async def events(self) -> list[HistoryEvent]:
        """Return the events of the current run."""
        return [event async for event in self.handle.fetch_history_events()]


@dataclass(slots=True)
class Bench:
    """One site and its replications."""

    client: Client
    site: str
    world: World
    stand_ins: StandIns
    started: list[str] = field(default_factory=list)

    def profile(
        self,
        *,
        min_interval: timedelta = timedelta(hours=1),
        disks_per_appliance: int = 52,
        scrub_every: timedelta = timedelta(0),
    ) -> None:
        """Give the site other settings than the defaults; before anything is enabled."""
        self.world.profile = new_profile(
            self.site, min_interval=min_interval, disks_per_appliance=disks_per_appliance, scrub_every=scrub_every
        )

    async def enable(self, vm: str = "web-01") -> Running:
        """Enable replication of a VM, as an operator does."""
        result = await self.client.execute_workflow(
            names.ENABLE_REPLICATION,
            {"vm": self.name_of(vm), "site": self.site},
            id=f"enable-{self.site}-{vm}-{len(self.started)}",
            task_queue=names.CONTROL_QUEUE,
            result_type=EnableResult,
        )
        return self.running(result.workflow_id, result.vm_name)

    def name_of(self, vm: str) -> str:
        """Return the VM's name, which no other test uses."""
        return f"{vm}.{self.site}"

    def running(self, workflow_id: str, vm: str) -> Running:
        """Return a replication that was started."""
        self.started.append(workflow_id)
        return Running(self.client, workflow_id, vm, self.client.get_workflow_handle(workflow_id))

    async def replicated(
        self, vm: str = "web-01", *, due: bool = False, auto_repair: bool = True, placed: bool = False
    ) -> Running:
        """Return a replication that has committed cycles and sleeps, or whose next cycle is due; `placed`: it knows where its VM is.

        It starts where adopt would take it up, so that tests of later states need not wait for an initial replication.
        """
        record = commit_record(self, self.name_of(vm), due=due)
        record.state.auto_repair = auto_repair
        record.state.placement = PLACEMENT if placed else record.state.placement
        key = record.replication.ref.replication_id
        self.world.records[key] = record
        self.world.seed_number[key] = record.state.fence
        adopted = await self.adopt(vm)
        running = self.running(adopted.adopted[0], record.replication.vm_name)
        if not due:
            await running.until_state(ReplicationState.DELTA_SYNC)
        return running

    async def adopt(self, vm: str | None = None) -> AdoptResult:
        """Adopt the site's replications, or one VM's."""
        request = {"site": self.site} if vm is None else {"site": self.site, "vm": self.name_of(vm)}
        result: AdoptResult = await self.client.execute_workflow(
            names.ADOPT_REPLICATIONS,
            request,
            id=f"adopt-{self.site}-{vm}-{len(self.started)}",
            task_queue=names.CONTROL_QUEUE,
            result_type=AdoptResult,
        )
        return result

    async def start(self, kind: str, *arguments: object, suffix: str) -> WorkflowHandle[Any, Any]:
        """Start any workflow type, as the Temporal UI's form does."""
        workflow_id = f"{kind}-{self.site}-{suffix}"
        self.started.append(workflow_id)
        return await self.client.start_workflow(kind, args=list(arguments), id=workflow_id, task_queue=names.CONTROL_QUEUE)

    async def policy_book(self) -> WorkflowHandle[Any, Any]:
        """Return the book of named policies, which all sites share; started if it does not run."""
        self.started.append(names.POLICIES_ID)
        return await self.client.start_workflow(
            names.POLICY_BOOK,
            id=names.POLICIES_ID,
            task_queue=names.CONTROL_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )

    async def until_event(self, workflow_id: str, event_type: EventType.ValueType) -> None:
        """Wait until an event is in a workflow's history."""
        handle = self.client.get_workflow_handle(workflow_id)

        async def there() -> bool:
            return any([event.event_type == event_type async for event in handle.fetch_history_events()])

        await eventually(there, f"{EventType.Name(event_type)} in {workflow_id}")

    async def until_signalled(self, workflow_id: str, signal: str) -> None:
        """Wait until a signal is in a workflow's history."""
        handle = self.client.get_workflow_handle(workflow_id)

        async def there() -> bool:
            attributes = "workflow_execution_signaled_event_attributes"
            return any([getattr(event, attributes).signal_name == signal async for event in handle.fetch_history_events()])

        await eventually(there, f"the signal {signal} in {workflow_id}")

    @property
    def arbiter(self) -> WorkflowHandle[Any, Any]:
        """The site's arbiter."""
        return self.client.get_workflow_handle(names.slots_id(self.site))

    async def start_arbiter(self, *, disks_per_appliance: int) -> None:
        """Start the arbiter with settings of its own, where none runs."""
        state = SlotsState(new_profile(self.site, disks_per_appliance=disks_per_appliance))
        await self.client.start_workflow(names.SITE_SLOTS, state, id=names.slots_id(self.site), task_queue=names.CONTROL_QUEUE)

    async def slots(self) -> SlotsState:
        """Return the arbiter's state."""
        state: SlotsState = await self.arbiter.query("status", result_type=SlotsState)
        return state

    async def until_no_leases(self, holder: str) -> None:
        """Wait until a holder neither has a lease nor waits for one."""

        async def none_left() -> bool:
            state = await self.slots()
            known = [held.wanted for held in state.leases] + [waiting.wanted for waiting in state.waiting]
            return all(wanted.holder != holder for wanted in known)

        await eventually(none_left, f"no lease of {holder}")

    async def close(self) -> None:
        """Terminate what still runs."""
        for workflow_id in (*self.started, names.slots_id(self.site)):
            await _terminate(self.client, workflow_id)
            if workflow_id.startswith("vm/"):
                for number in range(1, _MOST_JOBS):
                    await _terminate(self.client, names.initial_id(workflow_id, number))
                    await _terminate(self.client, names.resync_id(workflow_id, number))
                    await _terminate(self.client, names.migration_id(workflow_id, number))
                    await _terminate(self.client, names.test_id(workflow_id, number))
                    await _terminate(self.client, names.clean_up_id(workflow_id, number))
                    await _terminate(self.client, names.failover_id(workflow_id, number))
                    await _terminate(self.client, names.reprotect_id(workflow_id, number))
                    await _terminate(self.client, names.failback_id(workflow_id, number))


def commit_record(bench: Bench, vm: str, *, due: bool) -> ReplicateVmInput:
    """Return what the gateway store holds of a replication after its initial replication and one delta cycle."""
    profile, now = bench.world.profile, datetime.now(UTC)
    ref = ReplicationRef(profile.installation, profile.site, profile.target, f"uuid-of-{vm}", uuid.uuid4().hex[:16])
    disks = bench.world.disks
    replication = Replication(ref, vm, profile, disks, 2, "Linux")
    bases = tuple(DiskBase(disk.key, f"52-{disk.key}/0", disk.capacity_bytes) for disk in disks)
    state = EntityState(
        replication_state=ReplicationState.DELTA_SYNC,
        migration_state=MigrationState.TEST_PENDING,
        prepared=True,
        cbt_enabled_by_us=True,
        fence=7,
        cycles_minted=2,
        jobs_minted=1,
        bases=bases,
        point=record_of(RecoveryPoint("2-committed", now, 7, tuple((disk.key, "blob-snapshot-7") for disk in disks)), disks, now),
        cycles_committed=1,
        next_due=now if due else now + timedelta(hours=1),
        next_reason="as the test says",
        profile=profile,
    )
    if state.point is not None:
        bench.world.points = [state.point]
        bench.world.ledger.starts_with(state.point)
    return ReplicateVmInput(replication, state)


async def _terminate(client: Client, workflow_id: str) -> None:
    try:
        await client.get_workflow_handle(workflow_id).terminate("the test is over")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


def _worker(client: Client, stand_ins: StandIns, queue: str, *, workflows: bool) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=list(WORKFLOWS) if workflows else [],
        activities=stand_ins.all(),
        max_heartbeat_throttle_interval=_THROTTLE,
        default_heartbeat_throttle_interval=_THROTTLE,
        graceful_shutdown_timeout=timedelta(0),
    )


@asynccontextmanager
async def shared_workers(client: Client, stand_ins: StandIns) -> AsyncIterator[None]:
    """Run the workers of all queues that do not belong to one site."""
    async with control_worker(client, stand_ins), step_workers(client, stand_ins):
        yield


def control_worker(client: Client, stand_ins: StandIns) -> Worker:
    """Return the worker that carries all workflows."""
    return _worker(client, stand_ins, names.CONTROL_QUEUE, workflows=True)


@asynccontextmanager
async def step_workers(client: Client, stand_ins: StandIns) -> AsyncIterator[None]:
    """Run the workers of one appliance and of the target."""
    async with AsyncExitStack() as stack:
        for queue in (names.transfer_queue(APPLIANCE), names.apply_queue(TARGET), names.azure_queue(TARGET)):
            await stack.enter_async_context(_worker(client, stand_ins, queue, workflows=False))
        yield


@asynccontextmanager
async def appliance_worker(bench: Bench, appliance: str) -> AsyncIterator[None]:
    """Run the worker of one more appliance."""
    async with _worker(bench.client, bench.stand_ins, names.transfer_queue(appliance), workflows=False):
        yield


@asynccontextmanager
async def site_bench(client: Client, stand_ins: StandIns, site: str) -> AsyncIterator[Bench]:
    """Run a site: its world, and a worker on its own queue."""
    world = stand_ins.worlds[site] = World(new_profile(site))
    bench = Bench(client, site, world, stand_ins)
    async with _worker(client, stand_ins, names.vsphere_queue(site), workflows=False):
        try:
            yield bench
        finally:
            await bench.close()
            world.let_go()
