"""Wire types: what people send (strict), and what workflows and activities pass each other (lenient).

Every field that was ever released stays; new ones come with a default: an old control worker and a new appliance meet.
Nothing here holds a secret, an extent or a bitmap.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import ConfigDict, StringConstraints

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import (
    CycleKind,
    DiskBase,
    ObjectRef,
    PlanRef,
    RecoveryPoint,
    ReplicatedDisk,
    ReplicationRef,
)
from deltaferry.model.states import HealthError, JobOutcome, MigrationState, ReplicationState

_STRICT = ConfigDict(extra="forbid")
_Word = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]

# --- what people send ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetProperties:
    """The VM to make in Azure. What is left out comes from the target's configuration, or from the source VM."""

    __pydantic_config__ = _STRICT

    vm_name: _Word | None = None
    size: _Word | None = None
    resource_group: _Word | None = None
    network: _Word | None = None
    subnet: _Word | None = None
    zone: _Word | None = None
    disk_sku: _Word | None = None
    license_type: _Word | None = None
    os_type: _Word | None = None
    """`Linux` or `Windows`; only needed where the source's guest type does not say."""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnableInput:
    """Start `EnableReplication` with this: `{"vm": "web-01", "site": "lon1"}` is enough."""

    __pydantic_config__ = _STRICT

    vm: _Word
    """The VM's name, or its instance UUID."""
    site: _Word
    target: TargetProperties = field(default_factory=TargetProperties)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an operator asks for something; kept in the history."""

    __pydantic_config__ = _STRICT

    reason: str = ""


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """How to migrate. With everything left out: shut the guest down, lose nothing, fail rather than power it off hard."""

    __pydantic_config__ = _STRICT

    keep_source_running: bool = False
    """True: what the guest writes after the last snapshot is not in the target."""
    shutdown_timeout: timedelta = timedelta(minutes=10)
    allow_power_off: bool = False
    """Power off hard when the guest has not shut down in time."""
    max_downtime: timedelta | None = None
    """Repeat on-demand deltas until the predicted downtime fits; end before the shutdown where it does not."""
    guard_source: bool = True
    """Annotate the source and disconnect its NICs at power-on, so that two masters do not write."""
    target: TargetProperties | None = None
    """Overrides single target properties for this migration."""
    expected_import: timedelta = timedelta(minutes=1)
    """What `max_downtime` reckons for importing the disks and starting the VM."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EndOptions:
    """How to stop, or to complete a migration."""

    __pydantic_config__ = _STRICT

    keep_change_tracking: bool = False
    """Leave CBT on although Deltaferry switched it on."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AdoptInput:
    """Start `AdoptReplications` with this, after the Temporal database was lost or an entity was terminated by mistake."""

    __pydantic_config__ = _STRICT

    site: _Word
    vm: _Word | None = None
    """Only the replication of this VM (name or instance UUID); all of the site's when left out."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a VM is now: what its cycles need slots of."""

    host: str = ""
    datastores: tuple[tuple[str, int], ...] = ()
    """(name, number of the VM's disks on it)."""


# --- the site and the prerequisites ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """What workflows need to know of a site's configuration."""

    installation: str
    site: str
    appliance: str
    target: str
    min_interval: timedelta
    max_interval: timedelta
    disks_per_appliance: int
    disks_per_host: int
    snapshots_per_datastore: int


@dataclass(frozen=True, slots=True)
class FindingView:
    """A finding of the prerequisite checks."""

    code: str
    severity: str
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SiteInput:
    """Name of a site."""

    site: str


@dataclass(frozen=True, slots=True)
class CheckSourceInput:
    """Find a VM and check it, reading only."""

    profile: SiteProfile
    vm: str
    target: TargetProperties


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """A VM that was found, and what the checks found."""

    instance_uuid: str
    vm_name: str
    disks: tuple[ReplicatedDisk, ...]
    generation: int
    os_type: str
    cpus: int
    memory_mib: int
    findings: tuple[FindingView, ...]
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class CheckTargetInput:
    """Check what the target needs, reading only."""

    target: str
    properties: TargetProperties
    default_vm_name: str
    replication: ReplicationRef | None = None


