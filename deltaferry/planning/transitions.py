"""Which operation is accepted in which pair of states, with the sentence for each answer (spec §6, §7).

One pure table, asked by the validators of updates, by signals, and by everything that shows what can be done next.
What is tested first wins: a replication that is being wound up takes nothing; then a finished or running migration
decides; then the replication state does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from deltaferry.model.states import MigrationState, Operation, ReplicationState

_O, _R, _M = Operation, ReplicationState, MigrationState


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the table needs to know of a replication."""

    replication: ReplicationState
    migration: MigrationState
    source_shut_down_by_us: bool = False
    """A migration has shut the source VM down and nothing has powered it on again on our behalf."""
    source_is_off: bool = False
    """The source VM's power state, as last read, is off."""
    waits_for_retry: bool = False
    """Something failed, other than a migration, that is not tried again by itself: a health error waits for an operator."""
    closed_until: datetime | None = None
    """When the blackout window ends that is open now and not overridden; None if cycles may start."""
    rolls_back: bool = False
    """A rollback was asked for and has not ended: the source VM is being powered on, or about to be."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an operation is accepted, and one or two sentences: what will happen, or when and what instead."""

    accepted: bool
    sentence: str


def _yes(sentence: str) -> Verdict:
    return Verdict(True, sentence)


def _no(sentence: str) -> Verdict:
    return Verdict(False, sentence)


_STOP = _yes("Replication ends; its seed disks, logs, snapshots, keys and bookkeeping are deleted.")
_STOP_AFTER_CYCLE = _yes(
    "Replication ends when the running cycle has finished; its seed disks, logs, snapshots, keys and bookkeeping are deleted."
)
_UPDATE = _yes("The new target properties apply from the next migration on.")
_NOT_MIGRATED = _no("Complete is accepted only after a successful migration: send migrate_now first, or stop to end replication.")
_NOTHING_TO_REPAIR = _no("There is nothing to repair: repair is for a replication that is Repair pending.")
_NOT_YET_COPIED = _no("There is no full copy yet to compare with: it is accepted when the replication has reached Delta sync.")
_WHILE_PAUSED = _no("Replication is paused or being resumed: send resume, and ask again in Delta sync.")
_RESYNC = _yes(
    "The seed disks are compared with the source by checksums, after a cycle that runs now, and what differs is sent; no cycles run meanwhile."
)
_REPAIR = _yes("The resync begins as soon as there are slots for it; delta cycles go on when it has succeeded.")
_VERIFY = _yes("The seed disks are read and compared with their checksum maps; cycles go on between the chunks.")
_VERIFY_AFTER_REPAIR = _no("The replica needs a repair, which verifies it as well: send repair.")
_NOTHING_FAILED = _no("Nothing waits for a retry: retry is accepted after something failed that is not tried again by itself.")
_RETRY = _yes("What failed is tried again at once.")
_NOT_PAUSED = _no("Replication is not paused: resume is accepted in Pause in progress and Paused, and after a migration.")


def _initial(migrate_and_pause: str, resume: str) -> Mapping[Operation, Verdict]:
    """Return the rules of an initial replication that runs: only stop, and the properties of the target."""
    return {
        _O.PAUSE: _no(migrate_and_pause),
        _O.RESUME: _no(resume),
        _O.MIGRATE: _no(migrate_and_pause),
        _O.REPAIR: _NOTHING_TO_REPAIR,
        _O.RESYNC: _NOT_YET_COPIED,
        _O.VERIFY: _NOT_YET_COPIED,
        _O.STOP: _STOP,
        _O.UPDATE_TARGET: _UPDATE,
    }


def _pausing(stop: Verdict, pause: str) -> Mapping[Operation, Verdict]:
    """Return the rules of a replication that is paused or about to be."""
    return {
        _O.PAUSE: _no(pause),
        _O.RESUME: _yes("Delta cycles go on."),
        _O.MIGRATE: _no("Replication is paused and no cycle runs, a migration's neither: send resume first, then migrate_now."),
        _O.REPAIR: _NOTHING_TO_REPAIR,
        _O.RESYNC: _WHILE_PAUSED,
        _O.VERIFY: _WHILE_PAUSED,
        _O.STOP: stop,
        _O.UPDATE_TARGET: _UPDATE,
    }


