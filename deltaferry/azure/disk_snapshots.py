"""Incremental snapshots of managed disks: taken once by name, read through signatures, deleted by tags.

Azure's rules (facts A2): at most 5 snapshots of one disk with a signature at a time, 7 new ones in 5 minutes, 500 in all;
differences only between snapshots of one disk. Failback needs two at a time, the base and the new one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.compute.models import (
    CreationData,
    DiskCreateOption,
    GrantAccessData,
    Snapshot,
    SnapshotProperties,
    SnapshotSku,
)

from deltaferry.azure.arm import ArmClients, carries, failed, require_tags, same_id
from deltaferry.azure.errors import arm_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat, BlobAccess, SnapshotAccess
from deltaferry.ports.failback import DiskSnapshot

_STANDARD = "Standard_LRS"
"""Incremental snapshots lie on standard storage, whatever the disk is."""

_WHOLE_PERCENT = 100.0
_CREATION_CODES: Mapping[str, ErrorKind] = {
    "SnapshotCountExceeded": ErrorKind.AZURE_QUOTA,
    "SnapshotOperationRateExceeded": ErrorKind.AZURE_THROTTLED,
    "PendingCopyOperation": ErrorKind.AZURE_THROTTLED,
}
"""What the limits of snapshots are refused with: the count is a person's to mend, the others pass."""


class DiskSnapshots:
    """Snapshots of one subscription. Safe to use from several threads. Signatures never leave in an error or a log."""

    def __init__(self, arm: ArmClients) -> None:
        self._arm = arm

    def take(self, resource_group: str, name: str, disk_id: str, tags: Mapping[str, str], beat: Beat) -> DiskSnapshot:
        """Return the incremental snapshot of that name once it can be read, taking it unless an earlier attempt has.

        One that failed is deleted first. Raises AZURE_CONFLICT, AZURE_QUOTA for too many, AZURE_THROTTLED for too many at once.
        """
        existing = self._settled(resource_group, name, beat)
        if existing is not None:
            require_tags(f"snapshot {name}", existing.tags, tags)
            if failed(_state(existing)):
                self.delete(resource_group, name, tags, beat)
                existing = None
        if existing is None:
            self._arm.run(
                f"taking snapshot {name}",
                lambda polling: self._arm.compute.snapshots.begin_create_or_update(
                    resource_group, name, self._request(disk_id, tags), polling=polling
                ),
                beat,
                _CREATION_CODES,
            )
        taken = self._complete(resource_group, name, beat)
        if not same_id(taken.disk_id, disk_id):
            raise DeltaferryError(ErrorKind.AZURE_CONFLICT, f"snapshot {name} exists and is of another disk")
        return taken

    def list(self, resource_group: str, tags: Mapping[str, str], beat: Beat) -> tuple[DiskSnapshot, ...]:
        """Return the snapshots that carry these tags, oldest first; none of a group that does not exist."""
        found = []
        with arm_errors(f"listing the snapshots of resource group {resource_group}"):
            try:
                for snapshot in self._arm.compute.snapshots.list_by_resource_group(resource_group):
                    beat()
                    if carries(snapshot.tags, tags):
                        found.append(_described(snapshot))
            except ResourceNotFoundError:
                return ()
        return tuple(sorted(found, key=lambda snapshot: (snapshot.taken_at, snapshot.name)))

    def delete(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """End all access to a snapshot and delete it; no-op if it is gone, or carries other tags."""
        snapshot = self._settled(resource_group, name, beat)
        if snapshot is None or not carries(snapshot.tags, tags):
            return
        self._revoke(resource_group, name, beat)
        self._arm.run(
            f"deleting snapshot {name}",
            lambda polling: self._arm.compute.snapshots.begin_delete(resource_group, name, polling=polling),
            beat,
        )

    @contextmanager
    def opened(
        self, resource_group: str, names: Sequence[str], lifetime: timedelta, beat: Beat
    ) -> Iterator[Mapping[str, SnapshotAccess]]:
        """Grant read access to snapshots until the context ends; a failure to end it is the next attempt's to mend."""
        granted: dict[str, SnapshotAccess] = {}
        try:
            for name in names:
                granted[name] = self._grant(resource_group, name, lifetime, beat)
            yield granted
        finally:
            for name in granted:
                self._revoke(resource_group, name, _no_beat)

    def _grant(self, resource_group: str, name: str, lifetime: timedelta, beat: Beat) -> SnapshotAccess:
        request = GrantAccessData(access="Read", duration_in_seconds=int(lifetime.total_seconds()))
        answer: Any = self._arm.run(
            f"granting access to snapshot {name}",
            lambda polling: self._arm.compute.snapshots.begin_grant_access(resource_group, name, request, polling=polling),
            beat,
        )
        # Without a Location header the SDK leaves the signature where the operation's reply had it (facts 0.5).
        url = answer.access_sas or answer["properties"]["output"]["accessSAS"]
        parts = urlsplit(url)
        place, _, blob = f"{parts.scheme}://{parts.netloc}{parts.path}".rpartition("/")
        return SnapshotAccess(BlobAccess(place, parts.query, self._arm.settings.ca_file), blob)

    def _revoke(self, resource_group: str, name: str, beat: Beat) -> None:
        self._arm.run(
            f"ending access to snapshot {name}",
            lambda polling: self._arm.compute.snapshots.begin_revoke_access(resource_group, name, polling=polling),
            beat,
        )

    def _complete(self, resource_group: str, name: str, beat: Beat) -> DiskSnapshot:
        """Return a snapshot once all of it is copied: those of Premium v2 and Ultra disks cannot be read before."""
        while True:
            snapshot = self._settled(resource_group, name, beat)
            if snapshot is None or snapshot.properties is None:
                raise DeltaferryError(ErrorKind.AZURE_NOT_FOUND, f"snapshot {name} was deleted as soon as it was taken")
            if failed(_state(snapshot)):
                raise DeltaferryError(ErrorKind.AZURE_FAILED, f"Azure could not complete snapshot {name}")
            percent = snapshot.properties.completion_percent
            if percent is None or percent >= _WHOLE_PERCENT:
                return _described(snapshot)
            self._arm.pause(beat)

    def _settled(self, resource_group: str, name: str, beat: Beat) -> Snapshot | None:
        return self._arm.settled(lambda: self._read(resource_group, name), _state, beat)

    def _read(self, resource_group: str, name: str) -> Snapshot | None:
        with arm_errors(f"reading snapshot {name}"):
            try:
                return self._arm.compute.snapshots.get(resource_group, name)
            except ResourceNotFoundError:
                return None

    def _request(self, disk_id: str, tags: Mapping[str, str]) -> Snapshot:
        source = CreationData(create_option=DiskCreateOption.COPY, source_resource_id=disk_id)
        return Snapshot(
            location=self._arm.settings.location,
            tags=dict(tags),
            sku=SnapshotSku(name=_STANDARD),
            properties=SnapshotProperties(creation_data=source, incremental=True),
        )


def _no_beat() -> None:
    """Wait to the end: what was granted is taken back whatever ended the work."""


def _state(snapshot: Snapshot) -> str | None:
    return snapshot.properties.provisioning_state if snapshot.properties else None


def _described(snapshot: Snapshot) -> DiskSnapshot:
    properties = snapshot.properties
    created: datetime | None = properties.time_created if properties else None
    source = properties.creation_data.source_resource_id if properties and properties.creation_data else None
    return DiskSnapshot(snapshot.name or "", source or "", created or datetime.now(UTC), dict(snapshot.tags or {}))
