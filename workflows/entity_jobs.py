"""How a replication starts its long children, and serves them until they report."""

import asyncio
import dataclasses
import functools
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError, is_cancelled_exception

from deltaferry.model.states import MigrationState, ReplicationState
from workflows import names
from workflows.entity_cycles import EntityCycles
from workflows.job_messages import CycleWanted, InitialProgress, JobReport
from workflows.reporting import is_running
from workflows.steps import cancellation_kept

_R, _M = ReplicationState, MigrationState

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
            self._activity = (
                "waiting for slots" if progress.queued else f"initial replication, {progress.percent} % copied and verified"
            )
        self._present()

    @workflow.signal(name=names.JOB_FINISHED, description="Sent by a child when it ends.")
    def job_finished(self, report: JobReport) -> None:
        """Note a child's report."""
        self._reports[report.job_id] = report

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

    def _job_needs_us(self, job_id: str, watch: "asyncio.Task[Any] | None", to_be_cut: bool) -> bool:
        gone = watch is not None and watch.done()
        return job_id in self._reports or bool(self._wanted) or gone or (to_be_cut and self._ending is not None)


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
