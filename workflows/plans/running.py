"""How a run of a recovery plan has a script, webhook or runbook carried out, and what a person reads of its failure."""

from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.plan_steps import PlanRunbooks, PlanScripts, PlanTargets, PlanWebhooks
from deltaferry.planning.plan_progress import Item
from deltaferry.planning.recovery_plan import PlanStep, StepKind
from workflows import names
from workflows.messages.plan import OUTPUT_LIMIT, PlanRunState, StepInput, StepResult
from workflows.policies import ASK, RUNBOOK, SCRIPT, WEBHOOK
from workflows.steps import failure_of, perform, was_not_taken_up

_ALL_OUTPUTS = 64 * OUTPUT_LIMIT
"""Bytes of output that a run carries: a payload has at most 2 MB, and most of it is the plan's own."""


async def run_step(state: PlanRunState, item: Item, attempt: int) -> StepResult:
    """Carry out one attempt of a script, webhook or runbook. A failure is a result; a cancellation is raised."""
    step = item.step
    if step is None or step.time_limit is None:
        raise RuntimeError(f"{item.item_id} is no step with a time limit")
    request = StepInput(
        plan=state.plan.name,
        run=state.key,
        kind=state.options.kind,
        group=item.group,
        item_id=item.item_id,
        attempt=attempt,
        target=step.target,
        time_limit=step.time_limit,
        workflow_id=workflow.info().workflow_id,
        worker=step.worker,
    )
    try:
        return await _perform(step, request)
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        return StepResult(False, _sentence(step, error))


async def _perform(step: PlanStep, request: StepInput) -> StepResult:
    summary = f"{request.item_id}, attempt {request.attempt}"
    match step.kind:
        case StepKind.SCRIPT:
            return await perform(
                PlanScripts.run_script, request, queue=names.plan_queue(step.worker), limits=SCRIPT, summary=summary, aside=True
            )
        case StepKind.WEBHOOK:
            limits = replace(WEBHOOK, schedule_to_close=request.time_limit)
            return await perform(
                PlanWebhooks.call_webhook, request, queue=names.CONTROL_QUEUE, limits=limits, summary=summary, aside=True
            )
        case StepKind.RUNBOOK:
            found = await perform(
                PlanTargets.target_of_runbook,
                request,
                queue=names.CONTROL_QUEUE,
                limits=ASK,
                summary="which target's worker may run it",
                aside=True,
            )
            return await perform(
                PlanRunbooks.run_runbook,
                request,
                queue=names.azure_queue(found.target),
                limits=RUNBOOK,
                summary=summary,
                aside=True,
            )
        case StepKind.MANUAL:
            raise RuntimeError("a manual action is not carried out by a worker")


def _sentence(step: PlanStep, error: FailureError) -> str:
    """Return what a person reads of a step that could not be carried out, by types alone."""
    detail = failure_of(error).detail
    if step.kind is not StepKind.SCRIPT:
        return detail
    queue = names.plan_queue(step.worker)
    if was_not_taken_up(error):
        return f"No worker serves the queue {queue}, so that the script was not run: start the worker whose settings name it."
    return f"{detail} The script may have run, in part or whole: look, then retry or skip."


def keep_output(state: PlanRunState, item_id: str, output: str) -> None:
    """Keep the end of an item's output; the oldest outputs go where all together are too long."""
    if output:
        state.outputs[item_id] = output
    while sum(len(text.encode()) for text in state.outputs.values()) > _ALL_OUTPUTS:
        del state.outputs[next(iter(state.outputs))]
