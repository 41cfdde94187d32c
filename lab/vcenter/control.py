"""The typed client of the lab vCenter's control port, for tests and the demo."""

import http.client
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from lab.vcenter.control_views import OccupancyState, VcenterState, VmState
from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.inventory_file import DiskSpec, VmSpec
from lab.vcenter.out_of_band import OutOfBandWrites
from lab.vcenter.quiescing import QuiesceOutcome, QuiesceRecord
from lab.vcenter.tracking import StarAnswer
from lab.vcenter.virtual_machine import ToolsState

_TIMEOUT_S = 120.0


class ControlRefusedError(Exception):
    """The control port refused a request; the message is its reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


_STATE = TypeAdapter(VcenterState)
_VM_STATE = TypeAdapter(VmState)
_OCCUPANCY = TypeAdapter(OccupancyState)


class VcenterControl:
    """Asks for faults, acts as an administrator or as bad luck, and reads state. Safe to use from several threads.

    Every method raises ControlRefusedError for what cannot be done, OSError if the port does not answer.
    """

    def __init__(self, base_url: str, token: str) -> None:
        self._address = urlsplit(base_url).netloc
        self._token = token

    def __repr__(self) -> str:
        return f"VcenterControl({self._address})"

    def call(self, verb: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Send one request and return its JSON answer."""
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request(verb, path, json.dumps(dict(body or {})).encode(), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise ControlRefusedError(response.status, str(answer.get("error", "")))
            return answer
        finally:
            connection.close()

    # --- reading ---

    def state(self) -> VcenterState:
        """Return everything that the lab shows."""
        return _STATE.validate_python(self.call("GET", "/state"))

    def vm(self, name: str) -> VmState:
        """Return the first VM of a name. Raises LookupError."""
        return self.state().vm(name)

    def calls(self) -> Mapping[str, int]:
        """Return how often each SOAP method was called, by WSDL name."""
        return TypeAdapter(dict[str, int]).validate_python(self.call("GET", "/calls"))

    def occupancy(self) -> OccupancyState:
        """Return how much was in use on hosts and datastores since the lab started."""
        return _OCCUPANCY.validate_python(self.call("GET", "/occupancy"))

    def digest(self, vm: str, key: int) -> str:
        """Return the BLAKE3 digest of a disk's present content."""
        return str(self.call("GET", f"/vms/{vm}/disks/{key}/digest")["blake3"])

    def dump(self, vm: str, key: int, path: Path, snapshot: str | None = None) -> None:
        """Write a disk's present content, or a snapshot's, as a sparse raw file."""
        self.call("POST", f"/vms/{vm}/disks/{key}/dump", {"path": str(path.absolute()), "snapshot": snapshot})

    # --- settings and faults ---

    def set_times(self, **seconds: float) -> None:
        """Change times; see `lab.vcenter.settings.Times`."""
        self.call("POST", "/times", seconds)

    def ask(self, request: FaultRequest) -> None:
        """Ask for a fault."""
        self.call("POST", "/faults", asdict(request))

    def ask_named(self, name: str, vm: str = "", host: str = "") -> None:
        """Ask once for the fault of a row of the fault table (docs/faults.md); `vm` is a moref, empty means any.

        Those of disaster recovery as well: `power-on-locked`, `create-vm-no-space`, `create-vm-reply-lost`, `destroy-locked`,
        and with a host `write-error`, `write-no-space`, `write-host-going-down`, `write-cut`.
        """
        self.call("POST", "/named-faults", {"name": name, "vm": vm, "host": host})

    def clear_faults(self, name: FaultName | None = None) -> None:
        """Forget all faults, or those of a name."""
        self.call("DELETE", "/faults", {"name": name})

    def deny(self, privileges: tuple[str, ...] = (), properties: tuple[str, ...] = ()) -> None:
        """Replace the privileges that nobody has and the property paths that nobody can read."""
        self.call("POST", "/denials", {"privileges": privileges, "properties": properties})

    def limit_pages(self, areas: int) -> None:
        """Set how many areas a page of QueryChangedDiskAreas has at most."""
        self.call("POST", "/answers", {"page_limit_areas": areas})

    def set_tracking(
        self,
        vm: str,
        *,
        keys: tuple[int, ...] | None = None,
        reset: bool = False,
        page_cover_bytes: int | None = None,
        reverse_areas: bool = False,
        star: StarAnswer = StarAnswer.ALLOCATED,
        corrupt: bool = False,
        omitted: tuple[int, int] | None = None,
        out_of_band: OutOfBandWrites = OutOfBandWrites.UNSEEN,
    ) -> None:
        """Set how disks answer QueryChangedDiskAreas; with `reset` their tracking UUID changes at once.

        `out_of_band` says what tracking makes of writes through a `writable` export; the rest is of the answers.
        """
        body = {
            "keys": keys,
            "reset": reset,
            "page_cover_bytes": page_cover_bytes,
            "reverse_areas": reverse_areas,
            "star": star,
            "corrupt": corrupt,
            "omitted": omitted,
            "out_of_band": out_of_band,
        }
        self.call("POST", f"/vms/{vm}/tracking", body)

    def set_nbd(self, host: str, **settings: int | float | bool | str) -> None:
        """Set limits and faults of a host's NBD server; see `HostControls.set_nbd` for the names."""
        self.call("POST", f"/hosts/{host}/nbd", settings)

    def crash_nbd(self, host: str) -> int:
        """Let a host's NBD service crash and start again; return how many written sectors were lost because of no flush.

        Readers and writers are cut, guests go on. Only what was written under `set_nbd(host, volatile_writes=True)` is lost.
        """
        return int(self.call("POST", f"/hosts/{host}/nbd/crash")["lost_sectors"])

    def clear_nbd(self, host: str) -> None:
        """Forget the faults of a host's NBD server."""
        self.call("DELETE", f"/hosts/{host}/nbd")

    def expire_sessions(self) -> int:
        """End all sessions; return how many there were."""
        return int(self.call("POST", "/sessions/expire")["ended"])

    def be_unreachable(self, seconds: float | None = None, *, hosts: bool = False) -> None:
        """Let the SOAP port drop and refuse connections for a while, or until `be_reachable`; state and sessions are kept.

        With `hosts` the ESXi hosts answer nobody but their guests either, until `be_reachable`: the site is away, and runs on.
        """
        self.call("POST", "/unreachable", {"seconds": seconds, "hosts": hosts})

    def be_reachable(self) -> None:
        """Let vCenter and the hosts answer again."""
        self.call("DELETE", "/unreachable")

    # --- an administrator, or bad luck ---

    def add_vm(self, spec: VmSpec) -> VmState:
        """Make a VM."""
        return _VM_STATE.validate_python(self.call("POST", "/vms", TypeAdapter(VmSpec).dump_python(spec, mode="json")))

    def delete_vm(self, vm: str) -> None:
        """Delete a VM with its disks, running or not."""
        self.call("POST", f"/vms/{vm}/delete")

    def move(self, vm: str, host: str) -> None:
        """Move a VM to another host."""
        self.call("POST", f"/vms/{vm}/move", {"host": host})

    def relocate(self, vm: str, datastore: str) -> None:
        """Move a VM's files to another datastore while it runs; change tracking is kept. See `VmControls.relocate`."""
        self.call("POST", f"/vms/{vm}/relocate", {"datastore": datastore})

    def power_on(self, vm: str) -> None:
        """Power a VM on."""
        self.call("POST", f"/vms/{vm}/power-on")

    def power_off(self, vm: str, *, reset_tracking: bool = False) -> None:
        """Let a VM lose power at once; with `reset_tracking` change tracking begins anew."""
        self.call("POST", f"/vms/{vm}/power-off", {"reset_tracking": reset_tracking})

    def lose_tracking_at_power_off(self, vm: str) -> None:
        """Let change tracking begin anew when the VM is next powered off hard, whoever does it."""
        self.call("POST", f"/vms/{vm}/tracking-lost-at-power-off")

    def shut_down(self, vm: str) -> None:
        """Have a guest shut down cleanly, and return when it was asked to."""
        self.call("POST", f"/vms/{vm}/shutdown")

    def fail_over(self, vm: str, host: str) -> None:
        """Let a running VM's host die, and vSphere HA start the VM again on another one."""
        self.call("POST", f"/vms/{vm}/fail-over", {"host": host})

    def set_tools(self, vm: str, *, installed: bool, state: ToolsState = ToolsState.RUNNING) -> None:
        """Give a guest VMware Tools, or take them away, and say what they do while the VM runs."""
        self.call("POST", f"/vms/{vm}/tools", {"installed": installed, "state": state})

    def set_quiesce(
        self,
        vm: str,
        *,
        outcome: QuiesceOutcome = QuiesceOutcome.OBTAINED,
        seconds: float = 0.0,
        held: bool = False,
        freeze_exit: int | None = None,
        thaw_exit: int = 0,
        marks: bool = False,
    ) -> None:
        """Set how a guest answers when it is to be quiesced, now too if it just is; what is not given is a guest without trouble.

        `held` lets the snapshot come late: its task does not end until this is called again without `held` (or the request's
        time limit ends it by FilesystemQuiesceFault). `freeze_exit` gives the guest a script that exits so; with
        `marks` the script tells through VMware Tools that it ran.
        """
        body = {
            "outcome": outcome,
            "seconds": seconds,
            "held": held,
            "freeze_exit": freeze_exit,
            "thaw_exit": thaw_exit,
            "marks": marks,
        }
        self.call("POST", f"/vms/{vm}/quiesce", body)

    def quiesces(self, vm: str) -> tuple[QuiesceRecord, ...]:
        """Return the quiesced snapshots that were asked for, oldest first: VSS parameters, scripts that ran, what came of each."""
        return TypeAdapter(tuple[QuiesceRecord, ...]).validate_python(self.call("GET", f"/vms/{vm}/quiesces")["records"])

    def lock_consolidation(self, vm: str, *, locked: bool) -> None:
        """Let consolidations of a VM fail until it is unlocked."""
        self.call("POST", f"/vms/{vm}/consolidation-lock", {"locked": locked})

    def take_snapshot(self, vm: str, name: str) -> str:
        """Take a snapshot as another product would; return its moref."""
        return str(self.call("POST", f"/vms/{vm}/snapshots", {"name": name})["moref"])

    def remove_snapshot(self, vm: str, snapshot: str, *, children: bool = False) -> None:
        """Remove a snapshot and merge."""
        self.call("DELETE", f"/vms/{vm}/snapshots/{snapshot}", {"children": children})

    def revert(self, vm: str, snapshot: str) -> None:
        """Revert a VM to a snapshot."""
        self.call("POST", f"/vms/{vm}/snapshots/{snapshot}/revert")

    def add_disk(self, vm: str, spec: DiskSpec) -> int:
        """Attach a new disk; return its key."""
        return int(self.call("POST", f"/vms/{vm}/disks", TypeAdapter(DiskSpec).dump_python(spec, mode="json"))["key"])

    def remove_disk(self, vm: str, key: int) -> None:
        """Detach a disk and delete it."""
        self.call("DELETE", f"/vms/{vm}/disks/{key}")

    def grow_disk(self, vm: str, key: int, capacity_bytes: int) -> None:
        """Make a disk larger."""
        self.call("POST", f"/vms/{vm}/disks/{key}/grow", {"capacity_bytes": capacity_bytes})

    def write(self, vm: str, key: int, offset: int, data: bytes) -> None:
        """Write to a disk as the guest would; at most about half a MiB."""
        self.call("POST", f"/vms/{vm}/disks/{key}/write", {"offset": offset, "data": b64encode(data).decode()})

    def set_datastore(self, name: str, capacity_bytes: int | None = None, accessible: bool | None = None) -> None:
        """Give a datastore another size, or let all hosts lose it and find it again; what is not given stays."""
        self.call("POST", f"/datastores/{name}", {"capacity_bytes": capacity_bytes, "accessible": accessible})

    def fill_datastore(self, name: str, free_bytes: int | None) -> None:
        """Let a datastore have this much room; None takes the filler away."""
        self.call("POST", f"/datastores/{name}/fill", {"free_bytes": free_bytes})
