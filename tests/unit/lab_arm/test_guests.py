"""The guests of Azure VMs: they write while the VM runs, and their journal says what the disks hold."""

import pytest
from azure.core.exceptions import HttpResponseError

from lab.arm.control import ControlRefused
from lab.guest_journal import WriteKind, lost_writes, read_journal, stop_reason, surviving

MIB = 1 << 20
RATE = 64 * MIB


def until_written(azure, name, more=40):
    """Wait until a guest has made so many more writes."""
    goal = azure.control.guest(name).last_sequence + more
    while azure.control.guest(name).last_sequence < goal:
        continue


def data_disk(azure, name):
    return azure.empty_disk(f"{name}-data")


@pytest.fixture
def vm(azure):
    """A running VM with a data disk, whose guest was switched on before it was made."""
    name = azure.name("guest")
    azure.control.switch_guest(name, bytes_per_second=RATE, seed=7, ranges={0: [(MIB, 8 * MIB)]})
    azure.vm(name, data=(data_disk(azure, name),))
    yield name
    azure.compute.virtual_machines.begin_delete(azure.group, name).result()


def files(azure, name):
    storage = azure.compute.virtual_machines.get(azure.group, name).storage_profile
    disks = [storage.os_disk, *storage.data_disks]
    return [azure.control.disk_file(disk.managed_disk.id).path for disk in disks]


def test_a_guest_is_off_unless_it_is_switched_on(azure):
    name = azure.name("quiet")
    azure.vm(name)
    state = azure.control.guest(name)
    assert (state.writes, state.last_sequence, state.journal.exists()) == (False, 0, False)
    with pytest.raises(ControlRefused):
        azure.control.guest("nobody")


def test_a_guest_leaves_a_disk_alone_that_is_named_without_a_range(azure):
    name = azure.name("guest")
    azure.control.switch_guest(name, bytes_per_second=RATE, ranges={0: []})
    azure.vm(name, data=(data_disk(azure, name),))
    until_written(azure, name)
    assert {entry.disk for entry in read_journal(azure.control.guest(name).journal)} == {1}
    azure.control.switch_guest(name, bytes_per_second=RATE, ranges={0: [], 1: []})
    assert not azure.control.guest(name).writes
    azure.compute.virtual_machines.begin_delete(azure.group, name).result()


def test_after_deallocation_the_disks_hold_what_the_journal_says(azure, vm):
    until_written(azure, vm)
    azure.compute.virtual_machines.begin_deallocate(azure.group, vm).result()
    state = azure.control.guest(vm)
    entries = read_journal(state.journal)
    assert (state.writes, entries[-1].kind, entries[-1].sequence) == (False, WriteKind.STOPPED, state.last_sequence)
    assert "deallocate" in (stop_reason(entries) or "")
    for key, path in enumerate(files(azure, vm)):
        assert surviving(entries, key)
        assert lost_writes(entries, key, path) == ()
    assert all(entry.offset >= MIB and entry.offset + entry.length <= 9 * MIB for entry in entries[:-1] if entry.disk == 0)
    assert read_journal(state.journal) == entries


def test_a_restarted_guest_goes_on_in_the_same_journal(azure, vm):
    until_written(azure, vm)
    machines = azure.compute.virtual_machines
    machines.begin_power_off(azure.group, vm).result()
    first = read_journal(azure.control.guest(vm).journal)
    machines.begin_start(azure.group, vm).result()
    until_written(azure, vm)
    machines.begin_deallocate(azure.group, vm).result()
    entries = read_journal(azure.control.guest(vm).journal)
    assert entries[: len(first)] == first
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert sum(entry.kind is WriteKind.STOPPED for entry in entries) == 2
    for key, path in enumerate(files(azure, vm)):
        assert lost_writes(entries, key, path) == ()


def test_a_snapshot_of_a_running_vm_is_a_point_in_its_journal(azure, vm, tmp_path):
    until_written(azure, vm)
    disk = azure.compute.virtual_machines.get(azure.group, vm).storage_profile.data_disks[0].managed_disk.id
    before = azure.control.guest(vm).last_sequence
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": disk}, "incremental": True}
    request = {"location": "lab", "properties": properties}
    snapshot = azure.compute.snapshots.begin_create_or_update(azure.group, azure.name("snap"), request).result()
    after = azure.control.guest(vm).last_sequence
    until_written(azure, vm)
    azure.compute.virtual_machines.begin_deallocate(azure.group, vm).result()
    azure.control.dump(snapshot.id, tmp_path / "snapshot")
    entries = read_journal(azure.control.guest(vm).journal)
    # The moment lies between the two numbers (one more write may be on the disk before it is in the journal).
    moments = [moment for moment in range(before, after + 2) if not lost_writes(entries[:moment], 1, tmp_path / "snapshot")]
    assert moments


def test_a_disk_that_is_attached_while_the_vm_runs_is_written_too(azure, vm):
    until_written(azure, vm)
    machine = azure.compute.virtual_machines.get(azure.group, vm)
    added = azure.empty_disk(f"{vm}-added")
    disks = [disk.managed_disk.id for disk in machine.storage_profile.data_disks]
    request = azure.vm_request(
        machine.storage_profile.os_disk.managed_disk.id,
        machine.network_profile.network_interfaces[0].id,
        data=(*disks, added),
    )
    azure.compute.virtual_machines.begin_create_or_update(azure.group, vm, request).result()
    until_written(azure, vm)
    azure.compute.virtual_machines.begin_deallocate(azure.group, vm).result()
    entries = read_journal(azure.control.guest(vm).journal)
    assert surviving(entries, 2)
    for key, path in enumerate(files(azure, vm)):
        assert lost_writes(entries, key, path) == ()


def test_a_guest_is_switched_off_while_its_vm_runs(azure, vm):
    until_written(azure, vm)
    azure.control.switch_guest(vm, on=False)
    state = azure.control.guest(vm)
    assert (state.writes, stop_reason(read_journal(state.journal))) == (False, "switched")
    assert azure.power(vm) == {"PowerState/running"}


def test_a_vm_does_not_start_while_one_of_its_disks_is_read(azure, vm):
    machines = azure.compute.virtual_machines
    machines.begin_deallocate(azure.group, vm).result()
    access = {"access": "Read", "durationInSeconds": 60}
    azure.compute.disks.begin_grant_access(azure.group, f"{vm}-os", access).result()
    with pytest.raises(HttpResponseError) as refusal:
        machines.begin_start(azure.group, vm)
    assert refusal.value.error.code == "OperationNotAllowed"
    azure.compute.disks.begin_revoke_access(azure.group, f"{vm}-os").result()
    machines.begin_start(azure.group, vm).result()
