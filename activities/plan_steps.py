"""A recovery plan's steps on workers: scripts where the operator allows them, webhooks, Azure Automation runbooks."""

import json
import uuid
from collections.abc import Collection, Mapping

from temporalio import activity

from activities.failures import translated
from activities.progress import Heartbeats
from activities.script_process import run_program
from activities.webhook import post
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.planning.phrases import duration_text
from deltaferry.planning.recovery_plan import RunKind
from deltaferry.ports.automation import Runbooks
from workflows.messages.plan import OUTPUT_LIMIT, RunbookTarget, StepInput, StepResult

_JOBS = uuid.UUID("5c0c7a52-3a55-4b8e-9d0a-6c7a1f0f6a11")
"""The namespace of the GUIDs of Automation jobs: one for each attempt, the same for every try of it."""

_ASR_TYPES = {
    RunKind.TEST: "Test",
    RunKind.PLANNED: "Planned",
    RunKind.UNPLANNED: "Unplanned",
    RunKind.FAILBACK: "Planned",
}
"""The word for a run in Site Recovery's context (learn.microsoft.com/azure/site-recovery/site-recovery-runbook-automation)."""


class PlanScripts:
    """Runs the scripts that this worker's settings list, for the plans that name this worker."""

    def __init__(self, worker: str, allowed: Collection[str]) -> None:
        self._worker = worker
        self._allowed = frozenset(allowed)

    @activity.defn(no_thread_cancel_exception=True)
    @translated
    def run_script(self, request: StepInput) -> StepResult:
        """Run a script to its end or its time limit. Raises BAD_INPUT for one that is not on the list."""
        if request.target not in self._allowed:
            raise DeltaferryError(
                ErrorKind.BAD_INPUT,
                f"The worker {self._worker} may not run {request.target}: add it to scripts in the table [plan_worker] of its "
                "settings file and restart it, or correct the plan.",
            )
        heartbeats = Heartbeats(f"running {request.target}")
        end = run_program(request.target, _environment(request), request.time_limit, heartbeats.beat)
        output = _bounded(end.output)
        if end.timed_out:
            note = f"It did not end within {duration_text(request.time_limit)}, and was ended with all that it had started."
        else:
            note = f"Exit code {end.exit_code}."
        if end.timed_out or end.exit_code != 0:
            last = output.strip().rpartition("\n")[2]
            return StepResult(False, f"{note} {last[-300:]}".strip(), output)
        return StepResult(True, note, output)


def _environment(request: StepInput) -> Mapping[str, str]:
    """Return what a script can know: enough to do nothing twice for one attempt."""
    return {
        "DELTAFERRY_PLAN": request.plan,
        "DELTAFERRY_RUN": request.run,
        "DELTAFERRY_RUN_KIND": request.kind.value,
        "DELTAFERRY_GROUP": request.group,
        "DELTAFERRY_ITEM": request.item_id,
        "DELTAFERRY_ATTEMPT": str(request.attempt),
    }


class PlanWebhooks:
    """Calls webhooks."""

    def __init__(self, ca_file: str | None = None) -> None:
        self._ca_file = ca_file

    @activity.defn
    @translated
    def call_webhook(self, request: StepInput) -> StepResult:
        """POST what is going on. An answer of 4xx or 3xx is a failed step; no answer, 429 or 5xx is tried again by Temporal."""
        body = {
            "plan": request.plan,
            "run": request.run,
            "workflow_id": request.workflow_id,
            "kind": request.kind.value,
            "group": request.group,
            "item": request.item_id,
            "attempt": request.attempt,
        }
        status = post(request.target, json.dumps(body).encode(), request.idempotency_key, self._ca_file, activity.info().attempt)
        return StepResult(200 <= status < 300, f"The receiver answered {status}.")


class PlanTargets:
    """Knows which target's credential is of which subscription."""

    def __init__(self, subscriptions: Mapping[str, str]) -> None:
        self._subscriptions = subscriptions
        """By the targets' names."""

    @activity.defn
    @translated
    def target_of_runbook(self, request: StepInput) -> RunbookTarget:
        """Return the target whose worker may run a runbook, the first by name. Raises BAD_INPUT where there is none."""
        wanted = request.target.split("/")[2].lower()
        for target, subscription in sorted(self._subscriptions.items()):
            if subscription.lower() == wanted:
                return RunbookTarget(target)
        raise DeltaferryError(
            ErrorKind.BAD_INPUT,
            f"No target of the settings file is of the runbook's subscription {wanted}: add a table [targets.…] with it, "
            "or correct the runbook's id.",
        )


class PlanRunbooks:
    """Runs Automation runbooks as the target workers' identity."""

    def __init__(self, runbooks: Mapping[str, Runbooks]) -> None:
        self._runbooks = {subscription.lower(): runner for subscription, runner in runbooks.items()}

    @activity.defn(no_thread_cancel_exception=True)
    @translated
    def run_runbook(self, request: StepInput) -> StepResult:
        """Run a runbook as a job of its own for this attempt, and wait for its end or its time limit."""
        runner = self._runbooks.get(request.target.split("/")[2].lower())
        if runner is None:
            raise DeltaferryError(ErrorKind.BAD_INPUT, f"This worker has no target of the subscription of {request.target}.")
        job = str(uuid.uuid5(_JOBS, request.idempotency_key))
        beat = Heartbeats(f"job {job}").beat
        end = runner.run(request.target, job, {"RecoveryPlanContext": _context(request)}, request.time_limit, beat)
        output = _bounded(end.output)
        if end.timed_out:
            limit = duration_text(request.time_limit)
            return StepResult(False, f"The job {job} did not end within {limit}, and was told to stop.", output)
        return StepResult(end.succeeded, f"The job {job} is {end.status}. {end.exception}".strip(), output)


def _context(request: StepInput) -> str:
    """Return the JSON that Site Recovery gives a runbook, so that runbooks written for it run unchanged, with our ids beside it."""
    back = request.kind is RunKind.FAILBACK
    return json.dumps(
        {
            "RecoveryPlanName": request.plan,
            "FailoverType": _ASR_TYPES[request.kind],
            "FailoverDirection": "SecondaryToPrimary" if back else "PrimaryToSecondary",
            "GroupId": request.group,
            "Run": request.run,
            "Item": request.item_id,
            "Attempt": request.attempt,
        }
    )


def _bounded(text: str) -> str:
    """Return the end of a text, so that it fits into the workflow's history."""
    data = text.encode()
    return text if len(data) <= OUTPUT_LIMIT else data[-OUTPUT_LIMIT:].decode("utf-8", "ignore")
