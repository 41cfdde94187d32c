"""Making a VM at another location, adding and removing devices, networks of adapters, deleting the VM."""

import uuid
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.unit.lab_vcenter_disk.wire import WireClient
from tests.unit.lab_vcenter_soap.running import MIB, Lab


def disk(
    capacity: int, key: int = -1, file_name: str = "", operation: str = "create", controller: int = -100, unit: int | None = None
) -> Any:
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(diskMode="persistent", thinProvisioned=True, fileName=file_name)
    device = vim.vm.device.VirtualDisk(
        key=key,
        capacityInKB=capacity // 1024,
        capacityInBytes=capacity,
        backing=backing,
        controllerKey=controller,
        unitNumber=unit,
    )
    return vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation=operation, device=device)


def adapter(network: str, *, connected: bool = True, mac: str = "") -> Any:
    device = vim.vm.device.VirtualVmxnet3(
        key=-2,
        backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=network),
        connectable=vim.vm.device.VirtualDevice.ConnectInfo(
            startConnected=connected, allowGuestControl=True, connected=connected
        ),
        macAddress=mac or None,
        addressType="manual" if mac else "generated",
    )
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=device)


def controller(kind: str = "ParaVirtualSCSIController", key: int = -100, bus: int = 0) -> Any:
    device = getattr(vim.vm.device, kind)(key=key, busNumber=bus)
    if isinstance(device, vim.vm.device.VirtualSCSIController):
        device.sharedBus = "noSharing"
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=device)


def create(lab: Lab, name: str, *changes: Any, datastore: str = "ds2", **values: Any) -> Any:
    centre = lab.content.rootFolder.childEntity[0]
    cluster = centre.hostFolder.childEntity[0]
    config = vim.vm.ConfigSpec(
        name=name,
        guestId="debian12_64Guest",
        numCPUs=2,
        memoryMB=512,
        firmware="efi",
        version="vmx-19",
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
        annotation="made by a failback",
        extraConfig=[vim.option.OptionValue(key="deltaferry.claim", value="x")],
        deviceChange=list(changes),
    )
    for field, value in values.items():
        setattr(config, field, value)
    return lab.run(centre.vmFolder.CreateVM_Task(config=config, pool=cluster.resourcePool, host=cluster.host[1]))


def name_of(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def devices(vm: Any, kind: Any) -> list[Any]:
    return [device for device in vm.config.hardware.device if isinstance(device, kind)]


def test_a_vm_is_made_elsewhere_written_while_off_and_powered_on(lab: Lab) -> None:
    name = name_of("back")
    vm = create(lab, name, controller(), disk(2 * MIB), disk(MIB, -3), adapter("backup", mac="00:50:56:01:02:03"))
    assert (vm.config.guestId, vm.config.firmware, vm.config.annotation) == ("debian12_64Guest", "efi", "made by a failback")
    assert (vm.runtime.host.name, vm.runtime.powerState, vm.datastore[0].name) == ("esxi-2.lab", "poweredOff", "ds2")
    assert [one.capacityInBytes for one in devices(vm, vim.vm.device.VirtualDisk)] == [2 * MIB, MIB]
    (nic,) = devices(vm, vim.vm.device.VirtualEthernetCard)
    assert (nic.macAddress, nic.backing.deviceName) == ("00:50:56:01:02:03", "backup")
    assert {option.key: option.value for option in vm.config.extraConfig}["deltaferry.claim"] == "x"
    export = f"writable={vm._moId};disk={devices(vm, vim.vm.device.VirtualDisk)[0].key}"
    with WireClient("127.0.0.1", lab.nbd["esxi-2.lab"]) as writer:
        writer.go(export)
        writer.write(0, b"w" * 512)
        writer.call(3, 0, 0)
        with pytest.raises(vim.fault.FileLocked):
            lab.run(vm.Destroy_Task())
    while lab.control.state().hosts[1].connections:
        continue
    lab.run(vm.PowerOnVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        lab.run(vm.Destroy_Task())
    lab.run(vm.PowerOffVM_Task())
    lab.run(vm.Destroy_Task())
    assert all(other.name != name for other in lab.control.state().vms)


@pytest.mark.parametrize(
    ("changes", "datastore", "fault"),
    [
        ((), "nowhere", vim.fault.InvalidDatastorePath),
        ((disk(MIB, operation="replace"),), "ds2", vim.fault.InvalidDeviceSpec),
        ((disk(MIB, file_name="[ds1] other/other.vmdk"),), "ds2", vim.fault.InvalidDeviceBacking),
        ((adapter("no such network"),), "ds2", vim.fault.InvalidDeviceBacking),
        ((disk(MIB),), "ds2", vim.fault.InvalidDeviceSpec),
        ((controller(), controller("VirtualLsiLogicController", -101)), "ds2", vim.fault.InvalidDeviceSpec),
        ((controller(bus=4),), "ds2", vim.fault.InvalidDeviceSpec),
        ((controller(), disk(MIB, unit=7)), "ds2", vim.fault.InvalidDeviceSpec),
        ((controller(), disk(MIB, unit=1), disk(MIB, -3, unit=1)), "ds2", vim.fault.InvalidDeviceSpec),
    ],
)
def test_what_a_new_vm_names_must_exist(lab: Lab, changes: tuple[Any, ...], datastore: str, fault: type[Exception]) -> None:
    before = len(lab.control.state().vms)
    with pytest.raises(fault):
        create(lab, name_of("bad"), *changes, datastore=datastore)
    assert len(lab.control.state().vms) == before


@pytest.mark.parametrize("name", ["web-01", "WEB-01"])
def test_two_vms_of_a_folder_have_two_names_that_differ_by_more_than_case(lab: Lab, name: str) -> None:
    with pytest.raises(vim.fault.DuplicateName):
        create(lab, name)


def test_disks_are_numbered_by_the_slots_of_their_controllers_and_adapters_keep_their_kind(lab: Lab) -> None:
    nic = adapter("backup")
    nic.device = vim.vm.device.VirtualE1000e(key=-2, backing=nic.device.backing)
    changes = [
        *(controller("VirtualLsiLogicSASController", -100), controller("VirtualAHCIController", -101, 1), nic),
        *(disk(MIB, -1, unit=5), disk(MIB, -2, controller=-101, unit=3), disk(MIB, -3), disk(MIB, -4, controller=200)),
    ]
    vm = create(lab, name_of("slots"), *changes, numCoresPerSocket=2)
    found = {one.key: (one.controllerKey, one.unitNumber) for one in devices(vm, vim.vm.device.VirtualDisk)}
    assert found == {2005: (1000, 5), 16033: (15001, 3), 2000: (1000, 0), 3000: (200, 0)}
    assert len(devices(vm, vim.vm.device.VirtualLsiLogicSASController)) == len(devices(vm, vim.vm.device.VirtualE1000e)) == 1
    assert vm.config.hardware.numCoresPerSocket == 2
    lab.run(vm.Destroy_Task())


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"memoryMB": 513}, "configSpec.memoryMB"),
        ({"numCPUs": 3, "numCoresPerSocket": 2}, "configSpec.numCoresPerSocket"),
        ({"files": None}, "configSpec.files"),
    ],
)
def test_a_specification_that_contradicts_itself_is_refused(lab: Lab, values: dict[str, Any], wrong: str) -> None:
    with pytest.raises(vmodl.fault.InvalidArgument) as refused:
        create(lab, name_of("odd"), **values)
    assert refused.value.invalidProperty == wrong


