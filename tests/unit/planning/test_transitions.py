import itertools

import pytest

from deltaferry.model.states import MigrationState as M
from deltaferry.model.states import Operation as O
from deltaferry.model.states import ReplicationState as R
from deltaferry.planning.transitions import Situation, allowed, judge

FLAGS = list(itertools.product([False, True], repeat=3))
ALWAYS_IN_IR = (O.STOP, O.UPDATE_TARGET)
IN_SYNC = (O.PAUSE, O.MIGRATE, O.RESYNC, O.VERIFY, O.STOP, O.UPDATE_TARGET)

ACCEPTED = [
    (R.INITIAL_QUEUED, M.NONE, ALWAYS_IN_IR),
    (R.INITIAL_IN_PROGRESS, M.NONE, ALWAYS_IN_IR),
    (R.INITIAL_FAILED, M.NONE, (O.RETRY, *ALWAYS_IN_IR)),
    (R.DELTA_SYNC, M.TEST_PENDING, IN_SYNC),
    (R.PAUSE_IN_PROGRESS, M.TEST_PENDING, (O.RESUME, O.STOP, O.UPDATE_TARGET)),
    (R.PAUSED, M.TEST_PENDING, (O.RESUME, O.STOP, O.UPDATE_TARGET)),
    (R.RESUME_QUEUED, M.TEST_PENDING, (O.PAUSE, O.STOP, O.UPDATE_TARGET)),
    (R.RESUME_IN_PROGRESS, M.TEST_PENDING, (O.PAUSE, O.STOP, O.UPDATE_TARGET)),
    (R.REPAIR_PENDING, M.TEST_PENDING, (O.REPAIR, O.RESYNC, O.STOP, O.UPDATE_TARGET)),
    (R.REPAIR_PENDING, M.MIGRATION_FAILED, (O.REPAIR, O.RESYNC, O.STOP, O.UPDATE_TARGET)),
    (R.REPAIR_QUEUED, M.TEST_PENDING, (O.STOP, O.UPDATE_TARGET)),
    (R.RESYNC_IN_PROGRESS, M.TEST_PENDING, (O.STOP, O.UPDATE_TARGET)),
    (R.DELTA_SYNC, M.MIGRATION_QUEUED, (O.UPDATE_TARGET,)),
    (R.DELTA_SYNC, M.MIGRATION_IN_PROGRESS, ()),
    (R.NONE, M.MIGRATION_IN_PROGRESS, ()),
    (R.DELTA_SYNC, M.MIGRATION_FAILED, IN_SYNC),
    (R.NONE, M.MIGRATION_FAILED, IN_SYNC),
    (R.PAUSED, M.MIGRATION_FAILED, (O.RESUME, O.STOP, O.UPDATE_TARGET)),
    (R.NONE, M.MIGRATED, (O.RESUME, O.COMPLETE)),
    (R.STOP_IN_PROGRESS, M.TEST_PENDING, ()),
    (R.COMPLETE_IN_PROGRESS, M.MIGRATED, ()),
    (R.STOP_FAILED, M.TEST_PENDING, (O.RETRY, O.STOP)),
    (R.COMPLETE_FAILED, M.MIGRATED, (O.RETRY, O.COMPLETE)),
    (R.NONE, M.NONE, ()),
    (R.NONE, M.TEST_PENDING, ()),
]


@pytest.mark.parametrize(("replication", "migration", "operations"), ACCEPTED)
def test_what_a_pair_of_states_accepts(replication: R, migration: M, operations: tuple[O, ...]) -> None:
    assert set(allowed(Situation(replication, migration))) == set(operations)


@pytest.mark.parametrize("operation", list(O))
def test_every_combination_has_a_verdict_with_whole_sentences(operation: O) -> None:
    for replication, migration, flags in itertools.product(R, M, FLAGS):
        verdict = judge(operation, Situation(replication, migration, *flags))
        assert verdict.sentence.endswith(".")
        assert verdict.sentence[0].isupper()
        assert "  " not in verdict.sentence


@pytest.mark.parametrize("replication", [R.STOP_IN_PROGRESS, R.COMPLETE_IN_PROGRESS])
def test_what_is_being_deleted_takes_nothing_whatever_else_holds(replication: R) -> None:
    assert all(allowed(Situation(replication, migration, *flags)) == () for migration in M for flags in FLAGS)


