"""Stand-ins for every activity, under the real names: one class whose worlds, one per site, tests script and read.

A world remembers every call with its input, fails what it is told to fail, holds what it is told to hold, and behaves as
the real sides do where workflows can tell the difference: one snapshot per VM, change ids that move on with each of them,
a number on the seeds that only rises, commit records that adopt finds again.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.blackouts import Blackouts
from deltaferry.model.errors import ErrorKind
from deltaferry.model.inventory import InventorySummary
from deltaferry.model.recovery_points import PointCopy, RecoveryPointRecord
from deltaferry.model.replication import CycleKind, ObjectRef, PlanRef, RecoveryPoint, ReplicatedDisk, Store
from deltaferry.model.units import GRANULE
from tests.workflows.recovery_stand_ins import RecoveryStandIns, listed
from workflows.audit_messages import AuditResult, AuditStep, Looked
from workflows.replication_state import ReplicateVmInput, Replication
from workflows.site_messages import (
    AppliancesInput,
    BlackoutsAnswer,
    BlackoutsInput,
    CheckedSource,
    CheckedTarget,
    CheckSourceInput,
    CheckTargetInput,
    FindingView,
    LiveAppliances,
    OffHoursAnswer,
    OffHoursInput,
    Placement,
    SiteHolders,
    SiteInput,
    SiteProfile,
    SnapshotsLeft,
    SnapshotsLeftInput,
)
from workflows.step_messages import (
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
    CompareDisk,
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

APPLIANCE = "appliance-of-the-tests"
TARGET = "target-of-the-tests"
NICS = (4000, 4001)
DISKS = (
    ReplicatedDisk(2000, "6000c290-boot", "Hard disk 1", 1 << 30, True),
    ReplicatedDisk(2001, "6000c290-data", "Hard disk 2", (512 << 20) + 37 * 512, False),
)

_BEAT_S = 0.1
"""How often a held activity heartbeats: a cancellation reaches it by that alone."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One activity execution: retries are calls of their own."""

    activity: str
    vm: str
    request: Any


@dataclass(slots=True)
class Hold:
    """Keeps the calls of an activity inside until they are released."""

    activity: str
    vm: str | None
    deaf: bool = False
    """Without a heartbeat, so that no cancellation reaches it."""
    skip: int = 0
    """So many calls pass before."""
    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self) -> None:
        """Wait until a call is held."""
        async with asyncio.timeout(120):
            await self._reached.wait()

    def release(self) -> None:
        """Let go, for good."""
        self._released.set()

    async def pass_through(self) -> None:
        """Wait inside an activity until released, or cancelled."""
        self._reached.set()
        while not self._released.is_set():
            if not self.deaf:
                activity.heartbeat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_S):
                    await self._released.wait()


@dataclass(slots=True)
class Failure:
    """A scripted failure; `skip` calls pass before it."""

    kind: ErrorKind
    message: str
    number: int | None
    skip: int
    datastores: tuple[str, ...] = ()


