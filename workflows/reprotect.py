"""`ReprotectVm`: a VM that is failed over replicates back to its site (spec §8, first stage of failback).

The VM at the site is prepared and marked; a full comparison, then deltas by the failback policy, until the entity says that a
failback takes over, or that it shall end. A pass that fails commits nothing, and the next one covers its range again.
"""

import asyncio
import dataclasses
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.failback_site import FailbackSite
    from activities.failback_target import FailbackTarget
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.policy import FailbackPolicy
    from deltaferry.model.states import HealthError
    from deltaferry.planning.failback import after_commit, after_failed_pass
    from workflows import names
    from workflows.messages.failback import (
        Losses,
        LossesInput,
        MakeVmInput,
        OnTarget,
        PrepareFailbackInput,
    )
    from workflows.messages.job import JobReport
    from workflows.messages.reverse import (
        FinishReverse,
        PassState,
        ReprotectCarried,
        ReprotectInput,
        ReverseProgress,
        ReverseReport,
    )
    from workflows.messages.reverse_records import PassRecord, ReverseBase
    from workflows.policies import AZURE, CYCLES_PER_RUN, PREPARE
    from workflows.reporting import report_once
    from workflows.reverse.job import ReverseJob
    from workflows.reverse.losses import LossesUnconfirmedError, losses_error
    from workflows.reverse.passes import ReversePass
    from workflows.reverse.steps import at_place, delete_made_vm, discard_pass, make_vm, new_pass, undo_reverse
    from workflows.slots.holding import PreemptedError
    from workflows.steps import failure_of, health_error, perform, require_carried


