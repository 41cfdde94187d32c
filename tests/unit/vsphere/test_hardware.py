"""What a VM is made of, and the devices that another one is asked for: classes that are not known, and distributed port groups."""

import uuid
from dataclasses import replace

from deltaferry.model.elsewhere import FoundDatastore, FoundNetwork, FoundPlace, NewDisk, NewVm
from deltaferry.model.hardware import ControllerKind, DiskController, DiskSlot, NicHardware, NicKind, VmHardware
from deltaferry.model.vm import Claim, Firmware
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.hardware import device_changes
from deltaferry.vsphere.vocabulary import vim
from lab.vcenter.inventory_file import DiskSpec, NicSpec, VmSpec

from .lab_vcenter import LabVcenter

_HARDWARE = VmHardware(
    "web-01",
    "debian12_64Guest",
    Firmware.BIOS,
    19,
    1,
    1024,
    (DiskController(1001, ControllerKind.BUS_LOGIC, 1), DiskController(200, ControllerKind.IDE, 0)),
    (DiskSlot(2016, 1001, 0), DiskSlot(3001, 200, 1)),
    (NicHardware(4000, NicKind.PCNET32, "prod", True),),
)
_PLACE = FoundPlace((), datastores=(FoundDatastore("datastore-1", "ds1", 1, 1),))


def _new(network: FoundNetwork) -> NewVm:
    disks = (NewDisk(2016, 1 << 20), NewDisk(3001, 512))
    place = replace(_PLACE, networks=(network,))
    return NewVm(str(uuid.uuid4()), "web-01", _HARDWARE, disks, place, ("prod",), Claim("lab", "0" * 16), "")


def test_an_adapter_of_a_class_that_is_not_made_again_becomes_a_usual_one_and_that_is_said(
    vsphere: VSphere, lab: LabVcenter
) -> None:
    nics = (NicSpec("VM Network", kind="VirtualVmxnet"), NicSpec("VM Network", kind="VirtualE1000", connected=False))
    made = lab.control.add_vm(
        VmSpec(f"odd-{uuid.uuid4().hex[:8]}", "esxi-1.lab", "ds1", disks=(DiskSpec(1 << 20),), nics=nics, power="poweredOff")
    )
    found = vsphere.read_hardware(made.instance_uuid)
    assert [(nic.kind, nic.network, nic.start_connected) for nic in found.nics] == [
        (NicKind.VMXNET3, "VM Network", True),
        (NicKind.E1000, "VM Network", False),
    ]
    assert found.replaced == ("Network adapter 1 becomes a VMXNET3 adapter.",)
    lab.control.delete_vm(made.moref)


def test_disks_name_their_controllers_by_temporary_keys_and_those_that_every_vm_has_by_their_own() -> None:
    changes = device_changes(_new(FoundNetwork("network-1", "prod")))
    controller, scsi, ide, nic = [change.device for change in changes]
    assert isinstance(controller, vim.vm.device.VirtualBusLogicController) and (controller.key, controller.busNumber) == (-1, 1)
    assert [(disk.controllerKey, disk.unitNumber, disk.capacityInBytes) for disk in (scsi, ide)] == [
        (-1, 0, 1 << 20),
        (200, 1, 512),
    ]
    assert [str(change.fileOperation) for change in changes[1:3]] == ["create", "create"]
    assert scsi.backing.thinProvisioned and scsi.backing.fileName == "[ds1]"
    assert isinstance(nic, vim.vm.device.VirtualPCNet32) and (nic.addressType, nic.backing.deviceName) == ("generated", "prod")


def test_an_adapter_on_a_distributed_port_group_names_the_group_and_its_switch() -> None:
    nic = device_changes(_new(FoundNetwork("dvportgroup-7", "prod", "50 2f 11")))[-1].device
    assert (nic.backing.port.portgroupKey, nic.backing.port.switchUuid) == ("dvportgroup-7", "50 2f 11")
