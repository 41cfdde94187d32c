"""The cloud that the VM is made in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deltaferry.model.audit import SeenResource
from deltaferry.ports.access import Beat


@dataclass(frozen=True, slots=True)
class ImportedDisk:
    """A managed disk that a seed was imported into."""

    disk_key: int
    resource_id: str


@dataclass(frozen=True, slots=True)
class DiskImport:
    """What to import: a whole page blob, by its URL, into a new managed disk."""

    disk_key: int
    name: str
    source_url: str
    capacity_bytes: int
    """The VM disk's size; the managed disk's is this rounded up to a whole MiB."""
    is_boot: bool
    generation: int
    os_type: str
    """`Linux` or `Windows`."""
    sku: str


@dataclass(frozen=True, slots=True)
class TargetVmSpec:
    """The VM to create from imported disks."""

    name: str
    size: str
    os_disk: ImportedDisk
    data_disks: tuple[ImportedDisk, ...]
    network: str
    subnet: str
    zone: str | None
    license_type: str | None


@dataclass(frozen=True, slots=True)
class TargetVm:
    """A VM in Azure."""

    resource_id: str
    running: bool


@dataclass(frozen=True, slots=True)
class VmNetwork:
    """The virtual network of a VM as its settings name it: by its name in the VM's resource group, or by its resource id."""

    resource_group: str
    network: str


class TargetCloud(Protocol):
    """Azure Resource Manager for one target: a subscription, resource group and location.

    Everything it creates carries the tags given; a resource of that name with other tags raises AZURE_CONFLICT.
    Creating again what exists with the same tags returns it.
    """

    def missing(self, resource_group: str, network: str, subnet: str) -> tuple[str, ...]:
        """Return a sentence for each of these that does not exist."""

    def same_network(self, first: VmNetwork, second: VmNetwork) -> bool:
        """Return whether two VMs would be in the same virtual network, however it is named: by name or by resource id.

        Raises BAD_INPUT for the id of something else.
        """

    def vm_exists(self, resource_group: str, name: str, tags: Mapping[str, str]) -> bool:
        """Return whether a VM of that name exists that does not carry these tags."""

    def import_disk(self, resource_group: str, spec: DiskImport, tags: Mapping[str, str], beat: Beat) -> ImportedDisk:
        """Import a page blob into a managed disk and wait until it is done."""

    def create_vm(self, resource_group: str, spec: TargetVmSpec, tags: Mapping[str, str], beat: Beat) -> TargetVm:
        """Create NIC and VM and wait until the VM runs."""

    def list_owned(self, resource_group: str, installation: str, beat: Beat) -> tuple[SeenResource, ...]:
        """Return the disks, disk snapshots, network interfaces and VMs of a resource group that carry an installation's tags.

        None of a resource group that does not exist.
        """

    def delete_disk(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a managed disk if it carries the tags; no-op if it does not, or is gone. Raises for one that a VM has."""

    def delete_vm(self, resource_group: str, name: str, disks: Sequence[str], tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a VM, its NIC and the named disks, as far as they carry the tags; no-op for what is gone."""
