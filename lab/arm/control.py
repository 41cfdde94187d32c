"""The typed client of the control endpoint."""

import http.client
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
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
    seconds: float | None
    """How long it took; None while it runs."""


@dataclass(frozen=True, slots=True)
class GuestState:
    """The guest of a VM. `journal` is read by `lab.guest_journal.read_journal`; it exists once the guest has run."""

    journal: Path
    writes: bool
    """Whether it runs now. Once it does not, the journal's last entry is STOPPED, and all before it is on the disks."""
    last_sequence: int
    """The number of the journal's last entry: of those up to it, a running guest's last half second may not be readable yet."""


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
        """Return where a disk's bytes are, to read them. Raises ControlRefused if there is no such disk.

        Write by `write`, as a guest does: what is written to the file itself is in no snapshot's difference. A snapshot has
        no file of its own: use `dump`.
        """
        found = self._call("GET", f"/disk?{urlencode({'id': resource_id})}")
        return DiskFile(Path(found["path"]), found["size_bytes"])

    def dump(self, resource_id: str, path: Path) -> None:
        """Write the bytes of a disk as it is now, or of a snapshot, to a sparse raw file, without footer."""
        self._call("POST", "/disk/dump", {"id": resource_id, "path": str(path.absolute())})

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        """Write whole sectors to a disk, as a guest does."""
        self._call("POST", "/disk/write", {"id": disk_id, "offset": offset, "data": b64encode(data).decode()})

    def discard(self, disk_id: str, offset: int, length: int) -> None:
        """Give back the space of whole sectors, as a guest's TRIM does: later differences show them as cleared."""
        self._call("POST", "/disk/discard", {"id": disk_id, "offset": offset, "length": length})

    def switch_guest(
        self,
        vm: str,
        *,
        on: bool = True,
        bytes_per_second: int = 2 << 20,
        seed: int = 0,
        ranges: Mapping[int, Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        """Let the guest of VMs of a name write to their disks whenever they run, from now on; or no more.

        `ranges` are offset and length of what it may write, by disk: 0 is the OS disk, LUN and 1 a data disk; a disk that is
        not named is written everywhere. A guest that is off, the default, never writes. Power-off, deallocation and deletion
        stop a guest before they take effect: what the journal says then is what the disks hold.
        """
        body = {"vm": _leaf(vm), "on": on, "bytes_per_second": bytes_per_second, "seed": seed, "ranges": ranges or {}}
        self._call("POST", "/guest", body)

    def guest(self, vm: str) -> GuestState:
        """Return the guest of the VM of a name. Raises ControlRefused if there is no such VM."""
        found = self._call("GET", f"/guest?{urlencode({'vm': _leaf(vm)})}")
        return GuestState(Path(found["journal"]), found["writes"], found["last_sequence"])

    def set_limits(
        self,
        *,
        signatures_per_family: int | None = None,
        snapshots_per_window: int | None = None,
        window_s: float | None = None,
        snapshots_per_disk: int | None = None,
        ranges_per_page: int | None = None,
    ) -> None:
        """Set the limits of incremental snapshots and page lists; what is not given is Azure's own again. See `lab.arm.limits`.

        With few `ranges_per_page`, a client that does not follow NextMarker loses differences, as the SDK's
        `get_page_range_diff_for_managed_disk` does.
        """
        given = {
            "signatures_per_family": signatures_per_family,
            "snapshots_per_window": snapshots_per_window,
            "window_s": window_s,
            "snapshots_per_disk": snapshots_per_disk,
            "ranges_per_page": ranges_per_page,
        }
        self._call("POST", "/limits", given)

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
        """Ask once for the fault of a row of ARM's fault table (docs/faults.md), at the creation of a disk or a VM.

        Those of disaster recovery as well: `snapshot-rate`, `snapshot-count`, `snapshot-failed`, `snapshot-reply-lost`,
        `signatures-used-up`, `signature-expired`, `disk-read-busy`, `disk-read-no-answer`, `disk-read-lost`,
        `deallocate-failed`, `start-failed`, `vm-delete-failed`.
        """
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


def _leaf(vm: str) -> str:
    """Return a VM's name, given that or its ARM id."""
    return vm.rstrip("/").rsplit("/", 1)[-1]
