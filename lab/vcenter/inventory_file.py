"""The inventory that a lab vCenter starts with: one JSON object.

    {
      "datacenter": "Lab",                       default "Lab"
      "cluster": "cluster-1",                    default "cluster-1"
      "users": {"administrator@vsphere.local": "secret"},
      "hosts": [{"name": "esxi-1.lab"}],
      "datastores": [{"name": "ds1", "capacity_bytes": 10737418240}],
      "networks": ["VM Network"],                default ["VM Network"]
      "folders": ["web", "tier/db"],             paths of folders below the datacenter's vm folder, default none
      "attributes": ["owner"],                   names of custom attributes, default none
      "times": {"stun_s": 0.1, …},               see `lab.vcenter.settings.Times`, default none
      "vms": [{
        "name": "web-01", "host": "esxi-1.lab", "datastore": "ds1",
        "folder": "tier/db",                     default: the vm folder itself
        "template": false, "attributes": {"owner": "shop"},
        "guest_id": "ubuntu64Guest", "guest_full_name": "Ubuntu Linux (64-bit)",
        "firmware": "bios" | "efi", "hardware_version": 19, "cpus": 2, "memory_mib": 1024,
        "power": "poweredOn" | "poweredOff", "tools": true, "annotation": "",
        "instance_uuid": "5003…",                default: a new one
        "change_tracking_supported": true, "change_tracking": false,
        "cores_per_socket": 1, "secure_boot": false,
        "controllers": [{"kind": "VirtualLsiLogicSASController", "bus": 0}],      default: one ParaVirtualSCSIController
        "disks": [{"capacity_bytes": 1073741824, "label": "Hard disk 1", "content": "/path/to/raw.img",
                   "mode": "persistent" | "independent_persistent",
                   "controller": 1000, "unit": 1}],         its key, and the slot; default: the first free ones
        "nics": [{"network": "VM Network", "mac": "00:50:56:…", "connected": true, "kind": "VirtualVmxnet3"}],
        "extra_config": {"key": "value"}
      }]
    }

Unknown keys are refused. `content` is copied: the file itself is never written to.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

_STRICT = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A VM's disk."""

    __pydantic_config__ = _STRICT

    capacity_bytes: Annotated[int, Field(gt=0, multiple_of=512)]
    label: str = ""
    content: Path | None = None
    mode: str = "persistent"
    datastore: str = ""
    """Where it is if not with the VM: the name of another datastore."""
    controller: int | None = None
    """The key of the controller that it hangs on; the VM's first where left out."""
    unit: int | None = None
    """The slot there; the first free one where left out."""


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A VM's network adapter."""

    __pydantic_config__ = _STRICT

    network: str
    mac: str = ""
    connected: bool = True
    kind: str = "VirtualVmxnet3"


@dataclass(frozen=True, slots=True)
class ControllerSpec:
    """A controller that disks hang on."""

    __pydantic_config__ = _STRICT

    kind: str
    bus: int = 0


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A VM."""

    __pydantic_config__ = _STRICT

    name: str
    host: str
    datastore: str
    folder: str = ""
    template: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    guest_id: str = "otherLinux64Guest"
    guest_full_name: str = "Other Linux (64-bit)"
    firmware: str = "bios"
    hardware_version: int = 19
    cpus: int = 1
    memory_mib: int = 1024
    power: str = "poweredOn"
    tools: bool = True
    annotation: str = ""
    instance_uuid: str = ""
    change_tracking_supported: bool = True
    change_tracking: bool = False
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    extra_config: dict[str, str] = field(default_factory=dict)
    cores_per_socket: int = 1
    secure_boot: bool = False
    controllers: tuple[ControllerSpec, ...] | None = None


@dataclass(frozen=True, slots=True)
class HostSpec:
    """An ESXi host."""

    __pydantic_config__ = _STRICT

    name: str


@dataclass(frozen=True, slots=True)
class DatastoreSpec:
    """A datastore that every host of the cluster mounts."""

    __pydantic_config__ = _STRICT

    name: str
    capacity_bytes: Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class InventorySpec:
    """A whole vCenter."""

    __pydantic_config__ = _STRICT

    users: dict[str, str] = field(repr=False)
    hosts: tuple[HostSpec, ...]
    datastores: tuple[DatastoreSpec, ...]
    vms: tuple[VmSpec, ...] = ()
    datacenter: str = "Lab"
    cluster: str = "cluster-1"
    networks: tuple[str, ...] = ("VM Network",)
    folders: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    times: dict[str, float] = field(default_factory=dict)


def read_inventory(path: Path) -> InventorySpec:
    """Read and check an inventory file. Raises OSError and pydantic.ValidationError."""
    return TypeAdapter(InventorySpec).validate_json(path.read_bytes())
