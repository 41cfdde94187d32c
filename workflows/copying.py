"""What the jobs share that bring a whole disk to the seed: the first full copy, and a resync.

A pass holds one snapshot. Its plans are sent chunk by chunk; while one is applied and verified, the next is already
being sent. Where the snapshot is lost, the next pass goes on from what the job has kept.
"""

import asyncio
import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.verification import Verification
from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind, DiskBase, PlanRef
from deltaferry.model.states import HealthError
from deltaferry.planning.failure import TRACKING_VOID, WAITS_FOR_ROOM, wait_for_room
from workflows import names
from workflows.delta_cycle import (
    PLACEMENT_TRIES,
    apply_chunks,
    begin_cycle,
    release_snapshot,
    seal,
    send_chunk,
    unfinished,
)
from workflows.held_room import look_for_room
from workflows.messages.job import CopyResult, CopyStart, JobProgress, JobReport
from workflows.messages.replication_state import FailureView, InitialSummary
from workflows.messages.site import Placement
from workflows.messages.slot import SlotsAskedBack, SlotsDelayed, SlotsGranted
from workflows.messages.step import AppliedChunk, BeginCycleInput, BegunCycle, ChunkDisk, SealInput, SentChunk, VerifyChunksInput
from workflows.policies import VERIFY
from workflows.reporting import ReportingJob, report_once
from workflows.slots.holding import SlotHolder
from workflows.steps import cancellation_kept, failure_of, health_error, perform

_LOST_SNAPSHOTS = 20
"""After so many snapshots lost in a row without progress the copy is given up: something removes them."""