@workflow.defn(name=names.REPROTECT_VM)
class ReprotectVm(ReverseJob):
    """Prepares the site's VM, then runs passes back to it until it is told to end."""

    @workflow.init
    def __init__(self, start: ReprotectInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        carried = start.carried
        self._start = start
        self._made = carried.made if carried else start.made
        """The VM at another place, where one was made."""
        self._replication = start.replication if self._made is None else at_place(start.replication, self._made)
        self._pristine = carried is not None and carried.pristine
        """The disks of that VM are empty still."""
        self._policy = start.policy
        self._base = start.base
        self._number = carried.number if carried else start.base.number if start.base else 0
        self._passing: PassState | None = carried.passing if carried else None
        self._last: PassRecord | None = carried.last if carried else None
        self._failures = carried.failures_in_row if carried else 0
        self._next_due: datetime | None = carried.next_due if carried else None
        self._information = carried.information if carried else ()
        self._nics = carried.nics_at_power_on if carried else ()
        self._finish: FinishReverse | None = None
        self._now = False
        self._passes_of_run = 0
        self._error: HealthError | None = None
        self._undone = False
        self._home = ""
        self._reason = "by the failback policy"
        host = carried.host if carried else ""
        self._take_lane(start.entity_id, start.profile, len(start.replication.disks), host)
        self._lane.unless = self._is_over

    @workflow.signal(name=names.FINISH_REVERSE, description='Sent by the replication: `{"keep": true}` hands over to a failback.')
    def finish_reverse(self, finish: FinishReverse) -> None:
        """Note that it shall end, and how. Undoing wins."""
        if self._finish is None or not finish.keep:
            self._finish = finish

    @workflow.signal(name=names.REVERSE_NOW, description="Begin the next pass back to the site at once.")
    def reverse_now(self) -> None:
        """Begin the next pass at once."""
        self._now = True

    @workflow.signal(name=names.FAILBACK_POLICY_CHANGED, description="Sent by the replication: the failback policy from now on.")
    def failback_policy_changed(self, policy: FailbackPolicy) -> None:
        """Take over another policy; what is due already stays due."""
        if self._next_due is not None and not self._failures:
            self._next_due += policy.interval - self._policy.interval
        self._policy = policy

    @workflow.run
    async def run(self, start: ReprotectInput | None = None) -> None:
        """Prepare, replicate back, and report how it ended."""
        require_carried(start)
        retelling = asyncio.create_task(self._tell_whoever_adopts())
        try:
            if self._start.carried is None:
                await self._prepare()
            if not self._home:
                await self._replicate()
        except LossesUnconfirmedError as unconfirmed:
            await self._undo()
            report = self._report(unconfirmed.losses, losses_error(unconfirmed.losses, workflow.now()))
        except (FailureError, asyncio.CancelledError) as error:
            await self._undo()
            if is_cancelled_exception(error):
                await report_once(self._start.entity_id, self._report())
                raise
            report = self._report(error=health_error(failure_of(error), workflow.now(), retried=False))
        else:
            if self._finish is not None and not self._finish.keep and not self._home:
                await self._undo()
            report = self._report()
        finally:
            retelling.cancel()
        await self.deliver(self._start.entity_id, report)

    # --- prepare ---

    async def _prepare(self) -> None:
        """Have the VM at the site off and marked, and what it wrote meanwhile confirmed as lost; or find out that it is home."""
        workflow.set_current_details("**preparing the VM at the site**")
        for left in self._start.delete_first:
            await delete_made_vm(self._start.replication, left)
        start = self._start
        if start.location is not None and self._made is None:
            await self._make_vm(
                MakeVmInput(start.replication, start.location, start.instance_uuid, start.power_off_source, start.reconnect_nics)
            )
        site = names.vsphere_queue(self._replication.ref.site)
        prepared = await perform(
            FailbackSite.prepare_failback,
            PrepareFailbackInput(self._replication, self._start.power_off_source),
            queue=site,
            limits=PREPARE,
            summary="prepare and mark the VM at the site",
        )
        self._nics, self._lane.host, self._home = prepared.nics_at_power_on, prepared.host, prepared.home
        if self._home:
            return
        if self._base is None and self._made is None and not self._start.confirm_losses:
            losses = await perform(
                FailbackSite.find_losses,
                LossesInput(self._replication, self._start.bases, self._start.given_up_bytes),
                queue=site,
                limits=PREPARE,
                summary="what did the source write after the failover's point?",
            )
            if losses.to_confirm:
                raise LossesUnconfirmedError(losses)
        if self._start.start_target:
            await perform(
                FailbackTarget.start_target,
                OnTarget(self._replication, self._start.target),
                queue=names.azure_queue(self._replication.ref.target),
                limits=AZURE,
                summary="start the VM in Azure again",
            )

    async def _make_vm(self, request: MakeVmInput) -> None:
        """Have the VM at the other place made; from then on that is the one at the site. The original keeps what it wrote."""
        self._made = await make_vm(request)
        self._pristine = self._made.pristine
        self._replication = at_place(self._start.replication, self._made)
        await self._tell(None)

    # --- passes ---

    async def _replicate(self) -> None:
        while not self._is_over():
            if self._passing is None:
                await self._wait_until_due()
                if self._is_over():
                    return
                self._number += 1
                self._passing = new_pass(self._number)
            await self._pass(self._passing)
            if self._passes_of_run >= CYCLES_PER_RUN or workflow.info().is_continue_as_new_suggested():
                await self._roll_over()

    def _is_over(self) -> bool:
        return self._finish is not None and (self._passing is None or not self._finish.keep)

    async def _wait_until_due(self) -> None:
        """Sleep until the next pass is due, or somebody wants it, or the end."""
        while not self._now and self._finish is None and self._next_due is not None:
            left = self._next_due - workflow.now()
            if left <= timedelta(0):
                break
            due = self._next_due
            ready = "failback ready" if self._base is not None else "not ready for failback"
            workflow.set_current_details(f"**{ready}**; next pass at {due:%H:%M:%S} UTC ({self._reason})")
            try:
                await workflow.wait_condition(
                    lambda due=due: self._now or self._finish is not None or self._next_due != due,  # type: ignore[misc]
                    timeout=left,
                    timeout_summary=f"next pass back to the site: {self._reason}",
                )
            except TimeoutError:
                break
        self._now = False

    async def _pass(self, passing: PassState) -> None:
        """Carry out a pass, or what is left of it, and commit it; or note why it failed."""
        run = ReversePass(self._replication, self._start.target, self._lane, self._base, passing, pristine=self._pristine)
        had_base = self._base is not None
        try:
            while not await run.advance():
                self._passing = run.state
                self._pristine = self._pristine and not run.changed_bytes  # what is planned may be written from now on
                if run.information:
                    self._information = run.information
                await self._tell(run)
                if self._is_over():
                    await run.give_up()
                    self._passing = None
                    return
                if workflow.info().is_continue_as_new_suggested():
                    if run.is_full:
                        self._base = None
                    await self._roll_over()
            self._base = await run.commit()
            await run.tidy()
        except PreemptedError:
            await run.give_up()
            self._passing = None
            return
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            await self._note_failure(run, error, had_base=had_base)
        else:
            self._last, self._failures, self._error = run.record(), 0, None
            following = after_commit(self._policy.interval)
            self._next_due, self._reason = workflow.now() + following.wait, following.reason
        self._passing = None
        self._passes_of_run += 1
        await self._tell(None)

    async def _note_failure(self, run: ReversePass, error: FailureError, *, had_base: bool) -> None:
        failure = failure_of(error)
        workflow.logger.warning("a pass back to the site failed: %s", failure.kind.value)
        self._failures += 1
        following = after_failed_pass(failure.kind, self._failures, self._policy.interval, had_base=had_base)
        await run.give_up()
        if failure.kind is ErrorKind.FENCED and failure.number is not None:
            self._number = max(self._number, failure.number)
        if following.full:
            self._base = None
        self._error = health_error(failure, workflow.now(), retried=True)
        self._last = run.record(failure.detail)
        self._next_due, self._reason = workflow.now() + following.wait, following.reason

    async def _roll_over(self) -> None:
        """Continue as new, in the middle of a pass too."""
        if self._finish is not None and self._passing is None:
            return
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._finish is not None:
            return  # it came just now: this run ends it
        await self._lane.leave()
        carried = ReprotectCarried(
            number=self._number,
            passing=self._passing,
            last=self._last,
            failures_in_row=self._failures,
            next_due=self._next_due,
            information=self._information,
            nics_at_power_on=self._nics,
            host=self._lane.host,
            made=self._made,
            pristine=self._pristine,
        )
        workflow.continue_as_new(
            dataclasses.replace(
                self._start,
                policy=self._policy,
                base=self._base,
                start_target=False,
                profile=self._lane.profile,
                carried=carried,
            )
        )

    # --- the end, and reporting ---

    async def _undo(self) -> None:
        """Delete what it made in Azure and take the mark off the VM at the site; what cannot be, is said."""
        self._base = None
        try:
            await self._lane.leave()
            if self._passing is not None:
                await discard_pass(self._replication, self._passing)
            made = (*self._start.delete_first, *((self._start.instance_uuid,) if self._start.instance_uuid else ()))
            await undo_reverse(self._start.replication, self._start.target, made)
            self._undone = True
        except FailureError as error:
            left = f"Not everything of reprotect could be undone: {failure_of(error).detail}"
            self._information = (*self._information, left)

    def _report(self, losses: Losses | None = None, error: HealthError | None = None) -> JobReport:
        workflow.set_current_details("**ended**" if error is None else f"**failed**: {error.message}")
        reverse = ReverseReport(
            self._numbered_base(),
            self._last,
            losses,
            self._information,
            self._nics,
            self._undone,
            self._made,
            self._home,
        )
        return JobReport(workflow.info().workflow_id, reverse=reverse, error=error)

    def _numbered_base(self) -> ReverseBase | None:
        """Return the base with the number of the last pass: that of a failed one stands on the site's disks, too."""
        return dataclasses.replace(self._base, number=self._number) if self._base is not None else None

    async def _tell_whoever_adopts(self) -> None:
        """Tell a replication that runs again what it may not know: its commit record is older than the last pass."""
        while True:
            await workflow.wait_condition(lambda: self._entity_adopted)
            self._entity_adopted = False
            if self._told is not None:
                await self._signal_entity(self._told)
            elif self._start.carried is not None:
                await self._tell(None)

    async def _tell(self, run: ReversePass | None) -> None:
        """Tell the entity how far it is."""
        percent = run.percent if run is not None else 100.0
        what = "delta"
        if run is not None and run.is_full:
            what = "first copy" if run.is_first_copy else "full comparison"
        activity = f"{what} back to the site, {percent} %" if run is not None else "idle"
        workflow.set_current_details(f"**{activity}**")
        progress = ReverseProgress(
            job_id=workflow.info().workflow_id,
            percent=percent,
            activity=activity,
            base=self._numbered_base(),
            last=self._last,
            next_due=self._next_due if run is None else None,
            information=self._information,
            error=self._error,
            made=self._made,
        )
        await self._signal_entity(progress)
