"""A replication's constants and its state: carried over continue-as-new, written into the commit record, a published schema."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind, DiskBase, PlanRef, RecoveryPoint, ReplicatedDisk, ReplicationRef
from deltaferry.model.states import HealthError, JobOutcome, MigrationState, ReplicationState
from workflows.operator_input import EndOptions, MigrateOptions, TargetProperties
from workflows.site_messages import Placement, SiteProfile


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
    note: str = ""
    """What an operator still has to see to."""


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


@dataclass(frozen=True, slots=True)
class FailureView:
    """A failure as workflows pass it on inside."""

    kind: ErrorKind
    detail: str
    number: int | None = None
