"""From what goes wrong in vSphere to the taxonomy: by the fault table's rows, read from top to bottom, never by text."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.call_faults import CHANGED_AREAS_RULES, CONSOLIDATION_RULES, QUIESCE_RULES, SNAPSHOT_RULES
from deltaferry.vsphere.fault_rule import NETWORK_ERRORS, FaultRule, fault_keys, invalid_property
from deltaferry.vsphere.fault_table import GENERAL_RULES
from deltaferry.vsphere.vocabulary import vim, vmodl

__all__ = [
    "CHANGED_AREAS_RULES",
    "CONSOLIDATION_RULES",
    "NETWORK_ERRORS",
    "QUIESCE_RULES",
    "SNAPSHOT_RULES",
    "VSPHERE_ERRORS",
    "FaultRule",
    "fault_name",
    "invalid_property",
    "translate",
    "vsphere_errors",
]

VSPHERE_ERRORS: tuple[type[Exception], ...] = (*NETWORK_ERRORS, vmodl.MethodFault)
"""Everything that a vSphere call raises."""

_K = ErrorKind


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
    kind = _row(error, rules).kind or _K.VSPHERE_FAULT
    if isinstance(error, NETWORK_ERRORS):
        return DeltaferryError(kind, f"{what}: {type(error).__name__}: {error}")
    if isinstance(error, vmodl.fault.ManagedObjectNotFound):
        named = isinstance(error.obj, (vim.VirtualMachine, vim.vm.Snapshot))
        gone_kind = kind if named else gone
        return DeltaferryError(gone_kind, f"{what}: vSphere no longer has {getattr(error.obj, '_moId', 'the object')}")
    return DeltaferryError(kind, f"{what}: {fault_name(error)}{_explanation(error)}")


def _row(error: Exception, rules: tuple[FaultRule, ...]) -> FaultRule:
    """Return the first row that speaks of an error; the table's last one speaks of every fault."""
    unshadowed = tuple(rule for rule in GENERAL_RULES if rule.first)
    for rule in (*unshadowed, *rules, *GENERAL_RULES):
        if rule.matches(error):
            return rule
    return GENERAL_RULES[-1]


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