@dataclass(frozen=True, slots=True)
class CheckedTarget:
    """What the target's checks found."""

    findings: tuple[FindingView, ...]


@dataclass(frozen=True, slots=True)
class EnableResult:
    """How enabling ended: the id to send signals to, and the warnings."""

    workflow_id: str
    vm_name: str
    instance_uuid: str
    replication_id: str
    warnings: tuple[FindingView, ...] = ()


# --- the replication -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replication:
    """What stays the same through a replication's life."""

    ref: ReplicationRef
    vm_name: str
    profile: SiteProfile
    disks: tuple[ReplicatedDisk, ...]
    generation: int
    os_type: str


@dataclass(frozen=True, slots=True)
class CycleRecord:
    """A finished cycle: shown by the query `cycles`."""

    cycle_key: str
    kind: CycleKind
    started_at: datetime
    ended_at: datetime
    committed: bool
    duration: timedelta
    """From snapshot creation to commit or failure, without the wait for slots."""
    changed_bytes: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    segments_sent: int = 0
    segments_found: int = 0
    verified_blocks: int = 0
    changed_by_disk: tuple[tuple[int, int], ...] = ()
    decision: str = ""
    """What was decided after it, and why: when the next one starts, or what stopped it."""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class InitialSummary:
    """What the initial replication did, for one disk."""

    disk_key: int
    bytes_read: int
    bytes_sent: int
    verified_blocks: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last request that was refused: shown in status and details, since a signal cannot answer."""

    operation: str
    sentence: str
    at: datetime


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """How a migration went."""

    outcome: JobOutcome
    target_vm_id: str | None
    downtime_s: float | None
    """From the request to the guest to shut down until the target VM runs; None where the source kept running."""
    phases: tuple[tuple[str, float], ...] = ()
    """Name and seconds of each phase, in order."""
    information: tuple[str, ...] = ()
    source_shut_down: bool = False
    guarded_nics: tuple[int, ...] = ()
    error: HealthError | None = None


@dataclass(slots=True)
class EntityState:
    """The state of a `ReplicateVm`: carried over continue-as-new, and a published schema."""

    replication_state: ReplicationState = ReplicationState.INITIAL_QUEUED
    migration_state: MigrationState = MigrationState.NONE
    prepared: bool = False
    cbt_enabled_by_us: bool = False
    fence: int = 0
    cycles_minted: int = 0
    jobs_minted: int = 0
    bases: tuple[DiskBase, ...] = ()
    """Per disk, from where the next cycle goes on: set by a commit only."""
    point: RecoveryPoint | None = None
    """The latest recovery point, which is the last commit's."""
    dirty: tuple[tuple[int, PlanRef], ...] = ()
    """(disk key, plan) of each cycle since the last commit whose apply was begun: the next plan covers these too."""
    last_duration: timedelta = timedelta(0)
    next_due: datetime | None = None
    next_reason: str = ""
    failures_in_row: int = 0
    transient_failures: int = 0
    health: tuple[HealthError, ...] = ()
    cycles: tuple[CycleRecord, ...] = ()
    """The last cycles, newest last."""
    cycles_committed: int = 0
    delta_bytes_sent: int = 0
    verified_blocks: int = 0
    initial: tuple[InitialSummary, ...] = ()
    initial_bases: tuple[DiskBase, ...] = ()
    """Marks of an initial replication that has not finished (`DiskBase.copied_up_to_bytes`)."""
    paused: bool = False
    job_id: str | None = None
    """Workflow id of the running child, or of the last one."""
    migration: MigrationResult | None = None
    migrated_at: datetime | None = None
    migrate_options: MigrateOptions | None = None
    target: TargetProperties = field(default_factory=TargetProperties)
    profile: SiteProfile | None = None
    """The site's settings as last pushed by the arbiter."""
    placement: Placement = field(default_factory=Placement)
    last_refused: Refusal | None = None
    guarded_nics: tuple[int, ...] = ()
    """NICs of the source that a migration has disconnected at power-on."""
    source_off_by_us: bool = False
    """A migration has shut the source down, and nothing has started it again on our behalf."""
    end_options: EndOptions | None = None
    """How to stop or complete, once one of them was accepted."""


