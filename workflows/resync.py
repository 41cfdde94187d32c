"""`Resync`: compares checksums of the source's blocks with those of the seed, and sends only what differs (spec §4).

The source hashes its snapshot's granules and compares with the checksum map; the target compares the map with the seed,
where the seed is: hashes travel, not data. What differs goes the ordinary way, through both checks.
"""

import asyncio
import functools

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.apply import Apply
    from activities.resync import ResyncSource, ResyncTarget
    from activities.snapshots import Snapshots
    from activities.tracking import Tracking
    from deltaferry.model.replication import CycleKind, DiskBase, PlanRef
    from deltaferry.planning.ladder import Rung
    from deltaferry.planning.phrases import size_text
    from workflows import names
    from workflows.copying import CopyJob, HeldPass
    from workflows.delta_cycle import (
        FENCE_TRIES,
        PLACEMENT_TRIES,
        fence_ahead,
        mint_cycle_key,
        on_appliance,
        release_snapshot,
    )
    from workflows.messages.job import JobProgress, ResyncInput, ResyncPass
    from workflows.messages.replication_state import DiskPosition
    from workflows.messages.step import (
        BeginResyncInput,
        BegunResync,
        CheckedSeed,
        CheckSeedInput,
        CompareDisk,
        CompareInput,
        CompareResult,
        OnReplication,
        PlanResyncInput,
        SentChunk,
    )
    from workflows.policies import PREPARE, SNAPSHOT, TRANSFER, VERIFY
    from workflows.steps import cancellation_kept, perform, require_carried