@dataclass(slots=True)
class World:
    """What the activities of one site find, and what they did."""

    profile: SiteProfile
    calls: list[Call] = field(default_factory=list)
    disks: tuple[ReplicatedDisk, ...] = DISKS
    disks_changed: str = ""
    """What happened to the disks since they were enabled; where it says something, `disks` are those to go on with."""
    source_findings: tuple[FindingView, ...] = ()
    target_findings: tuple[FindingView, ...] = ()
    segments: dict[CycleKind, int] = field(default_factory=dict)
    """Segments of each disk's plan, one chunk each; one where a kind is not named."""
    differing: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Disk key to the offsets of the source's granules that are not as the checksum map says; a sealed resync mends them."""
    damaged: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Disk key to the offsets of the seed's granules that are not as the checksum map says; a sealed resync mends them."""
    check_bytes: int = 1 << 40
    """How much of a disk one check of the seeds gets through."""
    compare_bytes: int = 1 << 40
    """How much of a disk one comparison of the source gets through."""
    ballast: str = ""
    """Lengthens the names of what checks store, so that a history grows quickly."""
    off_hours: timedelta | None = None
    """How long after the instant asked for the off-hours window starts; None: the site has none, and resyncs wait for repair."""
    holders: tuple[str, ...] = ()
    """Workflows that run when an arbiter starts afresh."""
    live_appliances: tuple[str, ...] = ()
    """Appliances that answer again when asked."""
    snapshots_left: int = 0
    """On the VM of a holder that does not run any more."""
    points: list[RecoveryPointRecord] = field(default_factory=list)
    """The recovery points, oldest first."""
    pins: dict[str, str] = field(default_factory=dict)
    """Holder to the cycle key of the point that it has pinned."""
    copies: dict[str, tuple[PointCopy, ...]] = field(default_factory=dict)
    """Job to its copies of a point's disks."""
    vms: dict[str, str] = field(default_factory=dict)
    """Job to the name of the VM that it has made from a recovery point."""
    elsewhere: Placement | None = None
    """Where the VMs have been moved to."""
    powered_on: bool = True
    without_snapshot: bool = False
    """Final cycles of a source that is off get no snapshot, and read without one."""
    snapshots: dict[str, str] = field(default_factory=dict)
    """VM name to its held snapshot."""
    most_snapshots: int = 0
    """The most VMs that held a snapshot at a time."""
    seed_number: Counter[str] = field(default_factory=Counter)
    """Replication id to the number on its seed disks."""
    records: dict[str, ReplicateVmInput] = field(default_factory=dict)
    """Replication id to its commit record."""
    page_records: int = 1000
    """So many commit records are read at a time."""
    archived: list[str] = field(default_factory=list)
    """Run ids whose histories were archived."""
    delays: dict[str, Callable[[Any], timedelta]] = field(default_factory=dict)
    """Activity to how long it takes in the server's time: its first attempt ends at once, the second comes after that."""
    _failures: dict[str, deque[Failure]] = field(default_factory=lambda: defaultdict(deque))
    _holds: list[Hold] = field(default_factory=list)
    _epoch: int = 0
    _mending: set[str] = field(default_factory=set)
    """Keys of the resync passes that have planned what to send."""

    # --- scripting ---

    def fail(
        self,
        step: str,
        kind: ErrorKind,
        *,
        times: int = 1,
        skip: int = 0,
        number: int | None = None,
        message: str = "scripted by the test",
        datastores: tuple[str, ...] = (),
    ) -> None:
        """Fail the next calls of an activity, for good each: as if its own retries were used up. `skip` calls pass first.

        `datastores` are those that a full datastore's error names.
        """
        self._failures[step].extend(
            Failure(kind, message, number, skip if index == 0 else 0, datastores) for index in range(times)
        )

    def hold(self, step: str, vm: str | None = None, *, deaf: bool = False, skip: int = 0) -> Hold:
        """Hold the calls of an activity (of one VM, if given) from now on until released; a deaf one hears no cancellation.

        `skip` calls pass first.
        """
        hold = Hold(step, vm, deaf, skip)
        self._holds.append(hold)
        return hold

    def let_go(self) -> None:
        """Release every hold: nothing of a test that is over stays inside an activity."""
        for hold in self._holds:
            hold.release()

    # --- reading ---

    def count(self, step: str) -> int:
        """Return how often an activity was called."""
        return sum(call.activity == step for call in self.calls)

    def inputs(self, step: str, kind: type[T]) -> list[T]:
        """Return the inputs of an activity's calls, in order."""
        found = [call.request for call in self.calls if call.activity == step]
        assert all(isinstance(request, kind) for request in found)
        return found

    def order(self, steps: Iterable[str]) -> list[str]:
        """Return the names of the calls of the given activities, in order."""
        wanted = set(steps)
        return [call.activity for call in self.calls if call.activity in wanted]

    # --- what activities do ---

    async def enter(self, step: str, vm: str, request: object) -> None:
        """Note a call, then hold or fail it as scripted."""
        self.calls.append(Call(step, vm, request))
        for hold in self._holds:
            if hold.activity == step and hold.vm in (None, vm):
                if hold.skip:
                    hold.skip -= 1
                else:
                    await hold.pass_through()
        failures = self._failures[step]
        if failures and failures[0].skip == 0:
            failure = failures.popleft()
            raise _error(failure.kind, failure.message, failure.number, failure.datastores)
        if failures:
            failures[0].skip -= 1
        if step in self.delays and activity.info().attempt == 1:
            raise ApplicationError(
                "takes its time", next_retry_delay=self.delays[step](request), category=ApplicationErrorCategory.BENIGN
            )

    def take_snapshot(self, vm: str) -> tuple[str, int]:
        """Return a new snapshot of a VM and the epoch of its change ids."""
        self._epoch += 1
        self.snapshots[vm] = f"snapshot-{self._epoch}"
        self.most_snapshots = max(self.most_snapshots, len(self.snapshots))
        return self.snapshots[vm], self._epoch

    def known_to_differ(self, disk_key: int, begin: int, end: int, *, source_too: bool) -> tuple[int, ...]:
        """Return the offsets of a part of a disk at which the seed, or else the source too, is not as the checksum map says."""
        known = {*self.damaged.get(disk_key, ()), *(self.differing.get(disk_key, ()) if source_too else ())}
        return tuple(sorted(offset for offset in known if begin <= offset < end))

    def will_mend(self, cycle_key: str) -> None:
        """Note that a pass sends what differs."""
        self._mending.add(cycle_key)

    def sealed(self, cycle_key: str) -> None:
        """Mend what a resync pass has sent, now that it is sealed."""
        if cycle_key in self._mending:
            self.differing, self.damaged = {}, {}

    def write_seed(self, replication: Replication, number: int) -> None:
        """Set the number on the seeds, as action `max` does; refuse a writer whose number is behind."""
        key = replication.ref.replication_id
        if number < self.seed_number[key]:
            raise _error(ErrorKind.FENCED, f"the seed carries {self.seed_number[key]}", self.seed_number[key])
        self.seed_number[key] = number


