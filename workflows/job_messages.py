"""What a replication and its long children say to each other."""

from dataclasses import dataclass, field
from datetime import datetime

from deltaferry.model.replication import CycleKind, DiskBase, PlanRef, RecoveryPoint
from deltaferry.model.states import HealthError
from workflows.operator_input import MigrateOptions, TargetProperties
from workflows.replication_state import CycleRecord, InitialSummary, MigrationResult, Replication
from workflows.site_messages import Placement, SiteProfile
from workflows.step_messages import BegunCycle


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
