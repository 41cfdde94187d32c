"""The fault table of vSphere: fault, where it is met, what it means, what the system does about it, and the remedy.

`errors.py` translates by it: rows are read from top to bottom, the ones of the call before the general ones, and the
first that matches decides. A fault is told by its type, by message keys, by the property complained of and by the type
of the object that it names, and never by text. Sources: the fault map of the vSphere CSI driver's `translateVslmError`,
VMware's declared faults of each method, and for reading disks nbdkit-vddk-plugin's own source.
"""

from http.client import HTTPException
from xml.parsers.expat import ExpatError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.faults import FaultClass
from deltaferry.vsphere.call_faults import CHANGED_AREAS_RULES, CONSOLIDATION_RULES, QUIESCE_RULES, SNAPSHOT_RULES
from deltaferry.vsphere.fault_rule import FaultRule
from deltaferry.vsphere.vocabulary import vim, vmodl

_K = ErrorKind
_C = FaultClass

_QUERY = "QueryChangedDiskAreas"
_TAKE = "CreateSnapshotEx_Task"
_UPDATES = "WaitForUpdatesEx"

UNANSWERED = FaultRule(
    name="vcenter-unreachable",
    fault=OSError,
    answer=_C.RETRY,
    kind=_K.VSPHERE_UNREACHABLE,
    meaning="The connection to vCenter was refused, reset, or timed out.",
)

