"""How a replication comes home (spec §8): reprotect, failback, and replication to Azure again.

`ReprotectVm` runs for weeks beside the entity, and tells it how far it is; a failback takes over from it.
"""

import asyncio
import dataclasses
from abc import abstractmethod
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError, is_cancelled_exception

from activities.failback_site import FailbackSite
from deltaferry.model.errors import ErrorKind
from deltaferry.model.policy import FailbackPolicy
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.dr_states import DrOperation, DrState, ReverseState
from workflows import names
from workflows.entity.failover import EntityFailover
from workflows.entity.jobs import outcome_of_child
from workflows.failback import commit_failback
from workflows.messages.dr_state import ReverseCopy
from workflows.messages.job import JobReport
from workflows.messages.operator_input import RepairOptions
from workflows.messages.replication_state import FailureView, Replication
from workflows.messages.reverse import FailbackInput, FinishReverse, ReprotectInput, ReverseProgress
from workflows.messages.reverse_records import MadeVm
from workflows.messages.step import OnReplication
from workflows.policies import ASK
from workflows.reporting import is_running
from workflows.reverse.steps import at_place
from workflows.steps import failure_of, health_error, perform

_R, _M, _S = ReplicationState, MigrationState, DrState

_LOOK = timedelta(hours=1)
"""How often replication back to the site, started by a run before this one, is asked whether it still runs."""

_REVERSE_RUNS = frozenset({_S.COMMITTED, _S.FAILBACK_READY})


