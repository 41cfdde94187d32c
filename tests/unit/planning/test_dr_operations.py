import dataclasses
import itertools
from datetime import UTC, datetime

import pytest

from deltaferry.model.states import MigrationState as M
from deltaferry.model.states import Operation as O
from deltaferry.model.states import ReplicationState as R
from deltaferry.planning import transitions
from deltaferry.planning.dr_operations import ALL_OPERATIONS, allowed, judge
from deltaferry.planning.dr_states import TEST_STATES, AnyOperation, DrSituation, ReverseState
from deltaferry.planning.dr_states import DrOperation as D
from deltaferry.planning.dr_states import DrState as S
from deltaferry.planning.transitions import Situation

REPLICATION = (*R, *ReverseState)
MIGRATION = (*M, *S)
WINDING_UP = (R.STOP_IN_PROGRESS, R.COMPLETE_IN_PROGRESS, R.STOP_FAILED, R.COMPLETE_FAILED)
FAILOVER_STATES = tuple(state for state in S if state not in TEST_STATES)
NEEDS_FAILOVER = (D.CHANGE_POINT, D.COMMIT, D.CANCEL, D.REPROTECT, D.FAILBACK, D.COMMIT_FAILBACK)
IN_SYNC = (O.PAUSE, O.MIGRATE, O.RESYNC, O.VERIFY, O.STOP, O.UPDATE_TARGET)
FROM_A_POINT = (D.TEST_MIGRATE, D.FAILOVER)
P = D.UPDATE_POLICY

ACCEPTED: list[tuple[R | ReverseState, M | S, tuple[AnyOperation, ...]]] = [
    (R.INITIAL_IN_PROGRESS, M.NONE, (O.STOP, O.UPDATE_TARGET, P)),
    (R.DELTA_SYNC, M.TEST_PENDING, (*IN_SYNC, *FROM_A_POINT, D.PLANNED_FAILOVER, P)),
    *((R.DELTA_SYNC, state, (*IN_SYNC, *FROM_A_POINT, D.PLANNED_FAILOVER, P)) for state in sorted(TEST_STATES)),
    (R.DELTA_SYNC, M.MIGRATION_FAILED, (*IN_SYNC, *FROM_A_POINT, D.PLANNED_FAILOVER, P)),
    (R.NONE, M.MIGRATION_FAILED, (*IN_SYNC, *FROM_A_POINT, D.PLANNED_FAILOVER, P)),
    (R.PAUSED, M.TEST_PENDING, (O.RESUME, O.STOP, O.UPDATE_TARGET, *FROM_A_POINT, P)),
    (R.RESUME_IN_PROGRESS, M.TEST_PENDING, (O.PAUSE, O.STOP, O.UPDATE_TARGET, *FROM_A_POINT, P)),
    (R.REPAIR_PENDING, M.TEST_PENDING, (O.REPAIR, O.RESYNC, O.STOP, O.UPDATE_TARGET, *FROM_A_POINT, P)),
    (R.RESYNC_IN_PROGRESS, S.READY, (O.STOP, O.UPDATE_TARGET, *FROM_A_POINT, P)),
    (R.DELTA_SYNC, M.MIGRATION_IN_PROGRESS, (P,)),
    (R.NONE, M.MIGRATED, (O.RESUME, O.COMPLETE)),
    (R.NONE, S.FAILOVER_IN_PROGRESS, (P,)),
    (R.DELTA_SYNC, S.FAILOVER_IN_PROGRESS, (P,)),
    (R.NONE, S.FAILOVER_FAILED, (O.UPDATE_TARGET, D.FAILOVER, D.PLANNED_FAILOVER, D.CANCEL, P)),
    (R.NONE, S.FAILED_OVER, (D.CHANGE_POINT, D.COMMIT, D.CANCEL, P)),
    (R.NONE, S.COMMITTED, (O.COMPLETE, D.REPROTECT, P)),
    (ReverseState.REPROTECT_IN_PROGRESS, S.COMMITTED, (P,)),
    (ReverseState.REVERSE_DELTA_SYNC, S.FAILBACK_READY, (O.COMPLETE, D.FAILBACK, P)),
    (ReverseState.REVERSE_DELTA_SYNC, S.FAILBACK_IN_PROGRESS, (P,)),
    (R.NONE, S.FAILBACK_FAILED, (D.FAILBACK, D.CANCEL, P)),
    (R.NONE, S.FAILED_BACK, (D.COMMIT_FAILBACK, P)),
    (R.STOP_IN_PROGRESS, S.READY, ()),
    (R.STOP_FAILED, S.CLEAN_UP_PENDING, (O.RETRY, O.STOP)),
    (R.COMPLETE_IN_PROGRESS, S.COMMITTED, ()),
    (R.COMPLETE_FAILED, S.COMMITTED, (O.RETRY, O.COMPLETE)),
    (R.NONE, M.NONE, ()),
    (R.NONE, S.READY, ()),
]


