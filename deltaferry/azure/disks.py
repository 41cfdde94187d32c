"""Managed disks: a seed's page blob imported whole, and deletion."""

from collections.abc import Mapping

from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.compute.models import CreationData, Disk, DiskCreateOption, DiskProperties, DiskSku

from deltaferry.azure.arm import ArmClients, carries, failed, require_tags, same_id
from deltaferry.azure.errors import arm_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import MIB, round_up
from deltaferry.ports.access import Beat
from deltaferry.ports.target_cloud import DiskImport, ImportedDisk


class ManagedDisks:
    """Managed disks of one subscription, imported from page blobs of one storage account.

    `storage_account_id` is the ARM id of the account that holds the seed disks: Import requires it beside the blob's
    URL, and reads the blob by the identity's rights on the account, so that no signature is passed.
    """

    def __init__(self, arm: ArmClients, storage_account_id: str) -> None:
        self._arm = arm
        self._storage_account_id = storage_account_id

    def read(self, resource_group: str, name: str) -> Disk | None:
        """Return a disk, or None."""
        with arm_errors(f"reading disk {name}"):
            try:
                return self._arm.compute.disks.get(resource_group, name)
            except ResourceNotFoundError:
                return None

    def import_blob(self, resource_group: str, spec: DiskImport, tags: Mapping[str, str], beat: Beat) -> ImportedDisk:
        """Import a page blob into a managed disk and wait until it is done.

        A disk of that name with these tags and from that blob is what an earlier attempt made: it is waited for and
        returned; one that failed is deleted first. Its bytes are the blob's of then, so the tags must name what may be
        shared by attempts and nothing more (the final cycle, say). Raises AZURE_CONFLICT.
        """
        existing = self._settled(resource_group, spec.name, beat)
        if existing is not None:
            require_tags(f"disk {spec.name}", existing.tags, tags)
            if failed(_state(existing)):
                self.delete(resource_group, spec.name, tags, beat)
            else:
                return _imported(existing, spec)
        disk = self._arm.run(
            f"importing disk {spec.name}",
            lambda polling: self._arm.compute.disks.begin_create_or_update(
                resource_group, spec.name, self._request(spec, tags), polling=polling
            ),
            beat,
        )
        return _imported(disk, spec)

    def delete(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a disk if it carries the tags; no-op if it does not, or is gone."""
        disk = self._settled(resource_group, name, beat)
        if disk is None or not carries(disk.tags, tags):
            return
        self._arm.run(
            f"deleting disk {name}",
            lambda polling: self._arm.compute.disks.begin_delete(resource_group, name, polling=polling),
            beat,
        )

    def _settled(self, resource_group: str, name: str, beat: Beat) -> Disk | None:
        return self._arm.settled(lambda: self.read(resource_group, name), _state, beat)

    def _request(self, spec: DiskImport, tags: Mapping[str, str]) -> Disk:
        properties = DiskProperties(
            creation_data=CreationData(
                create_option=DiskCreateOption.IMPORT,
                source_uri=spec.source_url,
                storage_account_id=self._storage_account_id,
            )
        )
        if spec.is_boot:
            properties.os_type = spec.os_type
            properties.hyper_v_generation = f"V{spec.generation}"
        return Disk(location=self._arm.settings.location, tags=dict(tags), sku=DiskSku(name=spec.sku), properties=properties)


def _state(disk: Disk) -> str | None:
    return disk.properties.provisioning_state if disk.properties else None


def _imported(disk: Disk, spec: DiskImport) -> ImportedDisk:
    """Return a finished disk after making sure that it is the one meant: that blob, and no smaller than the VM's disk."""
    source = disk.properties.creation_data.source_uri if disk.properties else None
    if source is not None and not same_id(source, spec.source_url):
        raise DeltaferryError(ErrorKind.AZURE_CONFLICT, f"disk {spec.name} exists and was imported from another blob")
    size_bytes = disk.properties.disk_size_bytes if disk.properties else None
    if size_bytes is not None and size_bytes < round_up(spec.capacity_bytes, MIB):
        raise DeltaferryError(
            ErrorKind.AZURE_FAILED,
            f"disk {spec.name} has {size_bytes} bytes after its import, the source has {spec.capacity_bytes}",
        )
    if not disk.id:
        raise DeltaferryError(ErrorKind.AZURE_FAILED, f"disk {spec.name} came without an id")
    return ImportedDisk(disk_key=spec.disk_key, resource_id=disk.id)