@dataclass(frozen=True, slots=True)
class ReplicateVmInput:
    """What `EnableReplication`, `AdoptReplications` or the replication's own previous run starts `ReplicateVm` with."""

    replication: Replication
    state: EntityState


@dataclass(frozen=True, slots=True)
class EndInput:
    """What a replication continues as new into `StopReplication` or `CompleteMigration` with."""

    replication: Replication
    state: EntityState
    options: EndOptions


@dataclass(frozen=True, slots=True)
class EndResult:
    """How a replication ended."""

    replication_id: str
    vm_name: str
    outcome: JobOutcome
    target_vm_id: str | None = None


# --- slots -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotsWanted:
    """A request to the arbiter; the same holder and request id again is the same request."""

    holder: str
    request_id: str
    kind: CycleKind
    appliance: str
    disks: int
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class SlotsGranted:
    """The arbiter's grant, with the site's settings of now."""

    request_id: str
    lease_id: str
    profile: SiteProfile


@dataclass(frozen=True, slots=True)
class SlotsReleased:
    """A holder gives back a lease, or takes back a request that it no longer waits for."""

    holder: str
    request_id: str


@dataclass(slots=True)
class SlotsState:
    """The arbiter's state over continue-as-new."""

    profile: SiteProfile
    waiting: tuple["WaitingRequest", ...] = ()
    leases: tuple["HeldLease", ...] = ()
    tickets: int = 0


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request in the arbiter's queue."""

    wanted: SlotsWanted
    ticket: int
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that a holder has."""

    wanted: SlotsWanted
    lease_id: str
    granted_at: datetime


# --- jobs and their reports ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InitialInput:
    """What the entity starts `InitialReplication` with."""

    entity_id: str
    replication: Replication
    fence: int
    cycle_number: int
    bases: tuple[DiskBase, ...]
    placement: Placement
    dirty: tuple[tuple[int, PlanRef], ...] = ()
    summaries: tuple[InitialSummary, ...] = ()
    resume: "InitialPass | None" = None


@dataclass(frozen=True, slots=True)
class InitialPass:
    """A pass whose snapshot is held over a continue-as-new: (disk key, next segment) of each disk."""

    cycle_key: str
    begun: "BegunCycle"
    next_segments: tuple[tuple[int, int], ...]
    started_at: datetime


@dataclass(frozen=True, slots=True)
class InitialProgress:
    """What the initial replication tells the entity while it runs, so that nothing is lost with it."""

    job_id: str
    fence: int
    cycle_number: int
    bases: tuple[DiskBase, ...]
    dirty: tuple[tuple[int, PlanRef], ...]
    summaries: tuple[InitialSummary, ...]
    queued: bool
    percent: float


@dataclass(frozen=True, slots=True)
class JobReport:
    """How a child of the entity ended."""

    job_id: str
    initial: "InitialResult | None" = None
    migration: MigrationResult | None = None
    error: HealthError | None = None


@dataclass(frozen=True, slots=True)
class InitialResult:
    """A finished initial replication, sealed and with its recovery point: the entity commits it."""

    fence: int
    cycle_number: int
    cycle_key: str
    bases: tuple[DiskBase, ...]
    point: RecoveryPoint
    summaries: tuple[InitialSummary, ...]
    started_at: datetime
    profile: SiteProfile
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class MigrateInput:
    """What the entity starts `MigrateVm` with."""

    entity_id: str
    replication: Replication
    options: MigrateOptions
    target: TargetProperties
    source_off_by_us: bool = False
    """True when an earlier attempt shut the source down: it must not be asked for a delta of a running guest again."""


@dataclass(frozen=True, slots=True)
class CycleWanted:
    """A child asks the entity for a cycle."""

    requester: str
    request_id: str
    kind: CycleKind


@dataclass(frozen=True, slots=True)
class CycleAnswer:
    """The entity's answer: the cycle's record, the seal it ended with, and the error where it failed."""

    request_id: str
    record: CycleRecord
    seal: int
    error: HealthError | None = None


# --- activities ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OnReplication:
    """An activity's input where the replication is all it needs."""

    replication: Replication


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """Whether we switched CBT on: then we switch it off at the end."""

    cbt_enabled_by_us: bool


