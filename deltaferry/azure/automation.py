"""Azure Automation: a runbook's job is made under a GUID that the caller chose, and looked at until it has ended.

learn.microsoft.com/rest/api/automation/job: PUT …/jobs/<guid> makes and starts a job (201), GET tells its status,
GET …/output gives what it wrote as text, POST …/stop asks it to end. Azure has no client of ours for it, so that the
requests go through Compute's pipeline: the same credential, retries and trust.
"""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.rest import HttpRequest, HttpResponse
from azure.mgmt.core.exceptions import ARMErrorFormat

from deltaferry.azure.arm import ArmClients
from deltaferry.azure.errors import arm_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat
from deltaferry.ports.automation import RunbookEnd

API_VERSION = "2023-11-01"

ENDED = frozenset({"completed", "failed", "stopped", "suspended", "removing"})
"""A suspended job goes on only when somebody resumes it by hand: for a plan it has ended."""

_RUNBOOK = re.compile(
    r"(?P<account>/subscriptions/(?P<subscription>[^/\s]+)/resourceGroups/[^/\s]+"
    r"/providers/Microsoft\.Automation/automationAccounts/[^/\s]+)/runbooks/(?P<name>[^/\s]+)/?",
    re.IGNORECASE,
)
_OUTPUT_BYTES = 64 * 1024
_EXCEPTION_CHARACTERS = 500
_STOP_WITHIN_S = 60.0
"""How long a job that was told to stop is still looked at."""

_REFUSALS: Mapping[int, type[HttpResponseError]] = {401: ClientAuthenticationError, 404: ResourceNotFoundError}
"""By status, as the SDK's own operations have it."""


class AutomationRunbooks:
    """Runs the runbooks of one subscription. Safe to use from several threads."""

    def __init__(self, arm: ArmClients) -> None:
        self._arm = arm

    def run(self, runbook_id: str, job: str, parameters: Mapping[str, str], limit: timedelta, beat: Beat) -> RunbookEnd:
        """Run a runbook as the job with this GUID and wait for its end; a job that exists already is waited for."""
        match = _RUNBOOK.fullmatch(runbook_id)
        if match is None or match["subscription"].lower() != self._arm.settings.subscription_id.lower():
            raise DeltaferryError(
                ErrorKind.BAD_INPUT,
                f"{runbook_id} is not the id of a runbook of subscription {self._arm.settings.subscription_id}.",
            )
        url = f"{self._arm.settings.endpoint.rstrip('/')}{match['account']}/jobs/{job}"
        body = {"properties": {"runbook": {"name": match["name"]}, "parameters": dict(parameters)}}
        found = self._find(url) or self._json("PUT", url, body)
        try:
            found, timed_out = self._wait(url, found, limit, beat)
        except DeltaferryError:
            raise  # another attempt goes on with the job
        except BaseException:
            with suppress(DeltaferryError):  # why the wait ended is what counts
                self._stop(url)
            raise
        properties = found.get("properties") or {}
        return RunbookEnd(
            status=str(properties.get("status") or ""),
            timed_out=timed_out,
            exception=str(properties.get("exception") or "")[:_EXCEPTION_CHARACTERS],
            output=self._output(url),
        )

    def _wait(self, url: str, found: Mapping[str, Any], limit: timedelta, beat: Beat) -> tuple[Mapping[str, Any], bool]:
        """Look until the job has ended, or until it was told to stop because it runs longer than it may."""
        deadline = time.monotonic() + max(limit - _age(found), timedelta(0)).total_seconds()
        while not _has_ended(found) and time.monotonic() < deadline:
            self._arm.pause(beat)
            found = self._json("GET", url)
        if _has_ended(found):
            return found, False
        self._stop(url)
        until = time.monotonic() + _STOP_WITHIN_S
        while not _has_ended(found) and time.monotonic() < until:
            self._arm.pause(beat)
            found = self._json("GET", url)
        return found, True

    def _find(self, url: str) -> Mapping[str, Any] | None:
        with arm_errors("looking for an Automation job"):
            try:
                return _document(self._send("GET", url))
            except ResourceNotFoundError:
                return None  # of a missing account or group the PUT says so

    def _json(self, method: str, url: str, body: Any = None) -> Mapping[str, Any]:
        with arm_errors("making an Automation job" if method == "PUT" else "reading an Automation job"):
            return _document(self._send(method, url, body))

    def _stop(self, url: str) -> None:
        with arm_errors("stopping an Automation job"):
            try:
                self._send("POST", f"{url}/stop")
            except HttpResponseError as error:
                if error.status_code not in (404, 409):  # gone, or ended meanwhile
                    raise

    def _output(self, url: str) -> str:
        with arm_errors("reading an Automation job's output"):
            try:
                text = self._send("GET", f"{url}/output", accept="text/plain").content
            except ResourceNotFoundError:
                return ""
        return text[-_OUTPUT_BYTES:].decode("utf-8", "replace")

    def _send(self, method: str, url: str, body: Any = None, accept: str = "application/json") -> HttpResponse:
        request = HttpRequest(method, url, params={"api-version": API_VERSION}, headers={"Accept": accept}, json=body)
        response = self._arm.compute.send_request(request)
        if response.status_code >= 400:
            raise _REFUSALS.get(response.status_code, HttpResponseError)(response=response, error_format=ARMErrorFormat)
        return response


def _document(response: HttpResponse) -> Mapping[str, Any]:
    document = response.json()
    return document if isinstance(document, dict) else {}


def _has_ended(job: Mapping[str, Any]) -> bool:
    return str((job.get("properties") or {}).get("status") or "").lower() in ENDED


def _age(job: Mapping[str, Any]) -> timedelta:
    """Return how long ago the service made the job; nothing where it does not say."""
    stated = (job.get("properties") or {}).get("creationTime")
    try:
        made = datetime.fromisoformat(str(stated))
    except ValueError:
        return timedelta(0)
    return max(datetime.now(UTC) - (made if made.tzinfo else made.replace(tzinfo=UTC)), timedelta(0))
