"""The lab's vCenter in its own process, and a real pyVmomi client of it."""

import json
import ssl
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

from deltaferry.ports.access import NbdAddress
from lab.certificates import make_certificates
from lab.vcenter.control import VcenterControl
from lab.vcenter.control_views import VmState
from lab.vcenter.inventory_file import VmSpec

USER = "administrator@vsphere.local"
PASSWORD = "a&b;c\"'^\\%<>£ö"
"""With the characters that other products do not support (facts B3)."""

MIB = 1 << 20
DATA_DISK_BYTES = 8 * MIB + 37 * 512

Q: Any = vmodl.query.PropertyCollector


def inventory() -> dict[str, Any]:
    """Two hosts, two VMs of different folders with one name, a powered-off one, and one without Tools."""
    running = {
        "name": "web-01",
        "host": "esxi-1.lab",
        "datastore": "ds1",
        "firmware": "efi",
        "guest_id": "ubuntu64Guest",
        "disks": [{"capacity_bytes": 16 * MIB}, {"capacity_bytes": DATA_DISK_BYTES}],
        "nics": [{"network": "VM Network"}, {"network": "backup"}],
        "annotation": "made by a test",
    }
    return {
        "users": {USER: PASSWORD},
        "hosts": [{"name": "esxi-1.lab"}, {"name": "esxi-2.lab"}],
        "datastores": [{"name": "ds1", "capacity_bytes": 1 << 30}, {"name": "ds2", "capacity_bytes": 1 << 30}],
        "networks": ["VM Network", "backup"],
        "folders": ["twins"],
        "times": {"stun_s": 0.02, "snapshot_s": 0.05, "consolidation_s": 0.05, "shutdown_s": 0.05, "power_s": 0.01},
        "vms": [
            running,
            {"name": "web-01", "folder": "twins", "host": "esxi-2.lab", "datastore": "ds2", "disks": [{"capacity_bytes": MIB}]},
            {
                "name": "off-01",
                "host": "esxi-2.lab",
                "datastore": "ds2",
                "power": "poweredOff",
                "disks": [{"capacity_bytes": MIB}],
            },
            {"name": "bare-01", "host": "esxi-1.lab", "datastore": "ds1", "tools": False, "change_tracking_supported": False},
        ],
    }


@dataclass
class Lab:
    """A vCenter process and one logged-in client."""

    port: int
    nbd: dict[str, int]
    control: VcenterControl
    ca_file: Path
    process: subprocess.Popen[bytes]
    name: str = "web-01"
    """The VM that a test is about."""
    si: Any = field(init=False)

    def __post_init__(self) -> None:
        self.si = self.connect()

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))

    def connect(self, user: str = USER, password: str = PASSWORD) -> Any:
        return SmartConnect(host="127.0.0.1", port=self.port, user=user, pwd=password, sslContext=self.tls())

    def renew(self) -> Any:
        """Log in again, after a test that ended all sessions."""
        self.si = self.connect()
        return self.si

    @property
    def content(self) -> Any:
        return self.si.content

    def about_new_vm(self) -> "Lab":
        """Return this lab with a new VM, made like web-01, as the one that a test is about."""
        spec = TypeAdapter(VmSpec).validate_python({**inventory()["vms"][0], "name": f"web-{uuid.uuid4().hex[:8]}"})
        self.control.add_vm(spec)
        return replace(self, name=spec.name)

    def state(self, name: str = "") -> VmState:
        return self.control.vm(name or self.name)

    def vm(self, name: str = "") -> Any:
        return vim.VirtualMachine(self.state(name).moref, self.si._stub)

    def run(self, task: Any) -> Any:
        """Wait for a task; raise its fault, return its result."""
        WaitForTask(task, si=self.si)
        return task.info.result

    def track(self, vm: Any) -> None:
        """Switch change tracking on and make it effective."""
        self.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        self.run(self.snapshot(vm, "stun").RemoveSnapshot_Task(removeChildren=False))

    def snapshot(self, vm: Any, name: str) -> Any:
        return self.run(vm.CreateSnapshotEx_Task(name=name, description="", memory=False))

    def address(self, vm: Any, export: str) -> NbdAddress:
        return NbdAddress(export=export, host="127.0.0.1", port=self.nbd[vm.runtime.host.name])

    def container_spec(self, kind: Any, paths: list[str]) -> Any:
        view = self.content.viewManager.CreateContainerView(self.content.rootFolder, [kind], True)
        walk = Q.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
        start = Q.ObjectSpec(obj=view, skip=True, selectSet=[walk])
        return Q.FilterSpec(objectSet=[start], propSet=[Q.PropertySpec(type=kind, pathSet=paths)])


def object_spec(item: Any, paths: list[str]) -> Any:
    return Q.FilterSpec(objectSet=[Q.ObjectSpec(obj=item)], propSet=[Q.PropertySpec(type=type(item), pathSet=paths)])


def change_id(snapshot: Any, key: int) -> str:
    """The change id that a snapshot's configuration gives for a disk."""
    for device in snapshot.config.hardware.device:
        if isinstance(device, vim.vm.device.VirtualDisk) and device.key == key:
            return str(device.backing.changeId)
    raise LookupError(key)


@contextmanager
def running_lab(directory: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Iterator[Lab]:
    """Start `python -m lab.vcenter` and connect to it."""
    certificates = make_certificates(directory / "certificates")
    wanted = inventory()
    change(wanted)
    (directory / "inventory.json").write_text(json.dumps(wanted))
    command = [sys.executable, "-m", "lab.vcenter", "--directory", str(directory / "vc")]
    command += ["--inventory", str(directory / "inventory.json")]
    command += ["--certificate", str(certificates.certificate_file), "--key", str(certificates.key_file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=(directory / "log").open("wb"))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (directory / "log").read_text()
        ready = json.loads(line)
        control = VcenterControl(f"http://127.0.0.1:{ready['control_port']}", ready["control_token"])
        lab = Lab(ready["port"], ready["nbd"], control, certificates.ca_file, process)
        yield lab
        Disconnect(lab.si)
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()