def _error(kind: ErrorKind, message: str, number: int | None, datastores: tuple[str, ...] = ()) -> ApplicationError:
    details = (number, list(datastores)) if datastores else (number,)
    return ApplicationError(message, *details, type=kind.value, non_retryable=True, category=ApplicationErrorCategory.BENIGN)


def new_profile(
    site: str,
    *,
    min_interval: timedelta = timedelta(hours=1),
    disks_per_appliance: int = 52,
    scrub_every: timedelta = timedelta(0),
) -> SiteProfile:
    """Return a site's profile with the defaults of the spec."""
    return SiteProfile(
        installation="tests",
        site=site,
        appliance=APPLIANCE,
        target=TARGET,
        min_interval=min_interval,
        max_interval=timedelta(hours=12),
        disks_per_appliance=disks_per_appliance,
        disks_per_host=8,
        snapshots_per_datastore=15,
        scrub_every=scrub_every,
    )


def _object(key: str) -> ObjectRef:
    return ObjectRef(Store.GATEWAY, f"container/{key}", "etag")


def _plan(cycle_key: str, disk_key: int, what: str, granules: int, segments: int = 1) -> PlanRef:
    """Return a plan of so many granules; without any it has no segment."""
    size = granules * GRANULE
    return PlanRef(_object(f"{cycle_key}/{disk_key}/{what}"), segments if granules else 0, size, size)


def _compared(world: World, cycle_key: str, disk: CompareDisk) -> ComparedDisk:
    end = min(disk.position_bytes + world.compare_bytes, disk.end_bytes)
    differing = world.known_to_differ(disk.disk_key, disk.position_bytes, end, source_too=True)
    plan = _plan(cycle_key, disk.disk_key, f"differs-{disk.position_bytes}", len(differing))
    return ComparedDisk(disk.disk_key, end, plan, end - disk.position_bytes)


