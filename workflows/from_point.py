"""Making a VM in Azure from a recovery point: what a test and an unplanned failover share.

The point is pinned before it is copied, and the copies outlive it: the managed disks are imported from them, and they are
deleted when that is done. What was made before a failure is deleted again.
"""

from collections.abc import Awaitable
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError

from activities.recovery_points import RecoveryPointSteps
from activities.target_vm import TargetVmActivities
from deltaferry.model.recovery_points import PointCopy, RecoveryPointRecord
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import HealthError, JobOutcome
from deltaferry.planning.phrases import size_text
from workflows import names
from workflows.dr_messages import CopyPointInput, DeleteCopiesInput, ImportCopiesInput, PinPointInput, UnpinPointInput
from workflows.job_messages import FromPointInput, JobReport, MadeVm, point_job
from workflows.policies import AZURE, PREPARE
from workflows.replication_state import Replication
from workflows.reporting import ReportingJob
from workflows.step_messages import CreateVmInput, DeleteTargetInput
from workflows.steps import failure_of, perform

T = TypeVar("T")


class FromPoint(ReportingJob):
    """A job that makes a VM from a recovery point."""

    def __init__(self, start: FromPointInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._start = start
        self._replication = start.replication
        self._holder = workflow.info().workflow_id
        self._job = point_job(start.number)
        self._point: RecoveryPointRecord | None = None
        self._phases: list[tuple[str, float]] = []
        self._information: list[str] = []

    async def _make(self) -> str:
        """Pin the point, copy it, import the copies, create the VM; return the VM's id."""
        self._point = await self._phase("pin the recovery point", self._pin())
        copies = await self._phase("copy the recovery point's disks", self._copy(self._point))
        disks = await self._phase("import disks", self._import(self._point, copies))
        await self._phase("delete the copies", self._delete_copies())
        vm = await self._phase("create VM", self._create(disks))
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

    async def _delete_copies(self) -> None:
        await perform(
            RecoveryPointSteps.delete_copies,
            DeleteCopiesInput(self._replication, self._job),
            queue=names.azure_queue(self._replication.ref.target),
            limits=AZURE,
            summary="delete the copies, which are imported",
        )

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
            await delete_made(self._replication, self._start, self._job, keys)
            await self._delete_copies()
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

    async def _phase(self, name: str, work: Awaitable[T]) -> T:
        """Carry out a phase and note how long it took."""
        workflow.set_current_details(f"**{name}** since {workflow.now():%H:%M:%S} UTC")
        begun = workflow.now()
        try:
            return await work
        finally:
            self._phases.append((name, round((workflow.now() - begun).total_seconds(), 3)))


async def delete_made(replication: Replication, start: FromPointInput, job: str, disk_keys: tuple[int, ...]) -> None:
    """Delete the VM, NIC and disks that a job with a recovery point has made."""
    await perform(
        TargetVmActivities.delete_target,
        DeleteTargetInput(replication, start.target, job, disk_keys),
        queue=names.azure_queue(replication.ref.target),
        limits=AZURE,
        summary="delete VM, NIC and disks",
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
