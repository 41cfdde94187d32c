"""Long-running operations.

A PUT or DELETE is answered 202 (VM and NIC: 201) with Azure-AsyncOperation, Location and Retry-After. The first URL
gives `{"status": "InProgress" | "Succeeded" | "Failed", "error"}`; the second 202 while it runs, then the result.
"""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Thread

from lab.arm.calls import Call, Reply
from lab.arm.errors import ArmError, Json
from lab.arm.world import World

_log = logging.getLogger(__name__)

Work = Callable[[], None]
Commit = Callable[[], Json | None]


@dataclass(slots=True)
class Operation:
    """One operation. `status` changes once, under the world's lock."""

    id: str
    action: str
    resource_key: str
    url_path: str
    monitor_path: str
    started: str
    status: str = "InProgress"
    ended: str | None = None
    error: ArmError | None = None
    output: Json | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs."""
        if self.ended is None:
            return None
        return (datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)).total_seconds()


def now_text() -> str:
    """Return the time as ARM writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Operations:
    """Starts operations on threads of their own, and answers questions about them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._operations: dict[str, Operation] = {}
        self._running: dict[str, Operation] = {}

    def running(self, resource_key: str) -> Operation | None:
        """Return the operation that runs on a resource, or None."""
        return self._running.get(resource_key)

    def start(
        self,
        action: str,
        resource_key: str,
        location: str,
        *,
        commit: Commit,
        work: Work | None = None,
        fail: Work | None = None,
    ) -> Operation:
        """Start an operation: `work` without lock, then `commit` (or `fail`, after an ArmError) under the world's lock.

        `action` is `<kind>.<verb>`; a fault asked for by that name makes it fail instead of doing its work.
        `commit` returns what a GET of Location gives at the end.
        """
        operation_id = str(uuid.uuid4())
        kind = action.partition(".")[0]
        scope = f"/subscriptions/{self._world.subscription_id}/providers"
        if kind in {"networkinterfaces", "virtualnetworks", "subnets"}:
            scope = f"{scope}/Microsoft.Network/locations/{location}"
            paths = (f"{scope}/operations/{operation_id}", f"{scope}/operationResults/{operation_id}")
        else:
            name = "operations" if kind == "virtualmachines" else "DiskOperations"
            scope = f"{scope}/Microsoft.Compute/locations/{location}"
            paths = (f"{scope}/{name}/{operation_id}", f"{scope}/{name}/{operation_id}?monitor=true")
        operation = Operation(operation_id, action, resource_key, *paths, started=now_text())
        self._operations[operation_id] = operation
        self._running[resource_key] = operation
        fault = self._world.faults.take_failure(action)
        Thread(target=self._run, args=(operation, work, commit, fail, fault), name=f"operation-{action}", daemon=True).start()
        return operation

    def _run(self, operation: Operation, work: Work | None, commit: Commit, fail: Work | None, fault: ArmError | None) -> None:
        began = time.monotonic()
        error = fault
        if error is None and work is not None:
            try:
                work()
            except ArmError as refusal:
                error = refusal
            except Exception:
                _log.exception("operation %s on %s broke", operation.action, operation.resource_key)
                error = ArmError(500, "InternalServerError", "Encountered internal server error.")
        self._world.faults.stopping.wait(max(0.0, self._world.faults.times.operation_s - (time.monotonic() - began)))
        with self._world.lock:
            if error is None:
                try:
                    operation.output = commit()
                except ArmError as refusal:
                    error = refusal
            if error is not None and fail is not None:
                fail()
            operation.error = error
            operation.ended = now_text()
            operation.status = "Succeeded" if error is None else "Failed"
            if self._running.get(operation.resource_key) is operation:
                del self._running[operation.resource_key]

    def accepted(self, call: Call, operation: Operation, status: int = 202, body: Json | None = None) -> Reply:
        """Return the first reply of an operation."""
        separator = "&" if "?" in operation.monitor_path else "?"
        return Reply(
            status,
            body,
            {
                "Azure-AsyncOperation": f"{call.base_url}{operation.url_path}?api-version={call.api_version}",
                "Location": f"{call.base_url}{operation.monitor_path}{separator}api-version={call.api_version}",
                "Retry-After": self._retry_after(),
            },
        )

    def status(self, operation_id: str) -> Reply:
        """Answer a GET of Azure-AsyncOperation."""
        operation = self._find(operation_id)
        body: Json = {"startTime": operation.started, "status": operation.status, "name": operation.id}
        if operation.ended is not None:
            body["endTime"] = operation.ended
        if operation.error is not None:
            body["error"] = operation.error.document()
        if operation.status == "Succeeded" and operation.output is not None:
            body["properties"] = {"output": operation.output}
        return Reply(200, body, {"Retry-After": self._retry_after()} if operation.status == "InProgress" else {})

    def result(self, operation_id: str, call: Call) -> Reply:
        """Answer a GET of Location."""
        operation = self._find(operation_id)
        if operation.status == "InProgress":
            return self.accepted(call, operation)
        if operation.error is not None:
            raise ArmError(operation.error.status, operation.error.code, operation.error.message, target=operation.error.target)
        return Reply(200, operation.output) if operation.output is not None else Reply(204)

    def all(self) -> list[Operation]:
        """Return all operations, oldest first."""
        return list(self._operations.values())

    def _find(self, operation_id: str) -> Operation:
        operation = self._operations.get(operation_id.lower())
        if operation is None:
            raise ArmError(404, "NotFound", f"The entity was not found. Operation id: {operation_id}.")
        return operation

    def _retry_after(self) -> str:
        return f"{self._world.faults.times.retry_after_s:g}"
