"""From what goes wrong in vSphere to the taxonomy: decided by exception type, fault type and fault keys, never by text.

The rules are data, read from top to bottom. Source of the change tracking rules: the fault map of the vSphere CSI
driver's `translateVslmError` and VMware's declared faults of QueryChangedDiskAreas.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from xml.parsers.expat import ExpatError

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.vocabulary import vim, vmodl

NETWORK_ERRORS: tuple[type[Exception], ...] = (OSError, HTTPException, ExpatError)
"""What the SOAP stub raises when no SOAP answer came: refused, reset, timed out, not HTTP 200/500, or not XML."""

VSPHERE_ERRORS: tuple[type[Exception], ...] = (*NETWORK_ERRORS, vmodl.MethodFault)
"""Everything that a vSphere call raises."""


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One row: a fault type (and its subtypes), optionally narrowed by message keys or by the property complained of."""

    fault: type[Exception]
    kind: ErrorKind
    keys: frozenset[str] = frozenset()
    """Any of these in `faultMessage[].key`; empty means any message."""
    properties: frozenset[str] = frozenset()
    """Any of these as the last name of `invalidProperty`; empty means any property."""

    def matches(self, fault: Exception) -> bool:
        """Return whether the rule speaks of this fault."""
        if not isinstance(fault, self.fault):
            return False
        if self.keys and self.keys.isdisjoint(fault_keys(fault)):
            return False
        return not self.properties or invalid_property(fault) in self.properties


_K = ErrorKind

GENERAL_RULES: tuple[FaultRule, ...] = (
    FaultRule(vim.fault.InvalidLogin, _K.VSPHERE_LOGIN_REJECTED),
    FaultRule(vim.fault.NotAuthenticated, _K.VSPHERE_FAULT),
    FaultRule(vim.fault.NoPermission, _K.VSPHERE_PERMISSION),
    FaultRule(vim.fault.TaskInProgress, _K.VSPHERE_BUSY),
    FaultRule(vim.fault.ConcurrentAccess, _K.VSPHERE_BUSY),
    FaultRule(vim.fault.NoDiskSpace, _K.DATASTORE_FULL),
    FaultRule(vim.fault.ToolsUnavailable, _K.GUEST_TOOLS_UNAVAILABLE),
    FaultRule(vim.fault.HostConnectFault, _K.VSPHERE_UNREACHABLE),
    FaultRule(vmodl.fault.HostCommunication, _K.VSPHERE_UNREACHABLE),
)
"""What every call may meet. What no rule names is VSPHERE_FAULT. NotAuthenticated comes here after a fresh log-in only."""

CBT_NO_TRACK = "vim.hostd.vmsvc.cbt.noTrack"
CBT_NO_EPOCH = "vim.hostd.vmsvc.cbt.noEpoch"
CBT_CANNOT_GET_CHANGES = "vim.hostd.vmsvc.cbt.cannotGetChanges"
CBT_CORRUPT = "vim.hostd.vmsvc.cbt.corrupt"
"""Beside cannotGetChanges. Where vSphere says "corrupt" in the message's text alone, the change id counts as rejected:
the repair is the same, and when that fails its remedy is the reset that a damaged tracking file needs."""

CHANGED_AREAS_RULES: tuple[FaultRule, ...] = (
    FaultRule(vim.fault.FileFault, _K.CBT_OFF, keys=frozenset({CBT_NO_TRACK})),
    FaultRule(vim.fault.FileFault, _K.CBT_NO_EPOCH, keys=frozenset({CBT_NO_EPOCH})),
    FaultRule(vim.fault.FileFault, _K.CBT_CORRUPT, keys=frozenset({CBT_CORRUPT})),
    FaultRule(vim.fault.FileFault, _K.CBT_CHANGE_ID_REJECTED, keys=frozenset({CBT_CANNOT_GET_CHANGES})),
    FaultRule(vmodl.fault.InvalidArgument, _K.CBT_CHANGE_ID_REJECTED, properties=frozenset({"changeId"})),
    FaultRule(vmodl.fault.InvalidArgument, _K.SNAPSHOT_LOST, properties=frozenset({"snapshot"})),
    FaultRule(vmodl.fault.InvalidArgument, _K.DISKS_CHANGED, properties=frozenset({"startOffset"})),
    FaultRule(vmodl.fault.NotSupported, _K.CBT_CHANGE_ID_REJECTED),
)
"""QueryChangedDiskAreas. Other file faults and system errors (ctk file not opened, disk locked) pass: VSPHERE_FAULT.

`startOffset` is only asked for below the capacity that the caller knows: if it is refused, the disk is smaller now.
NotFound and an invalid `deviceKey` have several meanings, told apart by looking at the snapshot (changed_areas.py).
"""

