"""The other side of `ReprotectVm` and `FailbackVm` in tests: an entity that listens, and steps that note what they were asked."""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.errors import CATALOGUE, ErrorKind
    from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
    from tests.workflows.reverse_stand_ins import ReverseStandIns, disk_id
    from tests.workflows.world import World, new_profile, plan_of
    from workflows import names
    from workflows.failback import FailbackVm
    from workflows.messages.failback import (
        LostDisk,
    )
    from workflows.messages.job import JobReport
    from workflows.messages.replication_state import Replication
    from workflows.messages.reverse import (
        ReverseProgress,
    )
    from workflows.messages.slot import SlotsGranted, SlotsReleased, SlotsWanted
    from workflows.messages.step import (
        PlannedResync,
        PlanResyncInput,
        UnguardInput,
    )
    from workflows.reprotect import ReprotectVm

CAPACITY = 1 << 20
DISK = ReplicatedDisk(2000, "uuid", "Hard disk 1", CAPACITY, True)
DISK_ID = disk_id(DISK)


@workflow.defn(name="GrantingArbiter")
class GrantingArbiter:
    """Grants every request at once, and counts what is held."""

    def __init__(self) -> None:
        self._wanted: list[SlotsWanted] = []
        self._held: set[str] = set()

    @workflow.signal(name=names.SLOTS_REQUESTED)
    async def requested(self, wanted: SlotsWanted) -> None:
        self._wanted.append(wanted)
        self._held.add(wanted.request_id)
        profile = dataclasses.replace(new_profile(wanted.holder.split("/")[1]), appliance=wanted.appliance)
        grant = SlotsGranted(wanted.request_id, "lease", profile, turn=wanted.turn)
        await workflow.get_external_workflow_handle(wanted.holder).signal(names.SLOTS_GRANTED, grant)

    @workflow.signal(name=names.SLOTS_RELEASED)
    def released(self, released: SlotsReleased) -> None:
        self._held.discard(released.request_id)

    @workflow.query
    def wanted(self) -> list[SlotsWanted]:
        return self._wanted

    @workflow.query
    def held(self) -> int:
        return len(self._held)

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@workflow.defn(name="ListeningEntity")
class ListeningEntity:
    """Keeps what its job tells it, and ends when the job has reported."""

    def __init__(self) -> None:
        self._report: JobReport | None = None
        self._told: list[ReverseProgress] = []

    @workflow.signal(name=names.REVERSE_PROGRESSED)
    def reverse_progressed(self, progress: ReverseProgress) -> None:
        self._told.append(progress)

    @workflow.signal(name=names.JOB_FINISHED)
    def job_finished(self, report: JobReport) -> None:
        self._report = report

    @workflow.query
    def told(self) -> list[ReverseProgress]:
        return self._told

    @workflow.run
    async def run(self) -> JobReport:
        await workflow.wait_condition(lambda: self._report is not None)
        assert self._report is not None
        return self._report


@dataclass
class Steps(ReverseStandIns):
    """Steps that succeed at once. `done` names them in order; `fails` says which one fails the next time, with what."""

    segments: int = 1
    """Of each pass's one plan."""
    losses: tuple[LostDisk, ...] = ()
    not_replicated: tuple[str, ...] = ()
    pristine: bool = True
    home_after: str = ""
    """The step since which the VM at the site is home, whether that step ends well or not."""
    fails: dict[str, list[ErrorKind]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, name: str) -> list[Any]:
        """Return the requests that a step had."""
        return [request for step, request in zip(self.done, self.asked, strict=True) if step == name]

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until a step has made something true."""
        async with asyncio.timeout(30):
            while not reached():
                self.happened.clear()
                await self.happened.wait()

    async def _on(self, step: str, replication: Replication, request: object) -> World:
        self.done.append(step)
        self.asked.append(request)
        self.happened.set()
        if self.fails.get(step):
            kind = self.fails[step].pop(0)
            raise ApplicationError(f"{step} fails", type=kind.value, non_retryable=not CATALOGUE[kind].retryable)
        home = self.home_after in self.done
        return World(
            new_profile(replication.ref.site),
            released=home,
            losses=self.losses,
            not_replicated=self.not_replicated,
            pass_segments=self.segments,
            powered_on=home,
            pristine=self.pristine,
        )

    @activity.defn
    async def unguard_source(self, request: UnguardInput) -> None:
        await self._on("unguard_source", request.replication, request)

    @activity.defn
    async def plan_resync(self, request: PlanResyncInput) -> PlannedResync:
        world = await self._on("plan_resync", request.replication, request)
        return PlannedResync(((DISK.key, plan_of("pass", DISK.key, "plan", world.pass_segments, world.pass_segments)),))


def replication(site: str) -> Replication:
    """Return a replication of one disk."""
    profile = dataclasses.replace(new_profile(site), appliance=f"appliance-{site}", target=f"target-{site}")
    return Replication(ReplicationRef("tests", site, profile.target, "4211", "0" * 16), "vm", profile, (DISK,), 2, "Linux")


class Bench:
    """Workers for all queues of one site; none of them is another test's."""

    def __init__(self, client: Client, steps: Steps, site: str) -> None:
        self.client = client
        self.steps = steps
        self.replication = replication(site)
        self.entity_id = f"vm/{site}/4211"
        self.queue = f"{names.CONTROL_QUEUE}-{site}"
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Bench":
        ref, steps = self.replication.ref, self.steps.all()
        queues = (
            names.vsphere_queue(ref.site),
            names.apply_queue(ref.target),
            names.azure_queue(ref.target),
            names.transfer_queue(self.replication.profile.appliance),
        )
        for queue in queues:
            await self._stack.enter_async_context(Worker(self.client, task_queue=queue, activities=steps))
        workflows = [GrantingArbiter, ListeningEntity, ReprotectVm, FailbackVm]
        await self._stack.enter_async_context(Worker(self.client, task_queue=self.queue, workflows=workflows))
        self.arbiter = await self.client.start_workflow(GrantingArbiter.run, id=names.slots_id(ref.site), task_queue=self.queue)
        self.entity = await self.client.start_workflow(ListeningEntity.run, id=self.entity_id, task_queue=self.queue)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def report(self) -> JobReport:
        """Return what the job reports."""
        async with asyncio.timeout(60):
            return await self.entity.result()
