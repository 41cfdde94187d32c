"""From an instance UUID to vSphere's reference of the VM."""

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.properties import moref
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import ManagedObject


def by_uuid(session: Session, instance_uuid: str) -> list[ManagedObject]:
    """Return the VMs with an instance UUID. BIOS UUIDs are not unique (clones keep them) and never asked for."""
    return list(session.content().searchIndex.FindAllByUuid(None, instance_uuid, True, True) or ())


def locate(session: Session, instance_uuid: str) -> ManagedObject:
    """Return the VM with an instance UUID. Raises VM_NOT_FOUND, VM_AMBIGUOUS."""
    found = by_uuid(session, instance_uuid)
    if not found:
        raise DeltaferryError(ErrorKind.VM_NOT_FOUND, f"{session.endpoint.host} has no VM with the instance UUID {instance_uuid}")
    if len(found) > 1:
        names = ", ".join(sorted(moref(vm) for vm in found))
        raise DeltaferryError(ErrorKind.VM_AMBIGUOUS, f"several VMs have the instance UUID {instance_uuid}: {names}")
    return found[0]
