"""The other side of `ReprotectVm` and `FailbackVm` in tests: an entity that listens, and steps that note what they were asked."""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.errors import CATALOGUE, ErrorKind
    from deltaferry.model.replication import ObjectRef, PlanRef, ReplicatedDisk, ReplicationRef, Store
    from tests.workflows.stand_ins import new_profile
    from workflows import names
    from workflows.failback import FailbackVm
    from workflows.failback_messages import (
        ComparedSite,
        CompareSiteInput,
        CompareSiteResult,
        DiscardBackInput,
        DropSnapshotsInput,
        HashInput,
        HashResult,
        Losses,
        LossesInput,
        LostDisk,
        OnTarget,
        PlanChangesInput,
        PlannedChanges,
        PreparedFailback,
        PrepareFailbackInput,
        SendBackInput,
        SnapshotTargetInput,
        TakenSnapshots,
        TargetSurvey,
        WriteBackInput,
    )
    from workflows.job_messages import JobReport
    from workflows.replication_state import DiskPosition, Replication
    from workflows.reprotect import ReprotectVm
    from workflows.reverse_messages import (
        ReverseProgress,
    )
    from workflows.slot_messages import SlotsGranted, SlotsReleased, SlotsWanted
    from workflows.step_messages import (
        AppliedChunk,
        ApplyResult,
        OnReplication,
        PlannedResync,
        PlanResyncInput,
        SentChunk,
        TransferResult,
        UnguardInput,
        VerifyChunksInput,
    )

CAPACITY = 1 << 20
DISK = ReplicatedDisk(2000, "uuid", "Hard disk 1", CAPACITY, True)
DISK_ID = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/disks/vm-os"


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
        profile = dataclasses.replace(new_profile(wanted.placement.host), appliance=wanted.appliance)
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
class Steps:
    """Steps that succeed at once. `done` names them in order; `fails` says which one fails the next time, with what."""

    segments: int = 1
    """Of each pass's one plan."""
    losses: tuple[LostDisk, ...] = ()
    not_replicated: tuple[str, ...] = ()
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

    def _note(self, name: str, request: Any) -> None:
        self.done.append(name)
        self.asked.append(request)
        self.happened.set()
        if self.fails.get(name):
            kind = self.fails[name].pop(0)
            raise ApplicationError(f"{name} fails", type=kind.value, non_retryable=not CATALOGUE[kind].retryable)

    @activity.defn
    async def prepare_failback(self, request: PrepareFailbackInput) -> PreparedFailback:
        self._note("prepare_failback", request)
        return PreparedFailback(False, (4000,), request.replication.ref.site)

    @activity.defn
    async def find_losses(self, request: LossesInput) -> Losses:
        self._note("find_losses", request)
        return Losses(self.losses, request.given_up_bytes)

    @activity.defn
    async def release_failback(self, request: OnReplication) -> None:
        self._note("release_failback", request)

    @activity.defn
    async def unguard_source(self, request: UnguardInput) -> None:
        self._note("unguard_source", request)

    @activity.defn
    async def survey_failed_over(self, request: OnTarget) -> TargetSurvey:
        self._note("survey_failed_over", request)
        return TargetSurvey("vm", True, ((DISK.key, DISK_ID),), self.not_replicated)

    @activity.defn
    async def start_target(self, request: OnTarget) -> None:
        self._note("start_target", request)

    @activity.defn
    async def stop_target(self, request: OnTarget) -> None:
        self._note("stop_target", request)

    @activity.defn
    async def snapshot_target(self, request: SnapshotTargetInput) -> TakenSnapshots:
        self._note("snapshot_target", request)
        return TakenSnapshots(((DISK.key, f"snapshot-of-{request.cycle_key}"),), datetime.now(UTC))

    @activity.defn
    async def drop_snapshots(self, request: DropSnapshotsInput) -> None:
        self._note("drop_snapshots", request)

    @activity.defn
    async def hash_snapshots(self, request: HashInput) -> HashResult:
        self._note("hash_snapshots", request)
        return HashResult((DiskPosition(DISK.key, CAPACITY),))

    @activity.defn
    async def compare_site(self, request: CompareSiteInput) -> CompareSiteResult:
        self._note("compare_site", request)
        return CompareSiteResult((ComparedSite(DISK.key, CAPACITY, self._plan(), CAPACITY),))

    @activity.defn
    async def plan_resync(self, request: PlanResyncInput) -> PlannedResync:
        self._note("plan_resync", request)
        return PlannedResync(((DISK.key, self._plan()),))

    @activity.defn
    async def plan_changes(self, request: PlanChangesInput) -> PlannedChanges:
        self._note("plan_changes", request)
        return PlannedChanges(((DISK.key, self._plan()),))

    @activity.defn
    async def send_back(self, request: SendBackInput) -> TransferResult:
        self._note("send_back", request)
        first = request.disks[0].first_segment
        return TransferResult((SentChunk(DISK.key, first, first + 1, CAPACITY, _object("manifest"), 512, 100, 1, 0),))

    @activity.defn
    async def write_back(self, request: WriteBackInput) -> ApplyResult:
        self._note("write_back", request)
        return ApplyResult(
            tuple(
                AppliedChunk(
                    chunk.disk_key, chunk.first_segment, chunk.next_segment, chunk.manifest, _object("covered"), 512, 0, 2
                )
                for chunk in request.chunks
            )
        )

    @activity.defn
    async def verify_back(self, request: VerifyChunksInput) -> None:
        self._note("verify_back", request)

    @activity.defn
    async def discard_back(self, request: DiscardBackInput) -> None:
        self._note("discard_back", request)

    @activity.defn
    async def forget_site(self, request: OnReplication) -> None:
        self._note("forget_site", request)

    def _plan(self) -> PlanRef:
        return PlanRef(_object("plan"), self.segments, 512 * self.segments, 512 * self.segments)

    def all(self) -> list[Callable[..., Any]]:
        """Return all steps."""
        return [step for name in dir(self) if hasattr(step := getattr(self, name), "__temporal_activity_definition")]


def _object(name: str) -> ObjectRef:
    return ObjectRef(Store.GATEWAY, f"container/{name}", "etag")


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