_SHOWN_NAME = 80
"""Of a datastore's name: the server takes a timer's summary of at most 400 bytes."""


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
        self._slots = SlotHolder(
            start.entity_id, self._queue_changed, lambda: look_for_room(self._replication), self._tell_entity
        )
        self._whatever_window = start.whatever_window
        self._expected_growth = start.expected_growth
        self._short: HealthError | None = None
        self._waits_for_room = ""
        self._queued = True

    @abstractmethod
    async def _next_pass(self) -> HeldPass:
        """Wait for slots, take a snapshot, and find out what has to be sent under it; or go on with a held one."""

    @abstractmethod
    def _advance(self, held: HeldPass, chunk: SentChunk) -> None:
        """Note that a chunk is on the seed, verified."""

    @abstractmethod
    async def _roll_over(self, held: HeldPass | None) -> None:
        """Continue as new between two chunks, with the snapshot held; or, without one, between two passes."""

    @abstractmethod
    def _progress(self) -> JobProgress:
        """Return what the replication has to know to go on without this job."""

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._slots.granted(grant)

    @workflow.signal(name=names.SLOTS_ASKED_BACK, description="Sent by the site's arbiter: something more urgent waits.")
    def slots_asked_back(self, asked: SlotsAskedBack) -> None:
        """Note that the transfer slots are to be given back at the chunk's end."""
        self._slots.asked_back(asked)

    @workflow.signal(name=names.SLOTS_DELAYED, description="Sent by the site's arbiter: why there are no slots yet.")
    def slots_delayed(self, delayed: SlotsDelayed) -> None:
        """Note why there are no slots yet."""
        self._slots.delayed(delayed)

    @workflow.signal(name=names.ANNOUNCE_SLOTS, description="Sent by an arbiter that starts afresh.")
    async def announce_slots(self) -> None:
        """Say what is held and waited for."""
        await self._slots.announce(self._profile)

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
                failure = failure_of(error)
                kind = failure.kind
                if kind in WAITS_FOR_ROOM:
                    async with cancellation_kept():
                        await self._let_go(failure.short_of_space)
                    await self._wait_for_room(failure)
                    if workflow.info().is_continue_as_new_suggested():
                        await self._roll_over(None)
                    continue
                lost = 0 if self._kept_bytes() > before else lost + 1
                if kind in TRACKING_VOID and self._kept_bytes():
                    self._start_afresh()
                elif kind is not ErrorKind.SNAPSHOT_LOST or lost > _LOST_SNAPSHOTS:
                    raise
                async with cancellation_kept():
                    await self._let_go()
                continue
            return await self._finish(held)

    async def _wait_for_room(self, failure: FailureView) -> None:
        """Let time pass without a snapshot; what was reached is kept, and what is wrong is shown meanwhile (spec §2.7)."""
        wait = wait_for_room(self._profile.min_interval)
        where = failure.short_of_space[0][:_SHOWN_NAME] if failure.short_of_space else "a datastore"
        self._short = health_error(failure, workflow.now(), retried=True)
        self._waits_for_room = f"waiting for room on {where}; the copy goes on at {workflow.now() + wait:%H:%M:%S} UTC"
        await self._tell_entity()
        await workflow.sleep(wait, summary=f"no room for a snapshot on {where}")
        self._waits_for_room = ""

    def _start_afresh(self) -> None:
        """Forget what was reached under an earlier snapshot: change tracking cannot tell what has changed since."""
        self._bases = {key: DiskBase(key, None, 0) for key in self._bases}

    def _kept_bytes(self) -> int:
        return sum(base.copied_up_to_bytes for base in self._bases.values())

    async def _acquire(self) -> None:
        self._queued = True
        await self._tell_entity()
        self._profile = await self._slots.acquire(
            self._profile, self.kind, len(self._replication.disks), self._placement, whatever_window=self._whatever_window
        )
        self._queued = False
        await self._tell_entity()

    async def _acquire_elsewhere(self, placement: Placement) -> None:
        """Wait for slots of where the VM is now."""
        self._placement = placement
        await self._slots.release(self._profile)
        await self._acquire()

    async def _begun_at(self, cycle_key: str) -> BegunCycle:
        """Take the snapshot of a pass and plan it; where the VM was moved since, wait for slots of where it is now first."""
        for remaining in reversed(range(PLACEMENT_TRIES)):
            granted = self._placement if remaining else None
            bases = tuple(self._bases.values())
            growth = self._expected_growth
            request = BeginCycleInput(
                self._replication, cycle_key, self.kind, bases, self._dirty, granted=granted, expected_growth=growth
            )
            begun = await begin_cycle(self._replication, request)
            if not begun.moved:
                self._placement, self._short = begun.placement, None
                return begun
            await self._acquire_elsewhere(begun.placement)
        raise AssertionError("the last try goes on wherever the VM is")

    def _queue_changed(self) -> None:
        """Show why there are no slots yet."""
        workflow.set_current_details(self._slots.waits_because(self._profile, workflow.now()))

    async def _copy_under(self, held: HeldPass) -> None:
        """Send, apply and verify every disk's plan."""
        left = held.left()
        self._dirty += tuple((disk.disk_key, disk.plan) for disk in left if (disk.disk_key, disk.plan) not in self._dirty)
        pending: asyncio.Task[None] | None = None
        try:
            while left:
                sent, self._profile = await send_chunk(
                    self._replication, held.cycle_key, held.snapshot, left, self.kind, self._slots, self._profile
                )
                left = unfinished(left, sent)
                held.next_segments.update({chunk.disk_key: chunk.next_segment for chunk in sent})
                if pending is not None:
                    await pending
                    pending = None
                if left and workflow.info().is_continue_as_new_suggested():
                    await self._apply_and_verify(held, sent)
                    await self._slots.release(self._profile, snapshot_left=True)
                    await self._roll_over(held)
                pending = asyncio.create_task(self._apply_and_verify(held, sent))
                if left:
                    self._profile = await self._slots.give_way(self._profile)
            if pending is not None:
                await pending
                pending = None
        except FailureError as error:
            if pending is not None and failure_of(error).kind in WAITS_FOR_ROOM:
                await release_snapshot(self._replication)
                await asyncio.gather(pending, return_exceptions=True)  # what was sent needs no snapshot: it moves the mark
            raise
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

    async def _let_go(self, short_of_space: tuple[str, ...] = ()) -> None:
        """Leave no snapshot and no slots behind."""
        await release_snapshot(self._replication)
        await self._slots.release(self._profile, short_of_space)

    async def _tell_entity(self) -> None:
        """Give the entity what it needs to go on without this workflow."""
        progress = self._progress()
        activity = self._waits_for_room or self._slots.gave_way_because() or progress.activity
        progress = dataclasses.replace(progress, error=self._short, activity=activity)
        waiting = self._slots.waits_because(self._profile, workflow.now())
        workflow.set_current_details(waiting if progress.queued else progress.activity)
        try:
            async with cancellation_kept():
                await workflow.get_external_workflow_handle(self._entity_id).signal(names.JOB_PROGRESSED, progress)
        except FailureError:
            workflow.logger.warning("the replication does not run; it learns of this when it is adopted")

    def _capacity(self, disk_key: int) -> int:
        return next(disk.capacity_bytes for disk in self._replication.disks if disk.key == disk_key)
