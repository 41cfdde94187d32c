"""The real activity names with small stand-ins behind them: what the command line sees is workflows, not disks."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.blackouts import Blackouts
from activities.progress import StepProgress
from deltaferry.model.replication import ObjectRef, PlanRef, RecoveryPoint, ReplicatedDisk, Store
from deltaferry.model.units import GRANULE, MIB
from workflows.messages.group import TakenMember, TakenTogether, TogetherInput
from workflows.messages.replication_state import ReplicateVmInput
from workflows.messages.site import (
    BlackoutsAnswer,
    BlackoutsInput,
    CheckedSource,
    CheckedTarget,
    CheckSourceInput,
    CheckTargetInput,
    FindingView,
    OffHoursAnswer,
    OffHoursInput,
    SiteInput,
    SiteProfile,
)
from workflows.messages.step import (
    AppliedChunk,
    ApplyInput,
    ApplyResult,
    ArchiveInput,
    BeginCycleInput,
    BeginResyncInput,
    BegunCycle,
    BegunResync,
    CheckedSeed,
    CheckSeedInput,
    CheckSeedResult,
    CleanSourceInput,
    CommitRecords,
    CommitRecordsInput,
    ComparedDisk,
    CompareInput,
    CompareResult,
    CreatedVm,
    CreateVmInput,
    DisksNow,
    GuardInput,
    ImportedDisks,
    ImportInput,
    OnReplication,
    PlannedDisk,
    PlannedResync,
    PlanResyncInput,
    PreparedSource,
    SealedCycle,
    SealInput,
    SentChunk,
    SettledCycle,
    SettleInput,
    ShutDownInput,
    ShutDownResult,
    SourceStatus,
    SurveyedDisk,
    TransferInput,
    TransferResult,
    UnguardInput,
    VerifyChunksInput,
)

SITES = ("lab", "other")
TARGET = "azure"
DISKS = (
    ReplicatedDisk(2000, "6000c29a", "Hard disk 1", 8 * MIB, True),
    ReplicatedDisk(2001, "6000c29b", "Hard disk 2", 4 * MIB, False),
)
WARNING = FindingView("static-address", "warning", "The guest has a static address.", "Let the guest use DHCP.")
FINDING = FindingView("snapshots-present", "error", "The VM has the snapshot before-upgrade.", "Remove it.")


def instance_uuid(site: str, vm: str) -> str:
    """Return the UUID that a VM of these sites has."""
    return f"50210000-0000-4000-8000-{abs(hash((site, vm))) % 16**12:012x}"


def profile_of(site: str) -> SiteProfile:
    """Return a site with the hour between cycles that sites have."""
    return SiteProfile("tests", site, f"appliance-{site}", TARGET, timedelta(hours=1), timedelta(hours=12), 52, 8, 15)


def _plan(size_bytes: int) -> PlanRef:
    return PlanRef(ObjectRef(Store.GATEWAY, "df-gw/plan", "1"), 1 if size_bytes else 0, size_bytes, size_bytes)


class StandIns:
    """What the workers do. A test may hold transfers with `transfers`, and take the last commit record from `settled`."""

    def __init__(self) -> None:
        self.transfers = asyncio.Event()
        self.transfers.set()
        self.records: list[ReplicateVmInput] = []
        self.settled: dict[str, ReplicateVmInput] = {}
        self.fail_prepare: set[str] = set()
        self.damaged: set[str] = set()
        """VMs whose first seed has one granule that is not what was committed, until a resync."""
        self.changed: set[str] = set()
        """VMs whose first disk has one granule that the seed has not, until a resync."""
        self.off_hours = False
        """Whether resyncs begin by themselves."""

    @activity.defn(name="list_blackouts")
    async def list_blackouts(self, request: BlackoutsInput) -> BlackoutsAnswer:
        return Blackouts().list_blackouts(request)

    @activity.defn(name="describe_site")
    async def describe_site(self, request: SiteInput) -> SiteProfile:
        if request.site not in SITES:
            raise ApplicationError(f"There is no site {request.site}.", type="BadInput", non_retryable=True)
        return profile_of(request.site)

    @activity.defn(name="check_source")
    async def check_source(self, request: CheckSourceInput) -> CheckedSource:
        if request.vm.startswith("missing"):
            raise ApplicationError(f"lab has no VM {request.vm}.", type="VmNotFound", non_retryable=True)
        findings = (WARNING, FINDING) if request.vm.startswith("snapshotted") else (WARNING,)
        return CheckedSource(instance_uuid(request.profile.site, request.vm), request.vm, DISKS, 2, "Linux", 2, 2048, findings)

    @activity.defn(name="check_target")
    async def check_target(self, request: CheckTargetInput) -> CheckedTarget:
        return CheckedTarget(())

    @activity.defn(name="prepare_target")
    async def prepare_target(self, request: OnReplication) -> None:
        if request.replication.vm_name in self.fail_prepare:
            raise ApplicationError("The account dflog refused the key.", type="AzurePermission", non_retryable=True)

    @activity.defn(name="prepare_source")
    async def prepare_source(self, request: OnReplication) -> PreparedSource:
        return PreparedSource(True)

    @activity.defn(name="begin_cycle")
    async def begin_cycle(self, request: BeginCycleInput) -> BegunCycle:
        disks = tuple(
            PlannedDisk(disk.key, f"52ab/{request.cycle_key}", PlanRef(ObjectRef(Store.GATEWAY, "df-gw/plan", "1"), 1, MIB, MIB))
            for disk in request.replication.disks
        )
        return BegunCycle("snapshot-1", datetime.now(UTC), True, disks)

    @activity.defn(name="take_together")
    async def take_together(self, request: TogetherInput) -> TakenTogether:
        return TakenTogether(tuple(TakenMember(member.cycle_key, datetime.now(UTC)) for member in request.members))

    @activity.defn(name="next_off_hours")
    async def next_off_hours(self, request: OffHoursInput) -> OffHoursAnswer:
        return OffHoursAnswer(request.now if self.off_hours else None, None, self.off_hours)

    @activity.defn(name="read_disks")
    async def read_disks(self, request: OnReplication) -> DisksNow:
        return DisksNow(request.replication.disks, "")

    @activity.defn(name="begin_resync")
    async def begin_resync(self, request: BeginResyncInput) -> BegunResync:
        disks = tuple(
            SurveyedDisk(disk.key, f"52ab/{request.cycle_key}", _plan(0), _plan(disk.capacity_bytes))
            for disk in request.replication.disks
        )
        return BegunResync("snapshot-1", datetime.now(UTC), True, disks)

    @activity.defn(name="check_seed")
    async def check_seed(self, request: CheckSeedInput) -> CheckSeedResult:
        found = (GRANULE,) if request.replication.vm_name in self.damaged else ()
        check = ObjectRef(Store.GATEWAY, "df-gw/seed-check", "1")
        first = request.replication.disks[0].key
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        return CheckSeedResult(
            tuple(
                CheckedSeed(disk.disk_key, size := capacities[disk.disk_key], check, size, GRANULE * len(here), here)
                for disk in request.disks
                for here in [found if disk.disk_key == first else ()]
            )
        )

    @activity.defn(name="compare_source")
    async def compare_source(self, request: CompareInput) -> CompareResult:
        vm, first = request.replication.vm_name, request.replication.disks[0].key
        size = GRANULE if vm in self.damaged | self.changed else 0
        return CompareResult(
            tuple(
                ComparedDisk(disk.disk_key, disk.end_bytes, _plan(size if disk.disk_key == first else 0), disk.end_bytes)
                for disk in request.disks
            )
        )

    @activity.defn(name="plan_resync")
    async def plan_resync(self, request: PlanResyncInput) -> PlannedResync:
        vm = request.replication.vm_name
        self.damaged.discard(vm)
        self.changed.discard(vm)
        return PlannedResync(tuple((key, _plan(sum(plan.covered_bytes for plan in plans))) for key, plans in request.disks))

    @activity.defn(name="transfer")
    async def transfer(self, request: TransferInput) -> TransferResult:
        while not self.transfers.is_set():
            activity.heartbeat(StepProgress("sending changed blocks", 3 * MIB, 12 * MIB, MIB, time.time() - 2.0))
            await asyncio.sleep(0.1)
        manifest = ObjectRef(Store.GATEWAY, "df-gw/manifest", "1")
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        return TransferResult(
            tuple(
                SentChunk(disk.disk_key, 0, 1, capacities[disk.disk_key], manifest, MIB, MIB // 2, 1, 0) for disk in request.disks
            )
        )

    @activity.defn(name="apply")
    async def apply(self, request: ApplyInput) -> ApplyResult:
        covered = ObjectRef(Store.GATEWAY, "df-gw/covered", "1")
        return ApplyResult(
            tuple(AppliedChunk(chunk.disk_key, 0, 1, chunk.manifest, covered, MIB, 0, 16) for chunk in request.chunks)
        )

    @activity.defn(name="verify_chunks")
    async def verify_chunks(self, request: VerifyChunksInput) -> None:
        return

    @activity.defn(name="seal_cycle")
    async def seal_cycle(self, request: SealInput) -> SealedCycle:
        snapshots = tuple((disk.key, "2026-01-01T00:00:00Z") for disk in request.replication.disks)
        return SealedCycle(RecoveryPoint(request.cycle_key, request.taken_at, request.seal, snapshots))

    @activity.defn(name="settle_cycle")
    async def settle_cycle(self, request: SettleInput) -> SettledCycle:
        self.settled[request.replication.ref.replication_id] = ReplicateVmInput(request.replication, request.state)
        return SettledCycle()

    @activity.defn(name="discard_logs")
    async def discard_logs(self, request: OnReplication) -> None:
        return

    @activity.defn(name="release_snapshot")
    async def release_snapshot(self, request: OnReplication) -> None:
        return

    @activity.defn(name="archive_history")
    async def archive_history(self, request: ArchiveInput) -> None:
        return

    @activity.defn(name="read_commit_records")
    async def read_commit_records(self, request: CommitRecordsInput) -> CommitRecords:
        site = request.profile.site
        return CommitRecords(
            tuple(
                record
                for record in self.records
                if record.replication.ref.site == site and request.vm in (None, record.replication.vm_name)
            )
        )

    @activity.defn(name="clean_source")
    async def clean_source(self, request: CleanSourceInput) -> None:
        return

    @activity.defn(name="clean_target")
    async def clean_target(self, request: OnReplication) -> None:
        return

    @activity.defn(name="read_power")
    async def read_power(self, request: OnReplication) -> SourceStatus:
        return SourceStatus(True, (4000,))

    @activity.defn(name="shut_down_source")
    async def shut_down_source(self, request: ShutDownInput) -> ShutDownResult:
        return ShutDownResult(False)

    @activity.defn(name="guard_source")
    async def guard_source(self, request: GuardInput) -> None:
        return

    @activity.defn(name="unguard_source")
    async def unguard_source(self, request: UnguardInput) -> None:
        return

    @activity.defn(name="import_disks")
    async def import_disks(self, request: ImportInput) -> ImportedDisks:
        return ImportedDisks(tuple((disk.key, f"/disks/{disk.key}") for disk in request.replication.disks))

    @activity.defn(name="create_target_vm")
    async def create_target_vm(self, request: CreateVmInput) -> CreatedVm:
        return CreatedVm(f"/virtualMachines/{request.target.vm_name or request.replication.vm_name}")
