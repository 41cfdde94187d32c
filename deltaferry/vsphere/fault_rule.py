"""How a row of the vSphere fault table recognises a fault: by type, message keys, property and object, never by text."""

from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from xml.parsers.expat import ExpatError

from deltaferry.model.faults import FaultRow
from deltaferry.vsphere.vocabulary import vmodl

NETWORK_ERRORS: tuple[type[Exception], ...] = (OSError, HTTPException, ExpatError)
"""What the SOAP stub raises when no SOAP answer came: refused, reset, timed out, not HTTP 200/500, or not XML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule(FaultRow):
    """One row: a fault type (and its subtypes), optionally narrowed."""

    fault: type[Exception]
    method: str = ""
    """The WSDL name of the call that meets it; empty means any."""
    keys: frozenset[str] = frozenset()
    """Any of these in `faultMessage[].key`; empty means any message."""
    properties: frozenset[str] = frozenset()
    """Any of these as the last name of `invalidProperty`; empty means any property."""
    names: Any = None
    """The type of the object that ManagedObjectNotFound names; None means any."""
    when: str = ""
    """What else must be so, found out by looking: such a row is chosen by the code that looks, and never by the fault alone."""
    first: bool = False
    """No row of a call may shadow it: its fault is a subtype of what those name."""

    def matches(self, fault: Exception) -> bool:
        """Return whether the row speaks of this fault."""
        if self.when or not isinstance(fault, self.fault):
            return False
        if self.keys and self.keys.isdisjoint(fault_keys(fault)):
            return False
        if self.names is not None and not isinstance(getattr(fault, "obj", None), self.names):
            return False
        return not self.properties or invalid_property(fault) in self.properties


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
