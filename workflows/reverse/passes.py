"""A pass back to the site: snapshots in Azure, what differs, segments, and the site's disks written and read back (spec §8).

Two workflows carry passes out: `ReprotectVm` while the VM runs in Azure, `FailbackVm` the final one. The pass is a list of
steps, of which the state says how far they are, so that a run may continue as new between any two of them.
"""

import dataclasses
import functools
from collections.abc import Mapping

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.failback_reading import FailbackReading
from activities.failback_target import FailbackTarget
from activities.failback_verification import FailbackVerification
from activities.failback_writing import FailbackWriting
from activities.resync import ResyncTarget
from deltaferry.model.replication import CycleKind, PlanRef
from deltaferry.planning.failback import progress_of
from workflows import names
from workflows.messages.failback import (
    CompareSiteInput,
    CompareSiteResult,
    HashInput,
    PlanChangesInput,
    SendBackInput,
    SnapshotTargetInput,
    WriteBackInput,
)
from workflows.messages.operator_input import TargetProperties
from workflows.messages.replication_state import DiskPosition, Replication
from workflows.messages.reverse import PassState
from workflows.messages.reverse_records import PassRecord, ReverseBase
from workflows.messages.step import ApplyResult, ChunkDisk, PlanResyncInput, VerifyChunksInput
from workflows.policies import AZURE, TRANSFER, VERIFY, WRITE_BACK
from workflows.reverse.job import SiteLane
from workflows.reverse.steps import discard_pass, drop_snapshots, survey_target
from workflows.steps import failure_of, perform


