"""The verbs that are sent to a run of a recovery plan: each one an update, which answers, and a signal of the same name.

Handlers only judge and set fields; the run method decides what happens. An update that is refused fails with the sentence
that says why; a signal that is refused, or that cannot be read, changes nothing and is shown as the last refused request.
"""

from abc import abstractmethod
from typing import Any

from temporalio import workflow

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.plan_progress import PlanCommand
from deltaferry.planning.transitions import Verdict
from workflows.messages.plan_input import PlanAbort, PlanCleanUp, PlanDecision
from workflows.messages.replication_state import Refusal
from workflows.refusals import UnreadableInputError, read_input
from workflows.steps import refusal

PlanRequest = PlanDecision | PlanAbort | PlanCleanUp

CLEAN_UP = "clean_up"

_PLAIN_CLEAN_UP = PlanCleanUp()

_DECISION = 'input: {"item": "database/after/check the data", "reason": "why", "by": "who"}'
_RETRY = 'input: {"item": "database/before/stop jobs", "by": "who"}'
_ABORT = 'input: {"reason": "why", "by": "who"}'
_CLEAN_UP = 'input: nothing, or {"leave": true, "reason": "why", "by": "who"} to end the run and leave what could not be deleted'

_CONFIRM_TEXT = f"A manual action is done: the plan goes on. {_DECISION}"
_REJECT_TEXT = f"A manual action cannot be done: the plan stops there. {_DECISION}"
_RETRY_TEXT = f"Try a failed item again. {_RETRY}"
_SKIP_TEXT = f"Go on without a failed item. {_DECISION}"
_ABORT_TEXT = f"Begin nothing more; what runs is waited for. {_ABORT}"
_CLEAN_UP_TEXT = f"Delete what a test of the plan has made, and end the run. {_CLEAN_UP}"


class PlanCommands:
    """The handlers; what an accepted command leads to is the run's own."""

    @abstractmethod
    def verdict(self, verb: str, request: PlanRequest) -> Verdict:
        """Return whether a command is accepted now, with the sentence."""

    @abstractmethod
    def carry_out(self, verb: str, request: PlanRequest) -> None:
        """Take an accepted command into the state."""

    @abstractmethod
    def refused(self, refused: Refusal) -> None:
        """Note a refused signal."""

    def _check(self, verb: str, request: PlanRequest) -> None:
        verdict = self.verdict(verb, request)
        if not verdict.accepted:
            raise refusal(ErrorKind.OPERATION_REFUSED, verdict.sentence)

    def _take(self, verb: str, request: PlanRequest) -> str:
        self._check(verb, request)  # the state may have changed since the validator looked
        sentence = self.verdict(verb, request).sentence
        self.carry_out(verb, request)
        return sentence

    def _signalled(self, verb: str, raw: Any, kind: type[PlanRequest]) -> None:
        now = workflow.now()
        try:
            request = read_input(verb, kind, raw)
        except UnreadableInputError as error:
            self.refused(Refusal(verb, str(error), now))
            return
        verdict = self.verdict(verb, request)
        if verdict.accepted:
            self.carry_out(verb, request)
        else:
            self.refused(Refusal(verb, verdict.sentence, now))

    # --- confirm ---

    @workflow.update(name=PlanCommand.CONFIRM.value, description=_CONFIRM_TEXT)
    def confirm(self, decision: PlanDecision) -> str:
        """Confirm."""
        return self._take(PlanCommand.CONFIRM, decision)

    @confirm.validator
    def _confirm_valid(self, decision: PlanDecision) -> None:
        self._check(PlanCommand.CONFIRM, decision)

    @workflow.signal(name=PlanCommand.CONFIRM.value, description=_CONFIRM_TEXT)
    def confirm_signal(self, decision: Any = None) -> None:
        """Confirm."""
        self._signalled(PlanCommand.CONFIRM, decision, PlanDecision)

    # --- reject ---

    @workflow.update(name=PlanCommand.REJECT.value, description=_REJECT_TEXT)
    def reject(self, decision: PlanDecision) -> str:
        """Reject."""
        return self._take(PlanCommand.REJECT, decision)

    @reject.validator
    def _reject_valid(self, decision: PlanDecision) -> None:
        self._check(PlanCommand.REJECT, decision)

    @workflow.signal(name=PlanCommand.REJECT.value, description=_REJECT_TEXT)
    def reject_signal(self, decision: Any = None) -> None:
        """Reject."""
        self._signalled(PlanCommand.REJECT, decision, PlanDecision)

    # --- retry ---

    @workflow.update(name=PlanCommand.RETRY.value, description=_RETRY_TEXT)
    def retry_step(self, decision: PlanDecision) -> str:
        """Retry."""
        return self._take(PlanCommand.RETRY, decision)

    @retry_step.validator
    def _retry_valid(self, decision: PlanDecision) -> None:
        self._check(PlanCommand.RETRY, decision)

    @workflow.signal(name=PlanCommand.RETRY.value, description=_RETRY_TEXT)
    def retry_signal(self, decision: Any = None) -> None:
        """Retry."""
        self._signalled(PlanCommand.RETRY, decision, PlanDecision)

    # --- skip ---

    @workflow.update(name=PlanCommand.SKIP.value, description=_SKIP_TEXT)
    def skip_step(self, decision: PlanDecision) -> str:
        """Skip."""
        return self._take(PlanCommand.SKIP, decision)

    @skip_step.validator
    def _skip_valid(self, decision: PlanDecision) -> None:
        self._check(PlanCommand.SKIP, decision)

    @workflow.signal(name=PlanCommand.SKIP.value, description=_SKIP_TEXT)
    def skip_signal(self, decision: Any = None) -> None:
        """Skip."""
        self._signalled(PlanCommand.SKIP, decision, PlanDecision)

    # --- abort ---

    @workflow.update(name=PlanCommand.ABORT.value, description=_ABORT_TEXT)
    def abort(self, request: PlanAbort) -> str:
        """Abort."""
        return self._take(PlanCommand.ABORT, request)

    @abort.validator
    def _abort_valid(self, request: PlanAbort) -> None:
        self._check(PlanCommand.ABORT, request)

    @workflow.signal(name=PlanCommand.ABORT.value, description=_ABORT_TEXT)
    def abort_signal(self, request: Any = None) -> None:
        """Abort."""
        self._signalled(PlanCommand.ABORT, request, PlanAbort)

    # --- clean up ---

    @workflow.update(name=CLEAN_UP, description=_CLEAN_UP_TEXT)
    def clean_up(self, request: PlanCleanUp = _PLAIN_CLEAN_UP) -> str:
        """Clean up."""
        return self._take(CLEAN_UP, request)

    @clean_up.validator
    def _clean_up_valid(self, request: PlanCleanUp = _PLAIN_CLEAN_UP) -> None:
        self._check(CLEAN_UP, request)

    @workflow.signal(name=CLEAN_UP, description=_CLEAN_UP_TEXT)
    def clean_up_signal(self, request: Any = None) -> None:
        """Clean up."""
        self._signalled(CLEAN_UP, request, PlanCleanUp)
