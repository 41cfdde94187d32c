"""Quiesced snapshots: what was asked for, what the guest did, and snapshots that fail or come late."""

from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.quiescing import QuiesceOutcome, QuiesceRequest, ScriptRun
from lab.vcenter.virtual_machine import ToolsState
from tests.unit.lab_vcenter_soap.running import Lab


@pytest.fixture
def guest(fresh_lab: Lab) -> Iterator[Lab]:
    """The lab about a running VM with Tools."""
    yield fresh_lab
    fresh_lab.control.set_times(quiesce_minute_s=60.0)


def start(lab: Lab, spec: Any = None, name: str = "quiesced") -> Any:
    wanted = vim.vm.GuestQuiesceSpec(timeout=5) if spec is None else spec
    return lab.vm().CreateSnapshotEx_Task(name=name, description="", memory=False, quiesceSpec=wanted)


def records(lab: Lab) -> Any:
    return lab.control.quiesces(lab.vm()._moId)


def test_the_vss_parameters_that_were_asked_for_are_on_record(guest: Lab) -> None:
    spec = vim.vm.WindowsQuiesceSpec(
        timeout=10, vssBackupType=5, vssBootableSystemState=False, vssPartialFileSupport=False, vssBackupContext="ctx_backup"
    )
    made = guest.run(start(guest, spec))
    (record,) = records(guest)
    assert record.request == QuiesceRequest(10, True, 5, False, False, "ctx_backup")
    assert (record.outcome, record.snapshot, record.snapshot_name) == (QuiesceOutcome.OBTAINED, made._moId, "quiesced")
    assert guest.vm().snapshot.rootSnapshotList[0].quiesced


def test_the_older_call_quiesces_without_a_specification(guest: Lab) -> None:
    guest.run(guest.vm().CreateSnapshot_Task(name="old", description="", memory=False, quiesce=True))
    guest.run(guest.vm().CreateSnapshot_Task(name="plain", description="", memory=False, quiesce=False))
    assert [(record.snapshot_name, record.request) for record in records(guest)] == [("old", QuiesceRequest())]


@pytest.mark.parametrize(
    "spec",
    [
        vim.vm.GuestQuiesceSpec(timeout=4),
        vim.vm.GuestQuiesceSpec(timeout=241),
        vim.vm.WindowsQuiesceSpec(vssBackupType=7),
        vim.vm.WindowsQuiesceSpec(vssBackupContext="other"),
    ],
)
def test_a_specification_out_of_range_is_refused(guest: Lab, spec: Any) -> None:
    with pytest.raises(vmodl.fault.InvalidArgument):
        guest.run(start(guest, spec))
    assert records(guest) == ()


@pytest.mark.parametrize("state", [ToolsState.NOT_RUNNING, ToolsState.EXECUTING_SCRIPTS])
def test_without_running_tools_the_request_is_ignored_and_the_snapshot_says_so(guest: Lab, state: ToolsState) -> None:
    guest.control.set_tools(guest.vm()._moId, installed=True, state=state)
    assert guest.vm().guest.toolsRunningStatus == state
    guest.run(start(guest))
    assert not guest.vm().snapshot.rootSnapshotList[0].quiesced
    (record,) = records(guest)
    assert (record.outcome, record.scripts) == (QuiesceOutcome.IGNORED, [])
    with pytest.raises(vim.fault.ToolsUnavailable):
        guest.vm().ShutdownGuest()


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (QuiesceOutcome.APPLICATION_FAULT, vim.fault.ApplicationQuiesceFault),
        (QuiesceOutcome.FILESYSTEM_FAULT, vim.fault.FilesystemQuiesceFault),
    ],
)
def test_a_guest_that_does_not_freeze_fails_the_task_and_leaves_no_snapshot(
    guest: Lab, outcome: QuiesceOutcome, fault: type[Exception]
) -> None:
    guest.control.set_quiesce(guest.vm()._moId, outcome=outcome)
    with pytest.raises(fault):
        guest.run(start(guest))
    assert guest.vm().snapshot is None
    assert [(record.outcome, record.snapshot) for record in records(guest)] == [(outcome, "")]
    guest.run(guest.snapshot(guest.vm(), "plain").RemoveSnapshot_Task(removeChildren=False))


def test_the_fault_plan_fails_one_quiesced_snapshot(guest: Lab) -> None:
    guest.control.ask(FaultRequest(FaultName.QUIESCE_FAILS, vm=guest.vm()._moId))
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        guest.run(start(guest))
    guest.run(start(guest))
    assert [record.outcome for record in records(guest)] == [QuiesceOutcome.APPLICATION_FAULT, QuiesceOutcome.OBTAINED]


def test_scripts_run_before_the_freeze_and_after_the_thaw(guest: Lab) -> None:
    guest.control.set_quiesce(guest.vm()._moId, freeze_exit=0, thaw_exit=3)
    guest.run(start(guest))
    (record,) = records(guest)
    assert record.scripts == [ScriptRun("freeze", 0), ScriptRun("thaw", 3)]


def test_a_script_that_fails_before_the_freeze_fails_the_snapshot(guest: Lab) -> None:
    guest.control.set_quiesce(guest.vm()._moId, freeze_exit=1)
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        guest.run(start(guest))
    (record,) = records(guest)
    assert record.scripts == [ScriptRun("freeze", 1), ScriptRun("freezeFail", 0)]


def test_the_guest_thaws_when_the_snapshot_itself_fails(guest: Lab) -> None:
    guest.control.set_quiesce(guest.vm()._moId, freeze_exit=0)
    guest.control.ask(FaultRequest(FaultName.SNAPSHOT_FAILS, vm=guest.vm()._moId))
    with pytest.raises(vim.fault.SnapshotFault):
        guest.run(start(guest))
    (record,) = records(guest)
    assert (record.snapshot, record.scripts[-1]) == ("", ScriptRun("thaw", 0))


def test_a_held_snapshot_comes_after_its_caller_has_gone(guest: Lab) -> None:
    vm = guest.vm()
    guest.control.set_quiesce(vm._moId, held=True)
    task = start(guest, name="late")
    while not records(guest):
        continue
    assert (task.info.state, vm.snapshot) == ("running", None)
    with pytest.raises(vim.fault.TaskInProgress):
        guest.run(vm.CreateSnapshotEx_Task(name="other", description="", memory=False))
    guest.control.set_quiesce(vm._moId)
    guest.run(task)
    (root,) = vm.snapshot.rootSnapshotList
    assert (root.name, root.quiesced) == ("late", True)


def test_a_guest_over_the_time_limit_fails_the_snapshot(guest: Lab) -> None:
    guest.control.set_times(quiesce_minute_s=0.01)
    guest.control.set_quiesce(guest.vm()._moId, held=True)
    with pytest.raises(vim.fault.FilesystemQuiesceFault):
        guest.run(start(guest))
    guest.control.set_quiesce(guest.vm()._moId, seconds=60.0)
    with pytest.raises(vim.fault.FilesystemQuiesceFault):
        guest.run(start(guest))


@pytest.mark.parametrize(
    ("name", "fault"),
    [("quiesce-application", vim.fault.ApplicationQuiesceFault), ("quiesce-filesystem", vim.fault.FilesystemQuiesceFault)],
)
def test_quiescing_meets_the_fault_that_was_asked_for_once(guest: Lab, name: str, fault: type[Exception]) -> None:
    guest.control.ask_named(name, vm=guest.vm()._moId)
    with pytest.raises(fault):
        guest.run(start(guest))
    guest.run(start(guest))
