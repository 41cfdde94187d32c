"""Stand-ins for every activity, under the real names, on worlds of which there is one for each site.

They behave as the real sides do where workflows can tell the difference: one snapshot per VM, change ids that move on with
each of them, a number on the seeds that only rises, commit records that adopt finds again.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from temporalio import activity

from activities.blackouts import Blackouts
from deltaferry.model.errors import ErrorKind
from deltaferry.model.inventory import InventorySummary
from deltaferry.model.replication import CycleKind, ObjectRef, PlanRef, RecoveryPoint, Store
from deltaferry.model.units import GRANULE
from tests.workflows.group_stand_ins import GroupStandIns
from tests.workflows.recovery_stand_ins import RecoveryStandIns
from tests.workflows.reverse_stand_ins import ReverseStandIns
from tests.workflows.world import NICS, PLACEMENT, compared, listed, plan_of, require_free, scripted_error, stored
from workflows.messages.audit import AuditResult, AuditStep, Looked
from workflows.messages.replication_state import ReplicateVmInput
from workflows.messages.site import (
    AppliancesInput,
    BlackoutsAnswer,
    BlackoutsInput,
    CheckedSource,
    CheckedTarget,
    CheckSourceInput,
    CheckTargetInput,
    LiveAppliances,
    OffHoursAnswer,
    OffHoursInput,
    SiteHolders,
    SiteInput,
    SiteProfile,
    SnapshotsLeft,
    SnapshotsLeftInput,
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
    CompareInput,
    CompareResult,
    CreatedVm,
    CreateVmInput,
    DeleteTargetInput,
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


class StandIns(RecoveryStandIns, ReverseStandIns, GroupStandIns):
    """The activities."""

    # --- site, prerequisites, records ---

    @activity.defn
    async def describe_site(self, request: SiteInput) -> SiteProfile:
        world = self._site(request.site)
        await world.enter("describe_site", "", request)
        return world.profile

    @activity.defn
    async def take_inventory(self, profile: SiteProfile) -> InventorySummary:
        world = self._site(profile.site)
        await world.enter("take_inventory", "", profile)
        ref = ObjectRef(Store.GATEWAY, f"df-sites/lab/{profile.site}/inventory", "1")
        return InventorySummary(
            site=profile.site, read_at=datetime.now(UTC), seconds=1.5, ref=ref, size_bytes=2048, vms=300, powered_on=290, replicated=12,
            tracked=13, with_snapshots=4, hosts=4, datastores=2, disks=610, capacity_bytes=10 * 1024**4, expected_bytes=4 * 1024**4,
            unreadable=1,
        )  # fmt: skip

    @activity.defn
    async def check_source(self, request: CheckSourceInput) -> CheckedSource:
        world = self._site(request.profile.site)
        await world.enter("check_source", request.vm, request)
        if request.vm.startswith("no-such"):
            raise scripted_error(ErrorKind.VM_NOT_FOUND, f"The site {request.profile.site} has no VM {request.vm!r}.", None)
        return CheckedSource(
            instance_uuid=f"uuid-of-{request.vm}",
            vm_name=request.vm,
            disks=world.disks,
            generation=2,
            os_type="Linux",
            cpus=2,
            memory_mib=4096,
            findings=world.source_findings,
            placement=PLACEMENT,
        )

    @activity.defn
    async def check_target(self, request: CheckTargetInput) -> CheckedTarget:
        for world in self.worlds.values():  # a target serves many sites: the input does not say which one asks
            if any(call.activity == "check_source" and call.vm == request.default_vm_name for call in world.calls):
                await world.enter("check_target", request.default_vm_name, request)
                return CheckedTarget(world.target_findings)
        return CheckedTarget(())

    @activity.defn
    async def next_off_hours(self, request: OffHoursInput) -> OffHoursAnswer:
        world = self._site(request.profile.site)
        await world.enter("next_off_hours", "", request)
        start = request.now + world.off_hours if world.off_hours is not None else None
        end = start + timedelta(hours=8) if start is not None else None
        return OffHoursAnswer(start, end, world.off_hours == timedelta(0))

    @activity.defn
    async def survey_target(self, request: AuditStep) -> Looked:
        return await self._looked("survey_target", request)

    @activity.defn
    async def survey_source(self, request: AuditStep) -> Looked:
        return await self._looked("survey_source", request)

    @activity.defn
    async def judge_site(self, request: AuditStep) -> AuditResult:
        await self._looked("judge_site", request)
        return self._audited(request, repaired=0)

    @activity.defn
    async def repair_source(self, request: AuditStep) -> AuditResult:
        await self._looked("repair_source", request)
        return self._audited(request, repaired=0)

    @activity.defn
    async def repair_target(self, request: AuditStep) -> AuditResult:
        await self._looked("repair_target", request)
        return self._audited(request, repaired=1)

    async def _looked(self, step: str, request: AuditStep) -> Looked:
        world = self._site(request.profile.site)
        await world.enter(step, "", request)
        return Looked(1)

    def _audited(self, request: AuditStep, *, repaired: int) -> AuditResult:
        """Return what an audit found that found one thing which may be repaired."""
        return AuditResult(
            site=request.profile.site,
            dry_run=request.dry_run,
            read_at=datetime.now(UTC),
            found=1,
            repaired=repaired,
            to_repair=1 - repaired,
            failed=0,
            left=1 - repaired,
            findings=(),
            report=stored(request.audit_key),
        )

    @activity.defn
    async def list_holders(self, request: SiteInput) -> SiteHolders:
        world = self._site(request.site)
        await world.enter("list_holders", "", request)
        return SiteHolders(world.holders)

    @activity.defn
    async def list_blackouts(self, request: BlackoutsInput) -> BlackoutsAnswer:
        """Answer as the real one does: it knows nothing but a clock's rules."""
        return Blackouts().list_blackouts(request)

    @activity.defn
    async def live_appliances(self, request: AppliancesInput) -> LiveAppliances:
        live = {name for world in self.worlds.values() for name in world.live_appliances}
        return LiveAppliances(tuple(name for name in request.appliances if name in live))

    @activity.defn
    async def snapshots_left(self, request: SnapshotsLeftInput) -> SnapshotsLeft:
        world = self._site(request.profile.site)
        await world.enter("snapshots_left", "", request)
        return SnapshotsLeft(world.snapshots_left)

    @activity.defn
    async def read_commit_records(self, request: CommitRecordsInput) -> CommitRecords:
        world = self._site(request.profile.site)
        await world.enter("read_commit_records", "", request)
        wanted = {
            key: record
            for key, record in sorted(world.records.items())
            if request.vm in (None, record.replication.vm_name, record.replication.ref.instance_uuid)
        }
        page = [key for key in wanted if key > request.after][: world.page_records]
        more = bool(page) and page[-1] != max(wanted)
        known = [record.state.profile for record in wanted.values() if record.state.profile is not None]
        return CommitRecords(
            tuple(wanted[key] for key in page),
            () if more else ("container-9: nothing was committed yet",),
            page[-1] if more else "",
            max(known, key=lambda profile: profile.revision, default=None) if not request.after else None,
        )

    @activity.defn
    async def archive_history(self, request: ArchiveInput) -> None:
        world = await self._on("archive_history", request.replication, request)
        world.archived.append(request.run_id)

    # --- source ---

    @activity.defn
    async def prepare_source(self, request: OnReplication) -> PreparedSource:
        await self._on("prepare_source", request.replication, request)
        return PreparedSource(True)

    @activity.defn
    async def begin_cycle(self, request: BeginCycleInput) -> BegunCycle:
        world = await self._on("begin_cycle", request.replication, request)
        if world.elsewhere is not None and request.granted not in (None, world.elsewhere):
            return BegunCycle("", datetime.now(UTC), world.powered_on, (), world.elsewhere, moved=True)
        without = world.without_snapshot and request.kind is CycleKind.FINAL and not world.powered_on
        vm = request.replication.vm_name
        snapshot, epoch = ("", 999) if without else world.together.get(request.cycle_key) or world.take_snapshot(vm)
        segments = world.segments.get(request.kind, 1)
        planned = tuple(
            PlannedDisk(
                base.disk_key,
                f"52-{base.disk_key}/{epoch}",
                PlanRef(stored(f"{request.cycle_key}/{base.disk_key}/plan"), segments, 4 << 20, 5 << 20),
            )
            for base in request.bases
        )
        if request.kind is CycleKind.RESYNC:
            world.will_mend(request.cycle_key)
        dirty = [plan.ref.key for _, plan in request.dirty]
        world.ledger.began(request.cycle_key, epoch, [base.change_id for base in request.bases], dirty)
        place = world.elsewhere or PLACEMENT
        quiesced = world.quiesced if request.quiesce is not None else None
        return BegunCycle(
            snapshot, datetime.now(UTC), world.powered_on, planned, place, without_snapshot=without, quiesce=quiesced
        )

    @activity.defn
    async def begin_resync(self, request: BeginResyncInput) -> BegunResync:
        world = await self._on("begin_resync", request.replication, request)
        snapshot, epoch = world.take_snapshot(request.replication.vm_name)
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        found = {key for key, _ in request.dirty}
        world.ledger.began_resync(request.cycle_key, epoch, [plan.ref.key for _, plan in request.dirty])
        surveyed = tuple(
            SurveyedDisk(
                disk_key=base.disk_key,
                change_id=f"52-{base.disk_key}/{epoch}",
                known=plan_of(
                    request.cycle_key, base.disk_key, "known", bool(base.copied_up_to_bytes) + (base.disk_key in found)
                ),
                survey=plan_of(request.cycle_key, base.disk_key, "survey", base.copied_up_to_bytes < capacities[base.disk_key]),
            )
            for base in request.bases
        )
        return BegunResync(snapshot, datetime.now(UTC), world.powered_on, surveyed, PLACEMENT)

    @activity.defn
    async def read_disks(self, request: OnReplication) -> DisksNow:
        world = await self._on("read_disks", request.replication, request)
        return DisksNow(world.disks if world.disks_changed else request.replication.disks, world.disks_changed)

    @activity.defn
    async def compare_source(self, request: CompareInput) -> CompareResult:
        world = await self._on("compare_source", request.replication, request)
        return CompareResult(tuple(compared(world, request.cycle_key, disk) for disk in request.disks))

    @activity.defn
    async def reset_tracking(self, request: OnReplication) -> None:
        await self._on("reset_tracking", request.replication, request)

    @activity.defn
    async def look_for_room(self, request: OnReplication) -> None:
        await self._on("look_for_room", request.replication, request)

    @activity.defn
    async def release_snapshot(self, request: OnReplication) -> None:
        world = await self._on("release_snapshot", request.replication, request)
        world.snapshots.pop(request.replication.vm_name, None)

    @activity.defn
    async def transfer(self, request: TransferInput) -> TransferResult:
        await self._on("transfer", request.replication, request)
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        return TransferResult(
            tuple(
                SentChunk(
                    disk_key=disk.disk_key,
                    first_segment=disk.first_segment,
                    next_segment=disk.first_segment + 1,
                    position_bytes=capacities[disk.disk_key] * (disk.first_segment + 1) // disk.plan.segments,
                    manifest=stored(f"{request.cycle_key}/{disk.disk_key}/manifest-{disk.first_segment}"),
                    bytes_read=1000,
                    bytes_sent=100,
                    segments_sent=1,
                    segments_found=0,
                )
                for disk in request.disks
            )
        )

    @activity.defn
    async def clean_source(self, request: CleanSourceInput) -> None:
        world = await self._on("clean_source", request.replication, request)
        world.snapshots.pop(request.replication.vm_name, None)

    # --- the source's power ---

    @activity.defn
    async def read_power(self, request: OnReplication) -> SourceStatus:
        world = await self._on("read_power", request.replication, request)
        return SourceStatus(world.powered_on, NICS)

    @activity.defn
    async def shut_down_source(self, request: ShutDownInput) -> ShutDownResult:
        world = await self._on("shut_down_source", request.replication, request)
        world.powered_on = False
        return ShutDownResult(False)

    @activity.defn
    async def guard_source(self, request: GuardInput) -> None:
        await self._on("guard_source", request.replication, request)

    @activity.defn
    async def unguard_source(self, request: UnguardInput) -> None:
        world = await self._on("unguard_source", request.replication, request)
        if request.power_on:
            world.ledger.powered_on_at_the_site(request.replication.vm_name)
        world.powered_on = world.powered_on or request.power_on

    # --- target ---

    @activity.defn
    async def prepare_target(self, request: OnReplication) -> None:
        await self._on("prepare_target", request.replication, request)

    @activity.defn
    async def apply(self, request: ApplyInput) -> ApplyResult:
        world = await self._on("apply", request.replication, request)
        world.write_seed(request.replication, request.fence)
        world.ledger.applied(request.cycle_key)
        return ApplyResult(
            tuple(
                AppliedChunk(
                    disk_key=chunk.disk_key,
                    first_segment=chunk.first_segment,
                    next_segment=chunk.next_segment,
                    manifest=chunk.manifest,
                    covered=stored(f"{request.cycle_key}/{chunk.disk_key}/covered-{chunk.first_segment}"),
                    bytes_written=1000,
                    bytes_cleared=0,
                    verified_blocks=3,
                )
                for chunk in request.chunks
            )
        )

    @activity.defn
    async def check_seed(self, request: CheckSeedInput) -> CheckSeedResult:
        world = await self._on("check_seed", request.replication, request)
        if request.fence is not None:
            world.write_seed(request.replication, request.fence)
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        checked = []
        for part in request.disks:
            end = min(part.position_bytes + world.check_bytes, capacities[part.disk_key])
            damaged = world.known_to_differ(part.disk_key, part.position_bytes, end, source_too=False)
            name = f"{request.cycle_key}/{part.disk_key}/seed-check-{part.position_bytes}{world.ballast}"
            size = end - part.position_bytes
            checked.append(CheckedSeed(part.disk_key, end, stored(name), size, len(damaged) * GRANULE, damaged[:8]))
        return CheckSeedResult(tuple(checked))

    @activity.defn
    async def plan_resync(self, request: PlanResyncInput) -> PlannedResync:
        world = await self._on("plan_resync", request.replication, request)
        world.will_mend(request.cycle_key)
        segments = world.segments.get(CycleKind.RESYNC, 1)
        return PlannedResync(
            tuple(
                (key, plan_of(request.cycle_key, key, "plan", sum(plan.segments for plan in plans), segments))
                for key, plans in request.disks
            )
        )

    @activity.defn
    async def verify_chunks(self, request: VerifyChunksInput) -> None:
        await self._on("verify_chunks", request.replication, request)

    @activity.defn
    async def seal_cycle(self, request: SealInput) -> SealedCycle:
        world = await self._on("seal_cycle", request.replication, request)
        world.write_seed(request.replication, request.seal)
        world.sealed(request.cycle_key)
        snapshots = tuple((disk.key, f"blob-snapshot-{request.seal}") for disk in request.replication.disks)
        world.ledger.sealed(request.cycle_key, [snapshot for _, snapshot in snapshots])
        return SealedCycle(RecoveryPoint(request.cycle_key, request.taken_at, request.seal, snapshots))

    @activity.defn
    async def settle_cycle(self, request: SettleInput) -> SettledCycle:
        world = await self._on("settle_cycle", request.replication, request)
        world.records[request.replication.ref.replication_id] = ReplicateVmInput(request.replication, replace(request.state))
        point = request.state.point
        if request.record_only or point is None:
            return SettledCycle()
        world.points = [*(known for known in world.points if known.cycle_key != point.cycle_key), point]
        return SettledCycle(listed(world.points))

    @activity.defn
    async def discard_logs(self, request: OnReplication) -> None:
        await self._on("discard_logs", request.replication, request)

    @activity.defn
    async def clean_target(self, request: OnReplication) -> None:
        world = await self._on("clean_target", request.replication, request)
        world.records.pop(request.replication.ref.replication_id, None)
        if not world.records:
            world.points, world.pins, world.copies = [], {}, {}

    # --- Azure ---

    @activity.defn
    async def import_disks(self, request: ImportInput) -> ImportedDisks:
        world = await self._on("import_disks", request.replication, request)
        name = request.target.vm_name or request.replication.vm_name
        require_free(world, request.job, name)
        world.vms[request.job] = name
        world.ledger.imported(request.job, name)
        return ImportedDisks(tuple((disk.key, f"/disks/{disk.key}") for disk in request.replication.disks))

    @activity.defn
    async def create_target_vm(self, request: CreateVmInput) -> CreatedVm:
        world = await self._on("create_target_vm", request.replication, request)
        world.ledger.created(request.job)
        return CreatedVm(f"/virtualMachines/{request.target.vm_name or request.replication.vm_name}")

    @activity.defn
    async def delete_target(self, request: DeleteTargetInput) -> None:
        world = await self._on("delete_target", request.replication, request)
        world.vms.pop(request.job, None)
        world.ledger.cloud.pop(request.job, None)
