"""A replication's constants and its state: carried over continue-as-new, written into the commit record, a published schema."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deltaferry.model.errors import ErrorKind
from deltaferry.model.policy import ReplicationPolicy
from deltaferry.model.recovery_points import PointKind, RecoveryPointRecord
from deltaferry.model.replication import CycleKind, DiskBase, PlanRef, ReplicatedDisk, ReplicationRef
from deltaferry.model.states import HealthError, JobOutcome, MigrationState, ReplicationState
from deltaferry.planning.dr_states import IN_FAILOVER, AnyMigrationState, AnyReplicationState, shown_migration_state
from deltaferry.planning.ladder import Rung
from deltaferry.planning.quiescing import QuiesceWatch
from deltaferry.planning.rpo import RpoWatch
from workflows.messages.dr_state import FailoverState, MadeInAzure, ServedRequest, TestRun
from workflows.messages.notice import RpoNotice
from workflows.messages.operator_input import EndOptions, MigrateOptions, TargetProperties
from workflows.messages.point_views import PointList
from workflows.messages.site import Placement, SiteProfile


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
    without_snapshot: bool = False
    """The source was off and no snapshot could be taken: its disks were read as they are."""
    consistency: PointKind = PointKind.CRASH_CONSISTENT
    """What its recovery point is consistent with."""
    quiesced: str = ""
    """Where the guest was to be quiesced: how that went, as a sentence."""


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


@dataclass(frozen=True, slots=True)
class DiskPosition:
    """From which offset on a disk is still to be looked at; a whole number of granules."""

    disk_key: int
    position_bytes: int


@dataclass(frozen=True, slots=True)
class RepairState:
    """A replication that is marked for resync: from now on only a resync may follow, whatever happens."""

    cause: ErrorKind | None
    """None where an operator asked for it."""
    reason: str
    since: datetime
    rung: Rung
    step: str
    """Why it is that rung."""
    bases: tuple[DiskBase, ...] = ()
    """Up to where each disk was compared by a pass that has not finished."""
    dirty: tuple[tuple[int, PlanRef], ...] = ()
    """What such a pass found different."""
    asked: bool = False
    """An operator wants it at once."""
    scheduled: bool = False
    """It was found out when an automatic resync may begin."""
    ask_again_at: datetime | None = None
    """It could not be found out: when to ask once more."""
    starts_at: datetime | None = None
    not_before: datetime | None = None
    parked: bool = False
    """The last resync failed in a way that waits for an operator."""
    under_way: bool = False
    """A resync was started and has not reported: a run that finds this takes it up where it still runs."""
    failures: int = 0
    """How many resyncs for this cause failed in themselves."""
    reset_tracking: bool = False


@dataclass(frozen=True, slots=True)
class ResyncRecord:
    """A resync that succeeded."""

    cause: ErrorKind | None
    rung: Rung
    started_at: datetime
    ended_at: datetime
    compared_bytes: int
    differing_bytes: int


@dataclass(frozen=True, slots=True)
class ScrubState:
    """A scrub under way: how far it is, and what it found so far."""

    started_at: datetime
    positions: tuple[DiskPosition, ...]
    key: str
    """Names what its chunks store: another scrub does not find it."""
    read_bytes: int = 0
    differing_bytes: int = 0
    found: tuple[tuple[int, int], ...] = ()
    """(disk key, offset) of the first granules that differ."""

    def percent(self, capacities: Mapping[int, int]) -> float:
        """Return how much of the disks was looked at."""
        reached = sum(position.position_bytes for position in self.positions)
        return round(100 * reached / max(sum(capacities.values()), 1), 1)


@dataclass(frozen=True, slots=True)
class ScrubRecord:
    """How the last scrub ended; `failure` is empty if it read everything."""

    started_at: datetime
    ended_at: datetime
    read_bytes: int
    differing_bytes: int
    found: tuple[tuple[int, int], ...] = ()
    failure: str = ""


@dataclass(slots=True)
class EntityState:
    """The state of a `ReplicateVm`: carried over continue-as-new, and a published schema."""

    replication_state: AnyReplicationState = ReplicationState.INITIAL_QUEUED
    migration_state: AnyMigrationState = MigrationState.NONE
    """That of migrations and failovers; while a test is under way `shown_migration_state` says that instead."""
    prepared: bool = False
    cbt_enabled_by_us: bool = False
    fence: int = 0
    cycles_minted: int = 0
    jobs_minted: int = 0
    bases: tuple[DiskBase, ...] = ()
    """Per disk, from where the next cycle goes on: set by a commit only."""
    point: RecoveryPointRecord | None = None
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
    samples_taken: int = 0
    """Which turn of the sampling comparison the next delta takes."""
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
    left_by_migrations: tuple[MadeInAzure, ...] = ()
    """What migrations made, or may have made, that did not report a VM that runs: deleted before the next, and before rollback."""
    left_to_owner: tuple[str, ...] = ()
    """Tags of migrations whose VM stayed in Azure as its owner's, when replication of the source went on."""
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
    auto_repair: bool = True
    """Whether a resync that is needed begins by itself in the site's off-hours window."""
    repair: RepairState | None = None
    resyncs: tuple[ResyncRecord, ...] = ()
    """The last resyncs, newest last."""
    scrub: ScrubState | None = None
    last_scrub: ScrubRecord | None = None
    next_scrub: datetime | None = None
    end_options: EndOptions | None = None
    """How to stop or complete, once one of them was accepted."""
    policy: ReplicationPolicy | None = None
    quiesce: QuiesceWatch = field(default_factory=QuiesceWatch)
    points: PointList | None = None
    """The recovery points, as last listed."""
    rpo: RpoWatch = field(default_factory=RpoWatch)
    rpo_exceeded: HealthError | None = None
    """That the latest recovery point is older than the policy allows; beside `health`, since no failure or success replaces it."""
    rpo_untold: tuple[RpoNotice, ...] = ()
    """Crossings of the threshold, either way, that the operators' webhook has not been told of yet; oldest first."""
    tests: tuple[TestRun, ...] = ()
    """Tests whose VM exists or is being made or deleted."""
    tested_at: datetime | None = None
    """When the last test succeeded."""
    failover: FailoverState | None = None
    served: tuple[ServedRequest, ...] = ()
    """What other workflows have asked for lately, and what became of it."""
    group: str = ""
    """Workflow id of the replication group that it is a member of; empty for none."""
    unshared: tuple[str, ...] = ()
    """Shared keys of points that were taken with the group's, and of which it has not said that every member committed them."""

    def shown_health(self) -> tuple[HealthError, ...]:
        """Return all health errors, that of most weight first."""
        return self.health if self.rpo_exceeded is None else (*self.health, self.rpo_exceeded)


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
    short_of_space: tuple[str, ...] = ()
    """DATASTORE_FULL: the datastores that were found below their threshold."""


def vm_in_azure(state: EntityState) -> str | None:
    """Return the id of the VM that a migration or a failover has made and that stays; None if there is none."""
    if state.migration_state is MigrationState.MIGRATED:
        return state.migration.target_vm_id if state.migration is not None else None
    return state.failover.vm_id if state.migration_state in IN_FAILOVER and state.failover is not None else None


def shown_state(state: EntityState) -> AnyMigrationState:
    """Return what is shown as the migration state."""
    return shown_migration_state(state.migration_state, [test.state for test in state.tests], tested=state.tested_at is not None)
