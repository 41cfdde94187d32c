"""`ReplicateVm`: the one immortal workflow of a VM under replication. It alone runs cycles and writes the replication's state."""

import asyncio
import dataclasses
import functools
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.apply import Apply
    from activities.archive import Archive
    from activities.snapshots import Snapshots
    from activities.source_power import SourcePower
    from activities.verification import Verification
    from deltaferry.model.errors import CATALOGUE, ErrorKind
    from deltaferry.model.replication import CycleKind, DiskBase
    from deltaferry.model.states import HealthError, JobOutcome, MigrationState, Operation, ReplicationState
    from deltaferry.planning.failure import INTEGRITY, Course, after_failure
    from deltaferry.planning.schedule import next_cycle
    from deltaferry.planning.transitions import Situation
    from workflows import names
    from workflows.commands import ReplicationCommands
    from workflows.delta_cycle import FENCE_TRIES, profile_of, run_cycle, settle
    from workflows.ending import CompleteMigration, StopReplication
    from workflows.holding_slots import SlotHolder, ensure_arbiter
    from workflows.messages import (
        ArchiveInput,
        CycleAnswer,
        CycleRecord,
        CycleWanted,
        DiskView,
        EndInput,
        EndOptions,
        EntityState,
        FailureView,
        InitialInput,
        InitialProgress,
        InitialResult,
        JobReport,
        MigrateInput,
        MigrateOptions,
        MigrationResult,
        OnReplication,
        Refusal,
        ReplicateVmInput,
        SettleInput,
        SlotsGranted,
        StatusView,
        TargetProperties,
        UnguardInput,
    )
    from workflows.policies import ASK, CYCLES_PER_RUN, POWER, PREPARE, SETTLE
    from workflows.presenting import KEPT_CYCLES, details, disk_views, status_view
    from workflows.reporting import is_running
    from workflows.steps import cancellation_kept, failure_of, health_error, perform, refusal, require_carried

_R, _M = ReplicationState, MigrationState
_CYCLES_RUN_IN = frozenset({_R.DELTA_SYNC, _R.RESUME_QUEUED, _R.RESUME_IN_PROGRESS})

_FIRST_LOOK = timedelta(minutes=1)
_LONGEST_LOOK = timedelta(minutes=15)
"""How often a job that this run did not start is asked whether it still runs."""


