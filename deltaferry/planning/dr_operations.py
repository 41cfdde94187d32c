"""Which operation is accepted in which pair of states, disaster recovery's included, with the sentence for each answer (spec §6, §8).

One pure table on top of `transitions`, in the same shapes: `judge` here answers for every operation in every pair, and asks
`transitions.judge` where a pair is none of disaster recovery's. What is tested first wins: a replication that is being wound
up takes nothing; then cleaning up a test, which is never in the way of anything; then a failover or failback decides; then
a migration; then the replication state does. Tests work on copies of a recovery point, so that everything else goes on.
"""

from collections.abc import Mapping

from deltaferry.model.states import MigrationState, Operation, ReplicationState
from deltaferry.planning.dr_states import AnyOperation, DrOperation, DrSituation, DrState, ReverseState
from deltaferry.planning.transitions import Situation, Verdict
from deltaferry.planning.transitions import judge as judge_without_dr

_O, _R, _M, _D, _S = Operation, ReplicationState, MigrationState, DrOperation, DrState

ALL_OPERATIONS: tuple[AnyOperation, ...] = (*Operation, *DrOperation)


def _yes(sentence: str) -> Verdict:
    return Verdict(True, sentence)


def _no(sentence: str) -> Verdict:
    return Verdict(False, sentence)


# --- tests ------------------------------------------------------------------------------------------------------------

_TEST = _yes("A VM is made in the isolated network from copies of the recovery point; replication goes on meanwhile.")
_CLEAN_UP = _yes("The test's VM, disks and copies are deleted; replication is not touched.")
_TESTS_LEFT = _no("A test's VM still exists or is being made, and costs money: send clean_up first, then this.")
_NO_POINT = "There is no recovery point yet: {verb} is accepted when the replication has reached Delta sync."


def _clean_up(situation: DrSituation) -> Verdict:
    if situation.tests_to_clean_up:
        return _CLEAN_UP
    if situation.migration is _S.CLEAN_UP_IN_PROGRESS:
        return _no("The clean-up is under way already: wait for its end.")
    if situation.tests_running:
        return _no("The test has not ended yet: clean_up is accepted when it has.")
    return _no("There is no test to clean up.")


# --- failover and failback ----------------------------------------------------------------------------------------------

_NEEDS_NO_FAILOVER: Mapping[DrOperation, str] = {
    _D.CHANGE_POINT: "There is no failover to change the recovery point of: it is accepted in Failed over, commit pending.",
    _D.COMMIT: "There is no failover to commit: commit is accepted in Failed over, commit pending.",
    _D.CANCEL: "There is no failover to cancel: cancel_failover is accepted before a failover is committed.",
    _D.REPROTECT: "There is nothing to reprotect: reprotect is accepted when a failover was committed.",
    _D.FAILBACK: "There is nothing to fail back: failback is accepted in Reprotected, failback ready.",
    _D.COMMIT_FAILBACK: "There is no failback to commit: commit_failback is accepted in Failed back.",
}
"""What is refused where there was no failover."""

_POLICY = _yes("The new policy applies from the next cycle on; what is older than its retention is pruned then.")
_POLICY_LATER = _yes(
    "The new policy applies when replication to Azure goes on; its failback policy from the next reverse delta on."
)
_ENDED = judge_without_dr(_O.PAUSE, Situation(_R.NONE, _M.NONE))
_FAILOVER = _yes(
    "The VM is started in Azure from the recovery point. No cycle runs and no point is pruned until commit or cancel_failover."
)
_FAILOVER_FOR_ROLLBACK = _yes(
    "The VM is started in Azure from the recovery point. The rollback ends with the step that runs: the source VM may have been "
    "powered on by then, and is shut down if it can be reached. No cycle runs and no point is pruned until commit or cancel_failover."
)
_FAILOVER_AGAIN = _yes("The failover is tried again, from the recovery point that the request names.")
_PLANNED = _yes(
    "The source VM is shut down after an on-demand delta; a final delta follows, so that nothing is lost, and the VM is started in Azure."
)

