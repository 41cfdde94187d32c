"""`MigrateVm`: the planned cutover, spec §7. It only asks the entity for cycles; it never runs one itself."""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.source_power import SourcePower
    from activities.target_vm import TargetVmActivities
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.replication import CycleKind
    from deltaferry.model.states import HealthError, JobOutcome
    from deltaferry.planning.phrases import duration_text
    from workflows import names
    from workflows.entity.presenting import GUEST_NOT_PREPARED, predicted_downtime
    from workflows.messages.job import CycleAnswer, CycleWanted, JobReport, MigrateInput
    from workflows.messages.replication_state import CycleRecord, MigrationResult
    from workflows.messages.step import (
        CreateVmInput,
        DeleteTargetInput,
        GuardInput,
        ImportInput,
        OnReplication,
        ShutDownInput,
        SourceStatus,
    )
    from workflows.policies import ASK, AZURE, POWER
    from workflows.reporting import ReportingJob, in_phase, report_once
    from workflows.steps import cancellation_kept, failure_of, health_error, perform, require_carried


_MAX_ON_DEMAND = 5
"""On-demand deltas before `max_downtime` is found not to be reachable."""


class CycleFailedError(Exception):
    """The entity's cycle failed; what a person reads of it is with it."""

    def __init__(self, error: HealthError) -> None:
        super().__init__(error.message)
        self.error = error


