"""What the jobs share that bring a whole disk to the seed: the first full copy, and a resync.

A pass holds one snapshot. Its plans are sent chunk by chunk; while one is applied and verified, the next is already
being sent. Where the snapshot is lost, the next pass goes on from what the job has kept.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.verification import Verification
from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind, DiskBase, PlanRef
from deltaferry.planning.failure import TRACKING_VOID
from workflows import names
from workflows.delta_cycle import apply_chunks, release_snapshot, seal, send_chunk, unfinished
from workflows.holding_slots import SlotHolder
from workflows.job_messages import CopyResult, CopyStart, JobProgress, JobReport
from workflows.policies import VERIFY
from workflows.replication_state import InitialSummary
from workflows.reporting import ReportingJob, report_once
from workflows.slot_messages import SlotsGranted
from workflows.step_messages import AppliedChunk, ChunkDisk, SealInput, SentChunk, VerifyChunksInput
from workflows.steps import cancellation_kept, failure_of, health_error, perform

_LOST_SNAPSHOTS = 20
"""After so many snapshots lost in a row without progress the copy is given up: something removes them."""


class HeldPass:
    """A pass whose snapshot is held, and how far each disk's plan was carried."""

    def __init__(
        self,
        cycle_key: str,
        snapshot: str,
        taken_at: datetime,
        started_at: datetime,
        plans: dict[int, PlanRef],
        change_ids: dict[int, str],
        next_segments: dict[int, int],
    ) -> None:
        self.cycle_key = cycle_key
        self.snapshot = snapshot
        self.taken_at = taken_at
        self.started_at = started_at
        self.plans = plans
        self.change_ids = change_ids
        self.next_segments = next_segments

    def left(self) -> list[ChunkDisk]:
        """Return what is still to be sent."""
        return [
            ChunkDisk(key, plan, self.next_segments[key])
            for key, plan in self.plans.items()
            if self.next_segments[key] < plan.segments
        ]


T = TypeVar("T")