_FAILOVER_RUNS: Mapping[AnyOperation, Verdict] = {
    _D.FAILOVER: _no("A failover is in progress already: wait for its end."),
    _D.PLANNED_FAILOVER: _no("A failover is in progress already: wait for its end."),
    _D.CHANGE_POINT: _no("The failover is in progress: change_recovery_point is accepted when it has ended."),
    _D.COMMIT: _no("The failover is in progress: commit is accepted when it has succeeded."),
    _D.CANCEL: _no("The failover is in progress: cancel_failover is accepted when it has ended, well or not."),
    _D.UPDATE_POLICY: _POLICY_LATER,
}
_FAILOVER_FAILED: Mapping[AnyOperation, Verdict] = {
    _D.FAILOVER: _FAILOVER_AGAIN,
    _D.PLANNED_FAILOVER: _PLANNED,
    _D.COMMIT: _no("The failover failed, so there is nothing to commit: send failover to try again, or cancel_failover."),
    _D.CHANGE_POINT: _no("The failover failed: send failover with the recovery point that it shall use, or cancel_failover."),
    _D.UPDATE_POLICY: _POLICY_LATER,
    _O.UPDATE_TARGET: _yes("The new target properties apply to the next failover."),
}
_FAILED_OVER: Mapping[AnyOperation, Verdict] = {
    _D.CHANGE_POINT: _yes(
        "The VM in Azure is replaced by one from the recovery point that the request names; what it wrote is lost."
    ),
    _D.COMMIT: _yes("The failover is final: the other recovery points are deleted, and the VM can be reprotected."),
    _D.FAILOVER: _no("The VM is failed over already: send change_recovery_point for another point, commit or cancel_failover."),
    _D.PLANNED_FAILOVER: _no("The VM is failed over already: send commit, or cancel_failover first to replicate again."),
    _D.REPROTECT: _no("The failover is not committed: send commit first, then reprotect."),
    _D.UPDATE_POLICY: _POLICY_LATER,
}
_COMMITTED: Mapping[AnyOperation, Verdict] = {
    _D.REPROTECT: _yes(
        "The disks of the VM in Azure are compared with those of the powered-off source VM, and what differs is written to them."
    ),
    _D.COMMIT: _no("The failover is committed already: send reprotect, or complete to end replication and keep the VM in Azure."),
    _D.CANCEL: _no(
        "The failover is committed and its recovery points are gone: send reprotect, then failback, to bring the VM home."
    ),
    _D.CHANGE_POINT: _no("The failover is committed and the other recovery points are deleted: send reprotect or complete."),
    _D.FAILBACK: _no("The VM is not replicated back yet: send reprotect first; failback is accepted when that is done."),
    _D.UPDATE_POLICY: _POLICY_LATER,
    _O.STOP: _no("Stop is refused after a committed failover: send complete, which deletes the same and keeps the VM in Azure."),
    _O.COMPLETE: _yes("Replication ends; seed disks, logs, keys and bookkeeping are deleted, and the VM stays in Azure."),
}
_REPROTECTING: Mapping[AnyOperation, Verdict] = {
    _D.REPROTECT: _no("The VM is being reprotected already: wait for Reprotected, failback ready."),
    _D.FAILBACK: _no("The VM is still being reprotected: failback is accepted in Reprotected, failback ready."),
    _D.UPDATE_POLICY: _POLICY_LATER,
}
_FAILBACK_READY: Mapping[AnyOperation, Verdict] = {
    _D.FAILBACK: _yes(
        "The VM in Azure is deallocated, a final delta is written and verified, and the source VM is powered on at the site."
    ),
    _D.REPROTECT: _no("The VM is reprotected already: send failback to bring it home."),
    _D.COMMIT_FAILBACK: _no("There is no failback to commit yet: send failback first."),
    _D.UPDATE_POLICY: _POLICY_LATER,
    _O.STOP: _no("Stop is refused after a committed failover: send complete, which deletes the same and keeps the VM in Azure."),
    _O.COMPLETE: _yes("Replication back to the site ends and what it left is deleted; the VM stays in Azure."),
}
_FAILBACK_RUNS: Mapping[AnyOperation, Verdict] = {
    _D.FAILBACK: _no("A failback is in progress already: wait for its end."),
    _D.COMMIT_FAILBACK: _no("The failback is in progress: commit_failback is accepted when it has succeeded."),
    _D.CANCEL: _no("The failback is in progress: if it fails, cancel_failover starts the VM in Azure again."),
    _D.UPDATE_POLICY: _POLICY_LATER,
}
_FAILBACK_FAILED: Mapping[AnyOperation, Verdict] = {
    _D.FAILBACK: _yes("The failback is tried again."),
    _D.CANCEL: _yes("The VM in Azure is started again, the one at the site stays off, and reverse deltas go on."),
    _D.COMMIT_FAILBACK: _no(
        "The failback failed, so there is nothing to commit: send failback to try again, or cancel_failover."
    ),
    _D.UPDATE_POLICY: _POLICY_LATER,
}
_FAILED_BACK: Mapping[AnyOperation, Verdict] = {
    _D.COMMIT_FAILBACK: _yes(
        "The VM in Azure is deleted, and the VM at the site is replicated to Azure again, beginning with checksums."
    ),
    _D.FAILBACK: _no("The VM runs at the site again already: send commit_failback."),
    _D.CANCEL: _no("The VM runs at the site again and has written there: send commit_failback; fail over again later."),
    _D.UPDATE_POLICY: _POLICY_LATER,
}

