"""How a replication starts its long children, and serves them until they report."""

import asyncio
import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError, is_cancelled_exception

from deltaferry.model.recovery_points import record_of
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.dr_states import AnyReplicationState
from deltaferry.planning.failure import WAITS_FOR_ROOM
from workflows import names
from workflows.delta_cycle import FENCE_TRIES
from workflows.entity.cycles import EntityCycles
from workflows.messages.job import CopyResult, CycleWanted, JobProgress, JobReport
from workflows.reporting import is_running
from workflows.steps import cancellation_kept

_R, _M = ReplicationState, MigrationState

_JOB_STATES: Mapping[AnyReplicationState, tuple[ReplicationState, ReplicationState]] = {
    state: pair
    for pair in ((_R.INITIAL_QUEUED, _R.INITIAL_IN_PROGRESS), (_R.REPAIR_QUEUED, _R.RESYNC_IN_PROGRESS))
    for state in pair
}
"""The states of a copying job that waits for slots, and of one that runs."""

_FIRST_LOOK = timedelta(minutes=1)

_LONGEST_LOOK = timedelta(minutes=15)
"""How often a job that this run did not start is asked whether it still runs."""


class EntityJobs(EntityCycles):
    """Starts jobs that outlive a run, runs the cycles that they ask for, and takes their reports."""

    @workflow.signal(name=names.CYCLE_REQUESTED, description="Sent by a migration: it asks for a cycle.")
    def cycle_requested(self, wanted: CycleWanted) -> None:
        """Note that a migration waits for a cycle."""
        if all(known.request_id != wanted.request_id for known in self._wanted):
            self._wanted.append(wanted)

    @workflow.signal(name=names.JOB_PROGRESSED, description="Sent by the initial replication, and by a resync.")
    def job_progressed(self, progress: JobProgress) -> None:
        """Take over what a copying job has reached, so that nothing is lost with it."""
        s = self._state
        if progress.job_id != s.job_id:
            return
        s.fence, s.cycles_minted = max(s.fence, progress.fence), max(s.cycles_minted, progress.cycle_number)
        if s.repair is not None:
            s.repair = dataclasses.replace(s.repair, bases=progress.bases, dirty=progress.dirty)
        else:
            s.initial_bases, s.dirty, s.initial = progress.bases, progress.dirty, progress.summaries
        waits = () if progress.error is None else (progress.error,)
        s.health = (*(error for error in s.health if error.kind not in WAITS_FOR_ROOM), *waits)
        pair = _JOB_STATES.get(s.replication_state)
        if pair is not None:
            queued, running = pair
            s.replication_state = queued if progress.queued else running
            self._percent = progress.percent
            self._activity = "waiting for slots" if progress.queued else progress.activity
        self._present()

    @workflow.signal(name=names.JOB_FINISHED, description="Sent by a child when it ends.")
    def job_finished(self, report: JobReport) -> None:
        """Note a child's report."""
        if not self._take_test_report(report):
            self._reports[report.job_id] = report

    @abstractmethod
    def _take_test_report(self, report: JobReport) -> bool:
        """Take over how a test or its clean-up ended; return whether it was one."""

    def _take_copy(self, result: CopyResult) -> None:
        """Commit what a copying job has sealed: one write of the state, for all disks."""
        s = self._state
        s.fence, s.cycles_minted = max(s.fence, result.fence), max(s.cycles_minted, result.cycle_number)
        s.bases, s.initial_bases, s.dirty = result.bases, (), ()
        s.point = record_of(result.point, self._replication.disks, workflow.now())
        s.profile, s.placement = result.profile, result.placement
        s.verified_blocks += sum(summary.verified_blocks for summary in result.summaries)
        self._percent = None
        every = result.profile.scrub_every
        s.next_scrub = workflow.now() + every if every else None

    def _burn_numbers(self) -> None:
        """Pass over the numbers that a job may have used and not reported."""
        self._state.fence += FENCE_TRIES

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
            watch = asyncio.create_task(outcome_of_child(child))
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
            if to_be_cut and self._cuts_jobs():
                to_be_cut = False
                await _cancel(job_id)
                if self._goes_before_everything():  # how it lets go of the site's things is not waited for
                    self._cut.append(asyncio.create_task(self._end_of_job(job_id, watch)))
                    return JobReport(job_id)
            if self._rollback:  # the source is off: it does not wait for the end of a resync
                async with cancellation_kept():
                    await self._roll_back()
                continue
            if self._wanted:
                wanted = self._wanted.pop(0)
                async with cancellation_kept():
                    record, failure = await self._cycle(wanted.kind, wanted)
                ended = "committed for the migration" if failure is None else self._decide_after(record, failure)
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

    async def _end_of_job(self, job_id: str, watch: "asyncio.Task[Any] | None") -> None:
        """Wait until a job that was cut is gone; what it reports then counts for nothing."""
        while job_id not in self._reports and not (watch is not None and watch.done()):
            try:
                await workflow.wait_condition(
                    lambda: job_id in self._reports or (watch is not None and watch.done()),
                    timeout=_LONGEST_LOOK if watch is None else None,
                    timeout_summary="look whether the job that was cut still runs",
                )
            except TimeoutError:
                if not await is_running(job_id):
                    break
        self._reports.pop(job_id, None)

    def _job_needs_us(self, job_id: str, watch: "asyncio.Task[Any] | None", to_be_cut: bool) -> bool:
        gone = watch is not None and watch.done()
        asked = bool(self._wanted) or self._rollback
        return job_id in self._reports or asked or gone or (to_be_cut and self._cuts_jobs())

    def _cuts_jobs(self) -> bool:
        return self._ending is not None or self._goes_before_everything()

    @abstractmethod
    def _goes_before_everything(self) -> bool:
        """Return whether a cycle or a copying job that runs is cut."""

    @abstractmethod
    async def _roll_back(self) -> None:
        """Power the source on again."""


async def outcome_of_child(child: "workflow.ChildWorkflowHandle[Any, Any]") -> None:
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
