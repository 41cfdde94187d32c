"""What a VM is made of, as far as another one can be made like it: failback to another place needs that (spec §8).

It is stored beside the commit record, so its types are a published schema: fields are added with defaults.
"""

from dataclasses import dataclass
from enum import StrEnum

from deltaferry.model.vm import Firmware


class ControllerKind(StrEnum):
    """The class of a disk controller in the vSphere API."""

    PARAVIRTUAL = "ParaVirtualSCSIController"
    LSI_SAS = "VirtualLsiLogicSASController"
    LSI = "VirtualLsiLogicController"
    BUS_LOGIC = "VirtualBusLogicController"
    SATA = "VirtualAHCIController"
    NVME = "VirtualNVMEController"
    IDE = "VirtualIDEController"
    """vSphere gives each VM two of them by itself."""


class NicKind(StrEnum):
    """The class of a network adapter in the vSphere API."""

    VMXNET3 = "VirtualVmxnet3"
    VMXNET2 = "VirtualVmxnet2"
    E1000 = "VirtualE1000"
    E1000E = "VirtualE1000e"
    PCNET32 = "VirtualPCNet32"


@dataclass(frozen=True, slots=True)
class DiskController:
    """A controller that disks hang on."""

    key: int
    kind: ControllerKind
    bus: int


@dataclass(frozen=True, slots=True)
class DiskSlot:
    """Where a disk hangs."""

    disk_key: int
    controller_key: int
    unit: int


@dataclass(frozen=True, slots=True)
class NicHardware:
    """A network adapter."""

    key: int
    kind: NicKind
    network: str
    """The network's name at the site."""
    start_connected: bool


@dataclass(frozen=True, slots=True)
class VmHardware:
    """A VM's hardware."""

    name: str
    guest_id: str
    firmware: Firmware
    hardware_version: int
    cpus: int
    memory_mib: int
    controllers: tuple[DiskController, ...]
    slots: tuple[DiskSlot, ...]
    nics: tuple[NicHardware, ...]
    cores_per_socket: int = 1
    secure_boot: bool = False
    replaced: tuple[str, ...] = ()
    """A sentence for each device of a class that is not made again, and what stands in its place."""
