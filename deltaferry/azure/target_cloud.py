"""`TargetCloud` on Azure: which resource is made, looked for and deleted in which order."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

from deltaferry.azure.arm import ArmClients, carries
from deltaferry.azure.disk_snapshots import DiskSnapshots
from deltaferry.azure.disks import ManagedDisks
from deltaferry.azure.network import Networks
from deltaferry.azure.owned import list_owned
from deltaferry.azure.page_ranges import PageRangeReader
from deltaferry.azure.virtual_machines import VirtualMachines
from deltaferry.azure.vm_power import FailedOverVms
from deltaferry.model.audit import SeenResource
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.ports.access import Beat, SnapshotAccess
from deltaferry.ports.failback import DiskSnapshot, TargetVmDisks
from deltaferry.ports.recovery import PageRange
from deltaferry.ports.target_cloud import DiskImport, ImportedDisk, TargetVm, TargetVmSpec, VmNetwork


class AzureTarget:
    """One target: a subscription and location, and the account whose seeds are imported. Safe to use from several threads."""

    def __init__(self, arm: ArmClients, storage_account_id: str) -> None:
        self._arm = arm
        self._disks = ManagedDisks(arm, storage_account_id)
        self._networks = Networks(arm)
        self._vms = VirtualMachines(arm)
        self._failed_over = FailedOverVms(arm, self._vms, self._disks)
        self._snapshots = DiskSnapshots(arm)
        self._pages = PageRangeReader(ca_file=arm.settings.ca_file, retries=arm.settings.retries)

    def missing(self, resource_group: str, network: str, subnet: str) -> tuple[str, ...]:
        """Return a sentence for each of these that does not exist; what lies in something missing is not listed again."""
        sentences = []
        if not self._vms.group_exists(resource_group):
            sentences.append(
                f"Resource group {resource_group} does not exist in subscription {self._arm.settings.subscription_id}."
            )
            if not network.startswith("/"):
                return tuple(sentences)
        ref = self._networks.resolve(resource_group, network)
        if not self._networks.network_exists(ref):
            sentences.append(f"Virtual network {ref.name} does not exist in resource group {ref.resource_group}.")
        elif self._networks.find_subnet(ref, subnet) is None:
            sentences.append(f"Virtual network {ref.name} has no subnet {subnet}.")
        return tuple(sentences)

    def same_network(self, first: VmNetwork, second: VmNetwork) -> bool:
        """Return whether two VMs would be in the same virtual network, however it is named."""
        one, other = (self._networks.resolve(at.resource_group, at.network) for at in (first, second))
        return one.key == other.key

    def vm_exists(self, resource_group: str, name: str, tags: Mapping[str, str]) -> bool:
        """Return whether a VM of that name exists that does not carry these tags."""
        vm = self._vms.read(resource_group, name)
        return vm is not None and not carries(vm.tags, tags)

    def import_disk(self, resource_group: str, spec: DiskImport, tags: Mapping[str, str], beat: Beat) -> ImportedDisk:
        """Import a page blob into a managed disk and wait until it is done."""
        return self._disks.import_blob(resource_group, spec, tags, beat)

    def create_vm(self, resource_group: str, spec: TargetVmSpec, tags: Mapping[str, str], beat: Beat) -> TargetVm:
        """Create NIC and VM and wait until the VM runs.

        Whether the VM's name is free is asked before the NIC is made. A NIC that is in place is set to the wanted subnet.
        """
        self._vms.find_own(resource_group, spec.name, tags, beat)
        os_type = self._os_type(resource_group, spec)
        nic_id = self._networks.create_nic(resource_group, spec.name, spec.network, spec.subnet, tags, beat)
        vm = self._vms.create(resource_group, spec, os_type, nic_id, tags, beat)
        return self._vms.await_running(resource_group, vm, beat)

    def list_owned(self, resource_group: str, installation: str, beat: Beat) -> tuple[SeenResource, ...]:
        """Return the disks, disk snapshots and network interfaces of a resource group that carry an installation's tags."""
        return list_owned(self._arm, resource_group, installation, beat)

    def delete_disk(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a managed disk if it carries the tags; no-op if it does not, or is gone."""
        self._disks.delete(resource_group, name, tags, beat)

    def delete_vm(self, resource_group: str, name: str, disks: Sequence[str], tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a VM, its NIC and the disks of these names, as far as they carry the tags; no-op for what is gone."""
        self._vms.delete(resource_group, name, tags, beat)
        self._networks.delete_nic(resource_group, name, tags, beat)
        for disk in disks:
            self._disks.delete(resource_group, disk.rpartition("/")[2], tags, beat)

    def read_target_vm(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> TargetVmDisks:
        """Return a VM of ours with its disks."""
        return self._failed_over.read(resource_group, name, tags, beat)

    def deallocate(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Stop a VM of ours and give its host back."""
        self._failed_over.deallocate(resource_group, name, tags, beat)

    def start(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Start a VM of ours and wait until it runs."""
        self._failed_over.start(resource_group, name, tags, beat)

    def take_disk_snapshot(
        self, resource_group: str, name: str, disk_id: str, tags: Mapping[str, str], beat: Beat
    ) -> DiskSnapshot:
        """Return the incremental snapshot of that name, taking it unless it exists."""
        return self._snapshots.take(resource_group, name, disk_id, tags, beat)

    def list_disk_snapshots(self, resource_group: str, tags: Mapping[str, str], beat: Beat) -> tuple[DiskSnapshot, ...]:
        """Return the snapshots that carry these tags, oldest first."""
        return self._snapshots.list(resource_group, tags, beat)

    def delete_disk_snapshot(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """End all access to a snapshot and delete it."""
        self._snapshots.delete(resource_group, name, tags, beat)

    def open_disk_snapshots(
        self, resource_group: str, names: Sequence[str], lifetime: timedelta, beat: Beat
    ) -> AbstractContextManager[Mapping[str, SnapshotAccess]]:
        """Grant read access to snapshots until the context ends."""
        return self._snapshots.opened(resource_group, names, lifetime, beat)

    def pages(self, snapshot: SnapshotAccess, previous: SnapshotAccess | None, span: Extent) -> Iterator[PageRange]:
        """Yield the pages inside `span` that a snapshot holds, or that differ from an earlier one, in order."""
        return self._pages.of_managed_disk(snapshot.signed_url, previous.signed_url if previous else None, span)

    def _os_type(self, resource_group: str, spec: TargetVmSpec) -> str:
        """Return the boot disk's operating system: it was set at its import, and attaching it must repeat it."""
        name = spec.os_disk.resource_id.rpartition("/")[2]
        disk = self._disks.read(resource_group, name)
        if disk is None or disk.properties is None or disk.properties.os_type is None:
            raise DeltaferryError(
                ErrorKind.AZURE_NOT_FOUND, f"boot disk {name} of VM {spec.name} does not exist, or has no system"
            )
        return str(getattr(disk.properties.os_type, "value", disk.properties.os_type))