_IN_FAILOVER: Mapping[DrState, tuple[str, Mapping[AnyOperation, Verdict]]] = {
    _S.FAILOVER_IN_PROGRESS: ("A failover is in progress and replication is in its hands: wait for its end", _FAILOVER_RUNS),
    _S.FAILOVER_FAILED: (
        "The failover failed: send failover to try again, or cancel_failover to go back to replication",
        _FAILOVER_FAILED,
    ),
    _S.FAILED_OVER: (
        "The VM is failed over and no cycle runs: send commit to keep it, change_recovery_point, or cancel_failover to replicate again",
        _FAILED_OVER,
    ),
    _S.COMMITTED: ("The VM runs in Azure and no cycle runs: send reprotect to replicate it back, or complete", _COMMITTED),
    _S.FAILBACK_READY: (
        "The VM runs in Azure and is replicated back: send failback to bring it home, or complete to keep it in Azure",
        _FAILBACK_READY,
    ),
    _S.FAILBACK_IN_PROGRESS: ("A failback is in progress and replication is in its hands: wait for its end", _FAILBACK_RUNS),
    _S.FAILBACK_FAILED: (
        "The failback failed: send failback to try again, or cancel_failover to stay in Azure",
        _FAILBACK_FAILED,
    ),
    _S.FAILED_BACK: ("The VM runs at the site again: send commit_failback, and replication to Azure starts again", _FAILED_BACK),
}
"""Per state: what is said of an operation that the table beside it does not name, and that table."""

_REPROTECT_RUNS = "The VM is being reprotected: wait for Reprotected, failback ready"


def _in_failover(operation: AnyOperation, state: DrState, situation: DrSituation) -> Verdict:
    default, rules = _IN_FAILOVER[state]
    if state is _S.COMMITTED and situation.replication is ReverseState.REPROTECT_IN_PROGRESS:
        default, rules = _REPROTECT_RUNS, _REPROTECTING
    elif operation is _D.REPROTECT and state is _S.COMMITTED and situation.losses_unconfirmed:
        return _no(
            "The source VM wrote after the recovery point that was failed over to, and reprotect overwrites it: "
            "read what would be lost in the details, and send reprotect again with its confirmation."
        )
    if operation is _O.RETRY and situation.waits_for_retry:
        return _yes("What failed is tried again at once.")
    if operation is _D.PLANNED_FAILOVER and state is _S.FAILOVER_FAILED:
        return _planned(situation)
    if operation is _D.CANCEL and state in (_S.FAILOVER_FAILED, _S.FAILED_OVER):
        power = " and the source VM is powered on again" if situation.source_shut_down_by_us and situation.source_is_off else ""
        return _yes(f"What the failover made in Azure is deleted{power}; delta cycles go on from where they were.")
    if operation in (_O.COMPLETE, _O.STOP) and operation in rules and rules[operation].accepted and _has_tests(situation):
        return _TESTS_LEFT
    return rules.get(operation) or _no(f"{default}.")


# --- everything else ----------------------------------------------------------------------------------------------------

_PLANNED_REFUSED: Mapping[ReplicationState, str] = {
    _R.PAUSE_IN_PROGRESS: "Replication is being paused, and a planned failover needs cycles: send resume first.",
    _R.PAUSED: "Replication is paused, and a planned failover needs cycles: send resume first, or failover to take a recovery point.",
    _R.RESUME_QUEUED: "Replication is being resumed: planned_failover is accepted again in Delta sync.",
    _R.RESUME_IN_PROGRESS: "Replication is being resumed: planned_failover is accepted again in Delta sync.",
    _R.REPAIR_PENDING: "The replication is Repair pending, so there can be no final delta: send repair, or failover to take a recovery point.",
    _R.REPAIR_QUEUED: "The replication waits for its resync, so there can be no final delta: wait for its end, or send failover.",
    _R.RESYNC_IN_PROGRESS: "The replication is being resynchronised: wait for its end, or send failover to take a recovery point.",
}
_INITIAL = frozenset({_R.INITIAL_QUEUED, _R.INITIAL_IN_PROGRESS, _R.INITIAL_FAILED})
_WINDING_UP = frozenset({_R.STOP_IN_PROGRESS, _R.STOP_FAILED, _R.COMPLETE_IN_PROGRESS, _R.COMPLETE_FAILED})
_IN_MIGRATION = frozenset({_M.MIGRATION_QUEUED, _M.MIGRATION_IN_PROGRESS})


