import threading
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from deltaferry.blocks.nbd import NbdClient
from lab.vcenter.faults import FaultName, FaultRequest
from tests.unit.lab_vcenter_soap.running import Lab


def _read(lab: Lab, vm: Any, export: str, offset: int, length: int) -> bytes:
    with NbdClient(lab.address(vm, export)) as client:
        buffer = bytearray(length)
        client.read_into(offset, memoryview(buffer))
        return bytes(buffer)


def test_a_snapshot_keeps_what_the_disks_held(lab: Lab) -> None:
    vm = lab.vm()
    lab.control.write(vm._moId, 2000, 65536, b"before".ljust(512))
    snapshot = lab.snapshot(vm, "keeps")
    lab.control.write(vm._moId, 2000, 65536, b"after".ljust(512))
    assert _read(lab, vm, f"snapshot={snapshot._moId};disk=2000", 65536, 512) == b"before".ljust(512)
    assert _read(lab, vm, f"guest={vm._moId};disk=2000", 65536, 512) == b"after".ljust(512)


def test_a_snapshot_puts_the_vm_on_deltas_and_its_removal_takes_them_away(lab: Lab) -> None:
    vm = lab.vm()
    assert {disk.file_name for disk in lab.state().disks} == {"[ds1] web-01/web-01.vmdk", "[ds1] web-01/web-01_1.vmdk"}
    snapshot = lab.snapshot(vm, "deltas")
    assert {disk.file_name for disk in lab.state().disks} == {
        "[ds1] web-01/web-01-000001.vmdk",
        "[ds1] web-01/web-01_1-000001.vmdk",
    }
    backings = {d.key: d.backing for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)}
    assert backings[2000].parent.fileName == "[ds1] web-01/web-01.vmdk"
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert {disk.file_name for disk in lab.state().disks} == {"[ds1] web-01/web-01.vmdk", "[ds1] web-01/web-01_1.vmdk"}
    assert vm.snapshot is None


def test_the_guest_goes_on_writing_while_a_snapshot_is_removed(lab: Lab) -> None:
    vm = lab.vm()
    snapshot = lab.snapshot(vm, "busy")
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        with NbdClient(lab.address(vm, f"guest={vm._moId};disk=2001")) as client:
            while not stop.is_set():
                client.write(512 * (len(written) % 64), len(written).to_bytes(4, "big").ljust(512))
                written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    stop.set()
    writer.join()
    last = len(written) - 1
    expected = last.to_bytes(4, "big").ljust(512)
    assert _read(lab, vm, f"guest={vm._moId};disk=2001", 512 * (last % 64), 512) == expected


def test_the_tree_and_the_order_of_disks_are_vspheres(lab: Lab) -> None:
    vm = lab.vm()
    first, second = lab.snapshot(vm, "first"), lab.snapshot(vm, "second")
    [root] = vm.snapshot.rootSnapshotList
    assert (root.name, root.snapshot, [child.name for child in root.childSnapshotList]) == ("first", first, ["second"])
    assert vm.snapshot.currentSnapshot == second
    assert first.childSnapshot == [second]
    lab.run(first.RemoveSnapshot_Task(removeChildren=False))
    [root] = vm.snapshot.rootSnapshotList
    assert (root.name, list(root.childSnapshotList)) == ("second", [])
    keys = [d.key for d in second.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]
    assert keys == [2001, 2000]  # not the VM's own order: who maps disks by index fails here (facts F11)


def test_remove_children_removes_all_below(lab: Lab) -> None:
    vm = lab.vm()
    first = lab.snapshot(vm, "first")
    second = lab.snapshot(vm, "second")
    lab.run(first.RemoveSnapshot_Task(removeChildren=True))
    assert vm.snapshot is None
    for snapshot in (first, second):
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            snapshot.RemoveSnapshot_Task(removeChildren=False)


def test_a_removal_without_consolidation_leaves_it_needed(lab: Lab) -> None:
    vm = lab.vm()
    snapshot = lab.snapshot(vm, "left")
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False, consolidate=False))
    assert vm.snapshot is None
    assert vm.runtime.consolidationNeeded
    lab.run(vm.ConsolidateVMDisks_Task())
    assert not vm.runtime.consolidationNeeded


def test_a_stuck_consolidation_stays_needed_until_it_is_let_go(lab: Lab) -> None:
    vm = lab.vm()
    snapshot = lab.snapshot(vm, "stuck")
    lab.control.ask(FaultRequest(FaultName.CONSOLIDATION_STUCK, count=2, vm=vm._moId))
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert vm.runtime.consolidationNeeded
    with pytest.raises(vim.fault.FileLocked):
        lab.run(vm.ConsolidateVMDisks_Task())
    lab.run(vm.ConsolidateVMDisks_Task())
    assert not vm.runtime.consolidationNeeded


def test_a_locked_backing_leaves_consolidation_needed(lab: Lab) -> None:
    vm = lab.vm()
    snapshot = lab.snapshot(vm, "locked")
    lab.control.lock_consolidation(vm._moId, locked=True)
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    with pytest.raises(vim.fault.FileLocked):
        lab.run(vm.ConsolidateVMDisks_Task())
    lab.control.lock_consolidation(vm._moId, locked=False)
    lab.run(vm.ConsolidateVMDisks_Task())
    assert not lab.state().consolidation_needed


