"""What of ours lies in a resource group, by its tags: disks, disk snapshots, network interfaces and virtual machines."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from azure.core.exceptions import ResourceNotFoundError

from deltaferry.azure.arm import ArmClients, carries
from deltaferry.azure.errors import arm_errors
from deltaferry.model.audit import ResourceKind, SeenResource
from deltaferry.model.naming import INSTALLATION_TAG, JOB_TAG, REPLICATION_TAG, Owner
from deltaferry.ports.access import Beat

_OPEN = frozenset({"activesas", "activesasfrozen", "activeupload"})
"""States of a disk or snapshot whose bytes somebody may reach by a signature (Compute API, DiskState)."""


def list_owned(arm: ArmClients, resource_group: str, installation: str, beat: Beat) -> tuple[SeenResource, ...]:
    """Return what carries an installation's tags; nothing of a group that does not exist."""
    compute, network = arm.compute, arm.network
    with arm_errors(f"listing the disks of resource group {resource_group}"):
        try:
            disks = _ours(compute.disks.list_by_resource_group(resource_group), installation, beat)
            found = [_stored(ResourceKind.DISK, disk, owner) for disk, owner in disks]
            snapshots = _ours(compute.snapshots.list_by_resource_group(resource_group), installation, beat)
            found += [_stored(ResourceKind.DISK_SNAPSHOT, snapshot, owner) for snapshot, owner in snapshots]
            vms = _ours(compute.virtual_machines.list(resource_group), installation, beat)
            found += [_machine(vm, owner) for vm, owner in vms]
        except ResourceNotFoundError:
            return ()
    with arm_errors(f"listing the network interfaces of resource group {resource_group}"):
        nics = _ours(network.network_interfaces.list(resource_group), installation, beat)
        found += [_interface(nic, owner) for nic, owner in nics]
    return tuple(found)


def _ours(resources: Iterable[Any], installation: str, beat: Beat) -> Iterator[tuple[Any, Owner]]:
    for resource in resources:
        beat()
        replication_id = _tag(resource.tags, REPLICATION_TAG)
        if replication_id and resource.id and carries(resource.tags, {INSTALLATION_TAG: installation}):
            yield resource, Owner(installation, replication_id)


def _tag(tags: Mapping[str, str] | None, name: str) -> str:
    """Return a tag's value; Azure ignores the case of its name."""
    return next((value for key, value in (tags or {}).items() if key.lower() == name), "")


def _stored(kind: ResourceKind, resource: Any, owner: Owner) -> SeenResource:
    properties = resource.properties
    created: datetime | None = properties.time_created if properties else None
    state = str(getattr(properties.disk_state, "value", properties.disk_state) or "") if properties else ""
    return SeenResource(
        kind=kind,
        resource_id=resource.id,
        owner=owner,
        created_at=created,
        in_use=bool(getattr(resource, "managed_by", None)),
        open_access=state.lower() in _OPEN,
        job=_tag(resource.tags, JOB_TAG),
    )


def _machine(vm: Any, owner: Owner) -> SeenResource:
    created: datetime | None = vm.properties.time_created if vm.properties else None
    return SeenResource(ResourceKind.VIRTUAL_MACHINE, vm.id, owner, created, True, job=_tag(vm.tags, JOB_TAG))


def _interface(nic: Any, owner: Owner) -> SeenResource:
    in_use = nic.properties is not None and nic.properties.virtual_machine is not None
    return SeenResource(ResourceKind.NETWORK_INTERFACE, nic.id, owner, None, in_use, job=_tag(nic.tags, JOB_TAG))