@pytest.mark.parametrize(("replication", "migration", "operations"), ACCEPTED)
def test_what_a_pair_of_states_accepts(
    replication: R | ReverseState, migration: M | S, operations: tuple[AnyOperation, ...]
) -> None:
    assert set(allowed(DrSituation(replication, migration))) == set(operations)


FACTS = [("has_point", False), ("tests_to_clean_up", 2), ("tests_running", 1), ("losses_unconfirmed", True)]
UNTIL = datetime(2026, 11, 22, 18, 30, tzinfo=UTC)
FLAGS = [("source_shut_down_by_us", True), ("source_is_off", True), ("waits_for_retry", True), ("closed_until", UNTIL)]
VARIED = [{}, *({name: value} for name, value in (*FACTS, *FLAGS)), dict(FACTS), dict(FLAGS)]


def situations(replication: R | ReverseState, migration: M | S) -> list[DrSituation]:
    return [DrSituation(replication, migration, **facts) for facts in VARIED]  # type: ignore[arg-type]


@pytest.mark.parametrize("operation", ALL_OPERATIONS)
def test_every_combination_has_a_verdict_with_whole_sentences(operation: AnyOperation) -> None:
    for replication, migration in itertools.product(REPLICATION, MIGRATION):
        for situation in situations(replication, migration):
            sentence = judge(operation, situation).sentence
            assert sentence[0].isupper() and sentence.endswith(".") and ".." not in sentence and "  " not in sentence, situation


@pytest.mark.parametrize("operation", list(O))
def test_where_no_test_and_no_failover_is_the_answer_is_that_of_the_table_of_migrations(operation: O) -> None:
    for replication, migration, *flags in itertools.product(R, M, *itertools.repeat([False, True], 3), [None, UNTIL]):
        own = judge(operation, DrSituation(replication, migration, True, 0, 0, False, *flags))
        assert own == transitions.judge(operation, Situation(replication, migration, *flags))


@pytest.mark.parametrize("replication", WINDING_UP)
def test_a_replication_that_is_wound_up_takes_nothing_of_disaster_recovery(replication: R) -> None:
    for migration in MIGRATION:
        assert not {*allowed(DrSituation(replication, migration, tests_to_clean_up=1))} & {*D}


@pytest.mark.parametrize("migration", MIGRATION)
@pytest.mark.parametrize("operation", NEEDS_FAILOVER)
def test_what_follows_a_failover_is_accepted_in_one_kind_of_state_only(operation: D, migration: M | S) -> None:
    states = {
        D.CHANGE_POINT: {S.FAILED_OVER},
        D.COMMIT: {S.FAILED_OVER},
        D.CANCEL: {S.FAILED_OVER, S.FAILOVER_FAILED, S.FAILBACK_FAILED},
        D.REPROTECT: {S.COMMITTED},
        D.FAILBACK: {S.FAILBACK_READY, S.FAILBACK_FAILED},
        D.COMMIT_FAILBACK: {S.FAILED_BACK},
    }
    assert judge(operation, DrSituation(R.NONE, migration)).accepted is (migration in states[operation])


@pytest.mark.parametrize(("replication", "migration"), [*itertools.product(REPLICATION, MIGRATION)])
def test_between_failover_and_commit_no_cycle_can_be_asked_for(replication: R | ReverseState, migration: M | S) -> None:
    if migration in FAILOVER_STATES and replication not in WINDING_UP:
        accepted = {*allowed(DrSituation(replication, migration))}
        assert not accepted & {O.PAUSE, O.RESUME, O.MIGRATE, O.REPAIR, O.RESYNC, O.VERIFY, O.ROLLBACK, O.STOP, D.TEST_MIGRATE}


@pytest.mark.parametrize("migration", MIGRATION)
def test_a_test_can_be_cleaned_up_whatever_else_goes_on(migration: M | S) -> None:
    for replication in REPLICATION:
        assert judge(D.CLEAN_UP, DrSituation(replication, migration, tests_to_clean_up=1)).accepted is (
            replication not in WINDING_UP
        )
        assert not judge(D.CLEAN_UP, DrSituation(replication, migration)).accepted


@pytest.mark.parametrize(
    ("migration", "operation"), [(S.CLEAN_UP_PENDING, O.STOP), (S.COMMITTED, O.COMPLETE), (M.MIGRATED, O.COMPLETE)]
)
def test_nothing_ends_while_a_test_still_costs_money(migration: M | S, operation: O) -> None:
    replication = R.DELTA_SYNC if operation is O.STOP else R.NONE
    for left in ({"tests_to_clean_up": 1}, {"tests_running": 1}):
        verdict = judge(operation, DrSituation(replication, migration, **left))
        assert not verdict.accepted and "send clean_up first" in verdict.sentence
    assert judge(operation, DrSituation(replication, migration)).accepted


def test_without_a_recovery_point_nothing_is_made_from_one() -> None:
    for operation in (D.TEST_MIGRATE, D.FAILOVER, D.PLANNED_FAILOVER):
        verdict = judge(operation, DrSituation(R.DELTA_SYNC, M.TEST_PENDING, has_point=False))
        assert not verdict.accepted and f"{operation} is accepted when" in verdict.sentence