def _starting(operation: DrOperation, situation: DrSituation) -> Verdict:
    """Judge what makes a VM in Azure, where no failover and no migration is in the way."""
    if not situation.has_point or situation.replication in _INITIAL:
        return _no(_NO_POINT.format(verb=operation.value))
    if operation is _D.TEST_MIGRATE:
        return _TEST
    if operation is _D.FAILOVER:
        return _FAILOVER_FOR_ROLLBACK if situation.rolls_back else _FAILOVER
    if situation.rolls_back:
        return _no(
            "The source VM is being powered on again: planned_failover is accepted when the rollback has ended; "
            "failover takes a recovery point and ends the rollback."
        )
    refusal = next((text for state, text in _PLANNED_REFUSED.items() if state is situation.replication), None)
    return _no(refusal) if refusal else _planned(situation)


def _planned(situation: DrSituation) -> Verdict:
    """Judge a planned failover, which needs cycles as a migration does."""
    until = situation.closed_until
    if until is None:
        return _PLANNED
    return _no(
        f"A blackout window is open until {until:%Y-%m-%d %H:%M} UTC, and no cycle may start in it: send planned_failover after its "
        'end, or with {"override_blackout": true}; failover takes a recovery point and needs no cycle.'
    )


def _without_failover(operation: DrOperation, migration: MigrationState, situation: DrSituation) -> Verdict:
    """Judge disaster recovery's operations where there was no failover."""
    if operation in _NEEDS_NO_FAILOVER:
        return _no(_NEEDS_NO_FAILOVER[operation])
    if migration is _M.MIGRATED:
        return _no(f"The VM is migrated: send complete to finish, or resume first to replicate again; then {operation.value}.")
    if operation is _D.UPDATE_POLICY:
        return _POLICY
    if migration in _IN_MIGRATION:
        return _no(f"A migration is under way and replication is in its hands: {operation.value} is accepted when it has ended.")
    return _starting(operation, situation)


def _has_tests(situation: DrSituation) -> bool:
    return situation.tests_to_clean_up > 0 or situation.tests_running > 0


def judge(operation: AnyOperation, situation: DrSituation) -> Verdict:
    """Return whether an operation is accepted in a situation. Total: every combination has an answer with a sentence."""
    replication, migration = situation.replication, situation.migration
    if isinstance(replication, ReplicationState) and replication in _WINDING_UP:
        own = operation if isinstance(operation, Operation) else _O.PAUSE
        return judge_without_dr(own, Situation(replication, _M.NONE))
    if operation is _D.CLEAN_UP:
        return _clean_up(situation)
    if isinstance(migration, DrState) and migration in _IN_FAILOVER:
        return _in_failover(operation, migration, situation)
    if isinstance(replication, ReverseState):  # only ever for a moment: a failover's states come with these
        return _no(f"Blocks travel from Azure to the site ({replication.value}): wait for Reprotected, failback ready.")
    before = migration if isinstance(migration, MigrationState) else _M.TEST_PENDING
    if replication is _R.NONE and before not in (_M.MIGRATION_FAILED, _M.MIGRATED, *_IN_MIGRATION):
        return _ENDED
    if isinstance(operation, DrOperation):
        return _without_failover(operation, before, situation)
    verdict = judge_without_dr(operation, _as_before(replication, before, situation))
    return _TESTS_LEFT if operation in (_O.STOP, _O.COMPLETE) and verdict.accepted and _has_tests(situation) else verdict


def _as_before(replication: ReplicationState, migration: MigrationState, situation: DrSituation) -> Situation:
    return Situation(
        replication,
        migration,
        source_shut_down_by_us=situation.source_shut_down_by_us,
        source_is_off=situation.source_is_off,
        waits_for_retry=situation.waits_for_retry,
        closed_until=situation.closed_until,
        rolls_back=situation.rolls_back,
    )


def allowed(situation: DrSituation) -> tuple[AnyOperation, ...]:
    """Return the operations that a situation accepts, in the order of the enums."""
    return tuple(operation for operation in ALL_OPERATIONS if judge(operation, situation).accepted)
