"""Devices as a ConfigSpec describes them, for a new VM or to be added to one: disks, network adapters, controllers.

Controllers are accepted and not kept: every VM has the same ones. Disks are made new, thin, on the VM's home datastore.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lab.vcenter.inventory import Inventory
from lab.vcenter.inventory_file import DiskSpec, NicSpec
from lab.vcenter.vocabulary import vim


@dataclass(frozen=True, slots=True)
class NewDevices:
    """What is to be added."""

    disks: tuple[DiskSpec, ...]
    nics: tuple[NicSpec, ...]


def new_devices(inventory: Inventory, changes: Iterable[tuple[int, Any]], datastore: str) -> NewDevices:
    """Return what numbered VirtualDeviceSpecs with operation `add` describe.

    Raises InvalidDeviceSpec, InvalidDeviceBacking with the number of the one that is wrong.
    """
    disks: list[DiskSpec] = []
    nics: list[NicSpec] = []
    for number, change in changes:
        device = change.device
        if isinstance(device, vim.vm.device.VirtualDisk):
            disks.append(_disk(number, change, datastore))
        elif isinstance(device, vim.vm.device.VirtualEthernetCard):
            nics.append(_nic(inventory, number, device))
        elif not isinstance(device, vim.vm.device.VirtualController):
            raise invalid_device(number, f"The lab adds no {type(device)._wsdlName}.")
    return NewDevices(tuple(disks), tuple(nics))


def invalid_device(number: int, sentence: str) -> Any:
    """Return the fault for a device's specification."""
    return vim.fault.InvalidDeviceSpec(deviceIndex=number, property="virtualDeviceSpec.device", msg=sentence)


def _disk(number: int, change: Any, datastore: str) -> DiskSpec:
    device, backing = change.device, change.device.backing
    if str(change.fileOperation) != "create" or not isinstance(backing, vim.vm.device.VirtualDisk.FlatVer2BackingInfo):
        raise invalid_device(number, "The lab adds new disks only: fileOperation create, with a FlatVer2BackingInfo.")
    capacity = device.capacityInBytes or (device.capacityInKB or 0) * 1024
    if capacity <= 0 or capacity % 512:
        raise invalid_device(number, f"A disk cannot have {capacity} bytes.")
    place = (backing.fileName or "").partition("]")[0].removeprefix("[")
    if place not in ("", datastore):
        raise vim.fault.InvalidDeviceBacking(
            deviceIndex=number,
            property="virtualDeviceSpec.device.backing",
            msg=f"The lab keeps a VM's disks on its home datastore {datastore}, not on {place}.",
        )
    label = device.deviceInfo.label if device.deviceInfo is not None else ""
    return DiskSpec(capacity, label or "", mode=backing.diskMode or "persistent")


def _nic(inventory: Inventory, number: int, device: Any) -> NicSpec:
    backing, connectable = device.backing, device.connectable
    reference = getattr(backing, "network", None)
    wanted = next(
        (
            name
            for name, network in inventory.networks.items()
            if (reference is not None and network.moref == str(reference._moId))
            or (reference is None and name == getattr(backing, "deviceName", None))
        ),
        None,
    )
    if wanted is None:
        raise vim.fault.InvalidDeviceBacking(
            deviceIndex=number, property="virtualDeviceSpec.device.backing", msg="The network of the adapter does not exist."
        )
    return NicSpec(wanted, device.macAddress or "", True if connectable is None else bool(connectable.startConnected))