def test_what_the_source_wrote_after_the_point_must_be_confirmed_as_lost_before_reprotect() -> None:
    refused = judge(D.REPROTECT, DrSituation(R.NONE, S.COMMITTED, losses_unconfirmed=True))
    assert not refused.accepted and "confirmation" in refused.sentence
    assert judge(D.REPROTECT, DrSituation(R.NONE, S.COMMITTED)).accepted


def test_cancelling_says_whether_the_source_is_powered_on_again() -> None:
    off = DrSituation(R.NONE, S.FAILED_OVER, source_shut_down_by_us=True, source_is_off=True)
    assert "powered on again" in judge(D.CANCEL, off).sentence
    assert "powered on again" not in judge(D.CANCEL, DrSituation(R.NONE, S.FAILED_OVER)).sentence


def test_what_failed_after_a_failover_can_be_retried_where_it_waits_for_that() -> None:
    for state in FAILOVER_STATES:
        assert judge(O.RETRY, DrSituation(R.NONE, state, waits_for_retry=True)).accepted
        assert not judge(O.RETRY, DrSituation(R.NONE, state)).accepted


@pytest.mark.parametrize(
    ("operation", "replication", "migration", "part"),
    [
        (D.PLANNED_FAILOVER, R.PAUSED, M.TEST_PENDING, "send resume first"),
        (D.PLANNED_FAILOVER, R.REPAIR_PENDING, M.TEST_PENDING, "send repair"),
        (D.PLANNED_FAILOVER, R.RESYNC_IN_PROGRESS, M.TEST_PENDING, "send failover"),
        (D.TEST_MIGRATE, R.INITIAL_IN_PROGRESS, M.NONE, "reached Delta sync"),
        (D.TEST_MIGRATE, R.NONE, S.FAILED_OVER, "send commit"),
        (D.FAILOVER, R.NONE, M.MIGRATED, "send complete"),
        (D.FAILOVER, R.DELTA_SYNC, M.MIGRATION_IN_PROGRESS, "when it has ended"),
        (D.FAILOVER, R.NONE, S.FAILED_OVER, "change_recovery_point"),
        (D.REPROTECT, R.NONE, S.FAILED_OVER, "send commit first"),
        (D.FAILBACK, R.NONE, S.COMMITTED, "send reprotect first"),
        (D.CANCEL, R.NONE, S.COMMITTED, "send reprotect"),
        (D.CLEAN_UP, R.DELTA_SYNC, M.TEST_PENDING, "no test to clean up"),
        (O.STOP, R.NONE, S.COMMITTED, "send complete"),
        (O.PAUSE, R.NONE, S.FAILED_OVER, "cancel_failover"),
        (O.MIGRATE, ReverseState.REVERSE_DELTA_SYNC, S.FAILBACK_READY, "send failback"),
    ],
)
def test_a_refusal_says_when_or_what_instead(
    operation: AnyOperation, replication: R | ReverseState, migration: M | S, part: str
) -> None:
    verdict = judge(operation, DrSituation(replication, migration))
    assert not verdict.accepted
    assert part in verdict.sentence


@pytest.mark.parametrize(("replication", "migration"), [(R.DELTA_SYNC, S.READY), (R.NONE, S.FAILOVER_FAILED)])
def test_a_planned_failover_is_refused_in_a_blackout_window_and_an_unplanned_one_is_not(replication: R, migration: S) -> None:
    inside = DrSituation(replication, migration, closed_until=UNTIL)
    refused = judge(D.PLANNED_FAILOVER, inside)
    assert not refused.accepted and "until 2026-11-22 18:30 UTC" in refused.sentence
    assert judge(D.FAILOVER, inside).accepted
    assert judge(D.TEST_MIGRATE, inside).accepted is (migration is S.READY)


def test_a_clean_up_while_tests_run_says_to_wait() -> None:
    assert "has not ended" in judge(D.CLEAN_UP, DrSituation(R.DELTA_SYNC, S.TEST_IN_PROGRESS, tests_running=1)).sentence
    assert "under way" in judge(D.CLEAN_UP, DrSituation(R.DELTA_SYNC, S.CLEAN_UP_IN_PROGRESS, tests_running=1)).sentence


def test_while_the_source_is_powered_on_again_only_an_unplanned_failover_makes_a_vm_of_the_source() -> None:
    rolling_back = DrSituation(R.DELTA_SYNC, M.MIGRATION_FAILED, source_shut_down_by_us=True, source_is_off=True, rolls_back=True)
    before = set(allowed(dataclasses.replace(rolling_back, rolls_back=False)))
    assert before - set(allowed(rolling_back)) == {O.MIGRATE, O.ROLLBACK, D.PLANNED_FAILOVER}
    assert "The rollback ends with the step that runs" in judge(D.FAILOVER, rolling_back).sentence
    for operation in (O.MIGRATE, O.ROLLBACK, D.PLANNED_FAILOVER):
        assert "rollback" in judge(operation, rolling_back).sentence
