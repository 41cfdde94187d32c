"""Microsoft.Automation/automationAccounts/jobs: runbooks' jobs, as far as recovery plans use them.

An account and its runbooks exist from the seed on; a job is made by PUT under a GUID that the client chose, goes from New
by Running to its end, and is stopped by POST …/stop. Statuses and paths: learn.microsoft.com/rest/api/automation/job.
"""

import json
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from lab.arm.calls import Call, Reply
from lab.arm.errors import ArmError, Json
from lab.arm.world import World

NAMESPACE = "microsoft.automation"

_ENDED = frozenset({"Completed", "Failed", "Stopped"})


@dataclass(slots=True)
class _Job:
    """One job; where it is follows from the time, until it was stopped."""

    name: str
    runbook: str
    parameters: Json
    made_at: str
    began: float
    stopped: bool = False


class Automation:
    """Serves automation accounts. Every method is called with the world's lock held.

    A runbook's words decide its job: `seconds` that it runs, the `status` that it ends with, its `output` and `exception`.
    """

    def __init__(self, world: World, accounts: list[Json]) -> None:
        self._world = world
        self._accounts = {
            (account["resource_group"].lower(), account["name"].lower()): {
                runbook["name"].lower(): runbook for runbook in account.get("runbooks", [])
            }
            for account in accounts
        }
        self._jobs: dict[tuple[str, str, str], _Job] = {}

    def handle(self, group: str, rest: list[str], call: Call) -> Reply:
        """Answer a request below `…/providers/Microsoft.Automation/`; `rest` is the path behind that, in lower case."""
        match rest:
            case ["automationaccounts", account, "jobs", job, *more]:
                runbooks = self._accounts.get((group, account))
                if runbooks is None:
                    raise ArmError(
                        404,
                        "ResourceNotFound",
                        f"The Resource 'Microsoft.Automation/automationAccounts/{account}' under resource group '{group}' was not found.",
                    )
                return self._job((group, account, job), runbooks, more, call)
        raise ArmError(404, "InvalidResourceType", f"The path {call.path} names no resource type that is known here.")

    def _job(self, key: tuple[str, str, str], runbooks: Json, more: list[str], call: Call) -> Reply:
        if call.method == "PUT" and not more:
            return self._create(key, runbooks, call)
        job = self._jobs.get(key)
        if job is None:
            raise ArmError(404, "NotFound", f"The job {key[2]} was not found.")
        runbook = runbooks[job.runbook.lower()]
        match call.method, more:
            case "GET", []:
                return Reply(200, self._document(key, job, runbook))
            case "GET", ["output"]:
                ended = _status(job, runbook) in _ENDED
                text = str(runbook.get("output", "")).replace("{parameters}", json.dumps(job.parameters)) if ended else ""
                return Reply(200, text.encode(), {"Content-Type": "text/plain"})
            case "POST", ["stop"]:
                if _status(job, runbook) in _ENDED:
                    raise ArmError(409, "Conflict", "The job cannot be stopped: it has ended.")
                job.stopped = True
                return Reply(200)
        raise ArmError(405, "HttpMethodNotAllowed", "The requested HTTP method is not allowed.")

    def _create(self, key: tuple[str, str, str], runbooks: Json, call: Call) -> Reply:
        try:
            uuid.UUID(key[2])
        except ValueError:
            raise ArmError(400, "BadRequest", "The job's name must be a GUID.") from None
        if key in self._jobs:
            raise ArmError(409, "Conflict", f"The job {key[2]} already exists.")
        properties = call.json().get("properties") or {}
        name = str((properties.get("runbook") or {}).get("name") or "")
        if name.lower() not in runbooks:
            raise ArmError(400, "BadRequest", f"The runbook '{name}' was not found, or is not published.")
        parameters = properties.get("parameters") or {}
        if not isinstance(parameters, dict) or not all(isinstance(value, str) for value in parameters.values()):
            raise ArmError(400, "BadRequest", "Parameters must be an object of strings.")
        made_at = datetime.now(UTC).isoformat()
        job = _Job(key[2], str(runbooks[name.lower()]["name"]), parameters, made_at, time.monotonic())
        self._jobs[key] = job
        return Reply(201, self._document(key, job, runbooks[name.lower()]))

    def _document(self, key: tuple[str, str, str], job: _Job, runbook: Json) -> Json:
        status = _status(job, runbook)
        scope = f"/subscriptions/{self._world.subscription_id}/resourceGroups/{key[0]}/providers/Microsoft.Automation"
        return {
            "id": f"{scope}/automationAccounts/{key[1]}/jobs/{job.name}",
            "name": job.name,
            "type": "Microsoft.Automation/AutomationAccounts/Jobs",
            "properties": {
                "jobId": job.name,
                "runbook": {"name": job.runbook},
                "parameters": job.parameters,
                "status": status,
                "creationTime": job.made_at,
                "exception": runbook.get("exception") if status == "Failed" else None,
                "provisioningState": "Succeeded" if status in _ENDED else "Processing",
            },
        }


def _status(job: _Job, runbook: Json) -> str:
    if job.stopped:
        return "Stopped"
    age, seconds = time.monotonic() - job.began, float(runbook.get("seconds", 0.0))
    if age < seconds / 4:
        return "New"
    return "Running" if age < seconds else str(runbook.get("status", "Completed"))
