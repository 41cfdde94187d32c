"""Merging delta disks that a removed snapshot left behind."""

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat
from deltaferry.vsphere.errors import CONSOLIDATION_RULES, vsphere_errors
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import read_object
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import MERGING_TASKS, wait_for_running, wait_for_task, wait_for_value
from deltaferry.vsphere.vocabulary import ManagedObject

_NEEDED = "runtime.consolidationNeeded"

SETTLE_S = 15.0
"""How long after its task vSphere may take to say that consolidation is no longer needed."""


def consolidate(session: Session, instance_uuid: str, beat: Beat, settle_s: float = SETTLE_S) -> None:
    """Consolidate the VM's disks if vSphere says that it is needed, and wait until it no longer says so.

    What another caller, or an earlier attempt, is merging already is waited for first. Raises CONSOLIDATION_STUCK,
    VSPHERE_BUSY, DATASTORE_FULL.
    """
    vm = locate(session, instance_uuid)
    wait_for_running(session, vm, MERGING_TASKS, beat)
    if not _needed(session, vm):
        return
    with vsphere_errors(f"consolidating the disks of VM {instance_uuid}", rules=CONSOLIDATION_RULES):
        wait_for_task(session, vm.ConsolidateVMDisks_Task(), beat)
    if not wait_for_value(session, vm, _NEEDED, False, beat, settle_s):
        raise DeltaferryError(
            ErrorKind.CONSOLIDATION_STUCK,
            f"VM {instance_uuid} still needs consolidation {settle_s:.0f} s after its disks were consolidated",
        )


def _needed(session: Session, vm: ManagedObject) -> bool:
    return bool(read_object(session, vm, [_NEEDED]).get(_NEEDED))