@workflow.defn(name=names.REPLICATE_VM)
class ReplicateVm(ReplicationCommands):
    """Prepare, copy once, then delta cycles until a migration is completed or replication is stopped."""

    @workflow.init
    def __init__(self, start: ReplicateVmInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._replication = start.replication
        self._state = start.state
        self._slots = SlotHolder()
        self._activity = "starting"
        self._percent: float | None = None
        self._running = False
        self._cycles_in_run = 0
        self._retry = False
        self._rollback = False
        self._continue_after_migration = False
        self._ending = _accepted_end(start.state)
        self._reports: dict[str, JobReport] = {}
        self._wanted: list[CycleWanted] = []
        self._shown: tuple[str, str, str, datetime | None] | None = None

    # --- what people and other workflows send ---

    def situation(self) -> Situation:
        """Return what the table of allowed operations needs to know."""
        s = self._state
        return Situation(
            replication=s.replication_state,
            migration=s.migration_state,
            source_shut_down_by_us=s.source_off_by_us,
            source_is_off=s.source_off_by_us,
            waits_for_retry=s.replication_state is _R.INITIAL_FAILED,
        )

    def accept(self, operation: Operation, argument: Any) -> None:
        """Note an accepted command: the states change at once, so that a second command is judged by them."""
        s = self._state
        s.last_refused = None
        match operation:
            case Operation.PAUSE:
                s.replication_state = _R.PAUSE_IN_PROGRESS
            case Operation.RESUME if s.migration_state is _M.MIGRATED:
                self._continue_after_migration = True
            case Operation.RESUME:
                s.replication_state = _R.RESUME_QUEUED
                s.next_due = workflow.now()
            case Operation.MIGRATE:
                options: MigrateOptions = argument
                s.migration_state = _M.MIGRATION_QUEUED
                s.migrate_options = options
            case Operation.RETRY:
                self._retry = True
            case Operation.ROLLBACK:
                self._rollback = True
            case Operation.STOP | Operation.COMPLETE:
                stopping = operation is Operation.STOP
                s.replication_state = _R.STOP_IN_PROGRESS if stopping else _R.COMPLETE_IN_PROGRESS
                s.end_options = argument
                self._ending = (operation, argument)
            case Operation.UPDATE_TARGET:
                s.target = merged(s.target, argument)
            case Operation.REPAIR:
                raise refusal(ErrorKind.OPERATION_REFUSED, "The resynchronisation pass is not part of this version.")
        self._present()

    def refused(self, refused: Refusal) -> None:
        """Show a signal that was refused."""
        self._state.last_refused = refused
        self._present()

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._slots.granted(grant)

    @workflow.signal(name=names.CYCLE_REQUESTED, description="Sent by a migration: it asks for a cycle.")
    def cycle_requested(self, wanted: CycleWanted) -> None:
        """Note that a migration waits for a cycle."""
        if all(known.request_id != wanted.request_id for known in self._wanted):
            self._wanted.append(wanted)

    @workflow.signal(name=names.JOB_PROGRESSED, description="Sent by the initial replication.")
    def job_progressed(self, progress: InitialProgress) -> None:
        """Take over what the initial replication has reached, so that nothing is lost with it."""
        s = self._state
        if progress.job_id != s.job_id:
            return
        s.fence, s.cycles_minted = max(s.fence, progress.fence), max(s.cycles_minted, progress.cycle_number)
        s.initial_bases, s.dirty, s.initial = progress.bases, progress.dirty, progress.summaries
        if s.replication_state in (_R.INITIAL_QUEUED, _R.INITIAL_IN_PROGRESS):
            s.replication_state = _R.INITIAL_QUEUED if progress.queued else _R.INITIAL_IN_PROGRESS
            self._percent = progress.percent
            self._activity = "waiting for slots" if progress.queued else f"initial replication, {progress.percent} % copied and verified"
        self._present()

    @workflow.signal(name=names.JOB_FINISHED, description="Sent by a child when it ends.")
    def job_finished(self, report: JobReport) -> None:
        """Note a child's report."""
        self._reports[report.job_id] = report

    @workflow.query(description="States, progress, last recovery point, health, and what can be sent now.")
    def status(self) -> StatusView:
        """Return the replication's status."""
        return status_view(self._replication, self._state, self.situation(), self._activity, self._percent)

    @workflow.query(description="Per disk: size, what is copied, what the last cycles changed.")
    def disks(self) -> tuple[DiskView, ...]:
        """Return the disks."""
        return disk_views(self._replication, self._state)

    @workflow.query(description="The last cycles: bytes, durations, what was decided and why.")
    def cycles(self) -> tuple[CycleRecord, ...]:
        """Return the last cycles, newest last."""
        return self._state.cycles

    # --- the procedure ---

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
                await self._record()  # cycles and jobs have let go of snapshots and slots; `adopt` goes on from here
            raise

    async def _replicate(self) -> None:
        await ensure_arbiter_once(self)
        if not self._state.prepared:
            await self._prepare()
        if self._state.point is None and self._ending is None:
            with cancellation_kept():
                await self._initial_replication()
        if self._state.migration_state is _M.MIGRATION_IN_PROGRESS and not await self._take_up(self._state.job_id or ""):
            self._note_migration(JobReport(self._state.job_id or ""))
            await self._settle()
        while self._ending is None:
            with cancellation_kept():
                await self._next()
        await self._end(*self._ending)

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
                source = await perform(
                    Snapshots.prepare_source,
                    OnReplication(self._replication),
                    queue=names.vsphere_queue(self._replication.ref.site),
                    limits=PREPARE,
                    summary="claim the VM, switch change tracking on",
                )
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
            if report.initial is not None:
                await self._commit_initial(report.initial)
                return
            if report.error is None:
                s.fence += FENCE_TRIES  # numbers that it may have used and not reported
            error = report.error or health_error(
                FailureView(ErrorKind.INTERRUPTED, "The initial replication was ended from outside."), workflow.now(), retried=False
            )
            await self._wait_for_retry(error, _R.INITIAL_FAILED)

    async def _commit_initial(self, result: InitialResult) -> None:
        s = self._state
        s.fence, s.cycles_minted = max(s.fence, result.fence), max(s.cycles_minted, result.cycle_number)
        s.bases, s.initial_bases, s.dirty = result.bases, (), ()
        s.point = result.point
        s.initial = result.summaries
        s.profile, s.placement = result.profile, result.placement
        s.verified_blocks += sum(summary.verified_blocks for summary in result.summaries)
        s.replication_state = _R.DELTA_SYNC
        s.migration_state = _M.TEST_PENDING
        s.health = ()
        self._percent = None
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
        elif self._continue_after_migration:
            await self._replicate_again()
        elif self._wanted:  # of a migration that this run does not know: it was reset
            await self._take_up(self._wanted[0].requester)
        elif s.migration_state is _M.MIGRATION_QUEUED:
            await self._migrate()
        elif s.replication_state is _R.PAUSE_IN_PROGRESS:
            s.replication_state = _R.PAUSED
            self._say("paused until resume")
            await self._record()
        elif self._cycle_is_due():
            await self._delta()
        elif self._should_roll_over():
            await self._roll_over()
        else:
            await self._sleep()

    # --- cycles ---

    def _cycles_run(self) -> bool:
        return self._state.replication_state in _CYCLES_RUN_IN and self._state.migration_state is not _M.MIGRATED

    def _cycle_is_due(self) -> bool:
        due = self._state.next_due
        return self._cycles_run() and (due is None or due <= workflow.now())

    async def _delta(self) -> None:
        """Run a scheduled cycle, and decide from its outcome when the next one starts."""
        s = self._state
        if s.replication_state is _R.RESUME_QUEUED:
            s.replication_state = _R.RESUME_IN_PROGRESS
        record, failure = await self._cycle(CycleKind.DELTA)
        s.last_duration = record.duration
        decision = self._decide_after(record, failure)
        self._remember(dataclasses.replace(record, decision=decision))
        if s.replication_state in (_R.RESUME_IN_PROGRESS, _R.RESUME_QUEUED):  # queued: paused and resumed while this cycle ran
            s.replication_state = _R.DELTA_SYNC
        self._say(f"idle until {s.next_due:%Y-%m-%d %H:%M:%S} UTC: {s.next_reason}" if s.next_due else s.next_reason)

    async def _cycle(self, kind: CycleKind, wanted: CycleWanted | None = None) -> tuple[CycleRecord, FailureView | None]:
        answers: list[asyncio.Task[None]] = []

        def committed(record: CycleRecord) -> None:
            if wanted is not None:
                answers.append(asyncio.create_task(self._answer(wanted, record, None)))

        self._running = True
        self._cycles_in_run += 1
        try:
            record, failure = await run_cycle(self._replication, self._state, self._slots, kind, self._say, committed)
        finally:
            self._running = False
        if wanted is not None and not record.committed:
            await self._answer(wanted, record, failure)
        for answer in answers:
            await answer
        return record, failure

    def _decide_after(self, record: CycleRecord, failure: FailureView | None) -> str:
        """Set when the next cycle starts, or that none does; return the sentence that says so."""
        s = self._state
        now = workflow.now()
        if record.committed:
            s.failures_in_row = s.transient_failures = 0
            s.health = () if failure is None else (health_error(failure, now, retried=True),)
            self._schedule(s.last_duration, 0)
            return self._next_sentence()
        assert failure is not None
        integrity = failure.kind in INTEGRITY
        s.failures_in_row += integrity
        s.transient_failures += not integrity
        decision = after_failure(failure.kind, s.failures_in_row)
        if decision.course is Course.REPAIR:
            s.replication_state = _R.REPAIR_PENDING
            if s.migration_state is _M.MIGRATION_QUEUED:
                s.migration_state = _M.MIGRATION_FAILED  # it waited behind this cycle, and there is nothing to migrate from
            s.next_due, s.next_reason = None, "Repair pending: no cycles run"
            s.health = (health_error(failure, now, retried=False),)
            return f"Repair pending: {decision.reason}"
        s.health = (health_error(failure, now, retried=True),)
        self._schedule(s.last_duration, s.failures_in_row if integrity else s.transient_failures)
        return f"{decision.reason}; {self._next_sentence()}"

    def _schedule(self, duration: timedelta, failures: int) -> None:
        """Set the next cycle's time; a site whose interval is shorter than the back-off does not wait longer for a failure."""
        profile = profile_of(self._replication, self._state)
        by_formula = next_cycle(duration, 0, profile.min_interval, profile.max_interval)
        chosen = next_cycle(duration, failures, profile.min_interval, profile.max_interval)
        if chosen.wait > by_formula.wait:
            chosen = by_formula
        self._state.next_due = workflow.now() + chosen.wait
        self._state.next_reason = chosen.reason

    def _next_sentence(self) -> str:
        due = self._state.next_due
        return f"the next starts at {due:%H:%M:%S} UTC: {self._state.next_reason}" if due else self._state.next_reason

    def _remember(self, record: CycleRecord) -> None:
        self._state.cycles = (*self._state.cycles, record)[-KEPT_CYCLES:]

    async def _answer(self, wanted: CycleWanted, record: CycleRecord, failure: FailureView | None) -> None:
        error = health_error(failure, workflow.now(), retried=False) if failure is not None else None
        answer = CycleAnswer(wanted.request_id, record, self._state.fence, error)
        try:
            await workflow.get_external_workflow_handle(wanted.requester).signal(names.CYCLE_FINISHED, answer)
        except FailureError:
            workflow.logger.info("the workflow that asked for a cycle has ended")

    async def _sleep(self) -> None:
        """Sleep until the absolute deadline in the state, or until something is to be done."""
        due = self._state.next_due if self._cycles_run() else None
        timeout = max(due - workflow.now(), timedelta(milliseconds=1)) if due is not None else None
        summary = f"next delta {due:%H:%M:%S} UTC: {self._state.next_reason}" if due is not None else None
        try:
            await workflow.wait_condition(self._has_work, timeout=timeout, timeout_summary=summary)
        except TimeoutError:
            return

    def _has_work(self) -> bool:
        s = self._state
        return (
            self._ending is not None
            or self._rollback
            or self._continue_after_migration
            or bool(self._wanted)
            or s.migration_state is _M.MIGRATION_QUEUED
            or s.replication_state is _R.PAUSE_IN_PROGRESS
            or self._cycle_is_due()
            or self._should_roll_over()
        )

    # --- migration ---

    async def _migrate(self) -> None:
        """Have the VM migrated by a child; run the cycles that it asks for, and none else, meanwhile."""
        s = self._state
        options = s.migrate_options or MigrateOptions()
        s.migration_state = _M.MIGRATION_IN_PROGRESS
        s.jobs_minted += 1
        s.job_id = job_id = names.migration_id(workflow.info().workflow_id, s.jobs_minted)
        target = merged(s.target, options.target) if options.target is not None else s.target
        start = MigrateInput(workflow.info().workflow_id, self._replication, options, target, s.source_off_by_us)
        self._say("migrating")
        await self._record()
        try:
            report = await self._run_job(names.MIGRATE_VM, start, job_id, "migrate", cut_by_stop=False)
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                self._note_migration(self._reports.pop(job_id, JobReport(job_id)))
            raise
        self._note_migration(report)
        await self._settle()

    async def _take_up(self, job_id: str) -> bool:
        """Serve a migration that was started before this run was adopted or reset; return whether it runs."""
        self._wanted.clear()  # it asks again for what it still waits for
        if not await is_running(job_id):
            return False
        s = self._state
        s.job_id, s.migration_state = job_id, _M.MIGRATION_IN_PROGRESS
        self._say("taking up the migration that was under way")
        self._note_migration(await self._serve_job(job_id, None, cut_by_stop=False))
        await self._settle()
        return True

    def _note_migration(self, report: JobReport) -> None:
        """Take over how a migration ended."""
        s = self._state
        result = report.migration
        if result is None:
            interrupted = FailureView(ErrorKind.INTERRUPTED, "The migration was ended from outside.")
            result = MigrationResult(JobOutcome.FAILED, None, None, error=health_error(interrupted, workflow.now(), retried=False))
        s.migration = result
        # a migration that did not report may have shut the source down: rollback has to be possible
        s.source_off_by_us = s.source_off_by_us or result.source_shut_down or report.migration is None
        if result.target_vm_id is not None:
            s.migration_state, s.replication_state = _M.MIGRATED, _R.NONE
            s.migrated_at, s.guarded_nics = workflow.now(), result.guarded_nics
            s.next_due, s.next_reason = None, ""
            s.health = ()
            self._say("migrated; waiting for complete, or resume")
        else:
            s.migration_state = _M.MIGRATION_FAILED
            s.health = (result.error,) if result.error else ()
            self._schedule(s.last_duration, 0)
            self._say("the migration failed; replication is intact")

    async def _roll_back(self) -> None:
        """Power the source on again after a migration that failed behind its shutdown."""
        self._rollback = False
        self._say("powering the source on again")
        if await self._unguard(power_on=True):
            self._state.source_off_by_us = False
            self._state.migration_state = _M.TEST_PENDING
            self._state.next_due = workflow.now()
            self._state.health = ()
            self._say("the source runs again; the next delta follows at once")

    async def _replicate_again(self) -> None:
        """Take up replication of a migrated VM's source again, from the committed change ids."""
        self._continue_after_migration = False
        s = self._state
        self._say("taking the guard off the source")
        if await self._unguard(power_on=False):
            s.replication_state, s.migration_state = _R.RESUME_QUEUED, _M.TEST_PENDING
            s.source_off_by_us, s.guarded_nics, s.migration, s.migrated_at = False, (), None, None
            s.next_due = workflow.now()
            self._present()

    async def _unguard(self, *, power_on: bool) -> bool:
        try:
            await perform(
                SourcePower.unguard_source,
                UnguardInput(self._replication, self._state.guarded_nics, power_on),
                queue=names.vsphere_queue(self._replication.ref.site),
                limits=POWER,
                summary="power the source on" if power_on else "connect the source's NICs at power-on",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self._state.health = (health_error(failure_of(error), workflow.now(), retried=False),)
            self._say("the source could not be changed; send the request again")
            return False
        return True

    # --- children ---

    async def _run_job(self, kind: str, start: Any, job_id: str, summary: str, *, cut_by_stop: bool) -> JobReport:
        """Start a child that outlives this run, and serve it until it reports or is gone. A cancellation cuts it."""
        if job_id in self._reports:  # this run was reset to a point before the job, and the report came again
            return self._reports.pop(job_id)
        watch: asyncio.Task[Any] | None = None
        try:
            child = await workflow.start_child_workflow(
                kind,
                start,
                id=job_id,
                task_queue=names.CONTROL_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"{summary} of {self._replication.vm_name}",
            )
            watch = asyncio.create_task(_outcome(child))
        except WorkflowAlreadyStartedError:
            workflow.logger.info("the job runs already, started by a run of ours that was reset or terminated: %s", job_id)
            self._wanted.clear()  # a job asks again for what it still waits for
            await is_running(job_id)
        try:
            return await self._serve_job(job_id, watch, cut_by_stop=cut_by_stop)
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error) and await _cancel(job_id):
                await workflow.wait_condition(lambda: job_id in self._reports or (watch is not None and watch.done()))
            raise

    async def _serve_job(self, job_id: str, watch: "asyncio.Task[Any] | None", *, cut_by_stop: bool) -> JobReport:
        """Run the cycles that a job asks for, until it reports or is gone. One that is not our child is asked whether it runs."""
        to_be_cut = cut_by_stop
        patience = _FIRST_LOOK
        while job_id not in self._reports and not (watch is not None and watch.done()):
            self._present()
            if to_be_cut and self._ending is not None:
                to_be_cut = False
                await _cancel(job_id)
            if self._wanted:
                wanted = self._wanted.pop(0)
                with cancellation_kept():
                    record, failure = await self._cycle(wanted.kind, wanted)
                ended = "committed for the migration" if failure is None else "failed; the migration ends here"
                self._remember(dataclasses.replace(record, decision=ended))
                continue
            try:
                await workflow.wait_condition(
                    functools.partial(self._job_needs_us, job_id, watch, to_be_cut),
                    timeout=patience if watch is None else None,
                    timeout_summary="look whether the job still runs",
                )
            except TimeoutError:
                patience = min(patience * 2, _LONGEST_LOOK)
                if not await is_running(job_id):
                    break
        return self._reports.pop(job_id, JobReport(job_id))

    def _job_needs_us(self, job_id: str, watch: "asyncio.Task[Any] | None", to_be_cut: bool) -> bool:
        gone = watch is not None and watch.done()
        return job_id in self._reports or bool(self._wanted) or gone or (to_be_cut and self._ending is not None)

    # --- the end, and the next run ---

    async def _end(self, operation: Operation, options: EndOptions) -> None:
        """Continue as new as the workflow that ends replication, under the same id."""
        kind = StopReplication if operation is Operation.STOP else CompleteMigration
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(
            EndInput(self._replication, self._state, options),
            workflow=kind.run,
        )

    def _should_roll_over(self) -> bool:
        info = workflow.info()
        return (
            self._cycles_in_run >= CYCLES_PER_RUN
            or info.is_continue_as_new_suggested()
            or info.is_target_worker_deployment_version_changed()
        )

    async def _roll_over(self) -> None:
        """Continue as new at this idle point; the run that ends is archived first, as far as it goes."""
        await self._archive()
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._has_work_but_rolling():
            return
        upgraded = workflow.info().is_target_worker_deployment_version_changed()
        workflow.continue_as_new(
            ReplicateVmInput(self._replication, self._state),
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE if upgraded else None,
        )

    def _has_work_but_rolling(self) -> bool:
        """Return whether a command arrived while the history was archived: it is served first."""
        return self._ending is not None or self._rollback or self._continue_after_migration or self._retry

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

    async def _record(self) -> None:
        """Write the commit record, so that `adopt` knows of this state, though nothing was committed; without much patience."""
        try:
            await perform(
                Verification.settle_cycle,
                SettleInput(self._replication, self._state, record_only=True),
                queue=names.apply_queue(self._replication.ref.target),
                limits=ASK,
                summary="write the commit record",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the commit record was not written: %s", failure_of(error).kind.value)

    async def _settle(self) -> None:
        try:
            await settle(self._replication, self._state)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self._state.health = (*self._state.health, health_error(failure_of(error), workflow.now(), retried=True))

    # --- waiting and showing ---

    async def _wait_for_retry(self, error: BaseException | HealthError, state: ReplicationState) -> None:
        """Park: show what failed, and wait for retry or stop."""
        if isinstance(error, HealthError):
            health = error
        elif is_cancelled_exception(error):
            raise error
        else:
            health = health_error(failure_of(error), workflow.now(), retried=False)
        self._state.replication_state = state if self._ending is None else self._state.replication_state
        self._state.health = (health,)
        self._retry = False
        self._say(f"failed, waiting for retry or stop: {CATALOGUE[health.kind].remedy}")
        await workflow.wait_condition(lambda: self._retry or self._ending is not None)
        self._retry = False
        self._state.health = ()

    def _say(self, activity: str) -> None:
        self._activity = activity
        self._present()

    def _present(self) -> None:
        """Bring the details page and the search attributes up to date; attributes only where they changed."""
        s = self._state
        workflow.set_current_details(details(self.status(), self.disks(), s.cycles))
        health = s.health[0].kind.value if s.health else "Healthy"
        shown = (s.replication_state.value, s.migration_state.value, health, s.point.taken_at if s.point else None)
        if shown != self._shown:
            self._shown = shown
            workflow.upsert_search_attributes(
                [
                    names.SITE.value_set(self._replication.ref.site),
                    names.VM_NAME.value_set(self._replication.vm_name),
                    names.REPLICATION_STATE.value_set(shown[0]),
                    names.MIGRATION_STATE.value_set(shown[1]),
                    names.HEALTH.value_set(health),
                    *([names.LAST_RECOVERY_POINT.value_set(s.point.taken_at)] if s.point else []),
                ]
            )


async def ensure_arbiter_once(entity: ReplicateVm) -> None:
    """Start the site's arbiter on a replication's first run; later runs find it, or start it when a request fails."""
    if workflow.info().continued_run_id is None:
        await ensure_arbiter(entity._replication.profile)


def merged(present: TargetProperties, changes: TargetProperties) -> TargetProperties:
    """Return target properties with the given ones changed and the others kept."""
    given = {
        field.name: value
        for field in dataclasses.fields(changes)
        if (value := getattr(changes, field.name)) not in (None, {})
    }
    return dataclasses.replace(present, **given)


async def _outcome(child: "workflow.ChildWorkflowHandle[Any, Any]") -> None:
    """Wait for a child's end, however it ends: its report came by signal, or will not come."""
    try:
        await child
    except FailureError:
        workflow.logger.info("a child of the replication ended without success: %s", child.id)


async def _cancel(job_id: str) -> bool:
    """Cancel a job; return whether it runs."""
    try:
        await workflow.get_external_workflow_handle(job_id).cancel()
    except FailureError:
        workflow.logger.info("the job had ended already: %s", job_id)
        return False
    return True


def _accepted_end(state: EntityState) -> tuple[Operation, EndOptions] | None:
    """Return the stop or complete that was accepted before the replication was terminated and adopted."""
    options = state.end_options or EndOptions()
    if state.replication_state in (_R.STOP_IN_PROGRESS, _R.STOP_FAILED):
        return Operation.STOP, options
    if state.replication_state in (_R.COMPLETE_IN_PROGRESS, _R.COMPLETE_FAILED):
        return Operation.COMPLETE, options
    return None
