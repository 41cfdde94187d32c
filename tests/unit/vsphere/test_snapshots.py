"""Snapshots, tracking, consolidation and power, against a vCenter in its own process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import PowerState
from deltaferry.vsphere.client import VSphere

from .lab_vcenter import LabVcenter

NAME = "df/lab/0123456789abcdef/1-00000000-0000-4000-8000-000000000001"
MARKER = "df/lab/0123456789abcdef/0-00000000-0000-4000-8000-000000000000"


def beat() -> None:
    """Nothing to heartbeat to."""


def names(vsphere: VSphere, vm: str) -> list[str]:
    return [snapshot.name for snapshot in vsphere.read_vm(vm).snapshots]


def kind_of(caught: pytest.ExceptionInfo[DeltaferryError]) -> ErrorKind:
    return caught.value.kind


def test_taking_a_snapshot_twice_makes_one(vsphere: VSphere, vm: str) -> None:
    first = vsphere.take_snapshot(vm, NAME, "why", beat)
    assert vsphere.take_snapshot(vm, NAME, "why", beat) == first
    assert (first.name, first.description, first.has_children) == (NAME, "why", False)
    assert vsphere.read_snapshot(vm, first.moref) == first
    described = vsphere.read_vm(vm)
    assert [snapshot.moref for snapshot in described.snapshots] == [first.moref]
    assert [(disk.key, disk.uuid, disk.capacity_bytes) for disk in first.disks] == [
        (disk.key, disk.uuid, disk.capacity_bytes) for disk in described.disks
    ]
    assert [disk.change_id for disk in first.disks] == [None, None]


def test_a_creation_that_a_dead_attempt_left_running_is_awaited_and_not_repeated(
    vsphere: VSphere, lab: LabVcenter, vm: str
) -> None:
    with lab.times(snapshot_s=0.7):
        lab.start_snapshot(vm, NAME)
        taken = vsphere.take_snapshot(vm, NAME, "", beat)
    assert names(vsphere, vm) == [NAME]
    assert taken.name == NAME


def test_a_running_creation_of_somebody_else_is_awaited_and_ours_follows(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    with lab.times(snapshot_s=0.5):
        lab.start_snapshot(vm, "nightly backup")
        vsphere.take_snapshot(vm, NAME, "", beat)
    assert names(vsphere, vm) == ["nightly backup", NAME]


def test_a_running_creation_that_fails_does_not_fail_ours(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.order("snapshot_fails", vm)
    with lab.times(snapshot_s=0.5):
        lab.start_snapshot(vm, "nightly backup")
        vsphere.take_snapshot(vm, NAME, "", beat)
    assert names(vsphere, vm) == [NAME]


def test_two_snapshots_of_one_name_are_an_error(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.wait(lab.start_snapshot(vm, NAME))
    lab.wait(lab.start_snapshot(vm, NAME))
    with pytest.raises(DeltaferryError) as caught:
        vsphere.take_snapshot(vm, NAME, "", beat)
    assert kind_of(caught) is ErrorKind.SNAPSHOT_REFUSED
    assert len(names(vsphere, vm)) == 2


def test_a_snapshot_that_vsphere_cannot_take_is_refused_and_can_be_asked_for_again(
    vsphere: VSphere, lab: LabVcenter, vm: str
) -> None:
    lab.order("snapshot_fails", vm)
    with pytest.raises(DeltaferryError) as caught:
        vsphere.take_snapshot(vm, NAME, "", beat)
    assert kind_of(caught) is ErrorKind.SNAPSHOT_REFUSED
    vsphere.take_snapshot(vm, NAME, "", beat)
    assert names(vsphere, vm) == [NAME]


def test_removing_twice_is_removing_once(vsphere: VSphere, vm: str) -> None:
    taken = vsphere.take_snapshot(vm, NAME, "", beat)
    vsphere.remove_snapshot(vm, taken.moref, beat)
    vsphere.remove_snapshot(vm, taken.moref, beat)
    described = vsphere.read_vm(vm)
    assert (described.snapshots, described.consolidation_needed) == ((), False)
    with pytest.raises(DeltaferryError) as caught:
        vsphere.read_snapshot(vm, taken.moref)
    assert kind_of(caught) is ErrorKind.SNAPSHOT_LOST


def test_removing_waits_for_a_removal_that_a_dead_attempt_left_running(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    taken = vsphere.take_snapshot(vm, NAME, "", beat)
    with lab.times(consolidation_s=0.6):
        task = lab.start_removal(taken.moref)
        vsphere.remove_snapshot(vm, taken.moref, beat)
    assert lab.task_state(task) == "success"
    assert not vsphere.read_vm(vm).consolidation_needed


def test_removing_keeps_a_strangers_snapshot_on_top_of_ours(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    taken = vsphere.take_snapshot(vm, NAME, "", beat)
    lab.wait(lab.start_snapshot(vm, "before the upgrade"))
    assert vsphere.read_snapshot(vm, taken.moref).has_children
    vsphere.remove_snapshot(vm, taken.moref, beat)
    assert names(vsphere, vm) == ["before the upgrade"]


def test_a_strangers_snapshot_is_never_removed_and_none_is_taken_under_a_strangers_name(
    vsphere: VSphere, lab: LabVcenter, vm: str
) -> None:
    lab.wait(lab.start_snapshot(vm, "before the upgrade"))
    (theirs,) = vsphere.read_vm(vm).snapshots
    with pytest.raises(DeltaferryError) as caught:
        vsphere.remove_snapshot(vm, theirs.moref, beat)
    assert kind_of(caught) is ErrorKind.OPERATION_REFUSED
    with pytest.raises(DeltaferryError) as caught:
        vsphere.take_snapshot(vm, "before the upgrade", "", beat)
    assert kind_of(caught) is ErrorKind.OPERATION_REFUSED
    assert names(vsphere, vm) == ["before the upgrade"]


def test_another_task_on_the_vm_means_busy(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    with lab.times(power_s=0.6):
        task = lab.start_power_off(vm)
        with pytest.raises(DeltaferryError) as caught:
            vsphere.take_snapshot(vm, NAME, "", beat)
        lab.wait(task)
    assert kind_of(caught) is ErrorKind.VSPHERE_BUSY


def test_what_a_beat_raises_ends_the_wait_and_is_passed_on(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    class Cancelled(Exception):
        pass

    calls = []

    def cancelling() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Cancelled

    with lab.times(snapshot_s=0.5), pytest.raises(Cancelled):
        vsphere.take_snapshot(vm, NAME, "", cancelling)
    vsphere.take_snapshot(vm, NAME, "", beat)
    assert names(vsphere, vm) == [NAME]


# --- consolidation ---


def test_leftover_deltas_are_consolidated_and_only_if_there_are_any(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    vsphere.consolidate(vm, beat)
    taken = vsphere.take_snapshot(vm, NAME, "", beat)
    lab.order("consolidation_stuck", vm)
    vsphere.remove_snapshot(vm, taken.moref, beat)
    described = vsphere.read_vm(vm)
    assert (described.snapshots, described.consolidation_needed) == ((), True)
    assert any(disk.is_delta_backing for disk in described.disks)
    vsphere.consolidate(vm, beat)
    described = vsphere.read_vm(vm)
    assert not described.consolidation_needed
    assert not any(disk.is_delta_backing for disk in described.disks)


def test_disks_that_something_holds_locked_are_stuck_until_they_are_free(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    taken = vsphere.take_snapshot(vm, NAME, "", beat)
    lab.order("consolidation_stuck", vm, count=2)
    vsphere.remove_snapshot(vm, taken.moref, beat)
    with pytest.raises(DeltaferryError) as caught:
        vsphere.consolidate(vm, beat)
    assert kind_of(caught) is ErrorKind.CONSOLIDATION_STUCK
    vsphere.consolidate(vm, beat)
    assert not vsphere.read_vm(vm).consolidation_needed


# --- change tracking ---


def test_tracking_is_switched_on_and_is_in_effect_in_the_very_next_snapshot(vsphere: VSphere, vm: str) -> None:
    vsphere.set_change_tracking(vm, True, MARKER, beat)
    vsphere.set_change_tracking(vm, True, MARKER, beat)
    described = vsphere.read_vm(vm)
    assert (described.cbt_enabled, described.snapshots) == (True, ())
    taken = vsphere.take_snapshot(vm, NAME, "", beat)
    assert all(disk.change_id for disk in taken.disks)
    vsphere.remove_snapshot(vm, taken.moref, beat)
    vsphere.set_change_tracking(vm, False, MARKER, beat)
    vsphere.set_change_tracking(vm, False, MARKER, beat)
    described = vsphere.read_vm(vm)
    assert (described.cbt_enabled, described.snapshots) == (False, ())
    assert [disk.change_id for disk in vsphere.take_snapshot(vm, NAME, "", beat).disks] == [None, None]


def test_switching_tracking_when_it_is_so_already_changes_nothing(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    vsphere.set_change_tracking(vm, True, MARKER, beat)
    before = lab.change_version(vm)
    lab.wait(lab.start_snapshot(vm, "before the upgrade"))
    taken = lab.change_version(vm)
    vsphere.set_change_tracking(vm, True, MARKER, beat)
    assert before != taken == lab.change_version(vm)
    assert names(vsphere, vm) == ["before the upgrade"]


def test_tracking_is_not_switched_on_over_snapshots_which_are_named(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.wait(lab.start_snapshot(vm, "before the upgrade"))
    with pytest.raises(DeltaferryError) as caught:
        vsphere.set_change_tracking(vm, True, MARKER, beat)
    assert kind_of(caught) is ErrorKind.SNAPSHOT_REFUSED
    assert "before the upgrade" in caught.value.detail
    assert not vsphere.read_vm(vm).cbt_enabled


def test_a_marker_that_a_dead_attempt_left_behind_is_removed(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.wait(lab.start_snapshot(vm, MARKER))
    vsphere.set_change_tracking(vm, True, MARKER, beat)
    described = vsphere.read_vm(vm)
    assert (described.cbt_enabled, described.snapshots) == (True, ())


def test_an_attempt_that_died_between_switch_and_marker_is_finished(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.order("snapshot_fails", vm)
    with pytest.raises(DeltaferryError):
        vsphere.set_change_tracking(vm, True, MARKER, beat)
    assert vsphere.read_vm(vm).cbt_enabled
    vsphere.set_change_tracking(vm, True, MARKER, beat)
    assert all(disk.change_id for disk in vsphere.take_snapshot(vm, NAME, "", beat).disks)
    assert not any(key.startswith("deltaferry") for key in lab.extra_config(vm))


# --- power ---


def test_a_guest_is_asked_to_shut_down_and_goes_off(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    vsphere.shut_down_guest(vm)
    lab.wait_for_power(vm, "poweredOff")
    assert vsphere.power_state(vm) is PowerState.OFF
    vsphere.shut_down_guest(vm)


def test_a_guest_without_tools_cannot_be_asked(vsphere: VSphere) -> None:
    (vm,) = vsphere.find_vms("no-tools")
    with pytest.raises(DeltaferryError) as caught:
        vsphere.shut_down_guest(vm.instance_uuid)
    assert kind_of(caught) is ErrorKind.GUEST_TOOLS_UNAVAILABLE


def test_power_off_and_on_twice_each_is_once_each(vsphere: VSphere, vm: str) -> None:
    for _ in range(2):
        vsphere.power_off(vm, beat)
        assert vsphere.power_state(vm) is PowerState.OFF
    for _ in range(2):
        vsphere.power_on(vm, beat)
        assert vsphere.power_state(vm) is PowerState.ON


def test_a_vm_that_went_off_by_itself_in_between_is_off(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.fault("InvalidPowerState", "PowerOffVM_Task", vm)
    with pytest.raises(DeltaferryError) as caught:
        vsphere.power_off(vm, beat)
    assert kind_of(caught) is ErrorKind.VSPHERE_FAULT
    vsphere.power_off(vm, beat)
    lab.fault("InvalidPowerState", "PowerOnVM_Task", vm)
    with pytest.raises(DeltaferryError):
        vsphere.power_on(vm, beat)


# --- several at once ---


def test_many_threads_share_one_session(vsphere: VSphere, lab: LabVcenter) -> None:
    vms = [lab.unused_vm() for _ in range(6)]
    before = lab.session_count()
    barrier = threading.Barrier(len(vms))

    def cycle(vm: str) -> str:
        barrier.wait()
        taken = vsphere.take_snapshot(vm, NAME, "", beat)
        vsphere.remove_snapshot(vm, taken.moref, beat)
        return taken.name

    with ThreadPoolExecutor(len(vms)) as pool:
        assert list(pool.map(cycle, vms)) == [NAME] * len(vms)
    assert lab.session_count() == before
