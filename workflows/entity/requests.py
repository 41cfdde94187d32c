"""How a replication serves other workflows, such as a recovery plan: it judges, does and answers as for people, by signals."""

import dataclasses
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

from deltaferry.model.states import JobOutcome, Operation, ReplicationState
from deltaferry.planning.dr_states import AnyOperation, DrOperation, DrState
from workflows import names
from workflows.entity.elsewhere import EntityElsewhere
from workflows.messages.dr_state import ServedRequest
from workflows.messages.operator_input import (
    ChangePointOptions,
    CleanUpOptions,
    FailoverOptions,
    MigrateOptions,
    PolicyOptions,
    Reason,
    ReprotectOptions,
    TestOptions,
)
from workflows.messages.replication_state import EntityState
from workflows.messages.service import OperationAnswer, OperationWanted
from workflows.refusals import UnreadableInputError, read_input

_KEPT = 20
"""How many requests are remembered that have ended."""

_INPUTS: dict[AnyOperation, type[Any]] = {
    Operation.PAUSE: Reason,
    Operation.RESUME: Reason,
    DrOperation.TEST_MIGRATE: TestOptions,
    DrOperation.CLEAN_UP: CleanUpOptions,
    DrOperation.FAILOVER: FailoverOptions,
    DrOperation.PLANNED_FAILOVER: MigrateOptions,
    DrOperation.CHANGE_POINT: ChangePointOptions,
    DrOperation.COMMIT: Reason,
    DrOperation.CANCEL: Reason,
    DrOperation.REPROTECT: ReprotectOptions,
    DrOperation.FAILBACK: Reason,
    DrOperation.COMMIT_FAILBACK: Reason,
    DrOperation.UPDATE_POLICY: PolicyOptions,
}
"""What a service may ask for, and what it sends with it."""


class EntityRequests(EntityElsewhere):
    """Takes requests, and answers them twice: when they are judged, and when what they began has ended."""

    @workflow.signal(name=names.OPERATION_WANTED, description="Sent by a recovery plan: it asks for an operation.")
    def operation_wanted(self, wanted: OperationWanted) -> None:
        """Do what is asked for, once; a request that is known is only answered again."""
        if any(known.request_id == wanted.request_id for known in self._state.served):
            self._unanswered.add(wanted.request_id)
            return
        accepted, sentence, number = self._begin(wanted)
        request = ServedRequest(
            wanted.requester,
            wanted.request_id,
            wanted.operation,
            accepted,
            number,
            None if accepted else JobOutcome.FAILED,
            sentence,
        )
        going_on = tuple(known for known in self._state.served if known.outcome is None)
        ended = tuple(known for known in self._state.served if known.outcome is not None)[-_KEPT:]
        self._state.served = (*ended, *going_on, request)
        self._unanswered.add(wanted.request_id)

    def _begin(self, wanted: OperationWanted) -> tuple[bool, str, int]:
        """Judge a request and note what it asks for; return whether it was accepted, the sentence, and its job's number."""
        operation = next((known for known in _INPUTS if known.value == wanted.operation), None)
        if operation is None:
            known = ", ".join(sorted(known.value for known in _INPUTS))
            return False, f"No workflow can ask for {wanted.operation!r}; it may ask for {known}.", 0
        kind = _INPUTS[operation]
        try:
            argument = read_input(wanted.operation, kind, wanted.options)
        except UnreadableInputError as error:
            return False, str(error), 0
        verdict = self.judge(operation, argument)
        if verdict.accepted:
            self.accept(operation, argument)
        return verdict.accepted, verdict.sentence, self._state.jobs_minted

    async def _serve_requests(self) -> None:
        """Answer, for as long as the run lasts."""
        self._unanswered.update(request.request_id for request in self._state.served if request.outcome is None)
        while True:
            await workflow.wait_condition(lambda: bool(self._unanswered) or self._has_ended_one())
            for request in self._state.served:
                ended = outcome_of(request, self._state) if request.outcome is None else None
                if ended is not None:
                    self._replace(ended)
                    self._unanswered.add(ended.request_id)
            for request in self._state.served:
                if request.request_id in self._unanswered:
                    self._unanswered.discard(request.request_id)
                    await self._answer_request(request)

    def _has_ended_one(self) -> bool:
        served = (request for request in self._state.served if request.outcome is None)
        return any(outcome_of(request, self._state) is not None for request in served)

    def _replace(self, request: ServedRequest) -> None:
        self._state.served = tuple(request if known.request_id == request.request_id else known for known in self._state.served)

    async def _answer_request(self, request: ServedRequest) -> None:
        answer = OperationAnswer(
            entity_id=workflow.info().workflow_id,
            request_id=request.request_id,
            accepted=request.accepted,
            ended=request.outcome is not None,
            outcome=request.outcome,
            sentence=request.sentence,
            target_vm_id=request.target_vm_id,
        )
        try:
            await workflow.get_external_workflow_handle(request.requester).signal(names.OPERATION_ANSWERED, answer)
        except FailureError:
            workflow.logger.info("the workflow that asked for %s has ended", request.operation)


