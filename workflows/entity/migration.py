"""How a replication has its VM migrated, and what may follow: rollback, or replication again."""

import asyncio
import dataclasses

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.source_power import SourcePower
from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.model.states import JobOutcome, MigrationState, ReplicationState
from deltaferry.planning.downtime import predicted_resync
from deltaferry.planning.phrases import duration_text
from workflows import names
from workflows.entity.base import merged
from workflows.entity.scrub import EntityScrub
from workflows.from_point import delete_made
from workflows.messages.dr_state import MadeInAzure
from workflows.messages.in_azure import job_of
from workflows.messages.job import JobReport, MigrateInput, migration_job
from workflows.messages.operator_input import MigrateOptions
from workflows.messages.replication_state import FailureView, MigrationResult
from workflows.messages.step import UnguardInput
from workflows.policies import POWER
from workflows.reporting import is_running
from workflows.steps import failure_of, health_error, perform

_R, _M = ReplicationState, MigrationState


class EntityMigration(EntityScrub):
    """Has the VM migrated by a job, and takes over how that ended."""

    async def _migrate(self) -> None:
        """Have the VM migrated by a child; run the cycles that it asks for, and none else, meanwhile."""
        s = self._state
        options = s.migrate_options or MigrateOptions()
        s.migration_state = _M.MIGRATION_IN_PROGRESS
        s.jobs_minted += 1
        s.job_id = job_id = names.migration_id(workflow.info().workflow_id, s.jobs_minted)
        target = merged(s.target, options.target) if options.target is not None else s.target
        if not await self._delete_left("migrating: deleting what was made before"):
            return
        made = MadeInAzure(migration_job(s.jobs_minted), target, tuple(disk.key for disk in self._replication.disks))
        s.left_by_migrations = (made,)  # until it reports a VM that runs
        start = MigrateInput(workflow.info().workflow_id, self._replication, options, target, s.source_off_by_us, made.job)
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
            result = MigrationResult(
                JobOutcome.FAILED, None, None, error=health_error(interrupted, workflow.now(), retried=False)
            )
        s.migration = result
        # a migration that did not report may have shut the source down: rollback has to be possible
        s.source_off_by_us = s.source_off_by_us or result.source_shut_down or report.migration is None
        if result.target_vm_id is not None:
            s.migration_state, s.replication_state = _M.MIGRATED, _R.NONE
            s.migrated_at, s.guarded_nics = workflow.now(), result.guarded_nics
            s.left_by_migrations = ()
            s.next_due, s.next_reason = None, ""
            s.health = ()
            self._say("migrated; waiting for complete, or resume")
        else:
            s.migration_state = _M.MIGRATION_FAILED
            s.health = (result.error,) if result.error else ()
            if s.replication_state is _R.REPAIR_PENDING:  # the cycle that failed for it said so
                self._say_how_to_go_on()
                return
            self._schedule(s.last_duration, 0)
            self._say("the migration failed; replication is intact")

    def _say_how_to_go_on(self) -> None:
        """Say how long the resync takes that a failed migration left behind, and leave the choice to the operator."""
        s = self._state
        predicted = predicted_resync(
            sum(disk.capacity_bytes for disk in self._replication.disks),
            [(record.compared_bytes, record.ended_at - record.started_at) for record in s.resyncs],
        )
        takes = f"The replica needs a resync, which is predicted to take about {duration_text(predicted)}."
        if s.source_off_by_us and s.health:
            choice = f"{takes} Send migrate_now to resynchronise with the source off and go on, or rollback to power it on again."
            s.health = (dataclasses.replace(s.health[0], remedy=choice),)
        self._say(f"the migration failed. {takes}")

    async def _roll_back(self) -> None:
        """Power the source on again after a migration that failed behind its shutdown."""
        self._rollback = False
        if not await self._delete_left("deleting what the migration made in Azure: two of the VM must not run"):
            return
        if self._is_given_up():
            return
        self._say("powering the source on again")
        self._powers_on = True
        if await self._unguard(power_on=True):
            s = self._state
            s.source_off_by_us = False
            if s.migration_state is not _M.MIGRATION_FAILED:
                return  # a failover was asked for in the moment that it ended
            s.migration_state = _M.TEST_PENDING
            if s.repair is not None:  # what the replica needs it for is still so
                if s.health:
                    s.health = (dataclasses.replace(s.health[0], remedy=CATALOGUE[s.health[0].kind].remedy),)
                waits = (
                    "the resync goes on"
                    if s.repair.under_way or s.repair.asked
                    else "the replica still needs its resync: send repair"
                )
                self._say(f"the source runs again; {waits}")
                return
            s.next_due = workflow.now()
            s.health = ()
            self._say("the source runs again; the next delta follows at once")

    def _is_given_up(self) -> bool:
        """Return whether a rollback goes no further: an unplanned failover has cut it, or was asked for while its step ended."""
        return self._rollback_cut or self._goes_before_everything()

    async def _delete_left(self, activity: str) -> bool:
        """Delete what migrations that did not end well may have left in Azure; return whether all of it is gone."""
        s = self._state
        if not s.left_by_migrations:
            return True
        self._say(activity)
        try:
            for made in s.left_by_migrations:
                await delete_made(self._replication, made)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            if self._is_given_up():  # what is left is the failover's
                return False
            s.migration_state = _M.MIGRATION_FAILED
            s.health = (health_error(failure_of(error), workflow.now(), retried=False),)
            self._say("what a migration left in Azure could not be deleted; send the request again")
            return False
        s.left_by_migrations = ()
        return True

    async def _replicate_again(self) -> None:
        """Take up replication of a migrated VM's source again, from the committed change ids."""
        self._continue_after_migration = False
        s = self._state
        self._say("taking the guard off the source")
        if await self._unguard(power_on=False):
            s.left_to_owner = (*s.left_to_owner, migration_job(job_of(s.job_id)))
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