def test_a_second_task_on_the_vm_is_refused_with_the_first_one(lab: Lab) -> None:
    vm = lab.vm()
    lab.control.set_times(snapshot_s=0.5)
    running = vm.CreateSnapshot_Task(name="slow", memory=False, quiesce=False)
    with pytest.raises(vim.fault.TaskInProgress) as caught:
        vm.CreateSnapshot_Task(name="too soon", memory=False, quiesce=False)
    assert caught.value.task == running
    assert running in vm.recentTask
    assert running in lab.content.taskManager.recentTask
    lab.control.set_times(snapshot_s=0.05)
    lab.run(running)


def test_a_task_outlives_its_callers_session(lab: Lab) -> None:
    other = lab.connect()
    lab.control.set_times(snapshot_s=0.5)
    task = vim.VirtualMachine(lab.vm()._moId, other._stub).CreateSnapshot_Task(name="orphan", memory=False, quiesce=False)
    other.content.sessionManager.Logout()
    lab.control.set_times(snapshot_s=0.05)
    made = lab.run(vim.Task(task._moId, lab.si._stub))
    info = vim.Task(task._moId, lab.si._stub).info
    assert (info.state, info.descriptionId, info.entity) == ("success", "VirtualMachine.createSnapshot", lab.vm())
    assert [item.moref for item in lab.state().snapshots] == [made._moId]


def test_a_finished_task_is_forgotten_after_its_time(lab: Lab) -> None:
    task = lab.vm().ReconfigVM_Task(vim.vm.ConfigSpec(annotation="short"))
    lab.run(task)
    lab.control.set_times(task_retention_s=0.0)
    assert task not in lab.vm().recentTask
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = task.info
    lab.control.set_times(task_retention_s=600.0)


def test_a_failed_snapshot_leaves_nothing(lab: Lab) -> None:
    lab.control.ask(FaultRequest(FaultName.SNAPSHOT_FAILS))
    with pytest.raises(vim.fault.SnapshotFault):
        lab.snapshot(lab.vm(), "fails")
    assert lab.state().snapshots == ()
    assert not lab.vm().runtime.consolidationNeeded


def test_a_quiesced_snapshot_needs_a_running_guest_with_tools(lab: Lab) -> None:
    quiesce = vim.vm.GuestQuiesceSpec(timeout=5)
    vm = lab.vm()
    made = lab.run(vm.CreateSnapshotEx_Task(name="q", memory=False, quiesceSpec=quiesce))
    assert vm.snapshot.rootSnapshotList[0].quiesced
    lab.run(made.RemoveSnapshot_Task(removeChildren=False))
    lab.control.set_tools(vm._moId, installed=False)
    lab.run(vm.CreateSnapshotEx_Task(name="q", memory=False, quiesceSpec=quiesce))
    assert not vm.snapshot.rootSnapshotList[0].quiesced
    lab.control.set_tools(vm._moId, installed=True)


def test_quiescing_that_fails_is_a_fault_of_the_task(lab: Lab) -> None:
    lab.control.ask(FaultRequest(FaultName.QUIESCE_FAILS))
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        lab.run(lab.vm().CreateSnapshotEx_Task(name="q", memory=False, quiesceSpec=vim.vm.GuestQuiesceSpec()))


def test_a_name_of_more_than_80_characters_is_invalid(lab: Lab) -> None:
    lab.snapshot(lab.vm(), "n" * 80)
    with pytest.raises(vim.fault.InvalidName):
        lab.vm().CreateSnapshotEx_Task(name="n" * 81, memory=False)


def test_a_revert_brings_the_content_back_powers_off_and_begins_a_new_tracking_uuid(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.track(vm)
    before = lab.state().disks[0].tracking_uuid
    lab.control.write(vm._moId, 2000, 0, b"kept".ljust(512))
    snapshot = lab.snapshot(vm, "point")
    lab.control.write(vm._moId, 2000, 0, b"lost".ljust(512))
    lab.run(snapshot.RevertToSnapshot_Task())
    assert vm.runtime.powerState == "poweredOff"
    assert vm.snapshot.currentSnapshot == snapshot
    assert _read(lab, vm, f"present={vm._moId};disk=2000", 0, 512) == b"kept".ljust(512)
    assert lab.state().disks[0].tracking_uuid != before


def test_a_method_fault_can_be_asked_for_in_the_call_or_in_the_task(lab: Lab) -> None:
    lab.control.ask(FaultRequest(FaultName.METHOD, method="CreateSnapshotEx_Task", fault="InvalidState"))
    with pytest.raises(vim.fault.InvalidState):
        lab.vm().CreateSnapshotEx_Task(name="x", memory=False)
    lab.control.ask(FaultRequest(FaultName.METHOD, method="CreateSnapshotEx_Task", fault="VmConfigFault", as_task_error=True))
    task = lab.vm().CreateSnapshotEx_Task(name="x", memory=False)
    with pytest.raises(vim.fault.VmConfigFault):
        lab.run(task)
    assert lab.state().snapshots == ()
