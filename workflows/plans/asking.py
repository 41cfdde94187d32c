"""How a run of a recovery plan has replications do something: it asks by signal, asks again on a timer, and is answered."""

import dataclasses
from datetime import timedelta
from typing import Any

from temporalio import workflow

from deltaferry.model.states import JobOutcome
from deltaferry.planning.dr_states import DrOperation
from deltaferry.planning.phrases import duration_text
from deltaferry.planning.recovery_plan import RunKind
from workflows import names
from workflows.messages.plan import Asked, PlanRunState, RunOptions
from workflows.messages.service import OperationAnswer, OperationWanted
from workflows.steps import tell

ASK_AGAIN = timedelta(minutes=5)
"""While a replication has not accepted: it may have been adopted meanwhile, and then knows nothing of the request."""
ASK_AGAIN_LATER = timedelta(minutes=15)
"""After it has accepted: two hundred VMs that are asked every five minutes would fill the run's history."""
SILENCE = timedelta(minutes=15)
"""After so long without any answer an item has failed: what is no replication any more takes the signal and says nothing."""
MISSING = timedelta(minutes=30)
"""After so long without the replication that had accepted, an item has failed; `adopt` brings it back sooner."""

_ENDED_WELL = (JobOutcome.SUCCEEDED, JobOutcome.COMPLETED_WITH_INFORMATION)


def operation_of(options: RunOptions) -> tuple[DrOperation, dict[str, Any]]:
    """Return the verb that a run sends to its VMs, with what a person would send as JSON with it."""
    match options.kind:
        case RunKind.TEST:
            given = {"network": options.network, "subnet": options.subnet, "point": options.point}
            return DrOperation.TEST_MIGRATE, {name: value for name, value in given.items() if value is not None}
        case RunKind.PLANNED:
            return DrOperation.PLANNED_FAILOVER, {}
        case RunKind.UNPLANNED:
            return DrOperation.FAILOVER, {"point": options.point} if options.point is not None else {}
        case RunKind.FAILBACK:
            return DrOperation.FAILBACK, {}


class PlanAsking:
    """Asks replications and takes their answers. What was asked is in the state, so that a further run goes on with it."""

    _state: PlanRunState | None
    _changed: bool

    @workflow.signal(name=names.OPERATION_ANSWERED, description="Sent by replications: what became of a request.")
    def operation_answered(self, answer: OperationAnswer) -> None:
        """Take a replication's answer; one that nobody waits for any more changes nothing."""
        state = self._state
        if state is None:
            return
        key = next((key for key, asked in state.asked.items() if asked.request_id == answer.request_id), None)
        if key is None or state.asked[key].over:
            return
        over = answer.ended or not answer.accepted
        state.asked[key] = dataclasses.replace(
            state.asked[key],
            heard=True,
            over=over,
            succeeded=over and answer.accepted and answer.outcome in _ENDED_WELL,
            missing_since=None,
            sentence=answer.sentence or (answer.outcome.value if answer.outcome is not None else ""),
        )
        if answer.accepted and state.options.kind is RunKind.TEST and answer.entity_id not in state.tested:
            state.tested = (*state.tested, answer.entity_id)
        self._changed = True

    def prepare_to_ask(self, state: PlanRunState, key: str, attempt: int) -> None:
        """Give an attempt its request: the last one's, if nobody knows whether that was taken up."""
        before, now = state.asked.get(key), workflow.now()
        if before is None or before.over:
            state.asked[key] = Asked(f"{state.key}/{key}/{attempt}", now)
        else:
            state.asked[key] = dataclasses.replace(before, first_at=now, asked_at=None, missing_since=None)

    async def ask(self, state: PlanRunState, key: str, vm: str, operation: str, options: dict[str, Any]) -> tuple[bool, str]:
        """Have a replication do something; return whether it did, and a sentence. What was begun already is waited for."""
        while not state.asked[key].over:
            await self._until_due(state, key, f"ask {vm} again for {operation}")
            if state.asked[key].over:
                break
            wanted = OperationWanted(workflow.info().workflow_id, state.asked[key].request_id, operation, options)
            there = await tell(vm, names.OPERATION_WANTED, wanted)
            state.asked[key] = dataclasses.replace(state.asked[key], asked_at=workflow.now())
            failed = self._given_up(state, key, vm, there)
            if failed:
                return False, failed
        return state.asked[key].succeeded, state.asked[key].sentence

    async def _until_due(self, state: PlanRunState, key: str, summary: str) -> None:
        """Wait until it is time to ask again, or the end was told. A run that goes on in a new one does not ask at once."""
        asked = state.asked[key]
        if asked.asked_at is None:
            return
        again = ASK_AGAIN_LATER if asked.heard and asked.missing_since is None else ASK_AGAIN
        timeout = max(asked.asked_at + again - workflow.now(), timedelta(milliseconds=1))
        try:
            await workflow.wait_condition(lambda: state.asked[key].over, timeout=timeout, timeout_summary=summary)
        except TimeoutError:
            return

    def _given_up(self, state: PlanRunState, key: str, vm: str, there: bool) -> str:
        """Note whether the replication runs; return why it is not waited for any more, or an empty text."""
        asked, now = state.asked[key], workflow.now()
        if asked.over:
            return ""
        if not there:
            missing_since = asked.missing_since or now
            state.asked[key] = dataclasses.replace(asked, missing_since=missing_since)
            if not asked.heard:
                return f"No replication {vm} runs: correct the id, or enable or adopt the VM's replication, then retry."
            if now - missing_since >= MISSING:
                return (
                    f"The replication {vm} had accepted, and has not run for {duration_text(MISSING)}: adopt it, "
                    "look what became of the VM, then retry or skip."
                )
            return ""
        state.asked[key] = dataclasses.replace(asked, missing_since=None)
        if not asked.heard and now - asked.first_at >= SILENCE:
            return (
                f"The replication {vm} has not answered for {duration_text(SILENCE)}, and may still take the request up: it may be "
                "ending. Look at its status, then retry or skip."
            )
        return ""
