"""What queries answer."""

from dataclasses import dataclass
from datetime import datetime

from deltaferry.model.audit import KnownInAzure
from deltaferry.model.policy import ReplicationPolicy
from deltaferry.model.states import HealthError
from workflows.messages.point_views import PointList
from workflows.messages.replication_state import InitialSummary, MigrationResult, Refusal, ResyncRecord, ScrubRecord


@dataclass(frozen=True, slots=True)
class RepairView:
    """Why a replication is marked for resync, how precise the next one is, and when it begins."""

    cause: str
    reason: str
    rung: str
    step: str
    since: datetime
    starts_at: datetime | None
    failures: int


@dataclass(frozen=True, slots=True)
class TestView:
    """A test of the VM in Azure, until all of it is deleted again."""

    number: int
    state: str
    network: str
    vm_id: str | None
    point_taken_at: datetime | None
    requested_at: datetime
    ready_at: datetime | None
    provisioned_bytes: int
    """Of its managed disks: what they cost by."""
    error: HealthError | None


@dataclass(frozen=True, slots=True)
class FailoverView:
    """A failover, until it is cancelled, or brought home and committed."""

    planned: bool
    requested_at: datetime
    point_key: str
    point_taken_at: datetime | None
    vm_id: str | None
    running_at: datetime | None
    committed_at: datetime | None
    phases: tuple[tuple[str, float], ...]
    information: tuple[str, ...]
    home_as_of: datetime | None = None
    """From when what the disks at the site hold is; None where nothing was brought back yet."""
    home_phases: tuple[tuple[str, float], ...] = ()
    """Of the failback."""
    home_sent_bytes: int = 0
    """By the last pass back to the site."""
    home_vm: str = ""
    """Name of the VM that was made at another place of the site; empty where it comes home to the one that it came from."""
    home_vm_uuid: str = ""
    """That VM's instance UUID."""


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
    repair: RepairView | None = None
    resyncs: tuple[ResyncRecord, ...] = ()
    scrub_percent: float | None = None
    last_scrub: ScrubRecord | None = None
    next_scrub_at: datetime | None = None
    policy: ReplicationPolicy | None = None
    points: PointList | None = None
    tested_at: datetime | None = None
    tests: tuple[TestView, ...] = ()
    failover: FailoverView | None = None
    group: str = ""
    """Workflow id of the replication group that it is a member of."""
    in_azure: KnownInAzure | None = None
    """What is its own in Azure, or may be; None where an earlier release answered."""


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
