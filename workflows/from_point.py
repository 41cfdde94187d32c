"""Making a VM in Azure from a recovery point: what a test and an unplanned failover share.

The point is pinned before it is copied, and the copies outlive it: the managed disks are imported from them, and they are
deleted when that is done. What was made before a failure is deleted again.
"""

from temporalio import workflow
from temporalio.exceptions import FailureError

from activities.recovery_points import RecoveryPointSteps
from activities.target_vm import TargetVmActivities
from deltaferry.model.recovery_points import PointCopy, RecoveryPointRecord
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import HealthError, JobOutcome
from deltaferry.planning.phrases import size_text
from workflows import names
from workflows.messages.dr import CopyPointInput, DeleteCopiesInput, ImportCopiesInput, PinPointInput, UnpinPointInput
from workflows.messages.dr_state import MadeInAzure
from workflows.messages.job import FromPointInput, JobReport, MadeVm, point_job, test_job
from workflows.messages.replication_state import Replication
from workflows.messages.step import CreateVmInput, DeleteTargetInput
from workflows.policies import AZURE, PREPARE
from workflows.reporting import ReportingJob, in_phase
from workflows.steps import failure_of, perform


class FromPoint(ReportingJob):
    """A job that makes a VM from a recovery point."""

    def __init__(self, start: FromPointInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._start = start
        self._replication = start.replication
        self._holder = workflow.info().workflow_id
        self._job = test_job(start.number) if start.isolated_from is not None else point_job(start.number)
        self._point: RecoveryPointRecord | None = None
        self._phases: list[tuple[str, float]] = []
        self._information: list[str] = []

    async def _make(self) -> str:
        """Pin the point, copy it, import the copies, create the VM; return the VM's id."""
        self._point = await in_phase(self._phases, "pin the recovery point", self._pin())
        copies = await in_phase(self._phases, "copy the recovery point's disks", self._copy(self._point))
        disks = await in_phase(self._phases, "import disks", self._import(self._point, copies))
        await in_phase(self._phases, "delete the copies", delete_copies(self._replication, self._job))
        vm = await in_phase(self._phases, "create VM", self._create(disks))
        if not self._start.keep_pin:
            await unpin(self._replication, self._holder)
        return vm

    async def _pin(self) -> RecoveryPointRecord:
        start = self._start
        request = PinPointInput(self._replication, start.choice, self._holder, start.reason or self._holder, workflow.now())
        pinned = await perform(
            RecoveryPointSteps.pin_point,
            request,
            queue=names.apply_queue(self._replication.ref.target),
            limits=PREPARE,
            summary="choose and pin the recovery point",
            kind=CycleKind.FINAL,
        )
        return pinned.point

    async def _copy(self, point: RecoveryPointRecord) -> tuple[PointCopy, ...]:
        size = size_text(sum(disk.capacity_bytes for disk in point.disks))
        copied = await perform(
            RecoveryPointSteps.copy_point,
            CopyPointInput(self._replication, point.cycle_key, self._holder, self._job),
            queue=names.azure_queue(self._replication.ref.target),
            limits=AZURE,
            summary=f"copy {len(point.disks)} disks, {size}, inside the storage account",
            kind=CycleKind.FINAL,
        )
        return copied.copies

    async def _import(self, point: RecoveryPointRecord, copies: tuple[PointCopy, ...]) -> tuple[tuple[int, str], ...]:
        start = self._start
        imported = await perform(
            TargetVmActivities.import_copies,
            ImportCopiesInput(self._replication, start.target, self._job, point, copies, start.isolated_from),
            queue=names.azure_queue(self._replication.ref.target),
            limits=AZURE,
            summary=f"import {len(copies)} disks",
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

    async def _undo(self) -> bool:
        """Delete what was made before the failure; return whether something is left."""
        keys = tuple(disk.disk_key for disk in self._point.disks) if self._point is not None else ()
        try:
            await delete_made(self._replication, MadeInAzure(self._job, self._start.target, keys))
            await delete_copies(self._replication, self._job)
            await unpin(self._replication, self._holder)
        except FailureError as error:
            self._information.append(f"What was made could not all be deleted: {failure_of(error).detail}")
            return True
        return False

    def _report(
        self,
        vm: str | None,
        error: HealthError | None = None,
        *,
        left_over: bool = False,
        source_shut_down: bool = False,
        guarded_nics: tuple[int, ...] = (),
    ) -> JobReport:
        """Return the report, after showing it."""
        if error is not None:
            outcome = JobOutcome.FAILED
        else:
            outcome = JobOutcome.COMPLETED_WITH_INFORMATION if self._information else JobOutcome.SUCCEEDED
        made = MadeVm(
            outcome=outcome,
            vm_id=vm,
            point=self._point,
            phases=tuple(self._phases),
            information=tuple(self._information),
            source_shut_down=source_shut_down,
            guarded_nics=guarded_nics,
            left_over=left_over,
        )
        lines = [f"**{outcome.value}**", ""]
        lines += [f"> {error.message} {error.remedy}", ""] if error is not None else []
        lines += [f"- {name}: {seconds:.1f} s" for name, seconds in made.phases]
        lines += ["", *(f"> {sentence}" for sentence in made.information)]
        workflow.set_current_details("\n".join(lines))
        return JobReport(workflow.info().workflow_id, error=error, made=made)


async def delete_made(replication: Replication, made: MadeInAzure) -> None:
    """Delete the VM, NIC and disks that a job of a test or a failover has made; no-op for what is gone."""
    await perform(
        TargetVmActivities.delete_target,
        DeleteTargetInput(replication, made.target, made.job, made.disk_keys),
        queue=names.azure_queue(replication.ref.target),
        limits=AZURE,
        summary="delete VM, NIC and disks",
    )


async def delete_all_made(replication: Replication, made: MadeInAzure) -> None:
    """Delete what a job has made, and the copies of a point that one which was ended from outside has left."""
    await delete_made(replication, made)
    await delete_copies(replication, made.job)


async def delete_copies(replication: Replication, job: str) -> None:
    """Delete what a job has copied of a point: it is imported, or not needed."""
    await perform(
        RecoveryPointSteps.delete_copies,
        DeleteCopiesInput(replication, job),
        queue=names.azure_queue(replication.ref.target),
        limits=AZURE,
        summary="delete the copies of the recovery point",
    )


async def unpin(replication: Replication, holder: str) -> None:
    """Let the retention have the points again that a holder has pinned."""
    await perform(
        RecoveryPointSteps.unpin_point,
        UnpinPointInput(replication, holder),
        queue=names.apply_queue(replication.ref.target),
        limits=PREPARE,
        summary="unpin the recovery point",
    )
