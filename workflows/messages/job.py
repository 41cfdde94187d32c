"""What a replication and its long children say to each other."""

from dataclasses import dataclass, field
from datetime import datetime

from deltaferry.model.naming import TEST_JOB_PREFIX
from deltaferry.model.recovery_points import RecoveryPointRecord
from deltaferry.model.replication import CycleKind, DiskBase, PlanRef, RecoveryPoint
from deltaferry.model.states import HealthError, JobOutcome
from deltaferry.planning.ladder import Rung
from deltaferry.planning.retention import PointChoice
from workflows.messages.dr_state import MadeInAzure
from workflows.messages.operator_input import MigrateOptions, TargetProperties
from workflows.messages.replication_state import CycleRecord, InitialSummary, MigrationResult, Replication
from workflows.messages.reverse import (
    FailbackResult,
    ReverseReport,
)
from workflows.messages.site import Placement, SiteProfile
from workflows.messages.step import BegunCycle


@dataclass(frozen=True, slots=True)
class CopyStart:
    """What the entity starts a job with that brings whole disks to the seeds."""

    entity_id: str
    replication: Replication
    fence: int
    cycle_number: int
    bases: tuple[DiskBase, ...]
    placement: Placement
    dirty: tuple[tuple[int, PlanRef], ...] = ()
    summaries: tuple[InitialSummary, ...] = ()
    profile: SiteProfile | None = None
    """The site's settings as last pushed; those of the enabling where None."""
    whatever_window: bool = False
    """It starts inside a blackout window too: a migration that was accepted before waits for it."""
    expected_growth: tuple[tuple[int, int], ...] = ()
    """(disk key, bytes) that a snapshot is expected to grow by while it is held; nothing where nothing is known."""


@dataclass(frozen=True, slots=True)
class InitialInput(CopyStart):
    """What the entity starts `InitialReplication` with."""

    resume: "InitialPass | None" = None


@dataclass(frozen=True, slots=True)
class InitialPass:
    """A pass whose snapshot is held over a continue-as-new: (disk key, next segment) of each disk."""

    cycle_key: str
    begun: "BegunCycle"
    next_segments: tuple[tuple[int, int], ...]
    started_at: datetime


@dataclass(frozen=True, slots=True)
class ResyncInput(CopyStart):
    """What the entity starts `Resync` with. `bases` say up to where each disk was compared, `dirty` what was found."""

    rung: Rung = Rung.ALLOCATED
    reset_tracking: bool = False
    """Reset change tracking first: its file is damaged, or an operator asked for it."""
    prepared: bool = False
    resume: "ResyncPass | None" = None
    compared_bytes: int = 0
    differing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ResyncPass:
    """A pass whose snapshot is held: being compared while it has no plans, being sent when it has."""

    cycle_key: str
    snapshot: str
    taken_at: datetime
    started_at: datetime
    change_ids: tuple[tuple[int, str], ...]
    surveys: tuple[tuple[int, PlanRef], ...] = ()
    plans: tuple[tuple[int, PlanRef], ...] = ()
    next_segments: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What a copying job tells the entity while it runs, so that nothing is lost with it."""

    job_id: str
    fence: int
    cycle_number: int
    bases: tuple[DiskBase, ...]
    dirty: tuple[tuple[int, PlanRef], ...]
    summaries: tuple[InitialSummary, ...]
    queued: bool
    percent: float
    activity: str = ""
    compared_bytes: int = 0
    differing_bytes: int = 0
    error: HealthError | None = None
    """What keeps the job from going on; it tries again by itself."""


@dataclass(frozen=True, slots=True)
class JobReport:
    """How a child of the entity ended."""

    job_id: str
    copied: "CopyResult | None" = None
    migration: MigrationResult | None = None
    error: HealthError | None = None
    made: "MadeVm | None" = None
    """Of a test or a failover from a recovery point."""
    reverse: ReverseReport | None = None
    """Of a reprotect."""
    failback: FailbackResult | None = None


@dataclass(frozen=True, slots=True)
class CopyResult:
    """A finished initial replication or resync, sealed and with its recovery point: the entity commits it."""

    fence: int
    cycle_number: int
    cycle_key: str
    bases: tuple[DiskBase, ...]
    point: RecoveryPoint
    summaries: tuple[InitialSummary, ...]
    started_at: datetime
    profile: SiteProfile
    placement: Placement = field(default_factory=Placement)
    compared_bytes: int = 0
    """Of the source, hashed and compared with the checksum maps."""
    differing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MigrateInput:
    """What the entity starts `MigrateVm` with."""

    entity_id: str
    replication: Replication
    options: MigrateOptions
    target: TargetProperties
    source_off_by_us: bool = False
    """True when an earlier attempt shut the source down: it must not be asked for a delta of a running guest again."""
    tag: str = ""
    """By which what it makes in Azure is known; its own run id where empty."""


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


@dataclass(frozen=True, slots=True)
class FromPointInput:
    """What the entity starts `TestMigration` and `FailoverVm` with: a VM is made from a recovery point."""

    entity_id: str
    replication: Replication
    number: int
    """Of the job: names what it makes."""
    choice: PointChoice
    target: TargetProperties
    reason: str
    isolated_from: TargetProperties | None = None
    """A test: the properties that a migration would have, in whose network its VM must not be."""
    shut_down_source: bool = False
    """Try to shut the source VM down first."""
    replaces: tuple[MadeInAzure, ...] = ()
    """What is deleted first: another point was chosen, or an earlier attempt has left something."""
    keep_pin: bool = False
    """The point stays pinned behind the job, by it: it can be changed until commit."""


@dataclass(frozen=True, slots=True)
class CleanUpInput:
    """What the entity starts `CleanUpTest` with."""

    entity_id: str
    replication: Replication
    made: MadeInAzure
    test_id: str
    """Workflow id of the test, in whose name points may be pinned."""


@dataclass(frozen=True, slots=True)
class MadeVm:
    """How the making of a VM from a recovery point went."""

    outcome: JobOutcome
    vm_id: str | None = None
    point: RecoveryPointRecord | None = None
    phases: tuple[tuple[str, float], ...] = ()
    """Name and seconds of each phase, in order."""
    information: tuple[str, ...] = ()
    source_shut_down: bool = False
    guarded_nics: tuple[int, ...] = ()
    left_over: bool = False
    """What it had made before it failed could not all be deleted."""


def migration_job(number: int) -> str:
    """Return the tag of what a migration makes."""
    return f"migrate-{number}"


def planned_job(number: int) -> str:
    """Return the tag of what a planned failover makes."""
    return f"failover-{number}"


def point_job(number: int) -> str:
    """Return the tag of what a job with a recovery point makes."""
    return f"point-{number}"


def test_job(number: int) -> str:
    """Return the tag of what a test makes: an audit tells a test's VM, which must not stay, from one that was failed over."""
    return f"{TEST_JOB_PREFIX}{number}"
