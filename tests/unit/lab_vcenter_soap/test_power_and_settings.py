import threading
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from deltaferry.blocks.nbd import NbdClient
from deltaferry.model.errors import DeltaferryError
from lab.vcenter.faults import FaultName, FaultRequest
from tests.unit.lab_vcenter_soap.running import MIB, Lab, Q, object_spec


def _await_power(lab: Lab, vm: Any, wanted: str) -> None:
    """Wait for updates until the power state is so."""
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(object_spec(vm, ["runtime.powerState"]), True)
    version = ""
    while True:
        update = collector.WaitForUpdatesEx(version, Q.WaitOptions(maxWaitSeconds=20))
        assert update is not None, f"the VM did not become {wanted}"
        version = update.version
        if update.filterSet[0].objectSet[0].changeSet[0].val == wanted:
            collector.DestroyPropertyCollector()
            return


def test_a_guest_shuts_down_some_time_after_it_was_asked(fresh_lab: Lab) -> None:
    vm = fresh_lab.vm()
    assert vm.ShutdownGuest() is None
    _await_power(fresh_lab, vm, "poweredOff")
    assert vm.runtime.cleanPowerOff
    assert vm.guest.toolsRunningStatus == "guestToolsNotRunning"
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.ShutdownGuest()


def test_a_guest_without_tools_cannot_be_shut_down(lab: Lab) -> None:
    with pytest.raises(vim.fault.ToolsUnavailable):
        lab.vm("bare-01").ShutdownGuest()


def test_a_shutdown_that_never_finishes_leaves_the_guest_up(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.control.ask(FaultRequest(FaultName.SHUTDOWN_NEVER_FINISHES, vm=vm._moId))
    vm.ShutdownGuest()
    assert vm.runtime.powerState == "poweredOn"
    lab.run(vm.PowerOffVM_Task())
    assert (vm.runtime.powerState, vm.runtime.cleanPowerOff) == ("poweredOff", False)


def test_power_tasks_refuse_the_state_they_would_make(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    with pytest.raises(vim.fault.InvalidPowerState) as caught:
        lab.run(vm.PowerOnVM_Task())
    assert caught.value.existingState == "poweredOn"
    lab.run(vm.PowerOffVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        lab.run(vm.PowerOffVM_Task())
    lab.run(vm.PowerOnVM_Task())
    lab.run(vm.ResetVM_Task())


def test_what_a_guest_wrote_before_it_stopped_is_on_the_disk_and_nothing_after(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    acknowledged = 0
    refused = threading.Event()

    def write() -> None:
        nonlocal acknowledged
        try:
            with NbdClient(lab.address(vm, f"guest={vm._moId};disk=2000")) as guest:
                while acknowledged < 30000:
                    guest.write(512 * (acknowledged % 30000), (acknowledged + 1).to_bytes(4, "big").ljust(512))
                    acknowledged += 1
        except (DeltaferryError, OSError):
            refused.set()

    writer = threading.Thread(target=write)
    writer.start()
    while acknowledged < 50:
        continue
    lab.control.power_off(vm._moId)
    digest = lab.control.digest(vm._moId, 2000)
    writer.join()
    assert refused.is_set()
    assert lab.control.digest(vm._moId, 2000) == digest
    with NbdClient(lab.address(vm, f"present={vm._moId};disk=2000")) as present:
        buffer = bytearray(512)
        present.read_into(512 * (acknowledged - 1), memoryview(buffer))
    assert int.from_bytes(buffer[:4], "big") == acknowledged


def test_a_vm_cannot_be_powered_on_while_its_disk_is_held_open(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.run(vm.PowerOffVM_Task())
    with NbdClient(lab.address(vm, f"present={vm._moId};disk=2000")), pytest.raises(vim.fault.GenericVmConfigFault):
        lab.run(vm.PowerOnVM_Task())
    _until_powered_on(lab, vm)


def _until_powered_on(lab: Lab, vm: Any) -> None:
    """The server notices a closed connection a moment later."""
    while vm.runtime.powerState == "poweredOff":
        try:
            lab.run(vm.PowerOnVM_Task())
        except vim.fault.GenericVmConfigFault:
            continue


# --- exports ---


def test_a_disk_is_served_by_the_host_that_runs_the_vm_and_by_no_other(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    snapshot = lab.snapshot(vm, "moved")
    export = f"snapshot={snapshot._moId};disk=2000"
    before = lab.address(vm, export)
    with NbdClient(before) as client:
        lab.control.move(vm._moId, "esxi-2.lab")
        with pytest.raises(DeltaferryError):
            client.read_into(0, memoryview(bytearray(512)))
    with pytest.raises(DeltaferryError):
        NbdClient(before)
    after = lab.address(vm, export)
    assert after.port == lab.nbd["esxi-2.lab"]
    with NbdClient(after) as client:
        assert client.size_bytes == 16 * MIB


@pytest.mark.parametrize(
    "export", ["", "rubbish", "snapshot=snapshot-1;disk=2000", "guest={vm};disk=1999", "present={vm};disk=2000"]
)
def test_an_unknown_export_is_refused(lab: Lab, export: str) -> None:
    vm = lab.vm()
    with pytest.raises(DeltaferryError):
        NbdClient(lab.address(vm, export.format(vm=vm._moId)))


def test_connections_above_the_hosts_budget_are_refused(lab: Lab) -> None:
    vm = lab.vm()
    snapshot = lab.snapshot(vm, "budget")
    lab.control.set_nbd("esxi-1.lab", max_connections=1)
    address = lab.address(vm, f"snapshot={snapshot._moId};disk=2000")
    with NbdClient(address), pytest.raises(DeltaferryError):
        NbdClient(address)
    lab.control.set_nbd("esxi-1.lab", max_connections=8)
    [host] = [item for item in lab.control.state().hosts if item.name == "esxi-1.lab"]
    assert host.refused_for_budget >= 1


# --- reconfiguration ---


def test_extra_config_is_merged_and_an_empty_value_removes(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()

    def options(**values: str) -> Any:
        return vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in values.items()])

    lab.run(vm.ReconfigVM_Task(options(first="1", second="2")))
    lab.run(vm.ReconfigVM_Task(options(first="", third="3")))
    assert {item.key: item.value for item in vm.config.extraConfig} == {"second": "2", "third": "3"}


def test_a_stale_change_version_is_concurrent_access(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    version = vm.config.changeVersion
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion=version, annotation="first")))
    with pytest.raises(vim.fault.ConcurrentAccess):
        lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion=version, annotation="second")))
    assert vm.config.annotation == "first"