@dataclass(frozen=True, slots=True)
class BeginCycleInput:
    """Pass the gates, take the snapshot, ask for the changed areas, store the plans."""

    replication: Replication
    cycle_key: str
    kind: CycleKind
    bases: tuple[DiskBase, ...]
    dirty: tuple[tuple[int, PlanRef], ...]


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk's plan in a begun cycle."""

    disk_key: int
    change_id: str
    plan: PlanRef


@dataclass(frozen=True, slots=True)
class BegunCycle:
    """A cycle whose snapshot is held."""

    snapshot: str
    taken_at: datetime
    powered_on: bool
    disks: tuple[PlannedDisk, ...]
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class ChunkDisk:
    """A disk's part of a chunk: segments from `first_segment` on."""

    disk_key: int
    plan: PlanRef
    first_segment: int


@dataclass(frozen=True, slots=True)
class TransferInput:
    """Send a chunk of a cycle's segments to the log store."""

    replication: Replication
    cycle_key: str
    snapshot: str
    disks: tuple[ChunkDisk, ...]


@dataclass(frozen=True, slots=True)
class SentChunk:
    """A disk's chunk that is in the log store, listed in a manifest."""

    disk_key: int
    first_segment: int
    next_segment: int
    position_bytes: int
    """Everything of the plan below this offset is in the log store by now; the capacity at the plan's end."""
    manifest: ObjectRef
    bytes_read: int
    bytes_sent: int
    segments_sent: int
    segments_found: int


@dataclass(frozen=True, slots=True)
class TransferResult:
    """One chunk for each disk that had something left."""

    chunks: tuple[SentChunk, ...]


@dataclass(frozen=True, slots=True)
class ApplyInput:
    """Apply chunks to the seed disks, as the writer of number `fence`."""

    replication: Replication
    cycle_key: str
    fence: int
    chunks: tuple[SentChunk, ...]
    initial: bool


@dataclass(frozen=True, slots=True)
class AppliedChunk:
    """A disk's chunk that was applied, and where the target's own account of it is."""

    disk_key: int
    first_segment: int
    next_segment: int
    manifest: ObjectRef
    covered: ObjectRef
    bytes_written: int
    bytes_cleared: int
    verified_blocks: int


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """One account for each chunk."""

    chunks: tuple[AppliedChunk, ...]


@dataclass(frozen=True, slots=True)
class VerifyChunksInput:
    """Both checks of spec §4 on chunks of an initial replication; then their log is deleted."""

    replication: Replication
    cycle_key: str
    plans: tuple[tuple[int, PlanRef], ...]
    chunks: tuple[AppliedChunk, ...]


@dataclass(frozen=True, slots=True)
class SealInput:
    """Seal all seeds, verify the whole cycle, bring the checksum maps up to date, take the recovery point."""

    replication: Replication
    cycle_key: str
    taken_at: datetime
    seal: int
    plans: tuple[tuple[int, PlanRef], ...]
    chunks: tuple[AppliedChunk, ...]
    verified_up_to: tuple[tuple[int, int], ...] = ()
    """(disk key, segment): segments below were verified chunk by chunk already (initial replication)."""


