"""What a VM is made of, so that another can be made like it; and the devices of that one, as vSphere is asked for them.

New devices carry temporary negative keys, by which the disks of a request name their controllers; vSphere numbers a disk by
its controller and slot, so that one in the same slot of the same kind of controller gets the same key.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deltaferry.model.elsewhere import FoundNetwork, NewDisk, NewVm
from deltaferry.model.hardware import ControllerKind, DiskController, DiskSlot, NicHardware, NicKind, VmHardware
from deltaferry.model.vm import Firmware
from deltaferry.vsphere.devices import ethernet_cards, source_nics, virtual_disks
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import names_of, read_object, unescaped
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import vim

_PATHS = (
    "name",
    "network",
    "config.guestId",
    "config.firmware",
    "config.version",
    "config.bootOptions",
    "config.hardware.memoryMB",
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.hardware.device",
)

_CONTROLLERS: Mapping[Any, ControllerKind] = {getattr(vim.vm.device, kind.value): kind for kind in ControllerKind}
_NICS: Mapping[Any, NicKind] = {getattr(vim.vm.device, kind.value): kind for kind in NicKind}
_SCSI_OWN_UNIT = 7
"""The slot of a SCSI controller itself."""
_FIRST_NIC = -101
_FIRST_DISK = -201

_Spec = vim.vm.device.VirtualDeviceSpec
_Disk = vim.vm.device.VirtualDisk
_Card = vim.vm.device.VirtualEthernetCard


def read_hardware(session: Session, instance_uuid: str) -> VmHardware:
    """Return what a VM is made of. Raises VM_NOT_FOUND, VM_AMBIGUOUS."""
    row = read_object(session, locate(session, instance_uuid), _PATHS)
    networks = names_of(session, list(row.get("network") or ()))
    devices = row.get("config.hardware.device") or ()
    controllers, slots, replaced = _storage(devices)
    nics, others = _adapters(devices, networks)
    boot = row.get("config.bootOptions")
    return VmHardware(
        name=unescaped(row.get("name") or ""),
        guest_id=row.get("config.guestId") or "",
        firmware=Firmware.EFI if row.get("config.firmware") == "efi" else Firmware.BIOS,
        hardware_version=_version(row.get("config.version")),
        cpus=int(row.get("config.hardware.numCPU") or 1),
        memory_mib=int(row.get("config.hardware.memoryMB") or 0),
        controllers=controllers,
        slots=slots,
        nics=nics,
        cores_per_socket=int(row.get("config.hardware.numCoresPerSocket") or 1),
        secure_boot=bool(boot is not None and boot.efiSecureBootEnabled),
        replaced=(*replaced, *others),
    )


def _version(version: Any) -> int:
    digits = str(version or "").rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _storage(devices: Sequence[Any]) -> tuple[tuple[DiskController, ...], tuple[DiskSlot, ...], tuple[str, ...]]:
    """Return the controllers that have disks, the disks' slots, and what is said of controllers of another class."""
    by_key = {int(device.key): device for device in devices}
    slots = tuple(
        DiskSlot(int(disk.key), int(disk.controllerKey), int(disk.unitNumber or 0))
        for disk in sorted(virtual_disks(devices), key=lambda disk: int(disk.key))
        if disk.controllerKey in by_key
    )
    controllers, replaced = [], []
    for key in sorted({slot.controller_key for slot in slots}):
        kind = _CONTROLLERS.get(type(by_key[key]))
        if kind is None:
            name = by_key[key].deviceInfo.label if by_key[key].deviceInfo else f"Controller {key}"
            replaced.append(f"{name} becomes a paravirtual SCSI controller.")
        controllers.append(DiskController(key, kind or ControllerKind.PARAVIRTUAL, int(by_key[key].busNumber or 0)))
    return tuple(controllers), slots, tuple(replaced)