GENERAL_RULES: tuple[FaultRule, ...] = (
    UNANSWERED,
    FaultRule(
        name="vcenter-503",
        fault=HTTPException,
        answer=_C.RETRY,
        kind=_K.VSPHERE_UNREACHABLE,
        meaning="vCenter's proxy answers in its place, mostly with 503 while services start.",
    ),
    FaultRule(
        name="vcenter-no-soap",
        fault=ExpatError,
        answer=_C.RETRY,
        kind=_K.VSPHERE_UNREACHABLE,
        meaning="What answers is not vCenter's SOAP service.",
    ),
    FaultRule(
        name="reply-lost",
        fault=OSError,
        method=_TAKE,
        when="the operation began all the same",
        answer=_C.SETTLED,
        kind=None,
        meaning="A request took effect, and its reply was lost: the attempt fails as unreachable.",
        remedy="Nothing: the next attempt finds the running task, or the snapshot by its name, and makes no second one.",
    ),
    FaultRule(
        name="invalid-login",
        fault=vim.fault.InvalidLogin,
        method="Login",
        answer=_C.OPERATOR,
        kind=_K.VSPHERE_LOGIN_REJECTED,
        meaning="User name or password is wrong, or the account is locked.",
    ),
    FaultRule(
        name="not-authenticated",
        fault=vim.fault.NotAuthenticated,
        answer=_C.RE_LOGIN,
        kind=_K.VSPHERE_FAULT,
        meaning="The session expired or was ended. It leaves as an error only if a fresh session is refused too.",
        remedy="Nothing: the session logs in again and the call is sent once more.",
    ),
    FaultRule(
        name="collector-lost",
        fault=vmodl.query.InvalidCollectorVersion,
        method=_UPDATES,
        answer=_C.RE_LOGIN,
        kind=_K.VSPHERE_FAULT,
        meaning="The session ended in the middle of a wait, and its collectors with it.",
        remedy="Nothing: the wait begins again in a new session.",
    ),
    FaultRule(
        name="wait-cancelled",
        fault=vmodl.fault.RequestCanceled,
        method=_UPDATES,
        answer=_C.RE_LOGIN,
        kind=_K.VSPHERE_FAULT,
        meaning="vCenter ended a wait, mostly because its session ended.",
        remedy="Nothing: the wait begins again, in a new session if need be.",
    ),
    FaultRule(
        name="no-permission",
        fault=vim.fault.NoPermission,
        answer=_C.OPERATOR,
        kind=_K.VSPHERE_PERMISSION,
        meaning="The user lacks a privilege on the object.",
    ),
    FaultRule(
        name="restricted-version",
        fault=vim.fault.RestrictedVersion,
        answer=_C.OPERATOR,
        kind=_K.VSPHERE_PERMISSION,
        meaning="The ESXi licence does not include the API: the free one has no snapshots.",
        remedy="Give the ESXi host a licence that includes the vStorage APIs.",
    ),
    FaultRule(
        name="task-in-progress",
        fault=vim.fault.TaskInProgress,
        answer=_C.RETRY,
        kind=_K.VSPHERE_BUSY,
        first=True,
        meaning="Another task on the VM runs.",
    ),
    FaultRule(
        name="concurrent-access",
        fault=vim.fault.ConcurrentAccess,
        method="ReconfigVM_Task",
        answer=_C.RETRY,
        kind=_K.VSPHERE_BUSY,
        first=True,
        meaning="Somebody else changed the VM's configuration between reading and writing it.",
        remedy="Nothing: it is read and decided again.",
    ),
    FaultRule(
        name="no-disk-space",
        fault=vim.fault.NoDiskSpace,
        method=_TAKE,
        answer=_C.OPERATOR,
        kind=_K.DATASTORE_FULL,
        first=True,
        meaning="The datastore has no room for the snapshot or the merge.",
    ),
    FaultRule(
        name="tools-unavailable",
        fault=vim.fault.ToolsUnavailable,
        method="ShutdownGuest",
        answer=_C.OPERATOR,
        kind=_K.GUEST_TOOLS_UNAVAILABLE,
        first=True,
        meaning="VMware Tools do not run in the guest.",
    ),
    FaultRule(
        name="already-off",
        fault=vim.fault.InvalidPowerState,
        method="PowerOffVM_Task",
        when="the VM is in the state asked for",
        answer=_C.SETTLED,
        kind=None,
        meaning="The VM came to be as asked for between reading its state and asking.",
        remedy="Nothing.",
    ),
    FaultRule(
        name="host-not-connected",
        fault=vmodl.fault.HostNotConnected,
        answer=_C.RE_READ_HOST,
        kind=_K.HOST_GONE,
        meaning="vCenter has lost the ESXi host that ran the VM.",
    ),
    FaultRule(
        name="host-communication",
        fault=vmodl.fault.HostCommunication,
        answer=_C.RE_READ_HOST,
        kind=_K.HOST_GONE,
        meaning="vCenter cannot reach the ESXi host that ran the VM.",
    ),
    FaultRule(
        name="host-connect",
        fault=vim.fault.HostConnectFault,
        answer=_C.RE_READ_HOST,
        kind=_K.HOST_GONE,
        meaning="vCenter cannot connect the ESXi host that ran the VM.",
    ),
    FaultRule(
        name="vm-gone",
        fault=vmodl.fault.ManagedObjectNotFound,
        names=vim.VirtualMachine,
        answer=_C.OPERATOR,
        kind=_K.VM_NOT_FOUND,
        meaning="The VM was deleted, or removed from the inventory.",
    ),
    FaultRule(
        name="snapshot-gone",
        fault=vmodl.fault.ManagedObjectNotFound,
        names=vim.vm.Snapshot,
        method=_QUERY,
        answer=_C.REPAIR,
        kind=_K.SNAPSHOT_LOST,
        meaning="Somebody removed the replication's snapshot.",
    ),
    FaultRule(
        name="timed-out",
        fault=vim.fault.Timedout,
        answer=_C.RETRY,
        kind=_K.VSPHERE_FAULT,
        meaning="vSphere gave an operation up; what it did so far may stay.",
        remedy="Nothing: the next attempt looks for what this one made before it makes anything.",
    ),
    FaultRule(
        name="other-fault",
        fault=vmodl.MethodFault,
        answer=_C.RETRY,
        kind=_K.VSPHERE_FAULT,
        meaning="A fault that no other row names, such as a general system error.",
    ),
)
"""What every call may meet, the last row everything. Rows of NotAuthenticated act after a fresh log-in only."""

RULES: tuple[FaultRule, ...] = (*GENERAL_RULES, *CHANGED_AREAS_RULES, *QUIESCE_RULES, *SNAPSHOT_RULES, *CONSOLIDATION_RULES)
"""Every row of the SOAP side."""