@pytest.mark.parametrize(
    ("operation", "replication", "migration", "part"),
    [
        (O.MIGRATE, R.INITIAL_IN_PROGRESS, M.NONE, "accepted when it has reached Delta sync"),
        (O.PAUSE, R.INITIAL_QUEUED, M.NONE, "Only stop is possible now"),
        (O.MIGRATE, R.INITIAL_FAILED, M.NONE, "send retry"),
        (O.MIGRATE, R.PAUSED, M.TEST_PENDING, "send resume first"),
        (O.MIGRATE, R.PAUSED, M.MIGRATION_FAILED, "send resume first"),
        (O.PAUSE, R.DELTA_SYNC, M.MIGRATION_IN_PROGRESS, "in the migration's hands"),
        (O.STOP, R.DELTA_SYNC, M.MIGRATION_QUEUED, "when the migration has ended"),
        (O.STOP, R.NONE, M.MIGRATED, "send complete"),
        (O.COMPLETE, R.DELTA_SYNC, M.TEST_PENDING, "send migrate_now first"),
        (O.COMPLETE, R.DELTA_SYNC, M.MIGRATION_FAILED, "send migrate_now first"),
        (O.REPAIR, R.DELTA_SYNC, M.TEST_PENDING, "repair is for a replication that is Repair pending"),
        (O.REPAIR, R.RESYNC_IN_PROGRESS, M.TEST_PENDING, "under way already"),
        (O.RESYNC, R.REPAIR_QUEUED, M.TEST_PENDING, "under way already"),
        (O.RESYNC, R.INITIAL_IN_PROGRESS, M.NONE, "when the replication has reached Delta sync"),
        (O.RESYNC, R.PAUSED, M.TEST_PENDING, "send resume"),
        (O.RESYNC, R.DELTA_SYNC, M.MIGRATION_IN_PROGRESS, "in the migration's hands"),
        (O.VERIFY, R.REPAIR_PENDING, M.TEST_PENDING, "send repair"),
        (O.VERIFY, R.PAUSED, M.TEST_PENDING, "send resume"),
        (O.VERIFY, R.NONE, M.MIGRATED, "look at the VM in Azure"),
        (O.PAUSE, R.REPAIR_PENDING, M.TEST_PENDING, "send repair, or wait for the off-hours window"),
        (O.PAUSE, R.RESYNC_IN_PROGRESS, M.TEST_PENDING, "wait for the resync's end"),
        (O.MIGRATE, R.REPAIR_QUEUED, M.TEST_PENDING, "accepted again in Delta sync"),
        (O.MIGRATE, R.RESYNC_IN_PROGRESS, M.TEST_PENDING, "accepted again in Delta sync"),
        (O.MIGRATE, R.REPAIR_PENDING, M.MIGRATION_FAILED, "cannot be migrated from"),
        (O.RETRY, R.REPAIR_PENDING, M.TEST_PENDING, "send repair"),
        (O.RETRY, R.DELTA_SYNC, M.MIGRATION_FAILED, "send migrate_now"),
        (O.ROLLBACK, R.NONE, M.MIGRATED, "send resume"),
        (O.COMPLETE, R.STOP_FAILED, M.NONE, "send retry or stop"),
    ],
)
def test_a_refusal_says_when_or_what_instead(operation: O, replication: R, migration: M, part: str) -> None:
    verdict = judge(operation, Situation(replication, migration))
    assert not verdict.accepted
    assert part in verdict.sentence


@pytest.mark.parametrize(
    ("by_us", "off", "accepted"), [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]
)
def test_rollback_needs_a_source_that_we_shut_down_and_that_is_still_off(by_us: bool, off: bool, accepted: bool) -> None:
    for replication in (R.DELTA_SYNC, R.PAUSED, R.REPAIR_PENDING, R.NONE):
        situation = Situation(replication, M.MIGRATION_FAILED, source_shut_down_by_us=by_us, source_is_off=off)
        assert judge(O.ROLLBACK, situation).accepted is accepted
    assert not judge(O.ROLLBACK, Situation(R.DELTA_SYNC, M.TEST_PENDING, by_us, off)).accepted


@pytest.mark.parametrize("replication", [R.INITIAL_IN_PROGRESS, R.DELTA_SYNC, R.REPAIR_PENDING])
def test_retry_is_accepted_where_something_waits_for_it(replication: R) -> None:
    assert judge(O.RETRY, Situation(replication, M.NONE, waits_for_retry=True)).accepted
    assert not judge(O.RETRY, Situation(replication, M.NONE)).accepted
