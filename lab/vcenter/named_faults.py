"""The faults of the vSphere fault table, by the names of its rows: each says what the lab does to provoke it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lab.vcenter.faults import FaultName, FaultRequest

_QUERY = "QueryChangedDiskAreas"
_TAKE = "CreateSnapshotEx_Task"
_MERGE = "ConsolidateVMDisks_Task"
_UPDATES = "WaitForUpdatesEx"
_CBT = "vim.hostd.vmsvc.cbt."


def _fault(fault: str, method: str = _TAKE, **more: str | int | bool) -> FaultRequest:
    return replace(FaultRequest(FaultName.METHOD, method=method, fault=fault), **more)  # type: ignore[arg-type]


def _wire(name: FaultName, **more: str | int | bool) -> FaultRequest:
    return replace(FaultRequest(name, method=_TAKE), **more)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class NbdFault:
    """Settings of a host's NBD server, as `HostControls.set_nbd` takes them."""

    settings: Mapping[str, int | str] = field(default_factory=dict)


SOAP_FAULTS: Mapping[str, FaultRequest] = {
    "vcenter-unreachable": _wire(FaultName.CUT),
    "vcenter-503": _wire(FaultName.HTTP_ERROR, status=503),
    "vcenter-no-soap": _wire(FaultName.NO_SOAP),
    "reply-lost": _wire(FaultName.DROP_REPLY),
    "invalid-login": _fault("InvalidLogin", "Login"),
    "not-authenticated": _fault("NotAuthenticated", "RetrievePropertiesEx"),
    "collector-lost": _fault("InvalidCollectorVersion", _UPDATES),
    "wait-cancelled": _fault("RequestCanceled", _UPDATES),
    "no-permission": _fault("NoPermission"),
    "restricted-version": _fault("RestrictedVersion"),
    "task-in-progress": _fault("TaskInProgress"),
    "concurrent-access": _fault("ConcurrentAccess", "ReconfigVM_Task", as_task_error=True, count=5),
    "no-disk-space": _fault("NoDiskSpace", as_task_error=True),
    "tools-unavailable": _fault("ToolsUnavailable", "ShutdownGuest"),
    "already-off": _fault("InvalidPowerState", "PowerOffVM_Task", as_task_error=True, after_effect=True),
    "host-not-connected": _fault("HostNotConnected"),
    "host-communication": _fault("HostCommunication"),
    "host-connect": _fault("HostConnectFault"),
    "vm-gone": _fault("ManagedObjectNotFound", object_type="VirtualMachine"),
    "snapshot-gone": _fault("ManagedObjectNotFound", _QUERY, object_type="VirtualMachineSnapshot"),
    "timed-out": _fault("Timedout", as_task_error=True, after_effect=True),
    "other-fault": _fault("SystemError"),
    "cbt-off": _fault("FileFault", _QUERY, message_key=f"{_CBT}noTrack"),
    "cbt-no-epoch": _fault("FileFault", _QUERY, message_key=f"{_CBT}noEpoch"),
    "cbt-corrupt": _fault("FileFault", _QUERY, message_key=f"{_CBT}corrupt"),
    "cbt-cannot-get-changes": _fault("FileFault", _QUERY, message_key=f"{_CBT}cannotGetChanges"),
    "bad-change-id": _fault("InvalidArgument", _QUERY, invalid_property="changeId"),
    "bad-snapshot": _fault("InvalidArgument", _QUERY, invalid_property="snapshot"),
    "bad-start-offset": _fault("InvalidArgument", _QUERY, invalid_property="startOffset"),
    "key-of-no-disk": _fault("InvalidArgument", _QUERY, invalid_property="deviceKey"),
    "key-of-untracked-disk": _fault("InvalidArgument", _QUERY, invalid_property="deviceKey"),
    "key-refused": _fault("InvalidArgument", _QUERY, invalid_property="deviceKey"),
    "not-found": _fault("NotFound", _QUERY),
    "not-supported": _fault("NotSupported", _QUERY),
    "file-locked": _fault("FileLocked", _QUERY),
    "quiesce-application": FaultRequest(FaultName.QUIESCE_FAILS),
    "quiesce-filesystem": _fault("FilesystemQuiesceFault", as_task_error=True),
    "too-many-snapshots": _fault("TooManySnapshotLevels", as_task_error=True),
    "snapshot-fault": _fault("SnapshotFault", as_task_error=True),
    "vm-config-fault": _fault("VmConfigFault", as_task_error=True),
    "invalid-name": _fault("InvalidName"),
    "invalid-state": _fault("InvalidState"),
    "snapshot-file-fault": _fault("FileFault", as_task_error=True),
    "snapshot-not-supported": _fault("NotSupported"),
    "consolidation-locked": _fault("FileLocked", _MERGE, as_task_error=True),
    "consolidation-state": _fault("InvalidState", _MERGE),
    "consolidation-config": _fault("VmConfigFault", _MERGE, as_task_error=True),
}
"""What the SOAP side does. Where a row also asks for a state of the VM (`when`), whoever asks for the fault arranges it."""

_FIRST_WRITE: Mapping[str, int | str] = {
    "fail_offset": 0,
    "fail_length": 1 << 20,
    "fail_times": 1,
    "fail_writes": True,
    "fail_export": "writable=",
}

NBD_FAULTS: Mapping[str, NbdFault] = {
    "connection-refused": NbdFault({"refuse_next": 1}),
    "connection-cut": NbdFault({"cut_after_bytes": 4096, "cut_times": 1}),
    "read-error": NbdFault({"fail_offset": 0, "fail_length": 1 << 20, "fail_times": 1, "fail_error": "EIO"}),
    "read-too-large": NbdFault({"fail_offset": 0, "fail_length": 1 << 20, "fail_times": 1, "fail_error": "ENOMEM"}),
    "host-going-down": NbdFault({"fail_offset": 0, "fail_length": 1 << 20, "fail_times": 1, "fail_error": "ESHUTDOWN"}),
    "nfc-connections-used-up": NbdFault({"max_connections": 0}),
}
"""What a host's NBD server does."""


RECOVERY_SOAP_FAULTS: Mapping[str, FaultRequest] = {
    "power-on-locked": _fault("GenericVmConfigFault", "PowerOnVM_Task", as_task_error=True),
    "create-vm-no-space": _fault("NoDiskSpace", "CreateVM_Task", as_task_error=True),
    "create-vm-reply-lost": FaultRequest(FaultName.DROP_REPLY, method="CreateVM_Task"),
    "destroy-locked": _fault("FileLocked", "Destroy_Task", as_task_error=True),
}
"""What the SOAP side does to disaster recovery: not rows of the fault table, which is of replication and migration."""

RECOVERY_NBD_FAULTS: Mapping[str, NbdFault] = {
    "write-error": NbdFault({**_FIRST_WRITE, "fail_error": "EIO"}),
    "write-no-space": NbdFault({**_FIRST_WRITE, "fail_error": "ENOSPC"}),
    "write-host-going-down": NbdFault({**_FIRST_WRITE, "fail_error": "ESHUTDOWN"}),
    "write-cut": NbdFault({"cut_after_written_bytes": 4096, "cut_times": 1}),
}
"""What a host's NBD server does to the writer of a powered-off VM's disk."""


def request_of(name: str, vm: str = "") -> FaultRequest:
    """Return a new request for a fault of the SOAP side, for one VM (moref) or any. Raises ValueError."""
    known = {**SOAP_FAULTS, **RECOVERY_SOAP_FAULTS}.get(name)
    if known is None:
        raise ValueError(f"there is no vSphere fault called {name}")
    return replace(known, vm=vm)