def _resuming(stop: Verdict) -> Mapping[Operation, Verdict]:
    """Return the rules of a replication whose first cycle after a pause waits or runs."""
    return {
        _O.PAUSE: _yes("No further cycle starts until resume."),
        _O.RESUME: _no("Replication is being resumed already: wait for Delta sync."),
        _O.MIGRATE: _no(
            "Replication is being resumed: migrate_now is accepted again in Delta sync, when the resuming cycle is done."
        ),
        _O.REPAIR: _NOTHING_TO_REPAIR,
        _O.RESYNC: _WHILE_PAUSED,
        _O.VERIFY: _WHILE_PAUSED,
        _O.STOP: stop,
        _O.UPDATE_TARGET: _UPDATE,
    }


def _repairing(state: str, instead: str, repair: Verdict, resync: Verdict) -> Mapping[Operation, Verdict]:
    """Return the rules of a replication after which only a resync may follow."""
    return {
        _O.PAUSE: _no(f"The replication {state} and no cycles run, so there is nothing to pause: {instead}, or stop."),
        _O.RESUME: _no(f"The replication {state}, and resume does not help it: {instead}."),
        _O.MIGRATE: _no(
            f"The replication {state}, so it cannot be migrated from: {instead}; migrate_now is accepted again in Delta sync."
        ),
        _O.REPAIR: repair,
        _O.RESYNC: resync,
        _O.VERIFY: _VERIFY_AFTER_REPAIR,
        _O.STOP: _STOP,
        _O.UPDATE_TARGET: _UPDATE,
    }


_GO_ON = _yes("The seed disks are resynchronised first, now, with the source VM off; then the migration goes on.")
_RESYNC_RUNS = _no("A resync is under way already: wait for its end, or send stop to end replication.")
_RUNNING = "The initial replication is still running: migrate_now and pause are accepted when it has reached Delta sync. Only stop is possible now."
_FAILED = "The initial replication failed: send retry to let it go on, or stop to give up."

_BY_REPLICATION: Mapping[ReplicationState, Mapping[Operation, Verdict]] = {
    _R.INITIAL_QUEUED: _initial(
        "The initial replication waits for slots: migrate_now and pause are accepted when it has reached Delta sync. "
        "Only stop is possible now.",
        _NOT_PAUSED.sentence,
    ),
    _R.INITIAL_IN_PROGRESS: _initial(_RUNNING, _NOT_PAUSED.sentence),
    _R.INITIAL_FAILED: _initial(_FAILED, _FAILED),
    _R.DELTA_SYNC: {
        _O.PAUSE: _yes("A running cycle finishes; then no cycle starts until resume."),
        _O.RESUME: _NOT_PAUSED,
        _O.MIGRATE: _yes("The migration starts with an on-demand delta, behind a cycle that runs now."),
        _O.REPAIR: _NOTHING_TO_REPAIR,
        _O.RESYNC: _RESYNC,
        _O.VERIFY: _VERIFY,
        _O.STOP: _STOP_AFTER_CYCLE,
        _O.UPDATE_TARGET: _UPDATE,
    },
    _R.PAUSE_IN_PROGRESS: _pausing(_STOP_AFTER_CYCLE, "The pause is on its way: the running cycle finishes first."),
    _R.PAUSED: _pausing(_STOP, "Replication is paused already: send resume to go on."),
    _R.RESUME_QUEUED: _resuming(_STOP),
    _R.RESUME_IN_PROGRESS: _resuming(_STOP_AFTER_CYCLE),
    _R.REPAIR_PENDING: _repairing("is Repair pending", "send repair, or wait for the off-hours window", _REPAIR, _REPAIR),
    _R.REPAIR_QUEUED: _repairing("waits for slots for its resync", "wait for the resync's end", _RESYNC_RUNS, _RESYNC_RUNS),
    _R.RESYNC_IN_PROGRESS: _repairing("is being resynchronised", "wait for the resync's end", _RESYNC_RUNS, _RESYNC_RUNS),
}

