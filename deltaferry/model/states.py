"""The two states of a replication that are shown side by side (spec §6), and its health errors."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from deltaferry.model.errors import ErrorKind


class ReplicationState(StrEnum):
    """Spec §6, first table; the value is what a person reads."""

    INITIAL_QUEUED = "Initial replication queued"
    INITIAL_IN_PROGRESS = "Initial replication in progress"
    INITIAL_FAILED = "Initial replication failed"
    DELTA_SYNC = "Delta sync"
    PAUSE_IN_PROGRESS = "Pause in progress"
    PAUSED = "Paused"
    RESUME_QUEUED = "Resume queued"
    RESUME_IN_PROGRESS = "Resume in progress"
    REPAIR_PENDING = "Repair pending"
    REPAIR_QUEUED = "Repair queued"
    RESYNC_IN_PROGRESS = "Resync in progress"
    STOP_IN_PROGRESS = "Stop in progress"
    STOP_FAILED = "Stop failed"
    COMPLETE_IN_PROGRESS = "Complete migration in progress"
    COMPLETE_FAILED = "Complete failed"
    NONE = "–"  # noqa: RUF001 - the spec's own sign for "no cycles run"


class MigrationState(StrEnum):
    """Spec §6, second table, as far as it is built."""

    NONE = "–"  # noqa: RUF001 - the spec's own sign
    TEST_PENDING = "Test migration pending"
    MIGRATION_QUEUED = "Migration queued"
    MIGRATION_IN_PROGRESS = "Migration in progress"
    MIGRATION_FAILED = "Migration failed"
    MIGRATED = "Migrated"


class Operation(StrEnum):
    """The verbs that people and services send to a replication; each is an update and a signal of this name."""

    PAUSE = "pause"
    RESUME = "resume"
    MIGRATE = "migrate_now"
    RETRY = "retry"
    REPAIR = "repair"
    RESYNC = "resync"
    VERIFY = "verify"
    ROLLBACK = "rollback"
    STOP = "stop"
    COMPLETE = "complete"
    UPDATE_TARGET = "update_target"


class JobOutcome(StrEnum):
    """How a job ended (spec §6)."""

    SUCCEEDED = "Succeeded"
    COMPLETED_WITH_INFORMATION = "Completed with information"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class HealthError:
    """Something a person should read: what, why, what to do, and whether it mends itself."""

    kind: ErrorKind
    message: str
    cause: str
    remedy: str
    retried: bool
    at: datetime
