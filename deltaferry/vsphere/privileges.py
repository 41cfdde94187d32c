"""Which vSphere privileges the adapter needs, from pyVmomi's own declaration of each method, and which are missing."""

from deltaferry.model.elsewhere import FoundPlace
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import ManagedObject, vim

_METHODS = (
    vim.VirtualMachine.CreateSnapshotEx,
    vim.vm.Snapshot.Remove,
    vim.VirtualMachine.ConsolidateDisks,
    vim.VirtualMachine.QueryChangedDiskAreas,
    vim.VirtualMachine.ShutdownGuest,
    vim.VirtualMachine.PowerOff,
    vim.VirtualMachine.PowerOn,
)
"""The methods called on a VM that a privilege protects; reading properties needs `System.Read` alone."""

_BY_EFFECT = (
    "System.Read",
    "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Config.DiskLease",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.Annotation",
    "VirtualMachine.Config.EditDevice",
)
"""What no method declares: ReconfigVM is checked by what it changes, and VDDK takes a lease on the disks that it reads."""


_FOR_FAILBACK = ("VirtualMachine.Provisioning.DiskRandomAccess",)
"""What writing to a disk through VDDK needs besides the lease on it (vSphere's own list of virtual machine privileges)."""

_ON_FOLDER = (
    "VirtualMachine.Inventory.Create",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.AddRemoveDevice",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.Annotation",
)
_ON_DATASTORE = ("Datastore.AllocateSpace",)
_ON_POOL = ("Resource.AssignVMToPool",)
_ON_NETWORK = ("Network.Assign",)
"""What making a VM at a place, and deleting it again, needs on each object of the place (vSphere API: CreateVM_Task)."""


def required_privileges() -> tuple[str, ...]:
    """Return the ids of all privileges that replication and migration need on a VM."""
    declared = {str(method.info.privId) for method in _METHODS if method.info.privId}
    return tuple(sorted(declared.union(_BY_EFFECT)))


def missing_privileges(session: Session, instance_uuid: str) -> tuple[str, ...]:
    """Return the ids of the privileges that the session's user lacks on a VM."""
    return _lacking(session, instance_uuid, required_privileges())


def missing_for_failback(session: Session, instance_uuid: str) -> tuple[str, ...]:
    """Return the ids of the privileges that failback needs besides, and that the session's user lacks on a VM."""
    return _lacking(session, instance_uuid, _FOR_FAILBACK)


def missing_for_place(session: Session, place: FoundPlace) -> tuple[tuple[str, str], ...]:
    """Return (privilege id, name of the object) of all that making a VM at a place needs and the session's user lacks there."""
    wanted: list[tuple[ManagedObject, str, tuple[str, ...]]] = []
    wanted += [(session.object(vim.Folder, one.moref), one.name, _ON_FOLDER) for one in place.folders]
    wanted += [(session.object(vim.Datastore, one.moref), one.name, _ON_DATASTORE) for one in place.datastores]
    wanted += [(session.object(vim.ResourcePool, one.moref), one.name, _ON_POOL) for one in place.pools]
    for network in place.networks:
        kind = vim.dvs.DistributedVirtualPortgroup if network.switch_uuid else vim.Network
        wanted.append((session.object(kind, network.moref), network.name, _ON_NETWORK))
    return tuple(
        (privilege, name) for entity, name, privileges in wanted for privilege in _lacking_on(session, entity, privileges)
    )


def _lacking(session: Session, instance_uuid: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    return _lacking_on(session, locate(session, instance_uuid), wanted)


def _lacking_on(session: Session, entity: ManagedObject, wanted: tuple[str, ...]) -> tuple[str, ...]:
    answers = session.content().authorizationManager.HasPrivilegeOnEntities([entity], session.key, list(wanted))
    granted = {item.privId for answer in answers or () for item in answer.privAvailability or () if item.isGranted}
    return tuple(privilege for privilege in wanted if privilege not in granted)
