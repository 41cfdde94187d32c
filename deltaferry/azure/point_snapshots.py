"""The blob snapshots that recovery points are made of: whose each one is, by the metadata that it was taken with."""

from collections.abc import Iterator
from dataclasses import dataclass

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobProperties

from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.naming import disk_of_seed, seed_name
from deltaferry.model.recovery_points import PointDisk, RecoveryPointRecord


@dataclass(frozen=True, slots=True)
class MarkedSnapshot:
    """A snapshot of a seed disk that a cycle took."""

    disk_key: int
    snapshot: str
    cycle_key: str
    number: int
    """The seal under which it was taken."""
    size_bytes: int

    def belongs_to(self, point: RecoveryPointRecord, disk: PointDisk) -> bool:
        """Return whether it is a point's own snapshot of a disk."""
        own = (self.disk_key, self.snapshot, self.cycle_key, self.number)
        return own == (disk.disk_key, disk.snapshot, point.cycle_key, point.fence)


def metadata_of(properties: BlobProperties) -> dict[str, str]:
    """Return metadata with lower-case names: HTTP headers carry them, and proxies may change their case."""
    return {str(key).lower(): str(value) for key, value in (properties.metadata or {}).items()}


def list_snapshots(seeds: PageBlobSeeds, container: str) -> Iterator[MarkedSnapshot]:
    """Yield the snapshots of all seeds that a cycle took; none for a missing container. Others' snapshots are left out."""
    with seeds.account.errors(f"listing the snapshots of {container}"):
        try:
            listed = seeds.account.client.get_container_client(container).list_blobs(
                name_starts_with="disk-", include=["snapshots", "metadata"]
            )
            for item in listed:
                marked = _marked(str(item.name), str(item.snapshot or ""), item)
                if marked is not None:
                    yield marked
        except ResourceNotFoundError:
            return


def read_snapshot(seeds: PageBlobSeeds, container: str, disk: PointDisk) -> MarkedSnapshot | None:
    """Return one snapshot, or None if it is gone or no cycle took it."""
    name = seed_name(disk.disk_key)
    with seeds.account.errors(f"reading snapshot {disk.snapshot} of {container}/{name}"):
        try:
            properties = seeds.account.client.get_blob_client(container, name, disk.snapshot).get_blob_properties()
        except ResourceNotFoundError:
            return None
    return _marked(name, disk.snapshot, properties)


def _marked(name: str, snapshot: str, properties: BlobProperties) -> MarkedSnapshot | None:
    disk_key, metadata = disk_of_seed(name), metadata_of(properties)
    cycle_key, number = metadata.get("cycle", ""), metadata.get("seal", "")
    if disk_key is None or not snapshot or not cycle_key or not number.isdecimal():
        return None
    return MarkedSnapshot(disk_key, snapshot, cycle_key, int(number), properties.size)