class ReversePass:
    """One pass. `base` is what the site's disks hold; without one everything is compared first."""

    def __init__(
        self,
        replication: Replication,
        target: TargetProperties,
        lane: SiteLane,
        base: ReverseBase | None,
        state: PassState,
        *,
        pristine: bool = False,
    ) -> None:
        """`pristine`: the site's disks are new and empty, so that nothing has to be compared: what Azure's hold is sent."""
        self._pristine = pristine and base is None
        self._replication = replication
        self._target = target
        self._lane = lane
        self._base = base
        self.state = state
        self.information: tuple[str, ...] = ()
        self._kind = CycleKind.FINAL if state.final else CycleKind.RESYNC if base is None else CycleKind.DELTA
        self._capacities = {disk.key: disk.capacity_bytes for disk in replication.disks}

    @property
    def is_full(self) -> bool:
        """Whether it compares everything."""
        return self._base is None

    @property
    def is_first_copy(self) -> bool:
        """Whether it copies to empty disks, and compares nothing."""
        return self._pristine

    @property
    def percent(self) -> float:
        """How far it is."""
        s = self.state
        return progress_of(
            full=self.is_full and not self._pristine,
            total_bytes=sum(self._capacities.values()),
            hashed_bytes=sum(part.position_bytes for part in s.hashed),
            compared_bytes=sum(part.position_bytes for part in s.compared),
            segments=sum(plan.segments for _, plan in s.plans) if s.plans else None,
            segments_done=sum(number for _, number in s.next_segments),
        )

    @property
    def changed_bytes(self) -> int:
        """How much of the site's disks it writes."""
        return sum(plan.covered_bytes for _, plan in self.state.plans)

    async def advance(self) -> bool:
        """Carry out the next step; return whether everything is written, read back and verified."""
        s = self.state
        if not s.snapshots:
            await self._take_snapshots()
        elif not s.plans and self._base is not None:
            await self._plan_changes(self._base)
        elif not s.plans and self._pristine:
            await self._plan_changes(None)
        elif not s.plans and self._is_short(s.hashed):
            await self._hash()
        elif not s.plans and self._is_short(s.compared):
            await self._compare()
        elif not s.plans:
            await self._plan_differences()
        elif self._unsent():
            await self._carry()
        else:
            return True
        return False

    def record(self, failure: str = "") -> PassRecord:
        """Return what people see of the pass, once it ended."""
        s = self.state
        return PassRecord(
            number=s.number,
            full=self.is_full,
            final=s.final,
            started_at=s.started_at,
            ended_at=workflow.now(),
            committed=not failure,
            compared_bytes=s.compared_bytes,
            changed_bytes=self.changed_bytes,
            bytes_sent=s.bytes_sent,
            verified_blocks=s.verified_blocks,
            failure=failure,
        )

    async def commit(self) -> ReverseBase:
        """Give the slots back, and return what the site's disks hold now. `tidy` is to follow."""
        await self._lane.leave()
        s = self.state
        return ReverseBase(s.number, s.taken_at or s.started_at, s.snapshots, s.disks)

    async def tidy(self) -> None:
        """Delete what a committed pass makes superfluous: the base before, and all that the pass has stored."""
        await self._tidy(tuple(name for _, name in self.state.snapshots))

    async def give_up(self) -> None:
        """Delete what a pass that failed has made; its base stays, and the next pass covers its range again."""
        await self._lane.leave()
        await self._tidy(tuple(name for _, name in self._base.snapshots) if self._base is not None else ())

    # --- the steps ---

    async def _take_snapshots(self) -> None:
        survey = await survey_target(self._replication, self._target)
        self.information = survey.not_replicated
        if self._base is not None and self._base.disks != survey.disks:
            self._base = None  # a disk was replaced in Azure: nothing can be told by pages
        taken = await perform(
            FailbackTarget.snapshot_target,
            SnapshotTargetInput(self._replication, self._target, self.state.cycle_key, survey.disks),
            queue=names.azure_queue(self._replication.ref.target),
            limits=AZURE,
            summary=f"pass {self.state.number}: snapshots of {len(survey.disks)} managed disks",
            kind=self._kind,
        )
        start = tuple(DiskPosition(disk.key, 0) for disk in self._replication.disks) if self._base is None else ()
        self._note(disks=survey.disks, snapshots=taken.snapshots, taken_at=taken.taken_at, hashed=start, compared=start)

    async def _plan_changes(self, base: ReverseBase | None) -> None:
        """Plan the pages that differ from the base's; without one, all that the snapshots hold."""
        s = self.state
        before = base.snapshots if base is not None else ()
        planned = await perform(
            FailbackReading.plan_changes,
            PlanChangesInput(self._replication, self._target, s.cycle_key, s.snapshots, before),
            queue=names.apply_queue(self._replication.ref.target),
            limits=VERIFY,
            summary=f"pass {s.number}: what changed in Azure",
            kind=self._kind,
        )
        await self._planned(planned.plans)

    async def _hash(self) -> None:
        s = self.state
        hashed = await perform(
            FailbackReading.hash_snapshots,
            HashInput(self._replication, self._target, s.cycle_key, s.snapshots, s.hashed),
            queue=names.apply_queue(self._replication.ref.target),
            limits=TRANSFER,
            summary=f"pass {s.number}: hash the disks in Azure",
            kind=self._kind,
        )
        self._note(hashed=hashed.positions)

    async def _compare(self) -> None:
        s = self.state
        result = await self._lane.carry_out(self._kind, self._compare_on)
        found = tuple((disk.disk_key, disk.differing) for disk in result.disks if disk.differing is not None)
        self._note(
            compared=tuple(DiskPosition(disk.disk_key, disk.position_bytes) for disk in result.disks),
            differing=(*s.differing, *((key, plan) for key, plan in found if plan.segments)),
            compared_bytes=s.compared_bytes + sum(disk.compared_bytes for disk in result.disks),
        )
        await self._lane.chunk_done()

    async def _compare_on(self, queue: str) -> CompareSiteResult:
        s = self.state
        return await perform(
            FailbackWriting.compare_site,
            CompareSiteInput(self._replication, s.cycle_key, s.number, s.compared),
            queue=queue,
            limits=TRANSFER,
            summary=f"pass {s.number}: compare the disks at the site",
            kind=self._kind,
        )

    async def _plan_differences(self) -> None:
        s = self.state
        found: dict[int, list[PlanRef]] = {key: [] for key in self._capacities}
        for key, plan in s.differing:
            found[key].append(plan)
        planned = await perform(
            ResyncTarget.plan_resync,
            PlanResyncInput(self._replication, s.cycle_key, tuple((key, tuple(plans)) for key, plans in found.items())),
            queue=names.apply_queue(self._replication.ref.target),
            limits=VERIFY,
            summary=f"pass {s.number}: plan what differs",
            kind=self._kind,
        )
        await self._planned(planned.plans)

    async def _planned(self, plans: tuple[tuple[int, PlanRef], ...]) -> None:
        """Take the plans; where they are empty, make sure all the same that the site's disks are as we left them."""
        if not any(plan.segments for _, plan in plans):
            await self._write(WriteBackInput(self._replication, self.state.cycle_key, self.state.number, ()))
        self._note(plans=plans, next_segments=tuple((key, 0) for key, _ in plans), differing=())

    async def _carry(self) -> None:
        """Send, write and verify the next chunk of every disk."""
        s = self.state
        sent = await perform(
            FailbackReading.send_back,
            SendBackInput(self._replication, self._target, s.cycle_key, s.snapshots, self._unsent(), s.final),
            queue=names.apply_queue(self._replication.ref.target),
            limits=TRANSFER,
            summary=f"pass {s.number}: send what changed",
            kind=self._kind,
        )
        written = await self._write(WriteBackInput(self._replication, s.cycle_key, s.number, sent.chunks))
        await perform(
            FailbackVerification.verify_back,
            VerifyChunksInput(self._replication, s.cycle_key, s.plans, written.chunks),
            queue=names.apply_queue(self._replication.ref.target),
            limits=VERIFY,
            summary=f"pass {s.number}: verify",
            kind=self._kind,
        )
        reached: Mapping[int, int] = {chunk.disk_key: chunk.next_segment for chunk in sent.chunks}
        self._note(
            next_segments=tuple((key, reached.get(key, number)) for key, number in s.next_segments),
            bytes_sent=s.bytes_sent + sum(chunk.bytes_sent for chunk in sent.chunks),
            verified_blocks=s.verified_blocks + sum(chunk.verified_blocks for chunk in written.chunks),
        )
        await self._lane.chunk_done()

    async def _write(self, request: WriteBackInput) -> ApplyResult:
        return await self._lane.carry_out(self._kind, functools.partial(self._write_on, request=request))

    async def _write_on(self, queue: str, request: WriteBackInput) -> ApplyResult:
        return await perform(
            FailbackWriting.write_back,
            request,
            queue=queue,
            limits=WRITE_BACK,
            summary=f"pass {self.state.number}: write to the disks at the site, and read back",
            kind=self._kind,
        )

    def _unsent(self) -> tuple[ChunkDisk, ...]:
        plans = dict(self.state.plans)
        return tuple(
            ChunkDisk(key, plans[key], number) for key, number in self.state.next_segments if number < plans[key].segments
        )

    def _is_short(self, positions: tuple[DiskPosition, ...]) -> bool:
        return any(part.position_bytes < self._capacities[part.disk_key] for part in positions)

    def _note(self, **changes: object) -> None:
        self.state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]  # fields of the state, by name

    async def _tidy(self, keep: tuple[str, ...]) -> None:
        """Delete snapshots and objects that nothing needs any more; what cannot be deleted now is by a later pass."""
        try:
            await drop_snapshots(self._replication, self._target, keep)
            await discard_pass(self._replication, self.state)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("what a pass left could not all be deleted yet: %s", failure_of(error).detail)