SNAPSHOT_RULES: tuple[FaultRule, ...] = (
    FaultRule(vim.fault.SnapshotFault, _K.SNAPSHOT_REFUSED),
    FaultRule(vim.fault.VmConfigFault, _K.SNAPSHOT_REFUSED),
    FaultRule(vim.fault.InvalidName, _K.SNAPSHOT_REFUSED),
    FaultRule(vim.fault.InvalidState, _K.SNAPSHOT_REFUSED),
    FaultRule(vim.fault.FileFault, _K.SNAPSHOT_REFUSED),
    FaultRule(vmodl.fault.NotSupported, _K.SNAPSHOT_REFUSED),
)
"""CreateSnapshot."""

CONSOLIDATION_RULES: tuple[FaultRule, ...] = (
    FaultRule(vim.fault.FileFault, _K.CONSOLIDATION_STUCK),
    FaultRule(vim.fault.InvalidState, _K.CONSOLIDATION_STUCK),
    FaultRule(vim.fault.VmConfigFault, _K.CONSOLIDATION_STUCK),
)
"""ConsolidateVMDisks: a file fault is a disk that something else holds locked."""


_GONE: tuple[tuple[Any, ErrorKind], ...] = (
    (vim.VirtualMachine, _K.VM_NOT_FOUND),
    (vim.vm.Snapshot, _K.SNAPSHOT_LOST),
)
"""What ManagedObjectNotFound means, by the type of the object that it names."""


def fault_keys(fault: Exception) -> frozenset[str]:
    """Return the message keys that a fault and its causes carry: its machine-readable names, in no language."""
    keys: set[str] = set()
    current: Exception | None = fault
    while isinstance(current, vmodl.MethodFault):
        keys.update(message.key for message in current.faultMessage or ())
        current = current.faultCause
    return frozenset(keys)


def invalid_property(fault: Exception) -> str:
    """Return the last name in an InvalidArgument's property path, or an empty string."""
    path = getattr(fault, "invalidProperty", None)
    return str(path).rpartition(".")[2] if path else ""


def fault_name(fault: Exception) -> str:
    """Return a fault's name in the vSphere API, with its keys or the property complained of."""
    name = str(getattr(type(fault), "_wsdlName", type(fault).__name__))
    notes = sorted(fault_keys(fault))
    if path := invalid_property(fault):
        notes.append(path)
    return f"{name} ({', '.join(notes)})" if notes else name


def translate(error: Exception, what: str, gone: ErrorKind, rules: tuple[FaultRule, ...]) -> DeltaferryError:
    """Return the taxonomy's error for a vSphere call's exception.

    `what` says which step failed, on what; `gone` is what a missing managed object means that is no VM or snapshot;
    `rules` come before the general ones, except for a full datastore and for what is said of the session itself.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        sentence = f"{what}: the server's certificate is not trusted ({error.verify_message}); check the site's CA file"
        return DeltaferryError(_K.VSPHERE_UNREACHABLE, sentence)
    if isinstance(error, NETWORK_ERRORS):
        return DeltaferryError(_K.VSPHERE_UNREACHABLE, f"{what}: {type(error).__name__}: {error}")
    if isinstance(error, vmodl.fault.ManagedObjectNotFound):
        kind = next((kind for of, kind in _GONE if isinstance(error.obj, of)), gone)
        return DeltaferryError(kind, f"{what}: vSphere no longer has {getattr(error.obj, '_moId', 'the object')}")
    kind = next((rule.kind for rule in (*_first(error), *rules, *GENERAL_RULES) if rule.matches(error)), _K.VSPHERE_FAULT)
    return DeltaferryError(kind, f"{what}: {fault_name(error)}{_explanation(error)}")


def _first(error: Exception) -> tuple[FaultRule, ...]:
    """Return the general rules that no special one may shadow: their faults are subtypes of what the special ones name."""
    special = (vim.fault.NoDiskSpace, vim.fault.TaskInProgress, vim.fault.ConcurrentAccess, vim.fault.ToolsUnavailable)
    return tuple(rule for rule in GENERAL_RULES if rule.fault in special)


def _explanation(fault: Exception) -> str:
    if isinstance(fault, vim.fault.NoPermission):
        privilege = fault.privilegeId or "not named by vSphere"
        return f": privilege {privilege} on {getattr(fault.object, '_moId', 'the object')}"
    message = getattr(fault, "msg", None)
    return f": {message}" if message else ""


@contextmanager
def vsphere_errors(what: str, *, gone: ErrorKind = _K.VSPHERE_FAULT, rules: tuple[FaultRule, ...] = ()) -> Iterator[None]:
    """Let no exception of pyVmomi or of the network leave the block: they leave as DeltaferryError."""
    try:
        yield
    except VSPHERE_ERRORS as error:
        raise translate(error, what, gone, rules) from error