def test_tracking_is_refused_with_snapshots_and_without_support(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=True)
    snapshot = lab.snapshot(vm, "older")
    with pytest.raises(vim.fault.InvalidState):
        lab.run(vm.ReconfigVM_Task(spec))
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    lab.run(vm.ReconfigVM_Task(spec))
    assert not lab.vm("bare-01").capability.changeTrackingSupported
    with pytest.raises(vmodl.fault.NotSupported):
        lab.run(lab.vm("bare-01").ReconfigVM_Task(spec))


def test_a_nic_keeps_at_power_on_what_start_connected_says(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    nics = [device for device in vm.config.hardware.device if isinstance(device, vim.vm.device.VirtualEthernetCard)]
    assert [nic.connectable.connected for nic in nics] == [True, True]
    nics[0].connectable.startConnected = False
    change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=nics[0])
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
    assert lab.state().nics[0].connected  # a running guest keeps its cable
    lab.run(vm.PowerOffVM_Task())
    lab.run(vm.PowerOnVM_Task())
    assert [(nic.connected, nic.start_connected) for nic in lab.state().nics] == [(False, False), (True, True)]


def test_a_disk_grows_by_reconfiguration_but_not_with_snapshots(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    [disk] = [device for device in vm.config.hardware.device if device.key == 2000]
    disk.capacityInBytes = 20 * MIB
    disk.capacityInKB = 20 * 1024
    change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk)
    snapshot = lab.snapshot(vm, "in the way")
    with pytest.raises(vim.fault.InvalidState):
        lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
    assert lab.state().disks[0].capacity_bytes == 20 * MIB


def test_disks_come_and_go_by_the_administrator(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.control.remove_disk(vm._moId, 2001)
    assert [disk.key for disk in lab.state().disks] == [2000]
    assert [d.key for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)] == [2000]