@workflow.defn(name=names.MIGRATE_VM)
class MigrateVm(ReportingJob):
    """On-demand delta, shutdown, final delta, disks, NICs and VM; each phase with its time."""

    @workflow.init
    def __init__(self, start: MigrateInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._start = start
        self._replication = start.replication
        self._options = start.options
        self._answers: dict[str, CycleAnswer] = {}
        self._records: list[CycleRecord] = []
        self._phases: list[tuple[str, float]] = []
        self._shut_down = start.source_off_by_us
        self._shut_down_at: datetime | None = None
        self._job = start.tag or workflow.info().first_execution_run_id
        self._made_in_azure = False
        self._information: list[str] = []

    @workflow.signal(name=names.CYCLE_FINISHED, description="Sent by the replication: a cycle that was asked for has ended.")
    def cycle_finished(self, answer: CycleAnswer) -> None:
        """Take the entity's answer."""
        self._answers[answer.request_id] = answer

    @workflow.run
    async def run(self, start: MigrateInput | None = None) -> None:
        """Migrate and report; after a failure nothing half-made stays in Azure, and replication is intact."""
        require_carried(start)
        try:
            result = await self._migrate()
        except CycleFailedError as failed:
            result = await self._failed(failed.error)
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                cancelled = HealthError(
                    ErrorKind.INTERRUPTED,
                    "The migration was cancelled by an operator.",
                    "Somebody cancelled the workflow.",
                    "Send migrate_now again, or rollback if the source was shut down.",
                    False,
                    workflow.now(),
                )
                await report_once(self._start.entity_id, self._shown(await self._failed(cancelled)))
                raise
            result = await self._failed(health_error(failure_of(error), workflow.now(), retried=False))
        await self.deliver(self._start.entity_id, self._shown(result))

    async def _migrate(self) -> MigrationResult:
        source = await self._read_source()
        if source.powered_on:
            await self._catch_up()
            if not self._options.keep_source_running:
                await self._shut_down_source()
        final = await self._final_delta(source)
        disks = await in_phase(self._phases, "import disks", self._import(final.seal))
        vm = await in_phase(self._phases, "create VM", self._create(disks))
        downtime_s = (workflow.now() - self._shut_down_at).total_seconds() if self._shut_down_at else None
        if self._options.guard_source and not self._options.keep_source_running:
            await in_phase(self._phases, "guard source", self._guard(source))
        if self._options.keep_source_running and source.powered_on:
            self._information.append("The source kept running: what it wrote after the last snapshot is not in the target VM.")
        outcome = JobOutcome.COMPLETED_WITH_INFORMATION if self._information else JobOutcome.SUCCEEDED
        return MigrationResult(
            outcome=outcome,
            target_vm_id=vm,
            downtime_s=downtime_s,
            phases=tuple(self._phases),
            information=tuple(self._information),
            source_shut_down=self._shut_down,
            note=GUEST_NOT_PREPARED,
            guarded_nics=source.nics_at_power_on if self._options.guard_source and not self._options.keep_source_running else (),
        )

    async def _read_source(self) -> SourceStatus:
        return await perform(
            SourcePower.read_power,
            OnReplication(self._replication),
            queue=names.vsphere_queue(self._replication.ref.site),
            limits=ASK,
            summary="is the source running?",
        )

    async def _catch_up(self) -> None:
        """On-demand deltas with the source running: one, or as many as the promised downtime needs."""
        limit = self._options.max_downtime
        for attempt in range(1, _MAX_ON_DEMAND + 1):
            await in_phase(self._phases, f"on-demand delta {attempt}", self._cycle(CycleKind.ON_DEMAND))
            if limit is None:
                return
            predicted = predicted_downtime(tuple(self._records), self._options.expected_import)
            if predicted is not None and predicted <= limit:
                return
        raise CycleFailedError(
            HealthError(
                ErrorKind.OPERATION_REFUSED,
                f"The predicted downtime is {duration_text(predicted) if predicted else 'unknown'}; allowed are {duration_text(limit or timedelta(0))}.",
                "The guest changes data faster than the final delta can bring over in that time.",
                "Migrate at a quieter time, or allow a longer max_downtime. The source was not shut down.",
                False,
                workflow.now(),
            )
        )

    async def _shut_down_source(self) -> None:
        self._shut_down_at = workflow.now()
        self._shut_down = True
        result = await in_phase(
            self._phases,
            "shut down source",
            perform(
                SourcePower.shut_down_source,
                ShutDownInput(self._replication, self._options.shutdown_timeout, self._options.allow_power_off),
                queue=names.vsphere_queue(self._replication.ref.site),
                limits=POWER,
                summary="shut the guest down",
                kind=CycleKind.FINAL,
            ),
        )
        if result.forced:
            self._information.append("The guest did not shut down in time and was powered off.")

    async def _final_delta(self, source: SourceStatus) -> CycleAnswer:
        """One more delta: of the source that is off now, or of one that keeps running."""
        if source.powered_on and self._options.keep_source_running:
            return await in_phase(self._phases, "last delta", self._cycle(CycleKind.ON_DEMAND))
        if self._shut_down_at is None:
            self._shut_down_at = workflow.now()
        final = await in_phase(self._phases, "final delta", self._cycle(CycleKind.FINAL))
        if final.record.without_snapshot:
            self._information.append(
                "vSphere took no snapshot of the source VM, so its disks were read as they are; consolidate them in vCenter."
            )
        return final

    async def _cycle(self, kind: CycleKind) -> CycleAnswer:
        """Ask the entity for a cycle and wait until it has committed. Ask again after it was adopted: it knows nothing of this."""
        request_id = str(workflow.uuid4())
        wanted = CycleWanted(workflow.info().workflow_id, request_id, kind)
        while request_id not in self._answers:
            self._entity_adopted = False
            try:
                async with cancellation_kept():
                    await workflow.get_external_workflow_handle(self._start.entity_id).signal(names.CYCLE_REQUESTED, wanted)
            except FailureError:
                workflow.logger.warning("the replication does not run; this migration waits until it is adopted")
            await workflow.wait_condition(lambda: request_id in self._answers or self._entity_adopted)
        answer = self._answers[request_id]
        if answer.error is not None:
            raise CycleFailedError(answer.error)
        self._records.append(answer.record)
        return answer

    async def _import(self, seal: int) -> tuple[tuple[int, str], ...]:
        self._made_in_azure = True
        imported = await perform(
            TargetVmActivities.import_disks,
            ImportInput(self._replication, self._start.target, seal, self._job),
            queue=names.azure_queue(self._replication.ref.target),
            limits=AZURE,
            summary=f"import {len(self._replication.disks)} seed disks",
            kind=CycleKind.FINAL,
        )
        return imported.disks

    async def _create(self, disks: tuple[tuple[int, str], ...]) -> str:
        created = await perform(
            TargetVmActivities.create_target_vm,
            CreateVmInput(self._replication, self._start.target, disks, self._job),
            queue=names.azure_queue(self._replication.ref.target),
            limits=AZURE,
            summary="create NIC and VM",
            kind=CycleKind.FINAL,
        )
        return created.resource_id

    async def _guard(self, source: SourceStatus) -> None:
        note = (
            f"Migrated to Azure by Deltaferry on {workflow.now():%Y-%m-%d %H:%M} UTC"
            f" (replication {self._replication.ref.replication_id}). Its NICs do not connect at power-on."
        )
        await perform(
            SourcePower.guard_source,
            GuardInput(self._replication, note, source.nics_at_power_on),
            queue=names.vsphere_queue(self._replication.ref.site),
            limits=POWER,
            summary="guard the source",
        )

    async def _failed(self, error: HealthError) -> MigrationResult:
        """Delete what was made in Azure; say what failed."""
        if self._made_in_azure:
            try:
                await perform(
                    TargetVmActivities.delete_target,
                    DeleteTargetInput(self._replication, self._start.target, self._job),
                    queue=names.azure_queue(self._replication.ref.target),
                    limits=AZURE,
                    summary="delete what the failed migration made",
                )
            except FailureError as left:
                detail = failure_of(left).detail
                self._information.append(f"What the failed migration made in Azure could not all be deleted: {detail}")
        workflow.logger.warning("migration failed: %s", error.kind.value)
        return MigrationResult(
            outcome=JobOutcome.FAILED,
            target_vm_id=None,
            downtime_s=None,
            phases=tuple(self._phases),
            information=tuple(self._information),
            source_shut_down=self._shut_down,
            error=error,
        )

    def _shown(self, result: MigrationResult) -> JobReport:
        """Return the report, after showing the result."""
        lines = [f"**{result.outcome.value}**", "", "| phase | seconds |", "|---|---|"]
        lines += [f"| {name} | {seconds:.1f} |" for name, seconds in result.phases]
        workflow.set_current_details("\n".join([*lines, "", result.note]))
        return JobReport(workflow.info().workflow_id, migration=result)