class EntityFailback(EntityFailover):
    """Has the VM replicated back to its site and brought home by jobs, and takes over how that went."""

    def _accept_recovery(self, operation: DrOperation, argument: Any) -> None:
        s = self._state
        match operation:
            case DrOperation.REPROTECT:
                before = self._has_reverse()
                self._retry = self._retry or self._commit_has_failed()  # it waits behind the commit, which is tried again
                start_target = before is not None and before.start_target
                self._change_reverse(
                    ReverseCopy(argument, start_target=start_target, left_vms=before.vms_to_delete if before is not None else ())
                )
                s.replication_state = ReverseState.REPROTECT_IN_PROGRESS
                s.health = ()
            case DrOperation.FAILBACK:
                s.migration_state = _S.FAILBACK_IN_PROGRESS
            case DrOperation.CANCEL if s.migration_state is _S.FAILBACK_FAILED:
                self._change_reverse(dataclasses.replace(self._reverse(), to_start=True, start_target=True))
                s.migration_state, s.replication_state = _S.COMMITTED, ReverseState.REPROTECT_IN_PROGRESS
                s.health = ()
            case DrOperation.COMMIT_FAILBACK:
                self._change_reverse(dataclasses.replace(self._reverse(), to_commit=True))
            case _:
                super()._accept_recovery(operation, argument)

    def _reverse(self) -> ReverseCopy:
        failover = self._state.failover
        assert failover is not None and failover.reverse is not None
        return failover.reverse

    def _has_reverse(self) -> ReverseCopy | None:
        failover = self._state.failover
        return failover.reverse if failover is not None else None

    def _change_reverse(self, reverse: ReverseCopy) -> None:
        assert self._state.failover is not None
        self._state.failover = dataclasses.replace(self._state.failover, reverse=reverse)

    # --- what is due ---

    def _way_back_is_due(self) -> bool:
        reverse = self._has_reverse()
        if reverse is None:
            return False
        ended = reverse.job_id in self._reports
        is_due = reverse.to_start or reverse.to_commit or ended or self._policy_is_news(reverse)
        return is_due or self._state.migration_state is _S.FAILBACK_IN_PROGRESS

    async def _go_back(self) -> None:
        """Do the one thing that is due on the way back."""
        reverse = self._reverse()
        if self._state.migration_state is _S.FAILBACK_IN_PROGRESS:
            await self._fail_back(reverse)
        elif reverse.to_commit:
            await self._commit_way_back(reverse)
        elif reverse.to_start:
            await self._start_reprotect(reverse)
        elif self._policy_is_news(reverse):
            await self._tell_policy(reverse)
        else:
            self._note_reprotect_ended(reverse, self._reports.pop(reverse.job_id))
            await self._record()

    # --- reprotect ---

    async def _start_reprotect(self, reverse: ReverseCopy) -> None:
        s = self._state
        failover = s.failover
        assert failover is not None
        s.jobs_minted += 1
        job_id = names.reprotect_id(workflow.info().workflow_id, s.jobs_minted)
        if reverse.options.location is not None and not reverse.site_vm:
            reverse = dataclasses.replace(reverse, site_vm=str(workflow.uuid4()))
        start = ReprotectInput(
            entity_id=workflow.info().workflow_id,
            replication=self._replication,
            target=failover.target,
            profile=self.profile(),
            bases=s.bases,
            given_up_bytes=failover.given_up_bytes,
            confirm_losses=reverse.options.confirm_losses,
            power_off_source=reverse.options.power_off_source,
            base=reverse.base,
            start_target=reverse.start_target,
            policy=self._failback_policy(),
            location=reverse.options.location,
            instance_uuid=reverse.site_vm,
            made=reverse.made,
            delete_first=reverse.left_vms,
            reconnect_nics=s.guarded_nics,
        )
        self._change_reverse(dataclasses.replace(reverse, to_start=False, job_id=job_id, policy=start.policy, undone=False))
        s.job_id = job_id
        s.replication_state = ReverseState.REPROTECT_IN_PROGRESS
        self._say("reprotecting")
        await self._record()
        try:
            child = await workflow.start_child_workflow(
                names.REPROTECT_VM,
                start,
                id=job_id,
                task_queue=names.CONTROL_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"replication of {self._replication.vm_name} back to its site",
            )
            self._reverse_watch = job_id, asyncio.create_task(outcome_of_child(child))
        except WorkflowAlreadyStartedError:
            await is_running(job_id)

    def _failback_policy(self) -> FailbackPolicy:
        return self._state.policy.failback if self._state.policy is not None else FailbackPolicy()

    def _policy_is_news(self, reverse: ReverseCopy) -> bool:
        """Return whether a job that replicates back knows another failback policy than the replication has."""
        runs = reverse.job_id != "" and reverse.job_id not in self._reports and self._state.migration_state in _REVERSE_RUNS
        return runs and reverse.policy != self._failback_policy()

    async def _tell_policy(self, reverse: ReverseCopy) -> None:
        """Tell the job that replicates back; one that has ended meanwhile reports that by itself."""
        policy = self._failback_policy()
        self._change_reverse(dataclasses.replace(reverse, policy=policy))
        try:
            await workflow.get_external_workflow_handle(reverse.job_id).signal(names.FAILBACK_POLICY_CHANGED, policy)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.info("replication back to the site ended before it was told of the policy")

    @workflow.signal(name=names.REVERSE_PROGRESSED, description="Sent by what replicates a failed-over VM back to its site.")
    def reverse_progressed(self, progress: ReverseProgress) -> None:
        """Take over how far it is; with a base, failback is ready."""
        s, reverse = self._state, self._has_reverse()
        if reverse is None or progress.job_id not in (reverse.job_id, reverse.failback_job):
            return
        self._percent = progress.percent if progress.percent < 100 else None
        if progress.job_id == reverse.job_id and s.migration_state in _REVERSE_RUNS:
            self._change_reverse(
                dataclasses.replace(
                    reverse,
                    base=progress.base,
                    last=progress.last,
                    next_due=progress.next_due,
                    information=progress.information,
                    start_target=False,
                    made=progress.made or reverse.made,
                )
            )
            ready = progress.base is not None
            s.migration_state = _S.FAILBACK_READY if ready else _S.COMMITTED
            s.replication_state = ReverseState.REVERSE_DELTA_SYNC if ready else ReverseState.REPROTECT_IN_PROGRESS
            s.health = (progress.error,) if progress.error is not None else ()
        self._say(progress.activity)

    def _note_reprotect_ended(self, reverse: ReverseCopy, report: JobReport) -> None:
        """Take over that replication back has ended by itself: it could not begin, or was cancelled."""
        s = self._state
        if report.reverse is not None and report.reverse.home:
            reverse = dataclasses.replace(reverse, job_id="", start_target=False, information=(report.reverse.home,))
            self._note_home(reverse)
            if reverse.base is not None:  # a failback does what is left, and says so
                s.migration_state = _S.FAILBACK_IN_PROGRESS
            return
        ended = FailureView(ErrorKind.INTERRUPTED, "Replication back to the site was ended from outside.")
        s.health = (report.error or health_error(ended, workflow.now(), retried=False),)
        undone = report.reverse is not None and report.reverse.undone
        information = report.reverse.information if report.reverse is not None else reverse.information
        self._change_reverse(
            dataclasses.replace(reverse, job_id="", base=None, undone=undone, made=None, information=information)
        )
        s.migration_state, s.replication_state = _S.COMMITTED, _R.NONE
        self._percent = None
        self._say("the VM runs in Azure; reprotect was not done or has ended: send it again, or complete")

    async def _watch_way_back(self) -> None:
        """Note that a job which replicates back has ended without a report, for as long as the run lasts."""
        while True:
            await workflow.wait_condition(lambda: self._silent_reverse() != "")
            job_id = self._silent_reverse()
            try:
                await workflow.wait_condition(
                    lambda job_id=job_id: self._silent_reverse() != job_id or self._saw_its_end(job_id),  # type: ignore[misc]
                    timeout=_LOOK,
                    timeout_summary="look whether replication back to the site still runs",
                )
                gone = self._saw_its_end(job_id)
            except TimeoutError:
                gone = not await is_running(job_id)
            if gone and self._silent_reverse() == job_id:
                self._reports[job_id] = JobReport(job_id)

    def _saw_its_end(self, job_id: str) -> bool:
        """Return whether this run has started a job, and it has ended."""
        return self._reverse_watch is not None and self._reverse_watch[0] == job_id and self._reverse_watch[1].done()

    def _silent_reverse(self) -> str:
        """Return the workflow id of a job that replicates back and has not reported; empty where there is none."""
        reverse = self._has_reverse()
        return reverse.job_id if reverse is not None and reverse.job_id not in self._reports else ""

    async def _look_after_way_back(self) -> None:
        """At the begin of a run: whoever replicates back reports again what this run does not know, or is gone."""
        s, reverse = self._state, self._has_reverse()
        if reverse is None or reverse.to_start or not reverse.job_id or s.migration_state not in _REVERSE_RUNS:
            return
        if not await is_running(reverse.job_id) and reverse.job_id not in self._reports:
            self._note_reprotect_ended(reverse, JobReport(reverse.job_id))

    async def _end_reprotect(self, *, keep: bool) -> JobReport | None:
        """Have replication back ended, and wait for its report; None where none runs."""
        reverse = self._has_reverse()
        if reverse is None or not reverse.job_id:
            return None
        job_id = reverse.job_id
        try:
            await workflow.get_external_workflow_handle(job_id).signal(names.FINISH_REVERSE, FinishReverse(keep))
        except FailureError:
            return self._reports.pop(job_id, JobReport(job_id))
        return await self._serve_job(job_id, None, cut_by_stop=False)

    # --- failback ---

    async def _fail_back(self, reverse: ReverseCopy) -> None:
        s = self._state
        if reverse.job_id:
            self._say("finishing the pass that runs, before the VM in Azure is stopped")
            report = await self._end_reprotect(keep=True)
            made = report.reverse if report is not None else None
            reverse = dataclasses.replace(
                self._reverse(),
                job_id="",
                base=made.base if made is not None else None,
                nics_at_power_on=made.nics_at_power_on if made is not None else (),
                made=self._reverse().made or (made.made if made is not None else None),
            )
            self._change_reverse(reverse)
        if reverse.base is None:
            lost = FailureView(ErrorKind.OPERATION_REFUSED, "What the disks at the site hold is not known: reprotect again.")
            s.health = (health_error(lost, workflow.now(), retried=False),)
            s.migration_state, s.replication_state = _S.COMMITTED, _R.NONE
            self._say("the failback is not possible; send reprotect")
            return
        taken_up = reverse.failback_job != "" and await is_running(reverse.failback_job)
        if not taken_up:
            s.jobs_minted += 1
            job_id = names.failback_id(workflow.info().workflow_id, s.jobs_minted)
            reverse = dataclasses.replace(reverse, failback_job=job_id)
            self._change_reverse(reverse)
        s.job_id = reverse.failback_job
        self._say("failing back")
        await self._record()
        failover = s.failover
        assert failover is not None and reverse.base is not None
        here, nics = self._replication, s.guarded_nics
        if reverse.made is not None:
            here, nics = at_place(self._replication, reverse.made), ()
        start = FailbackInput(workflow.info().workflow_id, here, failover.target, self.profile(), reverse.base, nics)
        report = await self._run_job(names.FAILBACK_VM, start, reverse.failback_job, "failback", cut_by_stop=False)
        if report.failback is None and await self._came_home(here):
            self._change_reverse(dataclasses.replace(reverse, failback_job=""))
            self._say("the failback was ended from outside when the VM was home already: doing what is left of it")
            return  # it is still in progress: the next job finds the VM at home, and reports that
        self._note_failback(reverse, report)
        await self._record()

    async def _came_home(self, here: Replication) -> bool:
        """Ask the site whether a failback that did not report has brought the VM home; where that cannot be told, it has not."""
        self._say("the failback was ended from outside: asking the site whether the VM is home")
        try:
            found = await perform(
                FailbackSite.find_homecoming,
                OnReplication(here),
                queue=names.vsphere_queue(here.ref.site),
                limits=ASK,
                summary="has the failback brought the VM home?",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the site does not say whether the VM is home: %s", failure_of(error).kind.value)
            return False
        return found.home != ""

    def _note_failback(self, reverse: ReverseCopy, report: JobReport) -> None:
        s, result = self._state, report.failback
        self._percent = None
        reverse = dataclasses.replace(reverse, failback_job="")  # one that is closing must not be taken for one that runs
        if result is not None:
            reverse = dataclasses.replace(
                reverse,
                base=result.base,
                phases=result.phases,
                downtime_s=result.downtime_s,
                information=result.information,
                last=result.last,
            )
        if result is not None and result.source_on:
            self._note_home(reverse)
            s.health = (report.error,) if report.error is not None else ()
            return
        self._change_reverse(reverse)
        s.replication_state = _R.NONE
        ended = FailureView(ErrorKind.INTERRUPTED, "The failback was ended from outside.")
        s.migration_state = _S.FAILBACK_FAILED
        s.health = (report.error or health_error(ended, workflow.now(), retried=False),)
        self._say("the failback failed; send failback to try again, or cancel_failover to start the VM in Azure again")

    def _note_home(self, reverse: ReverseCopy) -> None:
        """Take over that the VM at the site is the one that counts again."""
        s = self._state
        self._change_reverse(reverse)
        s.migration_state, s.replication_state = _S.FAILED_BACK, _R.NONE
        s.source_off_by_us, s.guarded_nics = False, ()
        s.health = ()
        self._percent = None
        self._say("the VM runs at its site again; waiting for commit_failback")

    async def _commit_way_back(self, reverse: ReverseCopy) -> None:
        """Delete the VM in Azure, and have the VM at the site replicated again, beginning with checksums."""
        s = self._state
        failover = s.failover
        assert failover is not None
        self._say("committing the failback: deleting the VM in Azure")
        await self._record()
        try:
            await commit_failback(self._replication, failover.target, failover.made)
            if reverse.made is not None:
                await self._let_original_go(reverse.made)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self._change_reverse(dataclasses.replace(reverse, to_commit=False))
            s.health = (health_error(failure_of(error), workflow.now(), retried=False),)
            self._say("what is left in Azure could not all be deleted; send commit_failback again")
            return
        s.failover = None
        s.migration_state, s.replication_state = _M.TEST_PENDING, _R.REPAIR_PENDING
        s.health = ()
        self._ask_for_resync(RepairOptions(reset_tracking=True, reason="the VM came home"))
        self._say("the failback is committed; the replica is resynchronised by checksums")
        if reverse.made is not None:
            self._move_to(reverse.made)
        await self._record()

    @abstractmethod
    async def _let_original_go(self, made: MadeVm) -> None:
        """Let the VM that was made at another place stay, and give the one that it came from back."""

    @abstractmethod
    def _move_to(self, made: MadeVm) -> None:
        """Take that VM for the replicated one from now on."""

    async def _leave_way_back(self) -> None:
        """Before replication ends: undo what replicates back."""
        reverse = self._has_reverse()
        if reverse is None or not reverse.job_id:
            return
        self._say("ending replication back to the site")
        report = await self._end_reprotect(keep=False)
        undone = report is not None and report.reverse is not None and report.reverse.undone
        self._change_reverse(dataclasses.replace(self._reverse(), job_id="", base=None, undone=undone, made=None))
