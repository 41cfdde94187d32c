"""Finding and describing VMs, against a vCenter in its own process over verified TLS."""

import uuid
from dataclasses import replace

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import Claim, Firmware, PowerState
from deltaferry.vsphere.client import VSphere

from .lab_vcenter import ODD_BYTES, LabVcenter

OURS = Claim("lab", "0123456789abcdef")
THEIRS = Claim("other", "fedcba9876543210")


def test_a_vm_is_found_by_its_name_and_by_its_instance_uuid(vsphere: VSphere) -> None:
    (by_name,) = vsphere.find_vms("web-01")
    assert vsphere.find_vms(by_name.instance_uuid) == (by_name,)
    assert vsphere.find_vms(by_name.instance_uuid.upper()) == (by_name,)
    assert vsphere.read_vm(by_name.instance_uuid) == by_name


def test_all_vms_of_one_name_are_found_and_nothing_of_another(vsphere: VSphere) -> None:
    twins = vsphere.find_vms("twin")
    assert [vm.name for vm in twins] == ["twin", "twin"]
    assert len({vm.instance_uuid for vm in twins}) == 2
    assert vsphere.find_vms("twi") == ()
    assert vsphere.find_vms(str(uuid.uuid4())) == ()


def test_a_vm_that_is_not_there_is_an_error_of_its_own(vsphere: VSphere) -> None:
    with pytest.raises(DeltaferryError) as caught:
        vsphere.read_vm(str(uuid.uuid4()))
    assert caught.value.kind is ErrorKind.VM_NOT_FOUND


def test_a_site_with_more_vms_than_a_page_is_listed_whole(vsphere: VSphere, lab: LabVcenter) -> None:
    listed = vsphere.list_vms()
    assert len(listed) == lab.vm_count > 100
    assert len({vm.instance_uuid for vm in listed}) == len(listed)
    assert [vm.name for vm in listed] == sorted(vm.name for vm in listed)


def test_a_vm_is_described_with_everything_that_replication_asks(vsphere: VSphere) -> None:
    (vm,) = vsphere.find_vms("web-01")
    assert (vm.power, vm.firmware, vm.hardware_version) == (PowerState.ON, Firmware.EFI, 17)
    assert (vm.guest_id, vm.guest_full_name) == ("ubuntu64Guest", "Ubuntu Linux (64-bit)")
    assert (vm.cpus, vm.memory_mib, vm.tools_running, vm.host) == (2, 2048, True, "esxi-1.lab")
    assert (vm.cbt_supported, vm.cbt_enabled, vm.consolidation_needed) == (True, False, False)
    assert (vm.claim, vm.annotation, vm.snapshots) == (None, "the shop", ())
    assert [disk.capacity_bytes for disk in vm.disks] == [1 << 20, ODD_BYTES]
    assert [disk.datastore for disk in vm.disks] == ["ds1", "ds1"]
    assert all(disk.uuid and disk.label and disk.file_name.startswith("[ds1] ") for disk in vm.disks)
    assert [disk.key for disk in vm.disks] == sorted(disk.key for disk in vm.disks)
    assert not any(disk.independent or disk.shared or disk.physical_rdm or disk.encrypted for disk in vm.disks)
    (nic,) = vm.nics
    assert (nic.network, nic.connected, nic.start_connected) == ("VM Network", True, True)


def test_independent_disks_and_missing_tracking_support_are_told(vsphere: VSphere) -> None:
    (vm,) = vsphere.find_vms("legacy")
    assert (vm.power, vm.cbt_supported, vm.tools_running) == (PowerState.OFF, False, False)
    assert [disk.independent for disk in vm.disks] == [True]


