"""The states and verbs of disaster recovery (spec §6, §8), beside those of migrations in `deltaferry.model.states`.

The value of a state is what a person reads; that of an operation is its update's and signal's name.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from deltaferry.model.states import MigrationState, Operation, ReplicationState


class ReverseState(StrEnum):
    """The replication states of spec §6 that follow a failover: blocks travel from Azure to the site."""

    REPROTECT_IN_PROGRESS = "Reprotect in progress"
    REVERSE_DELTA_SYNC = "Reverse delta sync"


class DrState(StrEnum):
    """The migration and failover states of spec §6 that tests, failovers and failbacks bring."""

    TEST_QUEUED = "Test migration queued"
    TEST_IN_PROGRESS = "Test migration in progress"
    TEST_FAILED = "Test migration failed"
    CLEAN_UP_PENDING = "Test clean-up pending"
    CLEAN_UP_IN_PROGRESS = "Test clean-up in progress"
    CLEAN_UP_FAILED = "Test clean-up failed"
    READY = "Ready to migrate"
    FAILOVER_IN_PROGRESS = "Failover in progress"
    FAILOVER_FAILED = "Failover failed"
    FAILED_OVER = "Failed over, commit pending"
    COMMITTED = "Committed"
    FAILBACK_READY = "Reprotected, failback ready"
    FAILBACK_IN_PROGRESS = "Failback in progress"
    FAILBACK_FAILED = "Failback failed"
    FAILED_BACK = "Failed back"


class DrOperation(StrEnum):
    """The verbs of disaster recovery; each is an update and a signal of this name."""

    TEST_MIGRATE = "test_migrate"
    CLEAN_UP = "clean_up"
    FAILOVER = "failover"
    """Unplanned: from a recovery point, whether the source can be reached or not."""
    PLANNED_FAILOVER = "planned_failover"
    CHANGE_POINT = "change_recovery_point"
    COMMIT = "commit"
    CANCEL = "cancel_failover"
    REPROTECT = "reprotect"
    FAILBACK = "failback"
    COMMIT_FAILBACK = "commit_failback"
    UPDATE_POLICY = "update_policy"


AnyReplicationState = ReplicationState | ReverseState
AnyMigrationState = MigrationState | DrState
AnyOperation = Operation | DrOperation

TEST_STATES = frozenset({
    DrState.TEST_QUEUED,
    DrState.TEST_IN_PROGRESS,
    DrState.TEST_FAILED,
    DrState.CLEAN_UP_PENDING,
    DrState.CLEAN_UP_IN_PROGRESS,
    DrState.CLEAN_UP_FAILED,
    DrState.READY,
})  # fmt: skip
"""States in which replication goes on as if there were no test."""


TESTS_UP = frozenset({DrState.TEST_FAILED, DrState.CLEAN_UP_PENDING, DrState.CLEAN_UP_FAILED})
"""States of a test that wait for its clean-up."""

NO_CYCLES = frozenset({
    MigrationState.MIGRATED,
    DrState.FAILOVER_IN_PROGRESS,
    DrState.FAILOVER_FAILED,
    DrState.FAILED_OVER,
    DrState.COMMITTED,
    DrState.FAILBACK_READY,
    DrState.FAILBACK_IN_PROGRESS,
    DrState.FAILBACK_FAILED,
    DrState.FAILED_BACK,
})  # fmt: skip
"""States in which no cycle and no resync runs: the VM is in Azure, or a recovery point must stay the latest."""

IN_FAILOVER = frozenset(state for state in NO_CYCLES if isinstance(state, DrState))
"""States from the request of a failover until it was cancelled, or the failback committed."""

_SHOWN_FIRST = (
    DrState.CLEAN_UP_FAILED,
    DrState.TEST_IN_PROGRESS,
    DrState.TEST_QUEUED,
    DrState.CLEAN_UP_IN_PROGRESS,
    DrState.TEST_FAILED,
    DrState.CLEAN_UP_PENDING,
)


def shown_migration_state(state: AnyMigrationState, tests: Collection[DrState], *, tested: bool) -> AnyMigrationState:
    """Return what is shown as the migration state: that of tests, unless a migration or a failover has one of its own.

    `tested`: a test has succeeded before.
    """
    if state is not MigrationState.TEST_PENDING:
        return state
    return next((candidate for candidate in _SHOWN_FIRST if candidate in tests), DrState.READY if tested else state)


@dataclass(frozen=True, slots=True)
class DrSituation:
    """All that the table needs to know of a replication."""

    replication: AnyReplicationState
    migration: AnyMigrationState
    has_point: bool = True
    """There is a recovery point to test or fail over from."""
    tests_to_clean_up: int = 0
    """Tests whose VM, disks and copies exist, and which neither run up nor are being cleaned up."""
    tests_running: int = 0
    """Tests that are queued, run up, or are being cleaned up."""
    losses_unconfirmed: bool = False
    """The source wrote after the point that was failed over to, and the request does not confirm that this is lost."""
    source_shut_down_by_us: bool = False
    source_is_off: bool = False
    waits_for_retry: bool = False
    closed_until: datetime | None = None
    rolls_back: bool = False
    """As in `transitions.Situation`, these five."""
