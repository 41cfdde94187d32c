"""The fault table: kinds are decided by fault type, keys and properties, and never by text."""

import ssl
from http.client import HTTPException
from typing import Any
from xml.parsers.expat import ExpatError

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.errors import (
    CHANGED_AREAS_RULES,
    CONSOLIDATION_RULES,
    SNAPSHOT_RULES,
    FaultRule,
    vsphere_errors,
)
from deltaferry.vsphere.vocabulary import vim, vmodl


def file_fault(*keys: str, message: str = "") -> Any:
    messages = [vmodl.LocalizableMessage(key=key, message=message) for key in keys]
    return vim.fault.FileFault(file="[ds1] web/web.vmdk", faultMessage=messages)


def kind_of(error: Exception, rules: tuple[FaultRule, ...] = ()) -> ErrorKind:
    with pytest.raises(DeltaferryError) as caught, vsphere_errors("doing a thing", rules=rules):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.detail.startswith("doing a thing: ")
    return caught.value.kind


CHANGED_AREAS = [
    (file_fault("vim.hostd.vmsvc.cbt.noTrack"), ErrorKind.CBT_OFF),
    (file_fault("vim.hostd.vmsvc.cbt.noEpoch"), ErrorKind.CBT_NO_EPOCH),
    (file_fault("vim.hostd.vmsvc.cbt.cannotGetChanges"), ErrorKind.CBT_CHANGE_ID_REJECTED),
    (file_fault("vim.hostd.vmsvc.cbt.cannotGetChanges", "vim.hostd.vmsvc.cbt.corrupt"), ErrorKind.CBT_CORRUPT),
    (file_fault("vim.hostd.vmsvc.other"), ErrorKind.VSPHERE_FAULT),
    (vim.fault.FileFault(file="x"), ErrorKind.VSPHERE_FAULT),
    (vim.fault.FileLocked(file="x"), ErrorKind.VSPHERE_FAULT),
    (vmodl.fault.SystemError(reason="x"), ErrorKind.VSPHERE_FAULT),
    (vmodl.fault.InvalidArgument(invalidProperty="startOffset"), ErrorKind.DISKS_CHANGED),
    (vmodl.fault.InvalidArgument(invalidProperty="changeId"), ErrorKind.CBT_CHANGE_ID_REJECTED),
    (vmodl.fault.InvalidArgument(invalidProperty="snapshot"), ErrorKind.SNAPSHOT_LOST),
    (vmodl.fault.InvalidArgument(), ErrorKind.VSPHERE_FAULT),
    (vmodl.fault.NotSupported(), ErrorKind.CBT_CHANGE_ID_REJECTED),
    (vmodl.fault.ManagedObjectNotFound(obj=vim.vm.Snapshot("snapshot-1")), ErrorKind.SNAPSHOT_LOST),
    (vmodl.fault.ManagedObjectNotFound(obj=vim.VirtualMachine("vm-1")), ErrorKind.VM_NOT_FOUND),
]


@pytest.mark.parametrize(("fault", "kind"), CHANGED_AREAS, ids=lambda value: getattr(value, "_wsdlName", str(value)))
def test_each_fault_of_query_changed_disk_areas_has_its_kind(fault: Exception, kind: ErrorKind) -> None:
    assert kind_of(fault, CHANGED_AREAS_RULES) is kind


def test_a_key_in_the_cause_of_a_fault_decides_too() -> None:
    outer = vim.fault.FileFault(file="x", faultCause=file_fault("vim.hostd.vmsvc.cbt.noTrack"))
    assert kind_of(outer, CHANGED_AREAS_RULES) is ErrorKind.CBT_OFF


def test_what_a_message_says_decides_nothing() -> None:
    fault = file_fault("vim.hostd.vmsvc.other", message="vim.hostd.vmsvc.cbt.noTrack: change tracking is off")
    assert kind_of(fault, CHANGED_AREAS_RULES) is ErrorKind.VSPHERE_FAULT


def test_a_full_datastore_and_a_running_task_are_told_from_other_faults_of_a_snapshot() -> None:
    assert kind_of(vim.fault.NoDiskSpace(file="x", datastore="ds1"), SNAPSHOT_RULES) is ErrorKind.DATASTORE_FULL
    assert kind_of(vim.fault.TaskInProgress(task=vim.Task("task-1")), SNAPSHOT_RULES) is ErrorKind.VSPHERE_BUSY
    assert kind_of(vim.fault.TooManySnapshotLevels(), SNAPSHOT_RULES) is ErrorKind.SNAPSHOT_REFUSED
    assert kind_of(vim.fault.FileLocked(file="x"), CONSOLIDATION_RULES) is ErrorKind.CONSOLIDATION_STUCK
    assert kind_of(vim.fault.NoDiskSpace(file="x", datastore="ds1"), CONSOLIDATION_RULES) is ErrorKind.DATASTORE_FULL


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(object=vim.VirtualMachine("vm-7"), privilegeId="VirtualMachine.State.CreateSnapshot")
    with pytest.raises(DeltaferryError) as caught, vsphere_errors("taking a snapshot", rules=SNAPSHOT_RULES):
        raise fault
    assert caught.value.kind is ErrorKind.VSPHERE_PERMISSION
    assert "VirtualMachine.State.CreateSnapshot on vm-7" in caught.value.detail


def test_a_lost_session_is_not_taken_for_a_missing_privilege() -> None:
    fault = vim.fault.NotAuthenticated(object=vim.VirtualMachine("vm-7"), privilegeId="System.View")
    assert kind_of(fault) is ErrorKind.VSPHERE_FAULT


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        TimeoutError("timed out"),
        ssl.SSLError("handshake"),
        HTTPException("503 Service Unavailable"),
        ExpatError("not well-formed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_soap_answer_means_that_vsphere_is_unreachable(error: Exception) -> None:
    assert kind_of(error) is ErrorKind.VSPHERE_UNREACHABLE


def test_a_defect_of_ours_is_not_dressed_up_as_a_vsphere_error() -> None:
    with pytest.raises(ValueError, match="ours"), vsphere_errors("doing a thing"):
        raise ValueError("ours")
