"""Microsoft.Compute/snapshots: copies of managed disks, full or incremental."""

import time
import uuid

from lab.arm.calls import Call, Reply
from lab.arm.disk_access import DiskAccess
from lab.arm.disk_content import DiskContent
from lab.arm.disk_rules import check_shape, check_tags, check_update, create_option
from lab.arm.errors import ArmError, Json, bad_parameter, not_allowed, required
from lab.arm.limits import SnapshotTimes
from lab.arm.operations import Operations, now_text
from lab.arm.resource_ids import ResourceId, same
from lab.arm.world import Resource, World


class Snapshots:
    """Serves snapshots."""

    type = "Microsoft.Compute/snapshots"

    def __init__(self, world: World, operations: Operations, access: DiskAccess) -> None:
        self._world, self._operations, self._access = world, operations, access
        self._times = SnapshotTimes()

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Take a snapshot of a disk: its bytes are those of the moment at which the request is accepted."""
        option = create_option(body)
        check_shape(body)
        existing = self._world.find(resource_id)
        if existing is not None:
            check_update(existing.body, body)
            existing.body["tags"] = dict(body.get("tags") or {})
            running = self._operations.running(resource_id.key)
            return (
                self._operations.accepted(call, running, 202, existing.document()) if running else Reply(200, existing.document())
            )
        location = self._world.check_location(body.get("location"), self.type)
        resource_id.check_name()
        if option != "Copy":
            raise bad_parameter(f"The createOption '{option}' of snapshots is not known here.", "createOption")
        source = self._source(body["properties"]["creationData"], location)
        if body["properties"].get("incremental"):
            self._check_limits(source)
        snapshot = self._new(resource_id, body, source, location)
        self._world.add(snapshot)

        def commit() -> Json:
            snapshot.properties.update(provisioningState="Succeeded", diskState="Unattached", completionPercent=100.0)
            return snapshot.document()

        operation = self._operations.start(
            "snapshots.create",
            resource_id.key,
            location,
            commit=commit,
            fail=lambda: self._world.remove(snapshot),
        )
        return self._operations.accepted(call, operation, 202, snapshot.document())

    def patch(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Update tags."""
        snapshot = self._world.get(resource_id)
        check_tags(body.get("tags"))
        if body.get("tags") is not None:
            snapshot.body["tags"] = dict(body["tags"])
        return Reply(200, snapshot.document())

    def delete(self, resource_id: ResourceId, call: Call) -> Reply:
        """Delete a snapshot that is not accessed; later ones of its family stay whole."""
        snapshot = self._world.find(resource_id)
        if snapshot is None:
            return Reply(204)
        running = self._operations.running(resource_id.key)
        if running is not None:
            if running.action == "snapshots.delete":
                return self._operations.accepted(call, running)
            raise not_allowed(f"Snapshot {snapshot.id.leaf} cannot be deleted while another operation on it is in progress.")
        if snapshot.properties.get("diskState") == "ActiveSAS":
            raise not_allowed(
                f"There is an active shared access signature outstanding for snapshot {snapshot.id.leaf}. Call EndGetAccess first."
            )
        for disk in self._world.of_kind("disks"):
            source = disk.properties["creationData"].get("sourceResourceId")
            if disk.properties["provisioningState"] == "Creating" and same(source, str(snapshot.id)):
                raise not_allowed(
                    f"Snapshot {snapshot.id.leaf} cannot be deleted while disk {disk.id.leaf} is being copied from it."
                )
        operation = self._operations.start(
            "snapshots.delete", resource_id.key, snapshot.body["location"], commit=lambda: self._world.remove(snapshot)
        )
        return self._operations.accepted(call, operation)

    def action(self, resource_id: ResourceId, name: str, body: Json, call: Call) -> Reply:
        """Grant or revoke access."""
        snapshot = self._world.get(resource_id)
        if call.method == "POST" and name == "begingetaccess":
            if str(body.get("access")) == "Write":
                raise bad_parameter("Write access is not permitted for a snapshot.", "access")
            return self._access.begin(snapshot, body, call)
        if call.method == "POST" and name == "endgetaccess":
            return self._access.end(snapshot, call)
        raise ArmError(404, "InvalidResourceType", f"The action '{name}' is not known for {self.type}.")

    def _source(self, creation_data: Json, location: str) -> Resource:
        source_id = creation_data.get("sourceResourceId")
        if not source_id:
            raise required("snapshot.creationData.sourceResourceId")
        source = self._world.find(source_id)
        if source is None or source.id.kind != "disks":
            raise ArmError(404, "ResourceNotFound", f"The disk {source_id} was not found.")
        if source.body["location"] != location:
            raise bad_parameter("A snapshot must be in the region of its source.", "location")
        if source.properties["provisioningState"] != "Succeeded" or source.properties.get("diskState") in {
            "ReadyToUpload",
            "ActiveUpload",
        }:
            raise not_allowed(f"The disk {source_id} is not ready to be copied.")
        return source

    def _check_limits(self, source: Resource) -> None:
        """Refuse an incremental snapshot over the limits, by the codes that the storage service has for them.

        Which code Compute gives is not published; the Blob service's list of codes names exactly these two cases.
        """
        limits, disk = self._world.limits, source.properties["uniqueId"]
        if self._times.recent(disk, time.monotonic(), limits.window_s) >= limits.snapshots_per_window:
            raise ArmError(
                409,
                "SnapshotOperationRateExceeded",
                f"The rate of snapshot operations against disk {source.id.leaf} has been exceeded: "
                f"{limits.snapshots_per_window} in {limits.window_s:g} seconds.",
            )
        family = [
            one
            for one in self._world.of_kind("snapshots")
            if one.properties.get("incrementalSnapshotFamilyId") == source.properties["uniqueId"]
        ]
        if len(family) >= limits.snapshots_per_disk:
            raise ArmError(
                409,
                "SnapshotCountExceeded",
                f"The snapshot count against disk {source.id.leaf} has been exceeded: it has {len(family)} incremental snapshots.",
            )

    def _new(self, resource_id: ResourceId, body: Json, source: Resource, location: str) -> Resource:
        copied: Json = {
            name: source.properties[name]
            for name in ("osType", "hyperVGeneration", "diskSizeGB", "diskSizeBytes")
            if name in source.properties
        }
        incremental = bool(body["properties"].get("incremental", False))
        unique = uuid.uuid4()
        properties: Json = {
            **copied,
            "creationData": {
                "createOption": "Copy",
                "sourceResourceId": str(source.id),
                "sourceUniqueId": source.properties["uniqueId"],
            },
            "incremental": incremental,
            "completionPercent": 0.0,
            "provisioningState": "Creating",
            "timeCreated": now_text(),
            "uniqueId": str(unique),
        }
        if incremental:
            properties["incrementalSnapshotFamilyId"] = source.properties["uniqueId"]
            self._times.note(source.properties["uniqueId"], time.monotonic())
        if not isinstance(source.content, DiskContent):
            raise AssertionError("a disk has bytes")
        content = source.content.snapshot(self._world.directory / "disks" / f"{unique}.raw", source.properties["diskSizeBytes"])
        document: Json = {
            "location": location,
            "tags": dict(body.get("tags") or {}),
            "sku": {"name": "Standard_LRS", "tier": "Standard"},
            "properties": properties,
        }
        return Resource(resource_id, self.type, document, content)