class StandIns(RecoveryStandIns):
    """The activities. Which world a call belongs to is decided by its site."""

    def __init__(self) -> None:
        self.worlds: dict[str, World] = {}

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities for a worker."""
        defined = (
            getattr(self, name)
            for kind in (StandIns, RecoveryStandIns)
            for name, function in vars(kind).items()
            if hasattr(function, "__temporal_activity_definition")
        )
        return list(defined)

    def _site(self, site: str) -> World:
        if site not in self.worlds:
            raise _error(ErrorKind.BAD_INPUT, f"There is no site {site!r}.", None)
        return self.worlds[site]

    async def _on(self, step: str, replication: Replication, request: object) -> World:
        world = self._site(replication.ref.site)
        await world.enter(step, replication.vm_name, request)
        return world

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
            raise _error(ErrorKind.VM_NOT_FOUND, f"The site {request.profile.site} has no VM {request.vm!r}.", None)
        return CheckedSource(
            instance_uuid=f"uuid-of-{request.vm}",
            vm_name=request.vm,
            disks=world.disks,
            generation=2,
            os_type="Linux",
            cpus=2,
            memory_mib=4096,
            findings=world.source_findings,
            placement=_PLACEMENT,
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
            report=_object(request.audit_key),
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
        snapshot, epoch = ("", 999) if without else world.take_snapshot(request.replication.vm_name)
        segments = world.segments.get(request.kind, 1)
        planned = tuple(
            PlannedDisk(
                base.disk_key,
                f"52-{base.disk_key}/{epoch}",
                PlanRef(_object(f"{request.cycle_key}/{base.disk_key}/plan"), segments, 4 << 20, 5 << 20),
            )
            for base in request.bases
        )
        if request.kind is CycleKind.RESYNC:
            world.will_mend(request.cycle_key)
        place = world.elsewhere or _PLACEMENT
        return BegunCycle(snapshot, datetime.now(UTC), world.powered_on, planned, place, without_snapshot=without)

    @activity.defn
    async def begin_resync(self, request: BeginResyncInput) -> BegunResync:
        world = await self._on("begin_resync", request.replication, request)
        snapshot, epoch = world.take_snapshot(request.replication.vm_name)
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        found = {key for key, _ in request.dirty}
        surveyed = tuple(
            SurveyedDisk(
                disk_key=base.disk_key,
                change_id=f"52-{base.disk_key}/{epoch}",
                known=_plan(request.cycle_key, base.disk_key, "known", bool(base.copied_up_to_bytes) + (base.disk_key in found)),
                survey=_plan(request.cycle_key, base.disk_key, "survey", base.copied_up_to_bytes < capacities[base.disk_key]),
            )
            for base in request.bases
        )
        return BegunResync(snapshot, datetime.now(UTC), world.powered_on, surveyed, _PLACEMENT)

    @activity.defn
    async def read_disks(self, request: OnReplication) -> DisksNow:
        world = await self._on("read_disks", request.replication, request)
        return DisksNow(world.disks if world.disks_changed else request.replication.disks, world.disks_changed)

    @activity.defn
    async def compare_source(self, request: CompareInput) -> CompareResult:
        world = await self._on("compare_source", request.replication, request)
        return CompareResult(tuple(_compared(world, request.cycle_key, disk) for disk in request.disks))

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
                    manifest=_object(f"{request.cycle_key}/{disk.disk_key}/manifest-{disk.first_segment}"),
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
        world.powered_on = world.powered_on or request.power_on

    # --- target ---

    @activity.defn
    async def prepare_target(self, request: OnReplication) -> None:
        await self._on("prepare_target", request.replication, request)

    @activity.defn
    async def apply(self, request: ApplyInput) -> ApplyResult:
        world = await self._on("apply", request.replication, request)
        world.write_seed(request.replication, request.fence)
        return ApplyResult(
            tuple(
                AppliedChunk(
                    disk_key=chunk.disk_key,
                    first_segment=chunk.first_segment,
                    next_segment=chunk.next_segment,
                    manifest=chunk.manifest,
                    covered=_object(f"{request.cycle_key}/{chunk.disk_key}/covered-{chunk.first_segment}"),
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
            checked.append(CheckedSeed(part.disk_key, end, _object(name), size, len(damaged) * GRANULE, damaged[:8]))
        return CheckSeedResult(tuple(checked))

    @activity.defn
    async def plan_resync(self, request: PlanResyncInput) -> PlannedResync:
        world = await self._on("plan_resync", request.replication, request)
        world.will_mend(request.cycle_key)
        segments = world.segments.get(CycleKind.RESYNC, 1)
        return PlannedResync(
            tuple(
                (key, _plan(request.cycle_key, key, "plan", sum(plan.segments for plan in plans), segments))
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

    # --- Azure ---

    @activity.defn
    async def import_disks(self, request: ImportInput) -> ImportedDisks:
        await self._on("import_disks", request.replication, request)
        return ImportedDisks(tuple((disk.key, f"/disks/{disk.key}") for disk in request.replication.disks))

    @activity.defn
    async def create_target_vm(self, request: CreateVmInput) -> CreatedVm:
        await self._on("create_target_vm", request.replication, request)
        return CreatedVm(f"/virtualMachines/{request.target.vm_name or request.replication.vm_name}")

    @activity.defn
    async def delete_target(self, request: DeleteTargetInput) -> None:
        world = await self._on("delete_target", request.replication, request)
        world.vms.pop(request.job, None)


_PLACEMENT = Placement("esx-01", (("datastore-01", 2),))