@dataclass(frozen=True, slots=True)
class SealedCycle:
    """All checks passed and the recovery point is taken: the caller may commit."""

    point: RecoveryPoint


@dataclass(frozen=True, slots=True)
class SettleInput:
    """After a commit: write the commit record, then delete what it makes superfluous."""

    replication: Replication
    state: EntityState
    record_only: bool = False
    """Only write the record: nothing was committed, but the state is one that `adopt` should know."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The source's power, and the keys of the NICs that connect at power-on."""

    powered_on: bool
    nics_at_power_on: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShutDownInput:
    """Shut the guest down and wait until it is off."""

    replication: Replication
    timeout: timedelta
    allow_power_off: bool


@dataclass(frozen=True, slots=True)
class ShutDownResult:
    """How the source came to be off."""

    forced: bool


@dataclass(frozen=True, slots=True)
class GuardInput:
    """Mark the source as migrated."""

    replication: Replication
    note: str
    disconnect_nics: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnguardInput:
    """Have NICs connect at power-on again, and power the source on if asked."""

    replication: Replication
    reconnect_nics: tuple[int, ...]
    power_on: bool


@dataclass(frozen=True, slots=True)
class ImportInput:
    """Import the sealed seed disks into managed disks."""

    replication: Replication
    target: TargetProperties
    seal: int
    job: str = ""
    """Which migration it is for: what another migration of the replication made is neither used nor deleted."""


@dataclass(frozen=True, slots=True)
class ImportedDisks:
    """(disk key, managed disk's resource id) of each disk."""

    disks: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class CreateVmInput:
    """Create the target VM from imported disks."""

    replication: Replication
    target: TargetProperties
    disks: tuple[tuple[int, str], ...]
    job: str = ""
    """Which migration it is for: what another migration of the replication made is neither used nor deleted."""


@dataclass(frozen=True, slots=True)
class CreatedVm:
    """The target VM, running."""

    resource_id: str


@dataclass(frozen=True, slots=True)
class DeleteTargetInput:
    """Delete the target VM and disks that a failed migration made."""

    replication: Replication
    target: TargetProperties
    job: str = ""
    """Which migration it is for: what another migration of the replication made is neither used nor deleted."""


@dataclass(frozen=True, slots=True)
class CleanSourceInput:
    """Remove everything of ours from the source VM."""

    replication: Replication
    disable_change_tracking: bool
    add_note: str = ""


@dataclass(frozen=True, slots=True)
class ArchiveInput:
    """Store the history of a run in the gateway store."""

    replication: Replication
    workflow_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class CommitRecords:
    """What the gateway store holds of a site's replications."""

    records: tuple[ReplicateVmInput, ...]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdoptResult:
    """Which entities were started again, and which were not, each with the reason."""

    adopted: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


# --- what queries answer ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatusView:
    """The answer of the query `status`."""

    vm: str
    site: str
    instance_uuid: str
    replication_id: str
    replication_state: str
    migration_state: str
    activity: str
    """What it does now: queued, a step, or idle until when and why."""
    percent: float | None
    last_recovery_point: datetime | None
    next_cycle_at: datetime | None
    predicted_downtime_s: float | None
    cycles_committed: int
    delta_bytes_sent: int
    verified_blocks: int
    initial: tuple[InitialSummary, ...]
    job_id: str | None
    health: tuple[HealthError, ...]
    allowed: tuple[str, ...]
    last_refused: Refusal | None
    migration: MigrationResult | None
    migrated_at: datetime | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskView:
    """The answer of the query `disks`, for one disk."""

    key: int
    label: str
    capacity_bytes: int
    is_boot: bool
    copied_bytes: int
    change_id: str | None
    changed_bytes_of_last_cycles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FailureView:
    """A failure as workflows pass it on inside."""

    kind: ErrorKind
    detail: str
    number: int | None = None
