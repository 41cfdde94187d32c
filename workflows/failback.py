"""`FailbackVm`: a VM comes home (spec §8, second stage of failback).

The VM in Azure is stopped, what it wrote last is written to the disks at the site, read back and verified, and the VM at the
site is powered on with its NICs. Until then nothing is lost by giving it up: the disks in Azure are untouched, and
`ReprotectVm` goes on from the base that the result names, starting the VM in Azure again.
"""

import asyncio
import dataclasses
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.failback_site import FailbackSite
    from activities.failback_target import FailbackTarget
    from activities.source_power import SourcePower
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.replication import CycleKind
    from deltaferry.model.states import HealthError, JobOutcome
    from deltaferry.planning.failback import BASE_LOST
    from workflows import names
    from workflows.from_point import delete_made
    from workflows.messages.dr_state import MadeInAzure
    from workflows.messages.failback import (
        OnTarget,
        PrepareFailbackInput,
        ReleaseFailbackInput,
    )
    from workflows.messages.job import JobReport
    from workflows.messages.operator_input import TargetProperties
    from workflows.messages.replication_state import Replication
    from workflows.messages.reverse import FailbackCarried, FailbackInput, FailbackResult, ReverseProgress
    from workflows.messages.reverse_records import PassRecord, ReverseBase
    from workflows.messages.step import UnguardInput
    from workflows.policies import AZURE, POWER, PREPARE
    from workflows.reporting import in_phase, report_once
    from workflows.reverse.job import ReverseJob
    from workflows.reverse.passes import ReversePass
    from workflows.reverse.steps import drop_snapshots, forget_site, new_pass
    from workflows.steps import failure_of, health_error, perform, require_carried