_MIGRATED: Mapping[Operation, Verdict] = {
    _O.PAUSE: _no("The VM is migrated and no cycles run: send complete to finish, or resume to replicate again."),
    _O.RESUME: _yes("Replication of the source VM starts again; it can be migrated again later."),
    _O.MIGRATE: _no("The VM is migrated already: send complete to finish, or resume first to replicate and migrate again."),
    _O.RETRY: _no("Nothing failed: the VM is migrated. Send complete to finish, or resume to replicate again."),
    _O.REPAIR: _no("The VM is migrated and nothing is left to repair: send complete to finish, or resume to replicate again."),
    _O.RESYNC: _no("The VM is migrated and no cycles run: send resume to replicate the source VM again, or complete."),
    _O.VERIFY: _no("The VM is migrated: look at the VM in Azure; send complete, or resume to replicate again."),
    _O.ROLLBACK: _no(
        "The migration succeeded, so there is nothing to roll back: send resume to replicate the source VM again, or complete."
    ),
    _O.STOP: _no(
        "Stop is refused after a successful migration: send complete, which deletes the same and keeps the migrated VM."
    ),
    _O.COMPLETE: _yes(
        "The migration is completed; seed disks, logs, keys and bookkeeping are deleted, and the migrated VM stays."
    ),
    _O.UPDATE_TARGET: _no("The VM is migrated: change it in Azure, or send resume first to replicate and migrate again."),
}

_IN_ITS_HANDS = "replication is in the migration's hands. It is accepted again when the migration has ended."


def _migrating(state: str, update_target: Verdict) -> Mapping[Operation, Verdict]:
    """Return the rules while a migration owns the replication's cycles."""
    return {
        _O.PAUSE: _no(f"Pause is refused while a migration is {state}: {_IN_ITS_HANDS}"),
        _O.RESUME: _no(f"Resume is refused while a migration is {state}: {_IN_ITS_HANDS}"),
        _O.MIGRATE: _no(f"A migration is {state} already: wait for its end."),
        _O.RETRY: _no(f"A migration is {state}: if it fails, send migrate_now again."),
        _O.REPAIR: _no(f"Repair is refused while a migration is {state}: {_IN_ITS_HANDS}"),
        _O.RESYNC: _no(f"Resync is refused while a migration is {state}: {_IN_ITS_HANDS}"),
        _O.VERIFY: _no(f"Verify is refused while a migration is {state}: {_IN_ITS_HANDS}"),
        _O.ROLLBACK: _no(f"A migration is {state}: rollback is accepted if it fails after the source VM was shut down."),
        _O.STOP: _no(f"Stop is refused while a migration is {state}: {_IN_ITS_HANDS}"),
        _O.COMPLETE: _no(f"A migration is {state}: complete is accepted when it has succeeded."),
        _O.UPDATE_TARGET: update_target,
    }


_MIGRATION_QUEUED = _migrating("queued", _yes("The new target properties apply to the migration that is queued."))
_MIGRATION_IN_PROGRESS = _migrating(
    "in progress",
    _no(
        "The migration in progress already uses the target properties: they can be changed when it has failed, not after it has succeeded."
    ),
)


def _winding_up(doing: str, failed: str) -> Mapping[Operation, Verdict]:
    """Return the refusals of a replication that is being deleted."""
    sentence = f"{doing}, and takes nothing else until it has ended; if that fails, retry and {failed} are accepted."
    return {operation: _no(sentence) for operation in Operation}


def _winding_up_failed(what: str, again: Operation, cause: str) -> Mapping[Operation, Verdict]:
    """Return the rules of a replication whose deletion failed half-way: it can only be finished."""
    rules = {
        operation: _no(f"{cause}: send retry or {again} to finish {what}; nothing else is possible now.")
        for operation in Operation
    }
    rules[_O.RETRY] = rules[again] = _yes(f"What is left of {what} is tried again.")
    return rules


