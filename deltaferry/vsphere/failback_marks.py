"""The failback mark: an extraConfig entry that says that a VM's disks are being written from Azure, changed by compare-and-set.

vSphere has no lock that outlives a connection. What keeps the VM off between two writes is this mark, which every power-on
and snapshot of ours asks for, and the annotation, which people read.
"""

from typing import Any

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import FAILBACK_KEY
from deltaferry.model.vm import Claim
from deltaferry.vsphere.claims import extra_value
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import ObjectProperties, read_object
from deltaferry.vsphere.reconfiguring import reconfigure
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import no_beat
from deltaferry.vsphere.vocabulary import ManagedObject, vim

_PATHS = ("config.extraConfig", "config.annotation")


def mark_failback(session: Session, instance_uuid: str, holder: Claim, line: str) -> None:
    """Mark the VM and add the line, in one reconfiguration. Raises ALREADY_PROTECTED where another's mark stands."""

    def decide(row: ObjectProperties) -> Any | None:
        present, lines = _mark(row), _lines(row)
        if present not in ("", _value(holder)):
            raise DeltaferryError(
                ErrorKind.ALREADY_PROTECTED, f"VM {instance_uuid} is marked for failback by {present} ({FAILBACK_KEY})"
            )
        if present and line in lines:
            return None
        wanted = lines if line in lines else [*lines, line]
        return vim.vm.ConfigSpec(extraConfig=[_entry(_value(holder))], annotation="\n".join(wanted))

    reconfigure(session, locate(session, instance_uuid), _PATHS, decide, no_beat)


def unmark_failback(session: Session, instance_uuid: str, holder: Claim, line: str) -> None:
    """Take the mark and the line away; no-op without a mark of this holder."""

    def decide(row: ObjectProperties) -> Any | None:
        if _mark(row) != _value(holder):
            return None
        rest = [present for present in _lines(row) if present != line]
        return vim.vm.ConfigSpec(extraConfig=[_entry("")], annotation="\n".join(rest))

    reconfigure(session, locate(session, instance_uuid), _PATHS, decide, no_beat)


def require_unmarked(session: Session, vm: ManagedObject, what: str) -> None:
    """Raise OPERATION_REFUSED while the VM carries anybody's mark; `what` says what is refused."""
    present = _mark(read_object(session, vm, _PATHS[:1]))
    if present:
        raise DeltaferryError(
            ErrorKind.OPERATION_REFUSED,
            f"{what} is refused: the VM's disks are being written from Azure for the failback of {present} ({FAILBACK_KEY})",
        )


def _mark(row: ObjectProperties) -> str:
    return extra_value(row.get("config.extraConfig") or (), FAILBACK_KEY)


def _lines(row: ObjectProperties) -> list[str]:
    return str(row.get("config.annotation") or "").splitlines()


def _value(holder: Claim) -> str:
    return f"{holder.installation}/{holder.replication_id}"


def _entry(value: str) -> Any:
    return vim.option.OptionValue(key=FAILBACK_KEY, value=value)
