"""What the fault tables of vSphere and Azure have in common: a row, and the classes of what the system does about a fault.

The rows are in `deltaferry/vsphere/fault_table.py`, `deltaferry/model/store_faults.py` and `deltaferry/azure/fault_table.py`;
the adapters translate by them, docs/faults.md shows them, and each one's name is that of a lab fault.
"""

from dataclasses import dataclass
from enum import StrEnum

from deltaferry.model.errors import CATALOGUE, ErrorKind


class FaultClass(StrEnum):
    """What the system does about a fault by itself."""

    RETRY = "retry"
    """The step is tried again, after the catalogue's or the server's pause."""
    RE_LOGIN = "re-login"
    """A new session, token or signature is made, and the call or the step is tried again with it."""
    RE_READ_HOST = "re-read host"
    """The step is tried again after reading anew which ESXi host runs the VM."""
    REPAIR = "repair"
    """The cycle fails; the next one starts from the last committed change ids and repairs it."""
    RESYNC = "resync"
    """No delta can mend it: the replication is marked for resync at once."""
    RESET_CBT = "reset CBT"
    """As resync, after change block tracking was reset."""
    FALL_BACK = "fall back"
    """The step goes on in a way that does not need what is missing."""
    SETTLED = "settled"
    """What was asked for is so already: the call succeeds."""
    OPERATOR = "operator"
    """Somebody must act; until then the step waits for it with long pauses, or the cycle fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """One row of a fault table."""

    name: str
    """The row's name, unique in its table; the lab fault that provokes it has the same one."""
    meaning: str
    answer: FaultClass
    kind: ErrorKind | None
    """What the fault leaves the adapter as; None where it never leaves as an error."""
    remedy: str = ""
    """What a person can do; empty means the catalogue's remedy of the kind."""

    @property
    def advice(self) -> str:
        """The remedy to show."""
        if self.remedy:
            return self.remedy
        return CATALOGUE[self.kind].remedy if self.kind is not None else "Nothing."
