"""How a replication fails over, and how it comes back from that before commit (spec §8).

From the request until the failover is cancelled no cycle runs and no recovery point is pruned. An unplanned failover waits
for nothing of the site: a cycle that runs is told to end, and its end is not waited for before the VM runs in Azure.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.recovery_points import RecoveryPointSteps
from deltaferry.model.errors import ErrorKind
from deltaferry.model.recovery_points import RecoveryPointRecord
from deltaferry.model.states import HealthError, MigrationState, ReplicationState
from deltaferry.planning.dr_states import DrOperation, DrState
from deltaferry.planning.retention import PointChoice, parse_choice
from workflows import names
from workflows.entity.base import merged
from workflows.entity.rpo import EntityRpo
from workflows.from_point import delete_all_made, unpin
from workflows.messages.dr import PrunePointsInput
from workflows.messages.dr_state import FailoverState, MadeInAzure
from workflows.messages.job import FromPointInput, JobReport, MadeVm, MigrateInput, planned_job, point_job
from workflows.messages.operator_input import ChangePointOptions, FailoverOptions, MigrateOptions
from workflows.messages.replication_state import FailureView, MigrationResult
from workflows.policies import SETTLE
from workflows.reporting import is_running
from workflows.steps import failure_of, health_error, perform

_R, _M, _S = ReplicationState, MigrationState, DrState

_STEP_ENDS_WITHIN = timedelta(minutes=1)
"""How long a failover waits for the step of a rollback that it has cut: more than a dead worker is noticed within."""


class EntityFailover(EntityRpo):
    """Has the VM failed over by a job, and commits or undoes that."""

    def _accept_recovery(self, operation: DrOperation, argument: Any) -> None:
        s = self._state
        match operation:
            case DrOperation.TEST_MIGRATE:
                self._ask_for_test(argument)
            case DrOperation.CLEAN_UP:
                self._ask_for_clean_up(argument)
            case DrOperation.UPDATE_POLICY:
                s.policy = argument.policy()
                self._look_at_rpo()
            case DrOperation.FAILOVER | DrOperation.PLANNED_FAILOVER:
                self._ask_for_failover(argument)
            case DrOperation.CHANGE_POINT:
                assert s.failover is not None
                s.failover = dataclasses.replace(s.failover, options=_other_point(s.failover.options, argument))
                s.migration_state = _S.FAILOVER_IN_PROGRESS
            case DrOperation.COMMIT:
                s.migration_state = _S.COMMITTED
            case DrOperation.CANCEL:
                assert s.failover is not None
                s.failover = dataclasses.replace(s.failover, cancelled=True)
                s.migration_state = _S.FAILOVER_IN_PROGRESS

    def _ask_for_failover(self, options: FailoverOptions | MigrateOptions) -> None:
        """Note a failover; one that failed before is tried again with what it had made known."""
        s = self._state
        planned = isinstance(options, MigrateOptions)
        chosen = FailoverOptions(reason=options.reason) if isinstance(options, MigrateOptions) else options
        target = merged(s.target, options.target) if options.target is not None else s.target
        before = s.failover
        s.failover = FailoverState(
            planned=planned,
            requested_at=workflow.now(),
            target=target,
            options=chosen,
            before=before.before if before is not None else s.replication_state,
            holders=before.holders if before is not None else (),
            made=before.made if before is not None else s.left_by_migrations,
        )
        s.left_by_migrations = ()
        s.migrate_options = options if isinstance(options, MigrateOptions) else s.migrate_options
        s.migration_state = _S.FAILOVER_IN_PROGRESS

    # --- what is due ---

    def _failover_is_due(self) -> bool:
        return self._state.migration_state is _S.FAILOVER_IN_PROGRESS

    def _goes_before_everything(self) -> bool:
        """Return whether a cycle or a copying job that runs is cut: an unplanned failover does not wait for the site."""
        failover = self._state.failover
        return self._failover_is_due() and failover is not None and not failover.planned

    def _commit_is_due(self) -> bool:
        failover = self._state.failover
        return self._state.migration_state is _S.COMMITTED and failover is not None and failover.committed_at is None

    async def _fail_over(self) -> None:
        """Do what was asked for last: make the VM, replace it, or undo the failover."""
        failover = self._state.failover
        assert failover is not None
        if failover.cancelled:
            await self._cancel_failover(failover)
        elif failover.planned:
            await self._fail_over_planned(failover)
        else:
            await self._fail_over_from_point(failover)

    # --- making the VM ---

    async def _fail_over_from_point(self, failover: FailoverState) -> None:
        s = self._state
        s.replication_state = _R.NONE
        s.next_due, s.next_reason = None, ""
        choice = parse_choice(failover.options.point)
        assert isinstance(choice, PointChoice)  # judged when it was asked for
        taken_up = failover.job_id != "" and await is_running(failover.job_id)
        if failover.job_id and not taken_up:  # what it has made may run in Azure since: an operator decides what becomes of it
            self._note_failover(failover, self._reports.pop(failover.job_id, JobReport(failover.job_id)))
            await self._record()
            return
        if not taken_up:
            s.jobs_minted += 1
            job_id = names.failover_id(workflow.info().workflow_id, s.jobs_minted)
            failover = dataclasses.replace(failover, job_id=job_id, holders=(*failover.holders, job_id), number=s.jobs_minted)
            s.failover = failover
        s.job_id = failover.job_id
        self._say("failing over")
        await self._record()
        start = FromPointInput(
            entity_id=workflow.info().workflow_id,
            replication=self._replication,
            number=failover.number,
            choice=choice,
            target=failover.target,
            reason=failover.options.reason or "failover",
            shut_down_source=failover.options.shut_down_source and (failover.source_may_run or not s.source_off_by_us),
            replaces=failover.made,
            keep_pin=True,
        )
        report = await self._run_job(names.FAILOVER_VM, start, failover.job_id, "failover", cut_by_stop=False)
        self._note_failover(failover, report)
        await self._record()

    def _note_failover(self, failover: FailoverState, report: JobReport) -> None:
        """Take over how a failover from a recovery point ended."""
        s, made = self._state, report.made
        # one that did not report may have shut the source down: cancelling must power it on again
        s.source_off_by_us = s.source_off_by_us or made is None or made.source_shut_down
        s.guarded_nics = (made.guarded_nics if made is not None else ()) or s.guarded_nics
        job = self._made_by(failover, point_job(failover.number), made.point if made is not None else None)
        if made is None or made.vm_id is None:  # what was there before it may be there still
            self._note_failed(failover, job, report.error, made.information if made is not None else ())
            return
        self._note_running(dataclasses.replace(failover, made=(job,), point=made.point, vm_id=made.vm_id), made)

    def _made_by(self, failover: FailoverState, job: str, point: RecoveryPointRecord | None) -> MadeInAzure:
        keys = [disk.disk_key for disk in point.disks] if point is not None else [disk.key for disk in self._replication.disks]
        return MadeInAzure(job, failover.target, tuple(keys))

    def _note_failed(
        self, failover: FailoverState, job: MadeInAzure, error: HealthError | None, information: tuple[str, ...] = ()
    ) -> None:
        """Take over that no VM runs in Azure."""
        s = self._state
        interrupted = FailureView(ErrorKind.INTERRUPTED, "The failover was ended from outside.")
        s.failover = dataclasses.replace(
            failover,
            job_id="",
            made=(*failover.made, job),
            point=None,
            vm_id=None,
            running_at=None,
            information=information,
        )
        s.migration_state = _S.FAILOVER_FAILED
        s.health = (error or health_error(interrupted, workflow.now(), retried=False),)
        self._say("the failover failed; send failover or planned_failover to try again, or cancel_failover")

    def _note_running(self, failover: FailoverState, made: MadeVm | MigrationResult) -> None:
        """Take over that the VM runs in Azure."""
        s = self._state
        note: tuple[str, ...] = (made.note,) if isinstance(made, MigrationResult) and made.note else ()
        if failover.source_may_run and not made.source_shut_down:
            note += ("A rollback was cut that was powering the source VM on: look whether it runs.",)
        s.failover = dataclasses.replace(
            failover, job_id="", running_at=workflow.now(), information=(*made.information, *note), phases=made.phases
        )
        s.migration_state = _S.FAILED_OVER
        s.health = ()
        self._say("the VM runs in Azure; waiting for commit, change_recovery_point or cancel_failover")

    async def _fail_over_planned(self, failover: FailoverState) -> None:
        """As a migration: an on-demand delta, shutdown, final delta; nothing is lost."""
        s = self._state
        if s.repair is not None:
            cause = FailureView(ErrorKind.OPERATION_REFUSED, f"The replica needs a resync first: {s.repair.reason}.")
            s.migration_state, s.replication_state = _S.FAILOVER_FAILED, _R.NONE
            s.health = (health_error(cause, workflow.now(), retried=False),)
            self._say("the failover was not begun; send failover to take a recovery point, or cancel_failover")
            return
        options = s.migrate_options or MigrateOptions()
        taken_up = failover.job_id != "" and await is_running(failover.job_id)
        if failover.job_id and not taken_up:
            self._note_planned(failover, self._reports.pop(failover.job_id, JobReport(failover.job_id)))
            await self._record()
            return
        if failover.made and not taken_up:
            cleared = await self._without_what_was_made(failover)
            if cleared is None:
                return
            failover = cleared
        if not taken_up:
            s.jobs_minted += 1
            job_id = names.migration_id(workflow.info().workflow_id, s.jobs_minted)
            failover = s.failover = dataclasses.replace(failover, job_id=job_id, number=s.jobs_minted)
        s.job_id = failover.job_id
        start = MigrateInput(
            workflow.info().workflow_id,
            self._replication,
            options,
            failover.target,
            s.source_off_by_us,
            planned_job(failover.number),
        )
        self._say("failing over as planned")
        await self._record()
        report = await self._run_job(names.MIGRATE_VM, start, failover.job_id, "planned failover", cut_by_stop=False)
        self._note_planned(failover, report)
        await self._record()

    async def _without_what_was_made(self, failover: FailoverState) -> FailoverState | None:
        """Delete what failed tries have left, whose disks would be in the way; None where that failed."""
        s = self._state
        self._say("failing over as planned: deleting what was made before")
        try:
            for made in failover.made:
                await delete_all_made(self._replication, made)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            s.migration_state, s.replication_state = _S.FAILOVER_FAILED, _R.NONE
            s.health = (health_error(failure_of(error), workflow.now(), retried=False),)
            self._say("what a failed failover left could not be deleted; send it again, or cancel_failover")
            return None
        s.failover = dataclasses.replace(failover, made=())
        return s.failover

    def _note_planned(self, failover: FailoverState, report: JobReport) -> None:
        """Take over how a planned failover ended; its point is that of the final delta."""
        s, result = self._state, report.migration
        # one that did not report may have shut the source down: cancelling must power it on again
        s.source_off_by_us = s.source_off_by_us or result is None or result.source_shut_down
        s.replication_state = _R.NONE
        s.next_due, s.next_reason = None, ""
        job = self._made_by(failover, planned_job(failover.number), None)
        if result is None or result.target_vm_id is None:
            self._note_failed(failover, job, report.error or (result.error if result is not None else None))
            return
        s.guarded_nics = result.guarded_nics or s.guarded_nics
        self._note_running(dataclasses.replace(failover, made=(job,), point=s.point, vm_id=result.target_vm_id), result)

    # --- commit and cancel ---

    async def _commit_failover(self) -> None:
        """Delete the other recovery points; where that fails it waits for retry, and the VM runs in Azure all the same."""
        s = self._state
        failover = s.failover
        assert failover is not None
        self._say("committing: deleting the other recovery points")
        await self._record()
        keep = failover.point.cycle_key if failover.point is not None else ""
        try:
            await self._unpin_all(failover)
            pruned = await perform(
                RecoveryPointSteps.prune_points,
                PrunePointsInput(self._replication, workflow.now(), s.point.fence if s.point else 0, keep_only=keep),
                queue=names.apply_queue(self._replication.ref.target),
                limits=SETTLE,
                summary="delete the other recovery points",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            await self._wait_for_retry(error, _R.NONE)
            return
        s.points = pruned.points
        s.failover = dataclasses.replace(
            failover,
            committed_at=workflow.now(),
            holders=(),
            given_up_bytes=given_up_bytes(failover, tuple((c.cycle_key, c.changed_bytes) for c in s.cycles if c.committed)),
        )
        self._say("the failover is committed; waiting for reprotect or complete")
        await self._record()

    async def _cancel_failover(self, failover: FailoverState) -> None:
        """Delete what the failover made, start the source again if we stopped it, and go on with delta cycles."""
        s = self._state
        self._say("cancelling the failover: deleting what it made in Azure")
        await self._record()  # before anything is deleted: whoever adopts it goes on with that
        try:
            for made in failover.made:
                await delete_all_made(self._replication, made)
            await self._unpin_all(failover)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self._note_not_cancelled(error)
            return
        self._say("cancelling the failover: giving the source back as it was")
        is_changed = s.source_off_by_us or bool(s.guarded_nics)  # else nothing of the site is waited for
        if is_changed and not await self._unguard(power_on=s.source_off_by_us):
            s.failover = dataclasses.replace(failover, cancelled=False, made=(), point=None, vm_id=None)
            s.migration_state = _S.FAILOVER_FAILED
            return
        s.failover, s.source_off_by_us, s.guarded_nics = None, False, ()
        s.migration_state = _M.TEST_PENDING
        s.health = ()
        if s.repair is not None:
            s.replication_state = _R.REPAIR_PENDING
        elif failover.before in (_R.PAUSED, _R.PAUSE_IN_PROGRESS):
            s.replication_state = _R.PAUSED
        else:
            s.replication_state, s.next_due = _R.DELTA_SYNC, workflow.now()
        self._say("the failover is cancelled; replication goes on from where it was")
        await self._record()

    def _note_not_cancelled(self, error: FailureError) -> None:
        s = self._state
        assert s.failover is not None
        s.failover = dataclasses.replace(s.failover, cancelled=False)
        s.health = (health_error(failure_of(error), workflow.now(), retried=False),)
        s.migration_state = _S.FAILOVER_FAILED
        self._say("the failover could not be cancelled; send cancel_failover again")

    async def _unpin_all(self, failover: FailoverState) -> None:
        for holder in failover.holders:
            await unpin(self._replication, holder)

    # --- what a failover cuts ---

    async def _let_run(self, work: "asyncio.Task[None]") -> None:
        """Wait for a cycle, but not where an unplanned failover goes before it: then it is told to end, beside the failover.

        One that is committed writes its recovery point first, which takes nothing of the site: the failover may be from it.
        """
        try:
            await workflow.wait_condition(lambda: work.done() or (self._goes_before_everything() and not self._settling))
        except asyncio.CancelledError:
            work.cancel()
            await work
            raise
        if work.done():
            await work
            return
        work.cancel()
        self._cycle_cut = True
        self._cut.append(work)

    async def _roll_back(self) -> None:
        """Roll back, unless an unplanned failover goes before it: then the rollback ends with the step that runs.

        That step is told to end, and waited for, but not for long: what it does at the site may come too late all the same.
        """
        if self._goes_before_everything():
            self._rollback = False
            return
        self._rolls_back, self._powers_on, self._rollback_cut = True, False, False
        rollback = asyncio.create_task(super()._roll_back())
        try:
            await self._let_run(rollback)
            if not rollback.done():
                self._rollback_cut = True
                await workflow.wait_condition(
                    rollback.done, timeout=_STEP_ENDS_WITHIN, timeout_summary="the end of the rollback's step"
                )
        except TimeoutError:
            workflow.logger.warning("the step of the rollback that a failover has cut goes on")
        finally:
            self._rolls_back = False
        await self._cut_has_ended(unless=lambda: True)
        s = self._state
        if self._powers_on and s.failover is not None and s.source_off_by_us:
            s.failover = dataclasses.replace(s.failover, source_may_run=True)

    async def _cut_has_ended(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until what was cut has let go of snapshot and slots: what comes next would lose its own to them."""
        while self._cut:
            cut = self._cut[0]
            await workflow.wait_condition(lambda: cut.done() or unless())  # noqa: B023 - called before the next turn
            if not cut.done():
                return False
            self._cut.remove(cut)
            error = None if cut.cancelled() else cut.exception()
            if error is not None and not is_cancelled_exception(error):
                workflow.logger.warning("what a failover cut ended badly: %s", failure_of(error).kind.value)
        return True


def _other_point(options: FailoverOptions, change: ChangePointOptions) -> FailoverOptions:
    return dataclasses.replace(options, point=change.point, shut_down_source=False, reason=change.reason or options.reason)


def given_up_bytes(failover: FailoverState, cycles: tuple[tuple[str, int], ...]) -> int:
    """Return what cycles changed after a failover's point; `cycles` are keys and changed bytes, oldest first."""
    if failover.point is None:
        return 0
    keys = [key for key, _ in cycles]
    later = cycles[keys.index(failover.point.cycle_key) + 1 :] if failover.point.cycle_key in keys else cycles
    return sum(changed for _, changed in later)
