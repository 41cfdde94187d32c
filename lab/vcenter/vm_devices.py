"""A VM's hardware as vSphere shows it: controllers, disks and network adapters, of now or as a snapshot froze them."""

from typing import Any

from lab.vcenter.controllers import BUILT_IN, Controller
from lab.vcenter.disk_present import PresentDisk
from lab.vcenter.virtual_machine import AttachedDisk, Nic, Snapshot, VirtualMachine
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import data_object

_KIB = 1024
_PCI_CONTROLLER_KEY = 100


def devices(vm: VirtualMachine, snapshot: Snapshot | None) -> list[Any]:
    """Return the devices. A snapshot's disks come in another order than the VM's (facts F11): nothing may rely on it."""
    controllers = [
        *(_device(vim.vm.device.VirtualIDEController, one.key, f"IDE {one.bus}", busNumber=one.bus) for one in BUILT_IN),
        _device(vim.vm.device.VirtualPCIController, _PCI_CONTROLLER_KEY, "PCI controller 0", busNumber=0),
        *(_controller(one) for one in vm.controllers),
    ]
    if snapshot is None:
        disks = [_present(vm, item) for item in vm.disks.values()]
        return [*controllers, *disks, *(_nic(nic) for nic in vm.nics.values())]
    frozen = [
        _disk(
            item.attached,
            item.frozen.file_name,
            item.frozen.capacity_bytes,
            item.frozen.change_id,
        )
        for item in reversed(snapshot.disks.values())
    ]
    return [*controllers, *(_nic(nic) for nic in snapshot.nics), *frozen]


def _present(vm: VirtualMachine, attached: AttachedDisk) -> Any:
    """Return a disk as it is now. Only while nothing writes to it do its change id and content id say what it holds."""
    present = PresentDisk(attached.disk)
    made = _disk(attached, present.file_name, present.capacity_bytes, None if vm.running else present.change_id)
    if not vm.running:
        made.backing.contentId = attached.disk.content_id
    return made


def _device(kind: Any, key: int, label: str, **values: Any) -> Any:
    made = data_object(kind, key=key, **values)
    made.deviceInfo = vim.Description(label=label, summary=label)
    return made


def _controller(controller: Controller) -> Any:
    kind = getattr(vim.vm.device, controller.kind)
    values: dict[str, Any] = {"busNumber": controller.bus, "controllerKey": _PCI_CONTROLLER_KEY, "unitNumber": 3 + controller.bus}
    if not issubclass(kind, vim.vm.device.VirtualSCSIController):
        return _device(kind, controller.key, f"{controller.kind} {controller.bus}", **values)
    values |= {"hotAddRemove": True, "sharedBus": "noSharing", "scsiCtlrUnitNumber": 7}
    return _device(kind, controller.key, f"SCSI controller {controller.bus}", **values)


def _disk(attached: AttachedDisk, file_name: str, capacity_bytes: int, change_id: str | None) -> Any:
    backing = data_object(
        vim.vm.device.VirtualDisk.FlatVer2BackingInfo,
        fileName=attached.backing_name(file_name),
        datastore=attached.datastore.reference,
        diskMode=attached.mode,
        thinProvisioned=True,
        uuid=attached.disk.uuid,
        changeId=change_id,
        sharing="sharingNone",
    )
    if attached.is_delta(file_name):
        backing.deltaDiskFormat = "redoLogFormat"
        backing.parent = data_object(
            vim.vm.device.VirtualDisk.FlatVer2BackingInfo,
            fileName=attached.backing_name(f"{attached.stem}.vmdk"),
            datastore=attached.datastore.reference,
            diskMode=attached.mode,
            thinProvisioned=True,
            uuid=attached.disk.uuid,
        )
    return _device(
        vim.vm.device.VirtualDisk,
        attached.key,
        attached.label,
        backing=backing,
        controllerKey=attached.controller.key,
        unitNumber=attached.unit_number,
        capacityInKB=capacity_bytes // _KIB,
        capacityInBytes=capacity_bytes,
        diskObjectId=f"1-{attached.key}",
    )


def _nic(nic: Nic) -> Any:
    return _device(
        getattr(vim.vm.device, nic.kind),
        nic.key,
        nic.label,
        backing=data_object(
            vim.vm.device.VirtualEthernetCard.NetworkBackingInfo, deviceName=nic.network.name, network=nic.network.reference
        ),
        connectable=vim.vm.device.VirtualDevice.ConnectInfo(
            startConnected=nic.start_connected, allowGuestControl=True, connected=nic.connected, status="ok"
        ),
        controllerKey=_PCI_CONTROLLER_KEY,
        unitNumber=nic.unit_number,
        addressType="manual",
        macAddress=nic.mac,
        wakeOnLanEnabled=True,
    )
