"""`FailoverVm`: an unplanned failover, and each change of its recovery point (spec §8).

It needs nothing of the site: the source VM is shut down where that succeeds soon, and left as it is where it does not.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.source_power import SourcePower
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.replication import CycleKind
    from deltaferry.model.states import HealthError
    from workflows import names
    from workflows.entity.presenting import GUEST_NOT_PREPARED
    from workflows.from_point import FromPoint, delete_all_made
    from workflows.messages.job import FromPointInput, JobReport
    from workflows.messages.step import GuardInput, OnReplication, ShutDownInput
    from workflows.policies import TRY
    from workflows.reporting import in_phase, report_once
    from workflows.steps import failure_of, health_error, perform, require_carried

_SHUTDOWN_WITHIN = timedelta(minutes=5)


@workflow.defn(name=names.FAILOVER_VM)
class FailoverVm(FromPoint):
    """Shuts the source down if it can, then makes the VM from the point that was asked for."""

    @workflow.init
    def __init__(self, start: FromPointInput | None = None) -> None:
        super().__init__(start)
        self._shut_down = False
        self._guarded: tuple[int, ...] = ()

    @workflow.run
    async def run(self, start: FromPointInput | None = None) -> None:
        """Make the VM and report; after a failure nothing half-made stays, and replication is intact."""
        start = require_carried(start)
        try:
            if start.shut_down_source:
                await in_phase(self._phases, "shut down source", self._shut_down_source())
            for made in start.replaces:
                await in_phase(self._phases, "delete what was made before", delete_all_made(self._replication, made))
            vm = await self._make()
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                cancelled = HealthError(
                    ErrorKind.INTERRUPTED,
                    "The failover was cancelled by an operator.",
                    "Somebody cancelled the workflow.",
                    "Send failover again, or cancel_failover to go back to replication.",
                    False,
                    workflow.now(),
                )
                await report_once(start.entity_id, await self._failed(cancelled))
                raise
            await self.deliver(
                start.entity_id, await self._failed(health_error(failure_of(error), workflow.now(), retried=False))
            )
            return
        self._information.append(GUEST_NOT_PREPARED)
        report = self._report(vm, source_shut_down=self._shut_down, guarded_nics=self._guarded)
        await self.deliver(start.entity_id, report)

    async def _failed(self, error: HealthError) -> JobReport:
        left_over = await self._undo()
        return self._report(None, error, left_over=left_over, source_shut_down=self._shut_down, guarded_nics=self._guarded)

    async def _shut_down_source(self) -> None:
        """Shut the source down and guard it, if it can be reached; say what was found otherwise."""
        site = names.vsphere_queue(self._replication.ref.site)
        try:
            source = await perform(
                SourcePower.read_power,
                OnReplication(self._replication),
                queue=site,
                limits=TRY,
                summary="is the source running?",
                kind=CycleKind.FINAL,
            )
            if not source.powered_on:
                self._information.append("The source VM was off already.")
                return
            self._shut_down = True
            await perform(
                SourcePower.shut_down_source,
                ShutDownInput(self._replication, _SHUTDOWN_WITHIN, allow_power_off=False),
                queue=site,
                limits=TRY,
                summary="shut the guest down",
                kind=CycleKind.FINAL,
            )
            note = (
                f"Failed over to Azure by Deltaferry on {workflow.now():%Y-%m-%d %H:%M} UTC"
                f" (replication {self._replication.ref.replication_id}). Its NICs do not connect at power-on."
            )
            self._guarded = source.nics_at_power_on
            await perform(
                SourcePower.guard_source,
                GuardInput(self._replication, note, source.nics_at_power_on),
                queue=site,
                limits=TRY,
                summary="guard the source",
                kind=CycleKind.FINAL,
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self._information.append(f"The source VM could not be shut down and may still run: {failure_of(error).detail}")
