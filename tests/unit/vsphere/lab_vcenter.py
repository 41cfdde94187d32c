"""The lab's vCenter in a process of its own, and what tests do to it behind Deltaferry's back."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import read_object
from deltaferry.vsphere.session import Endpoint, Session
from deltaferry.vsphere.tasks import no_beat, wait_for_task, wait_for_value
from deltaferry.vsphere.vocabulary import vim
from lab.certificates import Certificates
from lab.control_client import ControlClient
from lab.nbd_guest import GuestDisk
from lab.vcenter.control import VcenterControl

ODD_BYTES = (1 << 20) + 37 * 512
DATASTORE_BYTES = 1 << 34
FILLERS = 300
USER = "administrator@vsphere.local"
SPECIAL_USER = "dömain\\svc & co"
PASSWORD = "p&ss;\"'^\\%<wörd>£ ]]> €"
OTHER_USER = "rotating@vsphere.local"


def _vm(name: str, **values: Any) -> dict[str, Any]:
    return {
        "name": name,
        "host": "esxi-1.lab",
        "datastore": "ds1",
        "disks": [{"capacity_bytes": 1 << 20}, {"capacity_bytes": ODD_BYTES}],
        "nics": [{"network": "VM Network"}],
        **values,
    }


def filler_uuid(number: int) -> str:
    return f"50030000-0000-4000-8000-{number:012x}"


def _inventory(fillers: int) -> dict[str, Any]:
    vms = [
        _vm(
            "web-01",
            guest_id="ubuntu64Guest",
            guest_full_name="Ubuntu Linux (64-bit)",
            firmware="efi",
            hardware_version=17,
            cpus=2,
            memory_mib=2048,
            annotation="the shop",
            folder="Production/Web",
            attributes={"owner": "shop", "Cost centre": "42"},
        ),
        _vm("golden", template=True, power="poweredOff"),
        _vm("twin"),
        _vm("twin", host="esxi-2.lab", folder="tier"),
        _vm("no-tools", tools=False),
        _vm(
            "legacy",
            power="poweredOff",
            change_tracking_supported=False,
            disks=[{"capacity_bytes": 512, "mode": "independent_persistent"}],
        ),
        _vm("big", disks=[{"capacity_bytes": 1 << 30}]),
        _vm("elsewhere", disks=[{"capacity_bytes": 1 << 20, "datastore": "ds2"}]),
        *(_vm(f"filler-{number:03d}", instance_uuid=filler_uuid(number)) for number in range(fillers)),
    ]
    return {
        "users": {USER: PASSWORD, SPECIAL_USER: PASSWORD, OTHER_USER: "second"},
        "folders": ["tier", "Production/Web"],
        "attributes": ["owner", "Cost centre", "unused"],
        "hosts": [{"name": "esxi-1.lab"}, {"name": "esxi-2.lab"}],
        "datastores": [{"name": name, "capacity_bytes": DATASTORE_BYTES} for name in ("ds1", "ds2")],
        "times": {
            "stun_s": 0.0,
            "snapshot_s": 0.0,
            "consolidation_s": 0.0,
            "shutdown_s": 0.05,
            "power_s": 0.0,
            "reconfigure_s": 0.0,
        },
        "vms": vms,
    }


class LabVcenter:
    """One vCenter process, a session of a stranger's with it, and its control port."""

    def __init__(self, directory: Path, certificates: Certificates, fillers: int = FILLERS) -> None:
        inventory = _inventory(fillers)
        self.vm_count = sum(not vm.get("template") for vm in inventory["vms"])
        self.certificates = certificates
        directory.mkdir()
        file = directory / "inventory.json"
        file.write_text(json.dumps(inventory))
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            (
                *(sys.executable, "-m", "lab.vcenter", "--directory", str(directory / "data"), "--inventory", str(file)),
                *("--certificate", str(certificates.certificate_file), "--key", str(certificates.key_file)),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "LAB_CONTROL_TOKEN": "token"},
        )
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        self.port = int(ready["port"])
        self._nbd: dict[str, int] = ready["nbd"]
        self._control = ControlClient(int(ready["control_port"]), str(ready["control_token"]))
        self.control = VcenterControl(f"http://127.0.0.1:{ready['control_port']}", str(ready["control_token"]))
        self._stranger = Session(self.endpoint(), lambda: PASSWORD)
        self._numbers = itertools.count()

    def close(self) -> None:
        self._stranger.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def endpoint(self, user: str = USER, ca_file: Path | None = None, host: str = "127.0.0.1") -> Endpoint:
        return Endpoint(host, user, self.port, ca_file or self.certificates.ca_file, timeout_s=20)

    def unused_vm(self) -> str:
        """The instance UUID of a VM that no other test has had."""
        return filler_uuid(next(self._numbers))

    # --- what a stranger does in vCenter ---

    def start_snapshot(self, vm: str, name: str) -> Any:
        return self._vm(vm).CreateSnapshot_Task(name, "by a stranger", False, False)

    def start_quiesced(self, vm: str, name: str) -> Any:
        return self._vm(vm).CreateSnapshot_Task(name, "by a stranger", False, True)

    def start_removal(self, moref: str) -> Any:
        return self._stranger.object(vim.vm.Snapshot, moref).RemoveSnapshot_Task(False, True)

    def start_power_off(self, vm: str) -> Any:
        return self._vm(vm).PowerOffVM_Task()

    def start_reset(self, vm: str) -> Any:
        return self._vm(vm).ResetVM_Task()

    def wait(self, task: Any) -> Any:
        return wait_for_task(self._stranger, task, no_beat)

    def task_state(self, task: Any) -> str:
        return str(read_object(self._stranger, task, ["info"]).get("info").state)

    def wait_for_power(self, vm: str, state: str) -> None:
        assert wait_for_value(self._stranger, self._vm(vm), "runtime.powerState", state, no_beat, 10)

    def set_extra_config(self, vm: str, key: str, value: str) -> None:
        spec = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=key, value=value)])
        self.wait(self._vm(vm).ReconfigVM_Task(spec))

    def extra_config(self, vm: str) -> dict[str, str]:
        entries = read_object(self._stranger, self._vm(vm), ["config.extraConfig"]).get("config.extraConfig") or ()
        return {entry.key: entry.value for entry in entries}

    def change_version(self, vm: str) -> str:
        return str(read_object(self._stranger, self._vm(vm), ["config.changeVersion"]).get("config.changeVersion"))

    def sessions(self) -> list[Any]:
        manager = self._stranger.content().sessionManager
        return list(read_object(self._stranger, manager, ["sessionList"]).get("sessionList") or ())

    def session_count(self, user: str | None = None) -> int:
        return sum(1 for session in self.sessions() if user in (None, session.userName))

    def _vm(self, vm: str) -> Any:
        return locate(self._stranger, vm)

    # --- what only a lab can do ---

    def fault(
        self, fault: str, method: str, vm: str = "", *, count: int = 1, as_task_error: bool = False, message_key: str = ""
    ) -> None:
        """Let the next calls of a method, on a VM or at all, raise a vSphere fault."""
        moref = self.moref(vm) if vm else ""
        body = {"fault": fault, "method": method, "vm": moref, "count": count, "as_task_error": as_task_error}
        self._control.call("POST", "/faults", {"name": "method", "message_key": message_key, **body})

    def order(self, name: str, vm: str, *, count: int = 1) -> None:
        """Let the next operations on a VM go wrong in a way that the lab knows by name."""
        self._control.call("POST", "/faults", {"name": name, "vm": self.moref(vm), "count": count})

    def ask_named(self, name: str, vm: str = "", *, host: str = "") -> None:
        """Ask for the fault of a row of the fault table."""
        self._control.call("POST", "/named-faults", {"name": name, "vm": self.moref(vm) if vm else "", "host": host})

    def pending_faults(self) -> int:
        """How many faults were asked for and not met yet."""
        return len(cast("list[object]", self._control.call("GET", "/faults")["faults"]))

    def clear_nbd(self) -> None:
        """Let every host serve as it should again."""
        for host in self._nbd:
            self._control.call("DELETE", f"/hosts/{host}/nbd")
            self._control.call("POST", f"/hosts/{host}/nbd", {"max_connections": 8})

    def nbd_addresses(self) -> dict[str, tuple[str, int]]:
        return {host: ("127.0.0.1", port) for host, port in self._nbd.items()}

    def move(self, vm: str, host: str) -> None:
        """Move a VM to another host."""
        self._control.call("POST", f"/vms/{self.moref(vm)}/move", {"host": host})

    def fail_over(self, vm: str, host: str) -> None:
        """Let a VM's host die, and vSphere HA start the VM again on another one."""
        self._control.call("POST", f"/vms/{self.moref(vm)}/fail-over", {"host": host})

    def fill_datastore(self, name: str, free_bytes: int | None) -> None:
        """Let a datastore have this much room; None takes the filler away."""
        self._control.call("POST", f"/datastores/{name}/fill", {"free_bytes": free_bytes})

    @contextmanager
    def lost_datastore(self, name: str) -> Iterator[None]:
        """Let no host reach a datastore."""
        self._control.call("POST", f"/datastores/{name}", {"accessible": False})
        try:
            yield
        finally:
            self._control.call("POST", f"/datastores/{name}", {"accessible": True})

    def clear_faults(self) -> None:
        self._control.call("DELETE", "/faults")

    @contextmanager
    def times(self, **seconds: float) -> Iterator[None]:
        before = self._control.call("GET", "/times")
        self._control.call("POST", "/times", seconds)
        try:
            yield
        finally:
            self._control.call("POST", "/times", {name: before[name] for name in seconds})

    @contextmanager
    def denied(self, *privileges: str) -> Iterator[None]:
        self._control.call("POST", "/denials", {"privileges": privileges})
        try:
            yield
        finally:
            self._control.call("POST", "/denials", {"privileges": []})

    def end_sessions(self) -> None:
        self._control.call("POST", "/sessions/expire")

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self._control.call("POST", "/unreachable", {})
        try:
            yield
        finally:
            self._control.call("DELETE", "/unreachable")

    def calls(self, method: str) -> int:
        """How often a SOAP method was called, by anybody."""
        return int(str(self._control.call("GET", "/calls").get(method, 0)))

    def tracking(self, vm: str, **values: Any) -> None:
        self._control.call("POST", f"/vms/{self.moref(vm)}/tracking", values)

    @contextmanager
    def areas_per_page(self, limit: int) -> Iterator[None]:
        self._control.call("POST", "/answers", {"page_limit_areas": limit})
        try:
            yield
        finally:
            self._control.call("POST", "/answers", {"page_limit_areas": 2000})

    def add_disk(self, vm: str, capacity_bytes: int) -> int:
        return int(str(self._control.call("POST", f"/vms/{self.moref(vm)}/disks", {"capacity_bytes": capacity_bytes})["key"]))

    @contextmanager
    def guest_disk(self, vm: str, key: int, host: str = "esxi-1.lab") -> Iterator[GuestDisk]:
        """A running VM's disk as its guest writes to it."""
        with GuestDisk("127.0.0.1", self._nbd[host], f"guest={self.moref(vm)};disk={key}") as disk:
            yield disk

    def moref(self, vm: str) -> str:
        return str(self._vm(vm)._GetMoId())