@workflow.defn(name=names.FAILBACK_VM)
class FailbackVm(ReverseJob):
    """Stop the VM in Azure, final pass, power on at the site; each phase with its time."""

    @workflow.init
    def __init__(self, start: FailbackInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._start = start
        self._replication = start.replication
        self._phases = list(start.carried.phases) if start.carried else []
        self._stopped_at: datetime | None = start.carried.stopped_at if start.carried else None
        self._committed = start.base
        """What the site's disks hold for certain."""
        self._base: ReverseBase | None = start.carried.base if start.carried else start.base
        """What the final pass goes on from; None: everything is compared."""
        self._passing = start.carried.passing if start.carried else None
        self._last: PassRecord | None = None
        self._information: tuple[str, ...] = ()
        self._released = False
        self._source_on = False
        host = start.carried.host if start.carried else ""
        self._take_lane(start.entity_id, start.profile, len(start.replication.disks), host)

    @workflow.run
    async def run(self, start: FailbackInput | None = None) -> None:
        """Fail back and report; after a failure the VM at the site is off and marked, and the one in Azure is whole."""
        require_carried(start)
        try:
            report = self._reported(await self._fail_back())
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                cancelled = HealthError(
                    ErrorKind.INTERRUPTED,
                    "The failback was cancelled by an operator.",
                    "Somebody cancelled the workflow.",
                    "Send failback again, or cancel_failover to start the VM in Azure again.",
                    False,
                    workflow.now(),
                )
                await report_once(self._start.entity_id, await self._failed(cancelled))
                raise
            report = await self._failed(health_error(failure_of(error), workflow.now(), retried=False))
        await self.deliver(self._start.entity_id, report)

    async def _fail_back(self) -> FailbackResult:
        if self._stopped_at is None:
            if await in_phase(self._phases, "prepare the VM at the site", self._prepare()):
                return await self._finish_at_home()
            self._stopped_at = workflow.now()
            await in_phase(self._phases, "stop the VM in Azure", self._stop_target())
        last = await in_phase(self._phases, "final pass", self._final_pass())
        await in_phase(self._phases, "power on at the site", self._power_on())
        downtime_s = (workflow.now() - self._stopped_at).total_seconds()
        await in_phase(self._phases, "delete what the final pass left", last.tidy())
        outcome = JobOutcome.COMPLETED_WITH_INFORMATION if self._information else JobOutcome.SUCCEEDED
        return self._result(outcome, downtime_s)

    async def _finish_at_home(self) -> FailbackResult:
        """Do what is left where an earlier failback has brought the VM home: two of the VM must not run."""
        await in_phase(self._phases, "stop the VM in Azure", self._stop_target())
        await in_phase(self._phases, "connect the NICs at the site", self._unguard(power_on=False))
        return self._result(JobOutcome.COMPLETED_WITH_INFORMATION, None)

    async def _prepare(self) -> bool:
        """Make sure that the VM at the site is off and marked still; return whether it has come home already instead."""
        prepared = await perform(
            FailbackSite.prepare_failback,
            PrepareFailbackInput(self._replication),
            queue=names.vsphere_queue(self._replication.ref.site),
            limits=PREPARE,
            summary="is the VM at the site off, and ours?",
            kind=CycleKind.FINAL,
        )
        self._lane.host = prepared.host
        if prepared.home:
            self._source_on = True
            self._information = (*self._information, prepared.home)
        return self._source_on

    async def _stop_target(self) -> None:
        await perform(
            FailbackTarget.stop_target,
            OnTarget(self._replication, self._start.target),
            queue=names.azure_queue(self._replication.ref.target),
            limits=AZURE,
            summary="stop and deallocate the VM in Azure",
            kind=CycleKind.FINAL,
        )

    async def _final_pass(self) -> ReversePass:
        """Bring over what the VM in Azure wrote last. Where the base is lost, everything is compared: slower, and as safe."""
        while True:
            number = self._committed.number + 1
            if self._passing is None:
                self._passing = new_pass(number, final=True)
            run = ReversePass(self._replication, self._start.target, self._lane, self._base, self._passing)
            try:
                while not await run.advance():
                    self._passing = run.state
                    await self._tell(run)
                    if workflow.info().is_continue_as_new_suggested():
                        await self._roll_over(run)
            except FailureError as error:
                await run.give_up()
                failure = failure_of(error)
                self._passing, self._last = None, run.record(failure.detail)
                reached = failure.number if failure.kind is ErrorKind.FENCED and failure.number is not None else number
                self._committed = dataclasses.replace(self._committed, number=max(number, reached))
                if is_cancelled_exception(error) or self._base is None or failure.kind not in BASE_LOST:
                    raise
                self._base = None
                continue
            self._information = run.information
            self._committed = self._base = await run.commit()
            self._passing, self._last = None, run.record()
            return run

    async def _power_on(self) -> None:
        """Take the mark off the VM at the site, and power it on with its NICs."""
        self._released = True
        await perform(
            FailbackSite.release_failback,
            ReleaseFailbackInput(self._replication, self._committed.number),
            queue=names.vsphere_queue(self._replication.ref.site),
            limits=PREPARE,
            summary="take the failback mark off the VM at the site",
            kind=CycleKind.FINAL,
        )
        await self._unguard(power_on=True)
        self._source_on = True

    async def _unguard(self, *, power_on: bool) -> None:
        await perform(
            SourcePower.unguard_source,
            UnguardInput(self._replication, self._start.reconnect_nics, power_on),
            queue=names.vsphere_queue(self._replication.ref.site),
            limits=POWER,
            summary="power the VM at the site on" if power_on else "connect the VM's NICs at power-on",
            kind=CycleKind.FINAL,
        )

    async def _failed(self, error: HealthError) -> JobReport:
        """Mark the VM at the site again if it was released; say what failed. One that is on all the same has come home."""
        await self._lane.leave()
        if self._released and not self._source_on:
            try:
                if await self._prepare():
                    self._information = (*self._information, f"What came behind its power-on was not waited for: {error.message}")
                    return self._reported(self._result(JobOutcome.COMPLETED_WITH_INFORMATION, None))
            except FailureError as left:
                detail = failure_of(left).detail
                self._information = (*self._information, f"The VM at the site could not be marked again: {detail}")
        workflow.logger.warning("failback failed: %s", error.kind.value)
        return self._reported(self._result(JobOutcome.FAILED, None), error)

    def _result(self, outcome: JobOutcome, downtime_s: float | None) -> FailbackResult:
        return FailbackResult(
            outcome=outcome,
            base=self._committed,
            downtime_s=downtime_s,
            phases=tuple(self._phases),
            information=self._information,
            last=self._last,
            target_stopped=self._stopped_at is not None,
            source_on=self._source_on,
        )

    def _reported(self, result: FailbackResult, error: HealthError | None = None) -> JobReport:
        lines = [f"**{result.outcome.value}**", "", "| phase | seconds |", "|---|---|"]
        lines += [f"| {name} | {seconds:.1f} |" for name, seconds in result.phases]
        workflow.set_current_details("\n".join(lines))
        return JobReport(workflow.info().workflow_id, failback=result, error=error)

    async def _roll_over(self, run: ReversePass) -> None:
        """Continue as new in the middle of the final pass."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        await self._lane.leave()
        stopped_at = self._stopped_at or workflow.now()
        base = None if run.is_full else self._base
        carried = FailbackCarried(run.state, base, stopped_at, tuple(self._phases), self._lane.host)
        start = self._start
        workflow.continue_as_new(
            FailbackInput(
                start.entity_id,
                start.replication,
                start.target,
                self._lane.profile,
                self._committed,
                start.reconnect_nics,
                carried,
            )
        )

    async def _tell(self, run: ReversePass) -> None:
        """Tell the entity how far it is."""
        progress = ReverseProgress(workflow.info().workflow_id, run.percent, f"final pass, {run.percent} %", self._committed)
        await self._signal_entity(progress)


async def commit_failback(replication: Replication, target: TargetProperties, made: tuple[MadeInAzure, ...]) -> None:
    """Delete what a failback that is committed leaves in Azure: VM, NIC, disks and snapshots, as far as they are ours.

    Called by the entity. Afterwards change tracking is reset and a resync begins (`ResyncInput.reset_tracking`): restoring has
    misled it.
    """
    for one in made:
        await delete_made(replication, one)
    await drop_snapshots(replication, target)
    await forget_site(replication)