def outcome_of(request: ServedRequest, state: EntityState) -> ServedRequest | None:
    """Return a request that goes on as it ended, by the state alone; None while it goes on."""
    good, bad = JobOutcome.SUCCEEDED, JobOutcome.FAILED
    health = state.health[0].message if state.health else "It did not come to its end."
    vm = state.failover.vm_id if state.failover is not None else None
    ended: tuple[JobOutcome, str, str | None] | None = None
    match request.operation:
        case DrOperation.TEST_MIGRATE:
            test = next((test for test in state.tests if test.number == request.number), None)
            if test is None:
                ended = bad, "The test was cleaned up.", None
            elif test.state is DrState.CLEAN_UP_PENDING:
                ended = good, "The test's VM runs.", test.vm_id
            elif test.state in (DrState.TEST_FAILED, DrState.CLEAN_UP_FAILED):
                ended = bad, test.error.message if test.error is not None else health, None
        case DrOperation.CLEAN_UP:
            states = {test.state for test in state.tests}
            if DrState.CLEAN_UP_IN_PROGRESS not in states:
                ended = (bad, health, None) if DrState.CLEAN_UP_FAILED in states else (good, "All is deleted.", None)
        case DrOperation.FAILOVER | DrOperation.PLANNED_FAILOVER | DrOperation.CHANGE_POINT:
            if state.migration_state is DrState.FAILOVER_FAILED:
                ended = bad, health, None
            elif state.migration_state is not DrState.FAILOVER_IN_PROGRESS:
                ended = good, "The VM runs in Azure.", vm
        case DrOperation.CANCEL:
            if state.failover is None:
                ended = good, "The failover is cancelled.", None
            elif state.migration_state is DrState.FAILOVER_FAILED:
                ended = bad, health, None
        case DrOperation.COMMIT:
            if state.failover is None or state.failover.committed_at is not None:
                ended = good, "The failover is committed.", vm
            elif state.health:
                ended = bad, health, None
        case DrOperation.REPROTECT:
            if state.migration_state is DrState.FAILBACK_READY:
                ended = good, "The VM is replicated back to its site.", vm
            elif state.health and state.replication_state is ReplicationState.NONE:
                ended = bad, health, None
        case DrOperation.COMMIT_FAILBACK:
            if state.failover is None:
                ended = good, "The failback is committed.", None
            elif state.health:
                ended = bad, health, None
        case DrOperation.FAILBACK:
            if state.migration_state is DrState.FAILED_BACK:
                ended = good, "The VM runs at its site.", None
            elif state.migration_state is not DrState.FAILBACK_IN_PROGRESS:
                ended = bad, health, None
        case _:
            ended = good, request.sentence, None
    if ended is None:
        return None
    outcome, sentence, made = ended
    return dataclasses.replace(request, outcome=outcome, sentence=sentence, target_vm_id=made)