def _adapters(devices: Sequence[Any], networks: Mapping[str, str]) -> tuple[tuple[NicHardware, ...], tuple[str, ...]]:
    kinds = {int(card.key): _NICS.get(type(card)) for card in ethernet_cards(devices)}
    found, replaced = [], []
    for nic in source_nics(devices, networks):
        kind = kinds[nic.key]
        if kind is None:
            replaced.append(f"{nic.label or f'Network adapter {nic.key}'} becomes a VMXNET3 adapter.")
        found.append(NicHardware(nic.key, kind or NicKind.VMXNET3, nic.network, nic.start_connected))
    return tuple(found), tuple(replaced)


# --- the devices of a VM to make ---


def device_changes(new: NewVm) -> list[Any]:
    """Return the VirtualDeviceSpecs of a VM to make: controllers, empty thin disks, adapters."""
    hardware, store = new.hardware, new.place.datastores[0]
    temporary = {
        controller.key: controller.key if controller.kind is ControllerKind.IDE else -number
        for number, controller in enumerate(hardware.controllers, start=1)
    }
    changes = [
        _add(_controller(controller, temporary[controller.key]))
        for controller in hardware.controllers
        if controller.kind is not ControllerKind.IDE
    ]
    slots = {slot.disk_key: slot for slot in hardware.slots}
    for number, disk in enumerate(new.disks):
        slot = slots[disk.key]
        device = _disk(disk, slot, temporary[slot.controller_key], _FIRST_DISK - number, store.name)
        changes.append(_add(device, fileOperation=_Spec.FileOperation.create))
    networks = {network.name: network for network in new.place.networks}
    for number, (nic, name) in enumerate(zip(hardware.nics, new.networks, strict=True)):
        changes.append(_add(_adapter(nic, networks[name], _FIRST_NIC - number)))
    return changes


def misplaced(devices: Iterable[Any], disks: Sequence[NewDisk]) -> tuple[int, ...]:
    """Return the keys that the disks of a VM that was made should have, and that none of that size has."""
    made = {int(disk.key): int(disk.capacityInBytes or disk.capacityInKB * 1024) for disk in virtual_disks(list(devices))}
    return tuple(disk.key for disk in disks if made.get(disk.key) != disk.capacity_bytes)


def _add(device: Any, **more: Any) -> Any:
    return _Spec(operation=_Spec.Operation.add, device=device, **more)


def _controller(controller: DiskController, key: int) -> Any:
    made = getattr(vim.vm.device, controller.kind.value)(key=key, busNumber=controller.bus)
    if isinstance(made, vim.vm.device.VirtualSCSIController):
        made.sharedBus = vim.vm.device.VirtualSCSIController.Sharing.noSharing
        made.scsiCtlrUnitNumber = _SCSI_OWN_UNIT
    return made


def _disk(disk: NewDisk, slot: DiskSlot, controller_key: int, key: int, datastore: str) -> Any:
    return _Disk(
        key=key,
        controllerKey=controller_key,
        unitNumber=slot.unit,
        capacityInKB=disk.capacity_bytes // 1024,
        capacityInBytes=disk.capacity_bytes,
        backing=_Disk.FlatVer2BackingInfo(diskMode="persistent", thinProvisioned=True, fileName=f"[{datastore}]"),
    )


def _adapter(nic: NicHardware, network: FoundNetwork, key: int) -> Any:
    made = getattr(vim.vm.device, nic.kind.value)(key=key, addressType="generated", wakeOnLanEnabled=True)
    made.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=nic.start_connected, allowGuestControl=True, connected=False
    )
    if network.switch_uuid:
        port = vim.dvs.PortConnection(portgroupKey=network.moref, switchUuid=network.switch_uuid)
        made.backing = _Card.DistributedVirtualPortBackingInfo(port=port)
    else:
        reference = vim.Network(network.moref)
        made.backing = _Card.NetworkBackingInfo(deviceName=network.name, network=reference)
    return made
