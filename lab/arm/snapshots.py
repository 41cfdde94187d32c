"""Microsoft.Compute/snapshots: copies of managed disks, full or incremental."""

import uuid

from lab.arm import disk_bytes
from lab.arm.calls import Call, Reply
from lab.arm.disk_access import DiskAccess
from lab.arm.disk_rules import check_shape, check_tags, check_update, create_option
from lab.arm.errors import ArmError, Json, bad_parameter, not_allowed, required
from lab.arm.operations import Operations, now_text
from lab.arm.resource_ids import ResourceId
from lab.arm.world import Resource, World


class Snapshots:
    """Serves snapshots."""

    type = "Microsoft.Compute/snapshots"

    def __init__(self, world: World, operations: Operations, access: DiskAccess) -> None:
        self._world, self._operations, self._access = world, operations, access

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Copy a disk; the bytes are those of the moment at which the operation does its work."""
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
        snapshot = self._new(resource_id, body, source, location)
        self._world.add(snapshot)
        source_file, file = source.file, snapshot.file
        if source_file is None or file is None:
            raise AssertionError("disks and snapshots have files")

        def commit() -> Json:
            snapshot.properties.update(provisioningState="Succeeded", diskState="Unattached", completionPercent=100.0)
            return snapshot.document()

        operation = self._operations.start(
            "snapshots.create",
            resource_id.key,
            location,
            work=lambda: disk_bytes.copy_sparse(source_file, file),
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
        document: Json = {
            "location": location,
            "tags": dict(body.get("tags") or {}),
            "sku": {"name": "Standard_LRS", "tier": "Standard"},
            "properties": properties,
        }
        return Resource(resource_id, self.type, document, self._world.directory / "disks" / f"{unique}.raw")
