"""Every walk over the table of operations (spec §6): from wherever operations and their failures lead, there is a way to the end."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.states import MigrationState, Operation, ReplicationState
from deltaferry.planning.dr_operations import allowed
from deltaferry.planning.dr_states import (
    IN_FAILOVER,
    AnyMigrationState,
    AnyOperation,
    AnyReplicationState,
    DrOperation,
    DrSituation,
    DrState,
    ReverseState,
)

O, D, R, M, S = Operation, DrOperation, ReplicationState, MigrationState, DrState  # noqa: E741

_START = DrSituation(R.DELTA_SYNC, M.TEST_PENDING)
_NOTHING_MOVES = frozenset({D.UPDATE_POLICY, O.UPDATE_TARGET})


def _to(
    before: DrSituation,
    replication: AnyReplicationState,
    migration: AnyMigrationState,
    *,
    off: bool | None = None,
    waits: bool = False,
) -> DrSituation:
    is_off = before.source_is_off if off is None else off
    return replace(
        before,
        replication=replication,
        migration=migration,
        source_shut_down_by_us=is_off,
        source_is_off=is_off,
        waits_for_retry=waits,
    )


def outcomes(operation: AnyOperation, s: DrSituation) -> Iterator[DrSituation | None]:
    """Yield where an accepted operation can lead, well or not; None is the end."""
    at_home = (R.DELTA_SYNC, R.REPAIR_PENDING, R.PAUSED)
    match operation:
        case O.PAUSE:
            yield _to(s, R.PAUSED, s.migration)
        case O.RESUME:
            yield _to(s, R.DELTA_SYNC, M.TEST_PENDING if s.migration is M.MIGRATED else s.migration, off=False)
        case O.MIGRATE:
            yield _to(s, R.NONE, M.MIGRATED)
            yield from (_to(s, kind, M.MIGRATION_FAILED, off=off) for kind in at_home[:2] for off in (False, True))
        case O.REPAIR | O.RESYNC | O.VERIFY:
            yield from (_to(s, kind, s.migration) for kind in at_home[:2])
        case O.ROLLBACK:
            yield from (s, _to(s, s.replication, M.TEST_PENDING, off=False))
        case O.STOP | O.COMPLETE:
            yield from (None, _to(s, R.STOP_FAILED if operation is O.STOP else R.COMPLETE_FAILED, s.migration))
        case O.RETRY:
            yield from (s, None if s.migration is not S.COMMITTED else _to(s, s.replication, s.migration))
        case D.TEST_MIGRATE:
            yield replace(s, tests_to_clean_up=1)
        case D.CLEAN_UP:
            yield from (s, replace(s, tests_to_clean_up=0))
        case D.FAILOVER | D.PLANNED_FAILOVER | D.CHANGE_POINT:
            yield from (_to(s, R.NONE, state, off=off) for state in (S.FAILED_OVER, S.FAILOVER_FAILED) for off in (False, True))
        case D.COMMIT:
            yield from (_to(s, R.NONE, S.COMMITTED, waits=waits) for waits in (False, True))
        case D.CANCEL if s.migration is S.FAILBACK_FAILED:
            yield from (_to(s, ReverseState.REVERSE_DELTA_SYNC, S.FAILBACK_READY), _to(s, R.NONE, S.COMMITTED))
        case D.CANCEL:
            yield _to(s, R.NONE, S.FAILOVER_FAILED)
            yield from (_to(s, kind, M.TEST_PENDING, off=False) for kind in at_home)
        case D.REPROTECT:
            yield _to(s, ReverseState.REVERSE_DELTA_SYNC, S.FAILBACK_READY)
            yield from (_to(s, R.NONE, S.COMMITTED, waits=waits) for waits in (False, s.waits_for_retry))
        case D.FAILBACK:
            yield from (_to(s, R.NONE, state) for state in (S.FAILED_BACK, S.FAILBACK_FAILED, S.COMMITTED))
        case D.COMMIT_FAILBACK:
            yield from (s, *(_to(s, kind, M.TEST_PENDING, off=False) for kind in at_home[:2]))
        case D.UPDATE_POLICY | O.UPDATE_TARGET:
            yield s


@cache
def _steps(s: DrSituation) -> tuple[tuple[AnyOperation, DrSituation | None], ...]:
    return tuple((operation, after) for operation in allowed(s) for after in outcomes(operation, s))


def _reachable() -> set[DrSituation]:
    found, left = {_START}, [_START]
    while left:
        new = {after for _, after in _steps(left.pop()) if after is not None} - found
        found |= new
        left += new
    return found


def test_there_is_a_way_to_the_end_from_wherever_operations_lead() -> None:
    reachable = _reachable()
    assert {s.migration for s in reachable} >= IN_FAILOVER - {S.FAILOVER_IN_PROGRESS, S.FAILBACK_IN_PROGRESS}
    can_end: set[DrSituation] = set()
    while True:
        more = {s for s in reachable - can_end if any(after is None or after in can_end for _, after in _steps(s))}
        if not more:
            break
        can_end |= more
    assert reachable == can_end


def test_something_other_than_settings_is_always_offered() -> None:
    for situation in _reachable():
        assert set(allowed(situation)) - _NOTHING_MOVES, situation


@given(st.data())
def test_on_every_walk_a_vm_that_may_run_in_azure_keeps_cycles_and_stop_away(data: st.DataObject) -> None:
    situation: DrSituation | None = _START
    for _ in range(30):
        if situation is None:
            return
        if situation.migration in IN_FAILOVER and situation.replication not in (R.STOP_FAILED, R.COMPLETE_FAILED):
            offered = set(allowed(situation))
            assert not offered & {O.STOP, O.RESUME, O.MIGRATE, O.REPAIR, O.RESYNC, D.TEST_MIGRATE}, situation
        _, situation = data.draw(st.sampled_from(_steps(situation)))