def test_a_claim_is_set_kept_and_removed_by_its_holder_alone(vsphere: VSphere, vm: str) -> None:
    vsphere.write_claim(vm, OURS, expected=None)
    assert vsphere.read_vm(vm).claim == OURS
    vsphere.write_claim(vm, OURS, expected=None)
    with pytest.raises(DeltaferryError) as caught:
        vsphere.write_claim(vm, THEIRS, expected=None)
    assert caught.value.kind is ErrorKind.ALREADY_PROTECTED
    assert "0123456789abcdef of installation lab" in caught.value.detail
    with pytest.raises(DeltaferryError):
        vsphere.write_claim(vm, None, expected=THEIRS)
    assert vsphere.read_vm(vm).claim == OURS
    vsphere.write_claim(vm, None, expected=OURS)
    vsphere.write_claim(vm, None, expected=OURS)
    assert vsphere.read_vm(vm).claim is None


def test_a_claim_that_somebody_removed_is_not_silently_taken_again(vsphere: VSphere, vm: str) -> None:
    with pytest.raises(DeltaferryError) as caught:
        vsphere.write_claim(vm, replace(OURS, replication_id="0000000000000000"), expected=OURS)
    assert caught.value.kind is ErrorKind.ALREADY_PROTECTED
    assert vsphere.read_vm(vm).claim is None


def test_an_entry_that_is_not_written_as_ours_is_somebodys_claim_all_the_same(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.set_extra_config(vm, "deltaferry.claim", "scribble")
    with pytest.raises(DeltaferryError) as caught:
        vsphere.write_claim(vm, OURS, expected=None)
    assert caught.value.kind is ErrorKind.ALREADY_PROTECTED
    assert "scribble" in caught.value.detail


def test_a_claim_is_decided_again_when_somebody_changes_the_vm_in_between(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.fault("ConcurrentAccess", "ReconfigVM_Task", vm, as_task_error=True)
    vsphere.write_claim(vm, OURS, expected=None)
    assert vsphere.read_vm(vm).claim == OURS
    lab.fault("ConcurrentAccess", "ReconfigVM_Task", vm, as_task_error=True, count=5)
    with pytest.raises(DeltaferryError) as caught:
        vsphere.write_claim(vm, None, expected=OURS)
    assert caught.value.kind is ErrorKind.VSPHERE_BUSY


def test_a_line_is_added_to_the_annotation_once_and_keeps_what_was_there(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    line = "Migrated to Azure by Deltaferry: do not power on <web & co>."
    vsphere.annotate(vm, "first note")
    vsphere.annotate(vm, line)
    vsphere.annotate(vm, line)
    assert vsphere.read_vm(vm).annotation == f"first note\n{line}"


def test_nics_are_kept_from_connecting_at_power_on_and_let_again(vsphere: VSphere, vm: str) -> None:
    (nic,) = vsphere.read_vm(vm).nics
    vsphere.set_nics_at_power_on(vm, {nic.key: False, 9999: True})
    assert [item.start_connected for item in vsphere.read_vm(vm).nics] == [False]
    vsphere.power_off(vm, lambda: None)
    vsphere.power_on(vm, lambda: None)
    assert [item.connected for item in vsphere.read_vm(vm).nics] == [False]
    vsphere.set_nics_at_power_on(vm, {nic.key: True})
    assert [item.start_connected for item in vsphere.read_vm(vm).nics] == [True]


def test_what_failback_needs_is_asked_for_apart(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    assert vsphere.missing_for_failback(vm) == ()
    with lab.denied("VirtualMachine.Provisioning.DiskRandomAccess"):
        assert vsphere.missing_for_failback(vm) == ("VirtualMachine.Provisioning.DiskRandomAccess",)
        assert vsphere.missing_privileges(vm) == ()


def test_a_privilege_that_the_user_lacks_is_found_before_and_named_when_it_is_met(
    vsphere: VSphere, lab: LabVcenter, vm: str
) -> None:
    assert vsphere.missing_privileges(vm) == ()
    with lab.denied("VirtualMachine.State.CreateSnapshot"):
        assert vsphere.missing_privileges(vm) == ("VirtualMachine.State.CreateSnapshot",)
        with pytest.raises(DeltaferryError) as caught:
            vsphere.take_snapshot(vm, "df/lab/0123456789abcdef/1-x", "", lambda: None)
    assert caught.value.kind is ErrorKind.VSPHERE_PERMISSION
    assert "VirtualMachine.State.CreateSnapshot" in caught.value.detail
