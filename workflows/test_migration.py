"""`TestMigration` and `CleanUpTest`: a VM is tried out in Azure while its replication goes on, and deleted again (spec §7)."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.states import HealthError, JobOutcome
    from workflows import names
    from workflows.from_point import FromPoint, delete_copies, delete_made, unpin
    from workflows.messages.job import CleanUpInput, FromPointInput, JobReport, MadeVm
    from workflows.reporting import ReportingJob, report_once
    from workflows.steps import failure_of, health_error, require_carried


@workflow.defn(name=names.TEST_MIGRATION)
class TestMigration(FromPoint):
    """Makes a VM in an isolated network from copies of a recovery point."""

    @workflow.init
    def __init__(self, start: FromPointInput | None = None) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: FromPointInput | None = None) -> None:
        """Make the VM and report; after a failure nothing half-made stays."""
        start = require_carried(start)
        try:
            vm = await self._make()
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                cancelled = HealthError(
                    ErrorKind.INTERRUPTED,
                    "The test was cancelled by an operator.",
                    "Somebody cancelled the workflow.",
                    "Send test_migrate again.",
                    False,
                    workflow.now(),
                )
                await report_once(start.entity_id, self._report(None, cancelled, left_over=await self._undo()))
                raise
            failed = health_error(failure_of(error), workflow.now(), retried=False)
            await self.deliver(start.entity_id, self._report(None, failed, left_over=await self._undo()))
            return
        await self.deliver(start.entity_id, self._report(vm))


@workflow.defn(name=names.CLEAN_UP_TEST)
class CleanUpTest(ReportingJob):
    """Deletes what a test has made: VM, NIC, disks, copies and pins."""

    @workflow.run
    async def run(self, start: CleanUpInput | None = None) -> None:
        """Delete and report."""
        start = require_carried(start)
        replication = start.replication
        try:
            await delete_made(replication, start.made)
            await delete_copies(replication, start.made.job)
            await unpin(replication, start.test_id)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            failed = health_error(failure_of(error), workflow.now(), retried=False)
            workflow.set_current_details(f"**Failed:** {failed.message} {failed.remedy}")
            report = JobReport(workflow.info().workflow_id, error=failed, made=MadeVm(JobOutcome.FAILED))
            await self.deliver(start.entity_id, report)
            return
        workflow.set_current_details("All that the test made is deleted.")
        await self.deliver(start.entity_id, JobReport(workflow.info().workflow_id, made=MadeVm(JobOutcome.SUCCEEDED)))
