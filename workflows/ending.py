"""`StopReplication` and `CompleteMigration`: the same procedure under two names; nothing of ours stays behind.

A replication continues as new into one of them, under its own id, once no cycle runs any more.
"""

from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.cleanup import SourceCleanup, TargetCleanup
    from activities.settling import Settling
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.states import JobOutcome, ReplicationState
    from deltaferry.planning.dr_states import AnyOperation, DrSituation
    from workflows import names
    from workflows.entity.presenting import details, disk_views, status_view
    from workflows.entity.recovery_commands import RecoveryCommands
    from workflows.messages.replication_state import EndInput, EndResult, Refusal, vm_in_azure
    from workflows.messages.site import Placement
    from workflows.messages.slot import SlotsGranted
    from workflows.messages.step import CleanSourceInput, OnReplication, SettleInput
    from workflows.messages.views import DiskView, StatusView
    from workflows.policies import CLEAN
    from workflows.reverse.steps import undo_reverse
    from workflows.slots.holding import SlotHolder, leave_site
    from workflows.steps import failure_of, health_error, perform, refusal, require_carried


class Ending(RecoveryCommands):
    """What stop and complete share: clean both sides, wait for retry where that fails."""

    in_progress: ReplicationState
    failed: ReplicationState

    def __init__(self, start: EndInput | None = None) -> None:
        if start is None:
            return  # end() says what that means
        self._replication = start.replication
        self._state = start.state
        self._options = start.options
        self._slots = SlotHolder(workflow.info().workflow_id)
        self._retry = False
        self._noted = False
        self._activity = "deleting what is ours"

    def situation(self) -> DrSituation:
        """Return what the table of allowed operations needs to know."""
        return DrSituation(self._state.replication_state, self._state.migration_state)

    def accept(self, operation: AnyOperation, argument: Any) -> None:
        """Note that an operator wants it tried again."""
        self._state.replication_state = self.in_progress
        self._retry = True

    def refused(self, refused: Refusal) -> None:
        """Show a signal that was refused."""
        self._state.last_refused = refused

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._slots.granted(grant)

    @workflow.query(description="What is being deleted, and what failed.")
    def status(self) -> StatusView:
        """Return the replication's status."""
        return status_view(self._replication, self._state, self.situation(), self._activity, None)

    @workflow.query(description="Per disk: size, what was copied.")
    def disks(self) -> tuple[DiskView, ...]:
        """Return the disks."""
        return disk_views(self._replication, self._state)

    async def end(self) -> EndResult:
        """Clean the source, then the target; the bookkeeping goes last."""
        info = workflow.info()
        if info.continued_run_id is None:
            raise refusal(
                ErrorKind.OPERATION_REFUSED,
                f"{info.workflow_type} is what a replication becomes: send stop or complete to the replication instead of starting it.",
            )
        while True:
            self._state.replication_state = self.in_progress
            self._state.health = ()
            self._show()
            try:
                await self._clean()
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                self._state.replication_state = self.failed
                self._state.health = (health_error(failure_of(error), workflow.now(), retried=False),)
                self._show()
                await workflow.wait_condition(lambda: self._retry)
                self._retry = False
                continue
            break
        self._state.replication_state = ReplicationState.NONE
        self._activity = "ended"
        self._show()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return EndResult(
            replication_id=self._replication.ref.replication_id,
            vm_name=self._replication.vm_name,
            outcome=JobOutcome.SUCCEEDED,
            target_vm_id=vm_in_azure(self._state),
        )

    async def _clean(self) -> None:
        await self._note_the_end()
        failover = self._state.failover
        if failover is not None and failover.reverse is not None and not failover.reverse.undone:
            self._activity = "undoing what replication back to the site has left"
            await undo_reverse(self._replication, failover.target, failover.reverse.vms_to_delete)
        self._activity = "giving the source VM back as it was"
        turn_off = self._state.cbt_enabled_by_us and not self._options.keep_change_tracking
        placement = self._state.placement if turn_off else Placement()
        async with self._slots.momentary_snapshot(self._state.profile or self._replication.profile, placement):
            await perform(
                SourceCleanup.clean_source,
                CleanSourceInput(self._replication, turn_off),
                queue=names.vsphere_queue(self._replication.ref.site),
                limits=CLEAN,
                summary="remove snapshots, change tracking and claim",
            )
        self._activity = "deleting seed disks, logs, keys and bookkeeping"
        await perform(
            TargetCleanup.clean_target,
            OnReplication(self._replication),
            queue=names.apply_queue(self._replication.ref.target),
            limits=CLEAN,
            summary="delete seed disks, logs, keys and bookkeeping",
        )
        await leave_site(self._replication.profile, workflow.info().workflow_id)

    async def _note_the_end(self) -> None:
        """Write into the commit record, once, that replication is ending: `adopt` goes on with that, and runs no cycle."""
        if self._noted:
            return
        try:
            await perform(
                Settling.settle_cycle,
                SettleInput(self._replication, self._state, record_only=True),
                queue=names.apply_queue(self._replication.ref.target),
                limits=CLEAN,
                summary="write the commit record",
            )
        except FailureError as error:
            if failure_of(error).kind is not ErrorKind.STORE_OBJECT_MISSING:
                raise
            # an end that was terminated has deleted the bookkeeping already
        self._noted = True

    def _show(self) -> None:
        workflow.set_current_details(details(self.status(), self.disks(), self._state.cycles))
        health = self._state.health[0].kind.value if self._state.health else "Healthy"
        workflow.upsert_search_attributes(
            [names.REPLICATION_STATE.value_set(self._state.replication_state.value), names.HEALTH.value_set(health)]
        )


@workflow.defn(name=names.STOP_REPLICATION)
class StopReplication(Ending):
    """Ends a replication before a migration."""

    in_progress = ReplicationState.STOP_IN_PROGRESS
    failed = ReplicationState.STOP_FAILED

    @workflow.init
    def __init__(self, start: EndInput | None = None) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: EndInput | None = None) -> EndResult:
        """Stop."""
        require_carried(start)
        return await self.end()


@workflow.defn(name=names.COMPLETE_MIGRATION)
class CompleteMigration(Ending):
    """Ends a replication after a successful migration; the migrated VM stays."""

    in_progress = ReplicationState.COMPLETE_IN_PROGRESS
    failed = ReplicationState.COMPLETE_FAILED

    @workflow.init
    def __init__(self, start: EndInput | None = None) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: EndInput | None = None) -> EndResult:
        """Complete."""
        require_carried(start)
        return await self.end()