@workflow.defn(name=names.RESYNC)
class Resync(CopyJob):
    """Compares under one snapshot; where that is lost, the next pass keeps what was compared and adds what changed since."""

    kind = CycleKind.RESYNC

    @workflow.init
    def __init__(self, start: ResyncInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._take(start)
        self._rung = start.rung
        self._reset_tracking = start.reset_tracking
        self._prepared = start.prepared
        self._resume = start.resume
        self._compared_bytes = start.compared_bytes
        self._differing_bytes = start.differing_bytes
        self._to_send_bytes = 0
        self._sent_bytes = 0

    @workflow.run
    async def run(self, start: ResyncInput | None = None) -> None:
        """Compare, send what differs, seal, report."""
        require_carried(start)
        await self._run()

    async def _next_pass(self) -> HeldPass:
        await self._acquire()
        if not self._prepared:
            await self._prepare()
        held, self._resume = self._resume, None
        if held is None:
            held = await (self._begin_full_copy() if self._rung is Rung.FULL else self._begin())
        if not held.plans:
            await self._compare(held)
            held = await self._plan(held)
        plans = dict(held.plans)
        self._to_send_bytes = sum(plan.data_bytes for plan in plans.values())
        self._sent_bytes = 0
        return HeldPass(
            held.cycle_key,
            held.snapshot,
            held.taken_at,
            held.started_at,
            plans,
            dict(held.change_ids),
            dict(held.next_segments) or dict.fromkeys(plans, 0),
        )

    async def _prepare(self) -> None:
        """Put back what the cause may have taken: a seed disk that was deleted, the claim, change tracking."""
        target, source = names.apply_queue(self._replication.ref.target), names.vsphere_queue(self._replication.ref.site)
        on = OnReplication(self._replication)
        await perform(Apply.prepare_target, on, queue=target, limits=PREPARE, summary="look after the seed disks", kind=self.kind)
        if self._reset_tracking:
            await release_snapshot(self._replication)  # one that a crash left behind would have the reset refused
            await perform(
                Tracking.reset_tracking, on, queue=source, limits=PREPARE, summary="reset change tracking", kind=self.kind
            )
            self._reset_tracking = False
        await perform(
            Snapshots.prepare_source,
            on,
            queue=source,
            limits=PREPARE,
            summary="look after claim and change tracking",
            kind=self.kind,
        )
        self._prepared = True

    def _start_afresh(self) -> None:
        super()._start_afresh()
        self._prepared = False  # tracking may have to be switched on again

    async def _begin(self) -> ResyncPass:
        """Take a snapshot, and find out what has to be sent anyway and what is to be compared under it."""
        self._cycle_number += 1
        cycle_key = mint_cycle_key(self._cycle_number)
        started_at = workflow.now()
        begun = await self._surveyed_at(cycle_key)
        self._dirty = tuple((disk.disk_key, disk.known) for disk in begun.disks if disk.known.segments)
        for disk in begun.disks:
            self._bases[disk.disk_key] = DiskBase(disk.disk_key, disk.change_id, self._bases[disk.disk_key].copied_up_to_bytes)
        return ResyncPass(
            cycle_key=cycle_key,
            snapshot=begun.snapshot,
            taken_at=begun.taken_at,
            started_at=started_at,
            change_ids=tuple((disk.disk_key, disk.change_id) for disk in begun.disks),
            surveys=tuple((disk.disk_key, disk.survey) for disk in begun.disks),
        )

    async def _surveyed_at(self, cycle_key: str) -> BegunResync:
        """Take the snapshot of a pass; where the VM was moved since, wait for slots of where it is now first."""
        for remaining in reversed(range(PLACEMENT_TRIES)):
            request = BeginResyncInput(
                self._replication,
                cycle_key,
                self._rung,
                tuple(self._bases.values()),
                self._dirty,
                granted=self._placement if remaining else None,
                expected_growth=self._expected_growth,
            )
            begun = await perform(
                ResyncSource.begin_resync,
                request,
                queue=names.vsphere_queue(self._replication.ref.site),
                limits=SNAPSHOT,
                summary=f"resync pass {self._cycle_number}: snapshot and what to compare",
                kind=self.kind,
            )
            if not begun.moved:
                self._placement, self._short = begun.placement, None
                return begun
            await self._acquire_elsewhere(begun.placement)
        raise AssertionError("the last try goes on wherever the VM is")

    async def _begin_full_copy(self) -> ResyncPass:
        """Take a snapshot and plan everything, as an initial replication on a used seed does."""
        self._cycle_number += 1
        cycle_key = mint_cycle_key(self._cycle_number)
        started_at = workflow.now()
        begun = await self._begun_at(cycle_key)
        return ResyncPass(
            cycle_key=cycle_key,
            snapshot=begun.snapshot,
            taken_at=begun.taken_at,
            started_at=started_at,
            change_ids=tuple((disk.disk_key, disk.change_id) for disk in begun.disks),
            plans=tuple((disk.disk_key, disk.plan) for disk in begun.disks),
        )

    async def _compare(self, held: ResyncPass) -> None:
        """Check seeds and compare the source, chunk by chunk: while one chunk is compared, the next is already checked."""
        sealed = False
        checking: asyncio.Task[tuple[CheckedSeed, ...]] | None = None
        try:
            while self._uncompared():
                if checking is None:
                    checking = asyncio.create_task(self._check(held, self._uncompared(), seal=not sealed))
                    sealed = True
                async with cancellation_kept():
                    checked = await checking
                following = [DiskPosition(seed.disk_key, seed.position_bytes) for seed in checked if not self._is_end(seed)]
                checking = asyncio.create_task(self._check(held, following, seal=False)) if following else None
                await self._compare_chunk(held, checked)
                if self._uncompared():
                    self._profile = await self._slots.give_way(self._profile)
                if workflow.info().is_continue_as_new_suggested() and self._uncompared():
                    if checking is not None:
                        await checking
                    await self._slots.release(self._profile, snapshot_left=True)
                    await self._roll_over_with(held)
        finally:
            if checking is not None:
                checking.cancel()
                await asyncio.gather(checking, return_exceptions=True)

    def _uncompared(self) -> list[DiskPosition]:
        return [
            DiskPosition(base.disk_key, base.copied_up_to_bytes)
            for base in self._bases.values()
            if base.copied_up_to_bytes < self._capacity(base.disk_key)
        ]

    def _is_end(self, seed: CheckedSeed) -> bool:
        return seed.position_bytes >= self._capacity(seed.disk_key)

    async def _check(self, held: ResyncPass, positions: list[DiskPosition], *, seal: bool) -> tuple[CheckedSeed, ...]:
        """Compare the seeds with their maps, where they are; seal them first, so that no late writer changes them behind us."""
        for remaining in reversed(range(FENCE_TRIES)):
            self.fence += seal
            request = CheckSeedInput(self._replication, held.cycle_key, self.fence if seal else None, tuple(positions))
            try:
                result = await perform(
                    ResyncTarget.check_seed,
                    request,
                    queue=names.apply_queue(self._replication.ref.target),
                    limits=VERIFY,
                    summary=f"check {len(positions)} seed disks against their checksum maps",
                    kind=self.kind,
                    aside=True,
                )
            except FailureError as error:
                self.fence = fence_ahead(error, self.fence, remaining)
                continue
            return result.disks
        raise AssertionError("the last try returns or raises")

    async def _compare_chunk(self, held: ResyncPass, checked: tuple[CheckedSeed, ...]) -> None:
        """Compare the source over what was checked of the seeds; note what differs, and how far it got."""
        surveys, change_ids = dict(held.surveys), dict(held.change_ids)
        left = {seed.disk_key: seed for seed in checked}
        while left:
            disks = tuple(
                CompareDisk(key, surveys[key], self._bases[key].copied_up_to_bytes, seed.position_bytes, seed.check)
                for key, seed in left.items()
            )
            request = CompareInput(self._replication, held.cycle_key, held.snapshot, self._rung, disks)
            result, self._profile = await on_appliance(
                self._slots, self._profile, functools.partial(self._compare_on, request=request)
            )
            for disk in result.disks:
                key = disk.disk_key
                if disk.differing.segments:
                    self._dirty += ((key, disk.differing),)
                self._bases[key] = DiskBase(key, change_ids[key], disk.position_bytes)
                self._compared_bytes += disk.compared_bytes
                self._differing_bytes += disk.differing.covered_bytes
                if disk.position_bytes >= left[key].position_bytes:
                    del left[key]
            await self._tell_entity()

    async def _compare_on(self, queue: str, request: CompareInput) -> CompareResult:
        return await perform(
            ResyncSource.compare_source,
            request,
            queue=queue,
            limits=TRANSFER,
            summary=f"compare {len(request.disks)} disks with their checksum maps",
            kind=self.kind,
        )

    async def _plan(self, held: ResyncPass) -> ResyncPass:
        """Join what differs and what has to be sent anyway to one plan for each disk."""
        found: dict[int, list[PlanRef]] = {key: [] for key in self._bases}
        for key, plan in self._dirty:
            found[key].append(plan)
        planned = await perform(
            ResyncTarget.plan_resync,
            PlanResyncInput(self._replication, held.cycle_key, tuple((key, tuple(plans)) for key, plans in found.items())),
            queue=names.apply_queue(self._replication.ref.target),
            limits=VERIFY,
            summary="plan what differs",
            kind=self.kind,
        )
        return ResyncPass(
            held.cycle_key, held.snapshot, held.taken_at, held.started_at, held.change_ids, held.surveys, planned.plans
        )

    def _advance(self, held: HeldPass, chunk: SentChunk) -> None:
        self._sent_bytes += chunk.bytes_read
        key = chunk.disk_key
        if self._rung is Rung.FULL and chunk.position_bytes >= self._bases[key].copied_up_to_bytes:
            self._bases[key] = DiskBase(key, held.change_ids[key], chunk.position_bytes)

    async def _roll_over(self, held: HeldPass | None) -> None:
        if held is None:
            await self._roll_over_with(None)
            return
        await self._roll_over_with(
            ResyncPass(
                cycle_key=held.cycle_key,
                snapshot=held.snapshot,
                taken_at=held.taken_at,
                started_at=held.started_at,
                change_ids=tuple(held.change_ids.items()),
                plans=tuple(held.plans.items()),
                next_segments=tuple(held.next_segments.items()),
            )
        )

    async def _roll_over_with(self, held: ResyncPass | None) -> None:
        """Continue as new, with the snapshot held if there is one; the slots are asked for again under the new run."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(
            ResyncInput(
                entity_id=self._entity_id,
                replication=self._replication,
                fence=self.fence,
                cycle_number=self._cycle_number,
                bases=tuple(self._bases.values()),
                placement=self._placement,
                dirty=self._dirty,
                summaries=tuple(self._summaries.values()),
                profile=self._profile,
                whatever_window=self._whatever_window,
                expected_growth=self._expected_growth,
                rung=self._rung,
                reset_tracking=self._reset_tracking,
                prepared=self._prepared,
                resume=held,
                compared_bytes=self._compared_bytes,
                differing_bytes=self._differing_bytes,
            )
        )

    def _progress(self) -> JobProgress:
        total = sum(disk.capacity_bytes for disk in self._replication.disks)
        reached = self._kept_bytes()
        percent = round(100 * (reached + self._sent_bytes) / max(total + self._to_send_bytes, 1), 1)
        share = 100 * self._differing_bytes / max(reached, 1)
        return JobProgress(
            job_id=workflow.info().workflow_id,
            fence=self.fence,
            cycle_number=self._cycle_number,
            bases=tuple(self._bases.values()),
            dirty=self._dirty,
            summaries=tuple(self._summaries.values()),
            queued=self._queued,
            percent=percent,
            activity=f"resync, {percent} %: {size_text(self._differing_bytes)} differed, {share:.1f} % of what was compared",
            compared_bytes=self._compared_bytes,
            differing_bytes=self._differing_bytes,
        )
