"""The typed client of the control endpoint."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit


@dataclass(frozen=True, slots=True)
class LabResource:
    """A resource as the endpoint holds it. `kind` is in lower case: `disks`, `virtualmachines`, `networkinterfaces`."""

    id: str
    kind: str
    provisioning_state: str | None
    tags: Mapping[str, str]
    disk_state: str | None
    power_state: str | None


@dataclass(frozen=True, slots=True)
class DiskFile:
    """Where the bytes of a disk or snapshot are: a sparse raw file, without VHD footer."""

    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LabRequest:
    """A management or data request that was answered."""

    method: str
    path: str
    status: int


@dataclass(frozen=True, slots=True)
class LabOperation:
    """A long-running operation: `action` such as `disks.import`; `code` of its error if it failed."""

    action: str
    resource: str
    status: str
    code: str | None


class ControlRefused(Exception):
    """The control endpoint refused a request."""


class ArmControl:
    """Asks the lab's Azure what no Azure API tells, and sets its times and faults. Safe to use from several threads."""

    def __init__(self, base_url: str, token: str) -> None:
        self._target = urlsplit(base_url)
        self._token = token

    def resources(self, kind: str | None = None) -> tuple[LabResource, ...]:
        """Return all resources, or those of a kind."""
        found = tuple(LabResource(**entry) for entry in self._call("GET", "/resources")["resources"])
        return tuple(resource for resource in found if kind is None or resource.kind == kind.lower())

    def disk_file(self, resource_id: str) -> DiskFile:
        """Return where a disk's bytes are. Raises ControlRefused if there is no such disk."""
        found = self._call("GET", f"/disk?{urlencode({'id': resource_id})}")
        return DiskFile(Path(found["path"]), found["size_bytes"])

    def requests(self) -> tuple[LabRequest, ...]:
        """Return the last 5,000 requests that were carried out, oldest first; those whose answer was dropped too."""
        return tuple(LabRequest(**entry) for entry in self._call("GET", "/requests")["requests"])

    def operations(self) -> tuple[LabOperation, ...]:
        """Return all long-running operations, oldest first."""
        return tuple(LabOperation(**entry) for entry in self._call("GET", "/operations")["operations"])

    def set_times(self, *, retry_after_s: float | None = None, operation_s: float | None = None) -> None:
        """Set Retry-After, and the least time an operation takes."""
        self._call("POST", "/times", {"retry_after_s": retry_after_s, "operation_s": operation_s})

    def fail_next(self, action: str, code: str, message: str = "Failed on request of the lab.", count: int = 1) -> None:
        """Let the next operations `action` be accepted, and then end Failed with `code`.

        Actions: `disks.import`, `.create`, `.update`, `.delete`, `.grant`, `.revoke`, the same of `snapshots`,
        `virtualmachines.create`, `.update`, `.delete`, `.start`, `.poweroff`, `.deallocate`, `networkinterfaces.create`,
        `.update`, `.delete`.
        """
        self._call("POST", "/failures", {"action": action, "code": code, "message": message, "count": count})

    def set_quota(self, *, cores: int | None = None, disks: int | None = None) -> None:
        """Limit the region's cores (OperationNotAllowed) and the number of disks (QuotaExceeded); None: no limit."""
        self._call("POST", "/quota", {"cores": cores, "disks": disks})

    def throttle_next(self, count: int, retry_after_s: float = 1.0) -> None:
        """Answer the next management requests with 429 and this Retry-After."""
        self._call("POST", "/throttling", {"count": count, "retry_after_s": retry_after_s})

    def set_throttling_scale(self, scale: float) -> None:
        """Fill ARM's token buckets anew, at `scale` times their real size; 0 switches them off."""
        self._call("POST", "/throttling", {"scale": scale})

    def drop_responses(self, count: int, *, method: str, path_contains: str = "") -> None:
        """Carry out the next such requests, but close the connection instead of answering."""
        self._call("POST", "/drops", {"count": count, "method": method, "path_contains": path_contains})

    def make_unreachable(self, seconds: float) -> None:
        """Close every connection to the management endpoint for so long."""
        self._call("POST", "/unreachable", {"seconds": seconds})

    def ask_named(self, name: str) -> None:
        """Ask once for the fault of a row of ARM's fault table (docs/faults.md), at the creation of a disk or a VM."""
        self._call("POST", "/named", {"name": name})

    def clear_faults(self) -> None:
        """Forget all faults and quotas; times stay."""
        self._call("POST", "/clear", {})

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._target.hostname or "127.0.0.1", self._target.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            document: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ControlRefused(f"{method} {path.partition('?')[0]}: {response.status} {document.get('error')}")
        return document
