"""`InitialReplication`: the first full copy of a VM's disks, chunk by chunk, surviving the loss of its snapshot."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.replication import CycleKind, DiskBase
    from workflows import names
    from workflows.copying import CopyJob, HeldPass
    from workflows.delta_cycle import mint_cycle_key
    from workflows.messages.job import InitialInput, InitialPass, JobProgress
    from workflows.messages.step import BegunCycle, SentChunk
    from workflows.steps import require_carried


@workflow.defn(name=names.INITIAL_REPLICATION)
class InitialReplication(CopyJob):
    """Copies under one snapshot; where that is lost, copies the rest and the changes below the mark under a new one."""

    kind = CycleKind.INITIAL

    @workflow.init
    def __init__(self, start: InitialInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._take(start)
        self._resume = start.resume
        self._begun: BegunCycle | None = None

    @workflow.run
    async def run(self, start: InitialInput | None = None) -> None:
        """Copy, seal, report; a cancellation cuts the copy, and leaves no snapshot and no slots behind."""
        require_carried(start)
        await self._run()

    async def _next_pass(self) -> HeldPass:
        held, self._resume = self._resume, None
        await self._acquire()
        if held is None:
            held = await self._begin()
        self._begun = held.begun
        return HeldPass(
            held.cycle_key,
            held.begun.snapshot,
            held.begun.taken_at,
            held.started_at,
            {disk.disk_key: disk.plan for disk in held.begun.disks},
            {disk.disk_key: disk.change_id for disk in held.begun.disks},
            dict(held.next_segments),
        )

    async def _begin(self) -> InitialPass:
        """Take a snapshot and plan what is left under it."""
        self._cycle_number += 1
        cycle_key = mint_cycle_key(self._cycle_number)
        started_at = workflow.now()
        begun = await self._begun_at(cycle_key)
        return InitialPass(cycle_key, begun, tuple((disk.disk_key, 0) for disk in begun.disks), started_at)

    def _advance(self, held: HeldPass, chunk: SentChunk) -> None:
        """Move the disk's mark to where everything below is on the seed as of this snapshot.

        What is above the mark is planned as a whole by the next pass, and below it nothing is in doubt any more: so no
        area of the disk has to be planned again for having been written by this pass or an earlier one.
        """
        key = chunk.disk_key
        if chunk.position_bytes >= self._bases[key].copied_up_to_bytes:
            self._bases[key] = DiskBase(key, held.change_ids[key], chunk.position_bytes)
            self._dirty = tuple((disk, plan) for disk, plan in self._dirty if disk != key)

    async def _roll_over(self, held: HeldPass | None) -> None:
        resume = None
        if held is not None:
            assert self._begun is not None
            resume = InitialPass(held.cycle_key, self._begun, tuple(held.next_segments.items()), held.started_at)
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
                profile=self._profile,
                expected_growth=self._expected_growth,
                resume=resume,
            )
        )

    def _progress(self) -> JobProgress:
        total = sum(disk.capacity_bytes for disk in self._replication.disks)
        percent = round(100 * self._kept_bytes() / total, 1) if total else 100.0
        return JobProgress(
            job_id=workflow.info().workflow_id,
            fence=self.fence,
            cycle_number=self._cycle_number,
            bases=tuple(self._bases.values()),
            dirty=self._dirty,
            summaries=tuple(self._summaries.values()),
            queued=self._queued,
            percent=percent,
            activity=f"initial replication, {percent} % copied and verified",
        )
