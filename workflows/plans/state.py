"""How a run of a recovery plan begins, how its state passes from run to run, and when a test may be cleaned up."""

from typing import Any

from pydantic import TypeAdapter, ValidationError
from temporalio import workflow

from deltaferry.planning.phrases import count_text
from deltaferry.planning.plan_progress import NOTE_LIMIT, ItemState, begin, items_of
from deltaferry.planning.recovery_plan import RunKind
from deltaferry.planning.transitions import Verdict
from workflows.messages.plan import Decided, Phase, PlanRunState, RunOptions
from workflows.messages.plan_input import PlanCleanUp, PlanInput, run_contradictions

KEPT_DECISIONS = 100

LONGEST_HISTORY = 1000
"""Events after which a run continues as new, when no script, webhook or runbook is under way."""

_STATE = TypeAdapter(PlanRunState)


def carried(state: PlanRunState) -> dict[str, Any]:
    """Return a state as the next run is given it."""
    dumped: dict[str, Any] = _STATE.dump_python(state, mode="json")
    return dumped


def carried_state(request: PlanInput) -> PlanRunState | None:
    """Return the state that the previous run left, or None where this version of the code cannot read it."""
    try:
        return _STATE.validate_python(request.carried)
    except ValidationError as error:
        workflow.logger.warning("a carried state cannot be read: %d errors", error.error_count())
        return None


def first_state(request: PlanInput) -> PlanRunState | None:
    """Return the state of a run that begins, or None where it cannot."""
    if run_contradictions(request):
        return None
    plan, kind = request.plan.plan(), request.run.kind
    return PlanRunState(
        plan=plan,
        options=RunOptions(kind, request.network, request.subnet, request.point, request.reason),
        key=workflow.info().first_execution_run_id,
        progress=begin(items_of(plan, kind)),
        began_at=workflow.now(),
        vm_names=request.vm_names,
    )


def keep_decision(state: PlanRunState, verb: str, item: str, by: str, reason: str) -> None:
    """Keep who decided what, and why; the oldest go where there are very many."""
    decided = Decided(workflow.now(), verb, item, by[:NOTE_LIMIT], reason[:NOTE_LIMIT])
    state.decisions = (*state.decisions, decided)[-KEPT_DECISIONS:]


def note_ends(state: PlanRunState) -> None:
    """Note of items that have ended since the last call that they end now."""
    for entry in state.progress.items:
        if entry.state in (ItemState.SUCCEEDED, ItemState.FAILED) and entry.item_id in state.since:
            state.ended.setdefault(entry.item_id, workflow.now())


def clean_up_key(vm: str) -> str:
    """Return the key under which the clean-up of a VM's test is asked for."""
    return f"clean-up/{vm}"


def judge_clean_up(state: PlanRunState, request: PlanCleanUp) -> Verdict:
    """Return whether `clean_up` is accepted, with the sentence."""
    if state.options.kind is not RunKind.TEST:
        return Verdict(False, f"A {state.options.kind} has nothing to clean up: clean_up is for a test of the plan.")
    match state.phase:
        case Phase.RUNNING:
            return Verdict(False, "The test has not ended yet: clean_up is accepted when it has; abort ends it sooner.")
        case Phase.CLEANING_UP:
            return Verdict(False, "The clean-up is under way already: wait for its end.")
        case Phase.ENDED:
            return Verdict(False, "The run has ended.")
        case Phase.CLEAN_UP_PENDING:
            left = count_text(len([item for item in state.clean_up if not item.done]), "VM")
            if not request.leave:
                return Verdict(True, f"What the test has made of {left} is deleted.")
            if not request.reason.strip() or not request.by.strip():
                return Verdict(False, "Say who decides to leave it and why: both are kept with the run.")
            return Verdict(True, f"The run ends; what the test has made of {left} is left to clean_up of each replication.")