def test_an_instance_uuid_that_is_taken_is_replaced_by_a_new_one(lab: Lab) -> None:
    wanted = str(uuid.uuid4())
    first, second = (create(lab, name_of("twin"), instanceUuid=wanted) for _ in range(2))
    assert first.config.instanceUuid == wanted and second.config.instanceUuid != wanted
    for vm in (first, second):
        lab.run(vm.Destroy_Task())


def test_a_datastore_that_is_full_takes_no_vm(fresh_lab: Lab) -> None:
    fresh_lab.control.fill_datastore("ds2", 0)
    try:
        with pytest.raises(vim.fault.NoDiskSpace):
            create(fresh_lab, name_of("full"))
    finally:
        fresh_lab.control.fill_datastore("ds2", None)


def test_disks_and_adapters_are_added_and_removed(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[disk(MIB, controller=1000), adapter("backup", connected=False)])))
    disks, nics = devices(vm, vim.vm.device.VirtualDisk), devices(vm, vim.vm.device.VirtualEthernetCard)
    assert (len(disks), disks[-1].capacityInBytes, len(nics), nics[-1].connectable.connected) == (3, MIB, 3, False)
    gone = [
        vim.vm.device.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=disks[-1]),
        vim.vm.device.VirtualDeviceSpec(operation="remove", device=nics[-1]),
    ]
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=gone)))
    assert (len(devices(vm, vim.vm.device.VirtualDisk)), len(devices(vm, vim.vm.device.VirtualEthernetCard))) == (2, 2)


def test_adapters_change_their_network_and_are_connected_at_power_on_only_if_they_are_to_be(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.run(vm.PowerOffVM_Task())
    first, second = devices(vm, vim.vm.device.VirtualEthernetCard)
    first.connectable.startConnected = first.connectable.connected = False
    second.backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(
        deviceName="VM Network",
        network=next(one for one in lab.content.rootFolder.childEntity[0].network if one.name == "VM Network"),
    )
    edits = [vim.vm.device.VirtualDeviceSpec(operation="edit", device=device) for device in (first, second)]
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=edits)))
    lab.run(vm.PowerOnVM_Task())
    states = [(nic.network, nic.connected) for nic in lab.state().nics]
    assert states == [("VM Network", False), ("VM Network", True)]
    first.connectable.startConnected = first.connectable.connected = True
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=first)
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit])))
    assert [nic.connected for nic in lab.state().nics] == [True, True]


@pytest.mark.parametrize(
    ("name", "fault"), [("create-vm-no-space", vim.fault.NoDiskSpace), ("destroy-locked", vim.fault.FileLocked)]
)
def test_making_and_deleting_meet_the_fault_that_was_asked_for_once(lab: Lab, name: str, fault: type[Exception]) -> None:
    lab.control.ask_named(name)
    wanted = name_of("unlucky")
    with pytest.raises(fault):
        lab.run(create(lab, wanted).Destroy_Task())
    if name == "create-vm-no-space":
        create(lab, wanted)
    lab.run(lab.vm(wanted).Destroy_Task())
