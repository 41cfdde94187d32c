"""`ReplicateVm`: the one immortal workflow of a VM under replication. It alone runs cycles and writes the replication's state."""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.apply import Apply
    from activities.archive import Archive
    from activities.snapshots import Snapshots
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.replication import CycleKind, DiskBase
    from deltaferry.model.states import MigrationState, Operation, ReplicationState
    from deltaferry.planning.dr_states import NO_CYCLES
    from workflows import names
    from workflows.ending import CompleteMigration, StopReplication
    from workflows.entity.groups import EntityGroups
    from workflows.messages.job import CopyResult, InitialInput, JobReport
    from workflows.messages.operator_input import EndOptions
    from workflows.messages.replication_state import CycleRecord, EndInput, FailureView, ReplicateVmInput
    from workflows.messages.step import ArchiveInput, OnReplication
    from workflows.policies import CYCLES_PER_RUN, PREPARE, SETTLE
    from workflows.reporting import is_running
    from workflows.slots.holding import PreemptedError, ensure_arbiter
    from workflows.steps import cancellation_kept, health_error, perform, refusal, require_carried

_R, _M = ReplicationState, MigrationState


@workflow.defn(name=names.REPLICATE_VM)
class ReplicateVm(EntityGroups):
    """Prepare, copy once, then delta cycles until a migration is completed or replication is stopped."""

    @workflow.init
    def __init__(self, start: ReplicateVmInput | None = None) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: ReplicateVmInput | None = None) -> None:
        """Replicate until the end; this run ends by continuing as new, as itself or as the workflow that ends replication."""
        require_carried(start)
        self._refuse_foreign_start()
        self._present()
        try:
            await self._replicate()
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                await self._cut_has_ended()
                await self._record()  # cycles and jobs have let go of snapshots and slots; `adopt` goes on from here
            raise

    async def _replicate(self) -> None:
        await ensure_arbiter_once(self)
        if not self._state.prepared:
            await self._prepare()
        if self._state.point is None and self._ending is None:
            async with cancellation_kept():
                await self._initial_replication()
        if self._state.migration_state is _M.MIGRATION_IN_PROGRESS and not await self._take_up(self._state.job_id or ""):
            self._note_migration(JobReport(self._state.job_id or ""))
            await self._settle()
        watches = (self._watch_rpo(), self._tell_rpo(), self._watch_way_back())
        beside = (self._run_tests(), self._serve_requests(), *watches)
        self._beside = [asyncio.create_task(work) for work in beside]
        await self._look_after_way_back()
        while self._ending is None and not self._moved_to:
            for task in self._beside:
                if task.done():
                    await task  # it never ends by itself: this raises what ended it
            async with cancellation_kept():
                await self._next()
        if self._ending is not None:
            await self._end(*self._ending)
        await self._go_on_elsewhere()

    def _refuse_foreign_start(self) -> None:
        info = workflow.info()
        if info.parent is None and info.continued_run_id is None:
            raise refusal(
                ErrorKind.OPERATION_REFUSED,
                "A replication is started by EnableReplication or AdoptReplications, never by hand or as a copy of another run: "
                'start the workflow type EnableReplication on the queue control with {"vm": "…", "site": "…"}.',
            )

    async def _prepare(self) -> None:
        """Make what is written at enabling: containers, key and seeds, then the claim and change tracking."""
        while self._ending is None:
            self._say("creating the seed disks, claiming the VM, switching change tracking on")
            try:
                await perform(
                    Apply.prepare_target,
                    OnReplication(self._replication),
                    queue=names.apply_queue(self._replication.ref.target),
                    limits=PREPARE,
                    summary="create containers, data key and seed disks",
                )
                await self._record()  # before the claim, so that a claimed VM can always be adopted
                async with self._slots.momentary_snapshot(
                    self.profile(), self._state.placement, lambda: self._ending is not None
                ):
                    source = await perform(
                        Snapshots.prepare_source,
                        OnReplication(self._replication),
                        queue=names.vsphere_queue(self._replication.ref.site),
                        limits=PREPARE,
                        summary="claim the VM, switch change tracking on",
                    )
            except PreemptedError:
                continue
            except FailureError as error:
                await self._wait_for_retry(error, _R.INITIAL_FAILED)
                continue
            self._state.cbt_enabled_by_us = source.cbt_enabled_by_us
            self._state.prepared = True
            self._state.initial_bases = tuple(DiskBase(disk.key, None, 0) for disk in self._replication.disks)
            return

    async def _initial_replication(self) -> None:
        """Have the first full copy made, and commit it; wait for an operator where it fails."""
        s = self._state
        adopted = s.job_id is not None and await is_running(s.job_id)
        while self._ending is None:
            s.replication_state = _R.INITIAL_QUEUED
            if not adopted:
                s.jobs_minted += 1
                s.job_id = names.initial_id(workflow.info().workflow_id, s.jobs_minted)
                await self._record()
            adopted = False
            job_id = s.job_id or ""
            start = InitialInput(
                entity_id=workflow.info().workflow_id,
                replication=self._replication,
                fence=s.fence,
                cycle_number=s.cycles_minted,
                bases=s.initial_bases,
                placement=s.placement,
                dirty=s.dirty,
                summaries=s.initial,
            )
            report = await self._run_job(names.INITIAL_REPLICATION, start, job_id, "initial replication", cut_by_stop=True)
            if self._ending is not None:
                return
            if report.copied is not None:
                await self._commit_initial(report.copied)
                return
            if report.error is None:
                self._burn_numbers()
            error = report.error or health_error(
                FailureView(ErrorKind.INTERRUPTED, "The initial replication was ended from outside."),
                workflow.now(),
                retried=False,
            )
            await self._wait_for_retry(error, _R.INITIAL_FAILED)

    async def _commit_initial(self, result: CopyResult) -> None:
        s = self._state
        self._take_copy(result)
        s.initial = result.summaries
        s.replication_state = _R.DELTA_SYNC
        s.migration_state = _M.TEST_PENDING
        s.health = ()
        s.cycles = (
            CycleRecord(
                cycle_key=result.cycle_key,
                kind=CycleKind.INITIAL,
                started_at=result.started_at,
                ended_at=workflow.now(),
                committed=True,
                duration=workflow.now() - result.started_at,
                changed_bytes=sum(disk.capacity_bytes for disk in self._replication.disks),
                bytes_read=sum(summary.bytes_read for summary in result.summaries),
                bytes_sent=sum(summary.bytes_sent for summary in result.summaries),
                verified_blocks=sum(summary.verified_blocks for summary in result.summaries),
                decision="the first delta cycle follows at once",
            ),
        )
        s.next_due, s.next_reason = workflow.now(), "the first delta cycle follows the initial replication at once"
        self._present()
        await self._settle()

    async def _next(self) -> None:
        """Do the one thing that is due, or sleep until something is."""
        s = self._state
        if self._rollback:
            await self._roll_back()
        elif self._failover_is_due():
            await self._fail_over()
        elif self._commit_is_due():
            await self._commit_failover()
        elif self._way_back_is_due():
            await self._go_back()
        elif self._continue_after_migration:
            await self._replicate_again()
        elif self._wanted:  # of a migration that this run does not know: it was reset
            await self._take_up(self._wanted[0].requester)
        elif s.migration_state is _M.MIGRATION_QUEUED and s.repair is None:
            await self._migrate()
        elif s.replication_state is _R.PAUSE_IN_PROGRESS:
            s.replication_state = _R.PAUSED
            self._say("paused until resume")
            await self._record()
        elif self._repair_is_due():
            await self._resync()
        elif self._repair_is_to_be_scheduled():
            await self._schedule_repair()
        elif self._group_waits():
            await self._serve_group()
        elif self._cycle_is_due():
            await self._let_run(asyncio.create_task(self._delta()))
        elif self._should_roll_over():
            await self._roll_over()
        elif self._scrub_is_due():
            await self._scrub()
        else:
            await self._sleep()

    async def _sleep(self) -> None:
        """Sleep until the absolute deadline in the state, or until something is to be done."""
        self._plan_scrub()
        self._settings_came = False
        closed = self.closed_until()
        if closed is not None and self._cycles_run() and (self._state.next_due or workflow.now()) <= closed:
            self._say(f"a blackout window is open: the next cycle starts after its end, {closed:%Y-%m-%d %H:%M} UTC")
        due, summary = self._next_deadline()
        timeout = max(due - workflow.now(), timedelta(milliseconds=1)) if due is not None else None
        try:
            await workflow.wait_condition(self._has_work, timeout=timeout, timeout_summary=summary)
        except TimeoutError:
            return

    def _next_deadline(self) -> tuple[datetime | None, str | None]:
        """Return when the next thing begins by itself, and what that is."""
        s = self._state
        if s.repair is not None and s.migration_state not in NO_CYCLES:
            starts = s.repair.starts_at
            if starts is None:
                return (None if s.repair.scheduled else s.repair.ask_again_at), "ask when a resync may begin"
            return starts, f"resync {starts:%Y-%m-%d %H:%M} UTC: {s.repair.step}"
        due, why = s.next_due if self._cycles_run() else None, s.next_reason
        closed = self.closed_until()
        if due is not None and closed is not None and closed > due:
            due, why = closed, "a blackout window is open until then"
        scrub = s.next_scrub if s.replication_state is _R.DELTA_SYNC else None
        if scrub is not None and (due is None or scrub < due):
            return scrub, f"verify the seed disks {scrub:%Y-%m-%d %H:%M} UTC"
        return due, f"next delta {due:%H:%M:%S} UTC: {why}" if due is not None else None

    def _has_work(self) -> bool:
        s = self._state
        return (
            self._ending is not None
            or any(task.done() for task in self._beside)
            or self._rollback
            or self._failover_is_due()
            or self._commit_is_due()
            or self._way_back_is_due()
            or self._continue_after_migration
            or self._settings_came
            or bool(self._wanted)
            or (s.migration_state is _M.MIGRATION_QUEUED and s.repair is None)
            or s.replication_state is _R.PAUSE_IN_PROGRESS
            or self._group_waits()
            or self._cycle_is_due()
            or self._wake_for_repair()
            or self._scrub_is_due()
            or self._should_roll_over()
        )

    async def _end(self, operation: Operation, options: EndOptions) -> None:
        """Continue as new as the workflow that ends replication, under the same id."""
        await self._cut_has_ended()
        await self._leave_way_back()
        await self._leave_group()
        kind = StopReplication if operation is Operation.STOP else CompleteMigration
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(
            EndInput(self._replication, self._state, options),
            workflow=kind.run,
        )

    def _should_roll_over(self) -> bool:
        if any(
            not cut.done() for cut in self._cut
        ):  # it may not end for a day, where the site is gone: commands are served meanwhile
            return False
        info = workflow.info()
        return (
            self._cycles_in_run >= CYCLES_PER_RUN
            or info.is_continue_as_new_suggested()
            or info.is_target_worker_deployment_version_changed()
        )

    async def _roll_over(self) -> None:
        """Continue as new at this idle point; the run that ends is archived first, as far as it goes."""
        await self._cut_has_ended()
        await self._archive()
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() and not self._starting)
        if self._has_work_but_rolling():
            return
        upgraded = workflow.info().is_target_worker_deployment_version_changed()
        workflow.continue_as_new(
            ReplicateVmInput(self._replication, self._state),
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE if upgraded else None,
        )

    def _has_work_but_rolling(self) -> bool:
        """Return whether a command arrived while the history was archived: it is served first."""
        asked = self._ending is not None or self._rollback or self._failover_is_due() or self._way_back_is_due()
        return asked or self._continue_after_migration or self._retry or self._group_waits()

    async def _archive(self) -> None:
        info = workflow.info()
        try:
            await perform(
                Archive.archive_history,
                ArchiveInput(self._replication, info.workflow_id, info.run_id),
                queue=names.apply_queue(self._replication.ref.target),
                limits=SETTLE,
                summary="archive this run's history",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the history of run %s was not archived", info.run_id)


async def ensure_arbiter_once(entity: ReplicateVm) -> None:
    """Start the site's arbiter on a replication's first run; later runs find it, or start it when a request fails."""
    if workflow.info().continued_run_id is None:
        await ensure_arbiter(entity._replication.profile)