_WINDING_UP: Mapping[ReplicationState, Mapping[Operation, Verdict]] = {
    _R.STOP_IN_PROGRESS: _winding_up("The replication is being stopped", "stop"),
    _R.COMPLETE_IN_PROGRESS: _winding_up("The migration is being completed", "complete"),
    _R.STOP_FAILED: _winding_up_failed("the stop", _O.STOP, "Stopping the replication failed half-way"),
    _R.COMPLETE_FAILED: _winding_up_failed("the completion", _O.COMPLETE, "Completing the migration failed half-way"),
}

_ENDED = _no("The replication has ended: enable the VM again to start a new one.")


def judge(operation: Operation, situation: Situation) -> Verdict:
    """Return whether an operation is accepted in a situation. Total: every combination has an answer with a sentence."""
    replication, migration = situation.replication, situation.migration
    if replication in _WINDING_UP:
        return _WINDING_UP[replication][operation]
    if migration is _M.MIGRATED:
        return _MIGRATED[operation]
    if migration is _M.MIGRATION_QUEUED:
        return _MIGRATION_QUEUED[operation]
    if migration is _M.MIGRATION_IN_PROGRESS:
        return _MIGRATION_IN_PROGRESS[operation]
    if replication is _R.NONE:
        if migration is not _M.MIGRATION_FAILED:
            return _ENDED
        replication = _R.DELTA_SYNC  # a failed migration leaves replication intact; its cycles have just not begun again
    if operation is _O.ROLLBACK:
        return _rollback(situation)
    if operation is _O.RETRY:
        return _retry(situation)
    if operation is _O.COMPLETE:
        return _NOT_MIGRATED
    if operation is _O.MIGRATE:
        return _migrate(replication, situation)
    return _BY_REPLICATION[replication][operation]


def allowed(situation: Situation) -> tuple[Operation, ...]:
    """Return the operations that a situation accepts, in the order of the enum."""
    return tuple(operation for operation in Operation if judge(operation, situation).accepted)


def _stands_still(situation: Situation) -> bool:
    """Return whether a migration failed behind the source's shut-down, and the source is still off."""
    failed = situation.migration is _M.MIGRATION_FAILED
    return failed and situation.source_shut_down_by_us and situation.source_is_off


def _migrate(replication: ReplicationState, situation: Situation) -> Verdict:
    """Judge a migration; one that could not run its cycles, since a blackout window is open, is refused before anything is done."""
    if situation.rolls_back:
        return _no("The source VM is being powered on again: migrate_now is accepted when the rollback has ended.")
    verdict = _BY_REPLICATION[replication][_O.MIGRATE]
    if replication is _R.REPAIR_PENDING and _stands_still(situation):
        verdict = _GO_ON
    until = situation.closed_until
    if until is None or not verdict.accepted:
        return verdict
    return _no(
        f"A blackout window is open until {until:%Y-%m-%d %H:%M} UTC, and no cycle may start in it: send migrate_now after its end, "
        'or with {"override_blackout": true} to migrate now.'
    )


def _rollback(situation: Situation) -> Verdict:
    """Judge powering the source VM on again after a migration that failed behind its shut-down (spec §7)."""
    if situation.migration is not _M.MIGRATION_FAILED:
        return _no(
            "There is nothing to roll back: rollback is accepted after a migration has failed behind the source VM's shut-down."
        )
    if situation.rolls_back:
        return _no("The source VM is being powered on already: wait for the rollback's end.")
    if not situation.source_shut_down_by_us:
        return _no(
            "The migration failed before it shut the source VM down, so there is nothing to roll back: send migrate_now to try again."
        )
    if not situation.source_is_off:
        return _no("The source VM runs again already, so there is nothing to roll back: send migrate_now to try again.")
    return _yes("The source VM is powered on again; replication goes on, and it can be migrated again later.")


def _retry(situation: Situation) -> Verdict:
    """Judge trying again what failed and waits."""
    if situation.waits_for_retry or situation.replication is _R.INITIAL_FAILED:
        return _RETRY
    if situation.replication is _R.REPAIR_PENDING:
        return _no("A retry does not mend a replication that is Repair pending: send repair.")
    if situation.migration is _M.MIGRATION_FAILED:
        return _no("Retry does not repeat a migration: send migrate_now to migrate again.")
    return _NOTHING_FAILED
