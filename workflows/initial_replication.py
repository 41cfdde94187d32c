"""`InitialReplication`: the first full copy of a VM's disks, chunk by chunk, surviving the loss of its snapshot."""

import asyncio
from collections.abc import Sequence

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.verification import Verification
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.replication import CycleKind, DiskBase, PlanRef
    from workflows import names
    from workflows.delta_cycle import apply_chunks, begin_cycle, mint_cycle_key, release_snapshot, seal, send_chunk, unfinished
    from workflows.holding_slots import SlotHolder
    from workflows.job_messages import InitialInput, InitialPass, InitialProgress, InitialResult, JobReport
    from workflows.policies import VERIFY
    from workflows.replication_state import InitialSummary
    from workflows.reporting import ReportingJob, report_once
    from workflows.slot_messages import SlotsGranted
    from workflows.step_messages import (
        AppliedChunk,
        BeginCycleInput,
        BegunCycle,
        ChunkDisk,
        SealInput,
        SentChunk,
        VerifyChunksInput,
    )
    from workflows.steps import cancellation_kept, failure_of, health_error, perform, require_carried

_LOST_SNAPSHOTS = 20
"""After so many snapshots lost in a row without progress the copy is given up: something removes them."""


@workflow.defn(name=names.INITIAL_REPLICATION)
class InitialReplication(ReportingJob):
    """Copies under one snapshot; where that is lost, copies the rest and the changes below the mark under a new one."""

    @workflow.init
    def __init__(self, start: InitialInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._replication = start.replication
        self._entity_id = start.entity_id
        self._profile = start.replication.profile
        self._placement = start.placement
        self.fence = start.fence
        self._cycle_number = start.cycle_number
        self._bases = {base.disk_key: base for base in start.bases}
        self._dirty = start.dirty
        self._summaries = {summary.disk_key: summary for summary in start.summaries}
        self._resume = start.resume
        self._slots = SlotHolder()
        self._queued = True

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._slots.granted(grant)

    @workflow.run
    async def run(self, start: InitialInput | None = None) -> None:
        """Copy, seal, report; a cancellation cuts the copy, and leaves no snapshot and no slots behind."""
        require_carried(start)
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
            before = sum(base.copied_up_to_bytes for base in self._bases.values())
            held = await self._take_up(self._resume) if self._resume else await self._begin_pass()
            self._resume = None
            try:
                await self._copy_under(held)
            except FailureError as error:
                progressed = sum(base.copied_up_to_bytes for base in self._bases.values()) > before
                lost = 0 if progressed else lost + 1
                if failure_of(error).kind is not ErrorKind.SNAPSHOT_LOST or lost > _LOST_SNAPSHOTS:
                    raise
                with cancellation_kept():
                    await self._let_go()
                continue
            return await self._finish(held)

    async def _acquire(self) -> None:
        self._queued = True
        await self._tell_entity()
        self._profile = await self._slots.acquire(self._profile, CycleKind.INITIAL, len(self._replication.disks), self._placement)
        self._queued = False
        await self._tell_entity()

    async def _take_up(self, held: InitialPass) -> InitialPass:
        """Go on with a pass of the run before this one: its snapshot is still held, its slots were given back."""
        await self._acquire()
        return held

    async def _begin_pass(self) -> InitialPass:
        """Wait for slots, then take a snapshot and plan what is left under it."""
        await self._acquire()
        self._cycle_number += 1
        cycle_key = mint_cycle_key(self._cycle_number)
        started_at = workflow.now()
        bases = tuple(self._bases.values())
        begun = await begin_cycle(
            self._replication, BeginCycleInput(self._replication, cycle_key, CycleKind.INITIAL, bases, self._dirty)
        )
        self._placement = begun.placement
        return InitialPass(cycle_key, begun, tuple((disk.disk_key, 0) for disk in begun.disks), started_at)

    async def _copy_under(self, held: InitialPass) -> None:
        """Copy every disk's plan: while one chunk is applied and verified, the next is already being sent."""
        plans = {disk.disk_key: disk.plan for disk in held.begun.disks}
        next_segments = dict(held.next_segments)
        left = [ChunkDisk(key, plan, next_segments[key]) for key, plan in plans.items() if next_segments[key] < plan.segments]
        self._dirty += tuple((disk.disk_key, disk.plan) for disk in left if (disk.disk_key, disk.plan) not in self._dirty)
        pending: asyncio.Task[None] | None = None
        try:
            while left:
                sent = await send_chunk(self._replication, held.cycle_key, held.begun.snapshot, left, CycleKind.INITIAL)
                left = unfinished(left, sent)
                if pending is not None:
                    await pending
                    pending = None
                if left and workflow.info().is_continue_as_new_suggested():
                    await self._apply_and_verify(held, plans, sent)
                    await self._roll_over(held, left, plans)
                pending = asyncio.create_task(self._apply_and_verify(held, plans, sent))
            if pending is not None:
                await pending
                pending = None
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)
        for disk in held.begun.disks:
            self._bases[disk.disk_key] = DiskBase(disk.disk_key, disk.change_id, self._capacity(disk.disk_key))

    async def _apply_and_verify(self, held: InitialPass, plans: dict[int, PlanRef], sent: tuple[SentChunk, ...]) -> None:
        applied = await apply_chunks(self._replication, held.cycle_key, sent, self, CycleKind.INITIAL)
        await perform(
            Verification.verify_chunks,
            VerifyChunksInput(self._replication, held.cycle_key, tuple(plans.items()), applied),
            queue=names.apply_queue(self._replication.ref.target),
            limits=VERIFY,
            summary=f"verify {len(applied)} chunks, delete their log",
            kind=CycleKind.INITIAL,
        )
        self._advance(held.begun, sent, applied)
        await self._tell_entity()

    def _advance(self, begun: BegunCycle, sent: Sequence[SentChunk], applied: Sequence[AppliedChunk]) -> None:
        """Move each disk's mark to where everything below is on the seed as of this snapshot.

        What is above the mark is planned as a whole by the next pass, and below it nothing is in doubt any more: so no
        area of the disk has to be planned again for having been written by this pass or an earlier one.
        """
        change_ids = {disk.disk_key: disk.change_id for disk in begun.disks}
        verified = {chunk.disk_key: chunk.verified_blocks for chunk in applied}
        for chunk in sent:
            if chunk.position_bytes >= self._bases[chunk.disk_key].copied_up_to_bytes:
                self._bases[chunk.disk_key] = DiskBase(chunk.disk_key, change_ids[chunk.disk_key], chunk.position_bytes)
                self._dirty = tuple((key, plan) for key, plan in self._dirty if key != chunk.disk_key)
            so_far = self._summaries.get(chunk.disk_key, InitialSummary(chunk.disk_key, 0, 0, 0))
            self._summaries[chunk.disk_key] = InitialSummary(
                chunk.disk_key,
                so_far.bytes_read + chunk.bytes_read,
                so_far.bytes_sent + chunk.bytes_sent,
                so_far.verified_blocks + verified[chunk.disk_key],
            )

    async def _finish(self, held: InitialPass) -> JobReport:
        """Release the snapshot, seal the seeds and take the first recovery point; the entity commits."""
        release = asyncio.create_task(release_snapshot(self._replication))
        plans = tuple((disk.disk_key, disk.plan) for disk in held.begun.disks)
        request = SealInput(
            self._replication,
            held.cycle_key,
            held.begun.taken_at,
            0,
            plans,
            (),
            tuple((key, plan.segments) for key, plan in plans),
        )
        try:
            sealed = await seal(self._replication, request, self)
        finally:
            await release
        await self._slots.release(self._profile)
        result = InitialResult(
            fence=self.fence,
            cycle_number=self._cycle_number,
            cycle_key=held.cycle_key,
            bases=tuple(self._bases.values()),
            point=sealed.point,
            summaries=tuple(self._summaries.values()),
            started_at=held.started_at,
            profile=self._profile,
            placement=self._placement,
        )
        return JobReport(workflow.info().workflow_id, initial=result)

    async def _let_go(self) -> None:
        """Leave no snapshot and no slots behind."""
        await release_snapshot(self._replication)
        await self._slots.release(self._profile)

    async def _roll_over(self, held: InitialPass, left: Sequence[ChunkDisk], plans: dict[int, PlanRef]) -> None:
        """Continue as new between two chunks, with the snapshot held; the slots are asked for again under the new run."""
        await self._slots.release(self._profile)
        reached = {disk.disk_key: disk.first_segment for disk in left}
        next_segments = tuple((key, reached.get(key, plan.segments)) for key, plan in plans.items())
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(
            InitialInput(
                entity_id=self._entity_id,
                replication=self._replication,
                fence=self.fence,
                cycle_number=self._cycle_number,
                bases=tuple(self._bases.values()),
                placement=self._placement,
                dirty=self._dirty,
                summaries=tuple(self._summaries.values()),
                resume=InitialPass(held.cycle_key, held.begun, next_segments, held.started_at),
            )
        )

    async def _tell_entity(self) -> None:
        """Give the entity what it needs to go on without this workflow."""
        total = sum(disk.capacity_bytes for disk in self._replication.disks)
        copied = sum(base.copied_up_to_bytes for base in self._bases.values())
        progress = InitialProgress(
            job_id=workflow.info().workflow_id,
            fence=self.fence,
            cycle_number=self._cycle_number,
            bases=tuple(self._bases.values()),
            dirty=self._dirty,
            summaries=tuple(self._summaries.values()),
            queued=self._queued,
            percent=round(100 * copied / total, 1) if total else 100.0,
        )
        workflow.set_current_details(f"{'waiting for slots' if self._queued else f'{progress.percent} % copied and verified'}")
        try:
            with cancellation_kept():
                await workflow.get_external_workflow_handle(self._entity_id).signal(names.JOB_PROGRESSED, progress)
        except FailureError:
            workflow.logger.warning("the replication does not run; it learns of this when it is adopted")

    def _capacity(self, disk_key: int) -> int:
        return next(disk.capacity_bytes for disk in self._replication.disks if disk.key == disk_key)
