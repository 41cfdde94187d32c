"""Quiesced snapshots, against a vCenter in its own process: what was asked for, what was obtained, who is not asked."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.planning.quiescing import order_for
from deltaferry.vsphere.client import VSphere
from lab.vcenter.quiescing import QuiesceOutcome
from lab.vcenter.virtual_machine import ToolsState

from .lab_vcenter import LabVcenter

NAME = "df/lab/0123456789abcdef/1-00000000-0000-4000-8000-000000000001-q"
WINDOWS, LINUX = order_for("Windows"), order_for("Linux")


def beat() -> None:
    """Nothing to heartbeat to."""


def error_of(vsphere: VSphere, vm: str) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        vsphere.take_snapshot(vm, NAME, "", beat, LINUX)
    return caught.value


@pytest.fixture
def guest(vsphere: VSphere, lab: LabVcenter, vm: str) -> Iterator[str]:
    """The moref of the VM, whose guest behaves as ever afterwards."""
    moref = vsphere.read_vm(vm).moref
    yield moref
    lab.control.set_quiesce(moref)


def test_a_windows_guest_is_quiesced_by_vss_with_its_writers_as_a_copy(
    vsphere: VSphere, lab: LabVcenter, vm: str, guest: str
) -> None:
    taken = vsphere.take_snapshot(vm, NAME, "why", beat, WINDOWS)
    (record,) = lab.control.quiesces(guest)
    assert (record.request.windows, record.request.vss_backup_type, record.request.vss_backup_context) == (True, 5, "ctx_backup")
    assert record.request.timeout_min == 5
    assert taken.quiesced
    assert vsphere.read_snapshot(vm, taken.moref) == taken
    assert vsphere.take_snapshot(vm, NAME, "why", beat, WINDOWS) == taken
    assert len(lab.control.quiesces(guest)) == 1


def test_any_other_guest_is_quiesced_by_vmware_tools_alone(vsphere: VSphere, lab: LabVcenter, vm: str, guest: str) -> None:
    assert vsphere.take_snapshot(vm, NAME, "", beat, LINUX).quiesced
    (record,) = lab.control.quiesces(guest)
    assert (record.request.windows, record.request.vss_backup_type) == (False, None)


def test_without_an_order_nothing_is_asked_of_the_guest(vsphere: VSphere, lab: LabVcenter, vm: str, guest: str) -> None:
    assert not vsphere.take_snapshot(vm, NAME, "", beat).quiesced
    assert lab.control.quiesces(guest) == ()


@pytest.mark.parametrize(
    ("installed", "state", "said"),
    [
        (False, ToolsState.RUNNING, "not installed"),
        (True, ToolsState.NOT_RUNNING, "do not run"),
        (True, ToolsState.EXECUTING_SCRIPTS, "just starting"),
    ],
)
def test_a_guest_without_running_tools_is_not_asked(
    vsphere: VSphere, lab: LabVcenter, vm: str, guest: str, installed: bool, state: ToolsState, said: str
) -> None:
    lab.control.set_tools(guest, installed=installed, state=state)
    error = error_of(vsphere, vm)
    assert error.kind is ErrorKind.GUEST_TOOLS_UNAVAILABLE
    assert said in error.detail
    assert (lab.control.quiesces(guest), vsphere.read_vm(vm).snapshots) == ((), ())


def test_a_vm_that_is_off_is_not_asked(vsphere: VSphere, lab: LabVcenter, vm: str, guest: str) -> None:
    lab.wait(lab.start_power_off(vm))
    error = error_of(vsphere, vm)
    assert (error.kind, error.detail) == (ErrorKind.GUEST_TOOLS_UNAVAILABLE, "The VM does not run.")


@pytest.mark.parametrize("outcome", [QuiesceOutcome.APPLICATION_FAULT, QuiesceOutcome.FILESYSTEM_FAULT])
def test_a_guest_that_does_not_freeze_is_a_failed_quiesce_that_leaves_no_snapshot(
    vsphere: VSphere, lab: LabVcenter, vm: str, guest: str, outcome: QuiesceOutcome
) -> None:
    lab.control.set_quiesce(guest, outcome=outcome)
    assert error_of(vsphere, vm).kind is ErrorKind.QUIESCE_FAILED
    assert vsphere.read_vm(vm).snapshots == ()


def test_a_guest_whose_freeze_script_fails_is_a_failed_quiesce(vsphere: VSphere, lab: LabVcenter, vm: str, guest: str) -> None:
    lab.control.set_quiesce(guest, freeze_exit=1)
    assert error_of(vsphere, vm).kind is ErrorKind.QUIESCE_FAILED


def test_what_a_freeze_script_tells_through_vmware_tools_is_read_with_the_vm(
    vsphere: VSphere, lab: LabVcenter, vm: str, guest: str
) -> None:
    assert vsphere.read_vm(vm).freeze_mark == ""
    lab.control.set_quiesce(guest, freeze_exit=0, marks=True)
    vsphere.take_snapshot(vm, NAME, "", beat, LINUX)
    assert vsphere.read_vm(vm).freeze_mark != ""


def test_a_snapshot_that_is_given_up_arrives_late_and_is_waited_for_by_whoever_clears_the_vm(
    vsphere: VSphere, lab: LabVcenter, vm: str, guest: str
) -> None:
    lab.control.set_quiesce(guest, held=True)
    with pytest.raises(DeltaferryError) as caught:
        vsphere.take_snapshot(vm, NAME, "", beat, replace(LINUX, patience=timedelta(seconds=0.1)))
    assert caught.value.kind is ErrorKind.QUIESCE_FAILED
    assert "was given up" in caught.value.detail
    assert vsphere.read_vm(vm).snapshots == ()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(vsphere.await_creations, vm, lambda: lab.control.set_quiesce(guest))
        waiting.result()
    (late,) = vsphere.read_vm(vm).snapshots
    assert (late.name, late.quiesced) == (NAME, True)
    vsphere.remove_snapshot(vm, late.moref, beat)
    assert vsphere.read_vm(vm).snapshots == ()


def test_a_snapshot_that_is_taken_for_ever_is_not_waited_for_for_ever(
    vsphere: VSphere, lab: LabVcenter, vm: str, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltaferry.vsphere.snapshots.CREATION_PATIENCE", timedelta(0))
    lab.control.set_quiesce(guest, held=True)
    task = lab.start_quiesced(vm, NAME)
    vsphere.await_creations(vm, beat)
    assert lab.task_state(task) == "running"
    lab.control.set_quiesce(guest)
    lab.wait(task)