class CopyJob(ReportingJob):
    """Slots, passes, chunks, the seal and the report; what a pass begins with is its subclass's."""

    kind: CycleKind

    def _take(self, start: CopyStart) -> None:
        """Take over what the replication, or this job's previous run, starts it with."""
        self._replication = start.replication
        self._entity_id = start.entity_id
        self._profile = start.profile or start.replication.profile
        self._placement = start.placement
        self.fence = start.fence
        self._cycle_number = start.cycle_number
        self._bases = {base.disk_key: base for base in start.bases}
        self._dirty = start.dirty
        self._summaries = {summary.disk_key: summary for summary in start.summaries}
        self._slots = SlotHolder()
        self._queued = True

    @abstractmethod
    async def _next_pass(self) -> HeldPass:
        """Wait for slots, take a snapshot, and find out what has to be sent under it; or go on with a held one."""

    @abstractmethod
    def _advance(self, held: HeldPass, chunk: SentChunk) -> None:
        """Note that a chunk is on the seed, verified."""

    @abstractmethod
    async def _roll_over(self, held: HeldPass) -> None:
        """Continue as new between two chunks, with the snapshot held."""

    @abstractmethod
    def _progress(self) -> JobProgress:
        """Return what the replication has to know to go on without this job."""

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._slots.granted(grant)

    async def _run(self) -> None:
        """Copy, seal, report; a cancellation cuts the copy, and leaves no snapshot and no slots behind."""
        try:
            report = await self._copy()
        except (FailureError, asyncio.CancelledError) as error:
            await self._let_go()
            await self._tell_entity()
            if is_cancelled_exception(error):
                await report_once(self._entity_id, JobReport(workflow.info().workflow_id))
                raise
            failure = failure_of(error)
            report = JobReport(workflow.info().workflow_id, error=health_error(failure, workflow.now(), retried=False))
        await self.deliver(self._entity_id, report)

    async def _copy(self) -> JobReport:
        lost = 0
        while True:
            before = self._kept_bytes()
            try:
                held = await self._next_pass()
                await self._copy_under(held)
            except FailureError as error:
                kind = failure_of(error).kind
                lost = 0 if self._kept_bytes() > before else lost + 1
                if kind in TRACKING_VOID and self._kept_bytes():
                    self._start_afresh()
                elif kind is not ErrorKind.SNAPSHOT_LOST or lost > _LOST_SNAPSHOTS:
                    raise
                with cancellation_kept():
                    await self._let_go()
                continue
            return await self._finish(held)

    def _start_afresh(self) -> None:
        """Forget what was reached under an earlier snapshot: change tracking cannot tell what has changed since."""
        self._bases = {key: DiskBase(key, None, 0) for key in self._bases}

    def _kept_bytes(self) -> int:
        return sum(base.copied_up_to_bytes for base in self._bases.values())

    async def _acquire(self) -> None:
        self._queued = True
        await self._tell_entity()
        self._profile = await self._slots.acquire(self._profile, self.kind, len(self._replication.disks), self._placement)
        self._queued = False
        await self._tell_entity()

    async def _copy_under(self, held: HeldPass) -> None:
        """Send, apply and verify every disk's plan."""
        left = held.left()
        self._dirty += tuple((disk.disk_key, disk.plan) for disk in left if (disk.disk_key, disk.plan) not in self._dirty)
        pending: asyncio.Task[None] | None = None
        try:
            while left:
                sent = await send_chunk(self._replication, held.cycle_key, held.snapshot, left, self.kind)
                left = unfinished(left, sent)
                held.next_segments.update({chunk.disk_key: chunk.next_segment for chunk in sent})
                if pending is not None:
                    await pending
                    pending = None
                if left and workflow.info().is_continue_as_new_suggested():
                    await self._apply_and_verify(held, sent)
                    await self._slots.release(self._profile)
                    await self._roll_over(held)
                pending = asyncio.create_task(self._apply_and_verify(held, sent))
            if pending is not None:
                await pending
                pending = None
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)
        for key in held.plans:
            self._bases[key] = DiskBase(key, held.change_ids[key], self._capacity(key))

    async def _apply_and_verify(self, held: HeldPass, sent: tuple[SentChunk, ...]) -> None:
        applied = await apply_chunks(self._replication, held.cycle_key, sent, self, self.kind)
        await perform(
            Verification.verify_chunks,
            VerifyChunksInput(self._replication, held.cycle_key, tuple(held.plans.items()), applied),
            queue=names.apply_queue(self._replication.ref.target),
            limits=VERIFY,
            summary=f"verify {len(applied)} chunks, delete their log",
            kind=self.kind,
        )
        self._count(sent, applied)
        for chunk in sent:
            self._advance(held, chunk)
        await self._tell_entity()

    def _count(self, sent: Sequence[SentChunk], applied: Sequence[AppliedChunk]) -> None:
        verified = {chunk.disk_key: chunk.verified_blocks for chunk in applied}
        for chunk in sent:
            so_far = self._summaries.get(chunk.disk_key, InitialSummary(chunk.disk_key, 0, 0, 0))
            self._summaries[chunk.disk_key] = InitialSummary(
                chunk.disk_key,
                so_far.bytes_read + chunk.bytes_read,
                so_far.bytes_sent + chunk.bytes_sent,
                so_far.verified_blocks + verified[chunk.disk_key],
            )

    async def _finish(self, held: HeldPass) -> JobReport:
        """Release the snapshot, seal the seeds and take the recovery point; the entity commits."""
        release = asyncio.create_task(release_snapshot(self._replication))
        plans = tuple(held.plans.items())
        verified_up_to = tuple((key, plan.segments) for key, plan in plans)
        request = SealInput(self._replication, held.cycle_key, held.taken_at, 0, plans, (), verified_up_to)
        try:
            sealed = await seal(self._replication, request, self)
        finally:
            await release
        await self._slots.release(self._profile)
        progress = self._progress()
        result = CopyResult(
            fence=self.fence,
            cycle_number=self._cycle_number,
            cycle_key=held.cycle_key,
            bases=tuple(self._bases.values()),
            point=sealed.point,
            summaries=tuple(self._summaries.values()),
            started_at=held.started_at,
            profile=self._profile,
            placement=self._placement,
            compared_bytes=progress.compared_bytes,
            differing_bytes=progress.differing_bytes,
        )
        return JobReport(workflow.info().workflow_id, copied=result)

    async def _let_go(self) -> None:
        """Leave no snapshot and no slots behind."""
        await release_snapshot(self._replication)
        await self._slots.release(self._profile)

    async def _tell_entity(self) -> None:
        """Give the entity what it needs to go on without this workflow."""
        progress = self._progress()
        workflow.set_current_details("waiting for slots" if progress.queued else progress.activity)
        try:
            with cancellation_kept():
                await workflow.get_external_workflow_handle(self._entity_id).signal(names.JOB_PROGRESSED, progress)
        except FailureError:
            workflow.logger.warning("the replication does not run; it learns of this when it is adopted")

    def _capacity(self, disk_key: int) -> int:
        return next(disk.capacity_bytes for disk in self._replication.disks if disk.key == disk_key)
