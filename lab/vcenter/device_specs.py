"""Devices as a ConfigSpec describes them, for a new VM or to be added to one: controllers, disks, network adapters.

New devices have temporary keys, by which the disks name their controllers. Disks are made new, thin, on the VM's home datastore.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.vcenter.controllers import BUILT_IN, CLASSES, Controller
from lab.vcenter.inventory import Inventory
from lab.vcenter.inventory_file import ControllerSpec, DiskSpec, NicSpec
from lab.vcenter.vocabulary import vim

_SECTOR = 512


@dataclass(frozen=True, slots=True)
class NewDevices:
    """What is to be added."""

    controllers: tuple[ControllerSpec, ...]
    disks: tuple[DiskSpec, ...]
    nics: tuple[NicSpec, ...]


def new_devices(
    inventory: Inventory,
    changes: Iterable[tuple[int, Any]],
    datastore: str,
    present: Sequence[Controller] = (),
    taken: Iterable[int] = (),
) -> NewDevices:
    """Return what numbered VirtualDeviceSpecs with operation `add` describe; `present` and `taken` are a VM's controllers and disk keys.

    Raises InvalidDeviceSpec, InvalidDeviceBacking with the number of the one that is wrong.
    """
    changes = list(changes)
    keys = {controller.key: controller for controller in (*BUILT_IN, *present)}
    added = _controllers(changes, keys)
    used = set(taken)
    disks: list[DiskSpec] = []
    nics: list[NicSpec] = []
    for number, change in changes:
        device = change.device
        if isinstance(device, vim.vm.device.VirtualDisk):
            disks.append(_disk(number, change, datastore, keys, used))
        elif isinstance(device, vim.vm.device.VirtualEthernetCard):
            nics.append(_nic(inventory, number, device))
        elif not isinstance(device, vim.vm.device.VirtualController):
            raise invalid_device(number, f"The lab adds no {type(device)._wsdlName}.")
    return NewDevices(added, tuple(disks), tuple(nics))


def invalid_device(number: int, sentence: str) -> Any:
    """Return the fault for a device's specification."""
    return vim.fault.InvalidDeviceSpec(deviceIndex=number, property="virtualDeviceSpec.device", msg=sentence)


def _controllers(changes: list[tuple[int, Any]], keys: dict[int, Controller]) -> tuple[ControllerSpec, ...]:
    """Return the controllers to be added, and enter them into `keys` under the keys that the request gives them."""
    added: list[ControllerSpec] = []
    for number, change in changes:
        if not isinstance(change.device, vim.vm.device.VirtualController):
            continue
        kind, bus = type(change.device)._wsdlName, change.device.busNumber
        known = CLASSES.get(kind)
        if known is None or bus is None or bus not in range(known.buses):
            raise invalid_device(number, f"There is no controller {kind} {bus}.")
        made = Controller(kind, bus)
        if made.key in {controller.key for controller in keys.values()}:
            raise invalid_device(number, f"The bus {bus} has a controller of that class already.")
        keys[change.device.key] = made
        added.append(ControllerSpec(kind, bus))
    return tuple(added)


def _disk(number: int, change: Any, datastore: str, keys: dict[int, Controller], used: set[int]) -> DiskSpec:
    device, backing = change.device, change.device.backing
    if str(change.fileOperation) != "create" or not isinstance(backing, vim.vm.device.VirtualDisk.FlatVer2BackingInfo):
        raise invalid_device(number, "The lab adds new disks only: fileOperation create, with a FlatVer2BackingInfo.")
    capacity = device.capacityInBytes or (device.capacityInKB or 0) * 1024
    if capacity <= 0 or capacity % _SECTOR:
        raise invalid_device(number, f"A disk cannot have {capacity} bytes.")
    place = (backing.fileName or "").partition("]")[0].removeprefix("[")
    if place not in ("", datastore):
        raise vim.fault.InvalidDeviceBacking(
            deviceIndex=number,
            property="virtualDeviceSpec.device.backing",
            msg=f"The lab keeps a VM's disks on its home datastore {datastore}, not on {place}.",
        )
    controller = keys.get(device.controllerKey)
    if controller is None:
        raise invalid_device(number, f"There is no controller {device.controllerKey} for the disk.")
    free = [unit for unit in CLASSES[controller.kind].units() if controller.disk_key(unit) not in used]
    unit = device.unitNumber if device.unitNumber is not None else next(iter(free), None)
    if unit not in free:
        raise invalid_device(number, f"The slot {unit} of controller {controller.key} is taken, or there is none.")
    used.add(controller.disk_key(unit))
    label = device.deviceInfo.label if device.deviceInfo is not None else ""
    return DiskSpec(capacity, label or "", mode=backing.diskMode or "persistent", controller=controller.key, unit=unit)


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
    connected = True if connectable is None else bool(connectable.startConnected)
    return NicSpec(wanted, device.macAddress or "", connected, type(device)._wsdlName)
