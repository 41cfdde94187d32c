"""Microsoft.Compute/disks: create (Empty, Import, Upload, Copy), update, delete, access."""

import ssl
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.arm import disk_bytes
from lab.arm.blob_import import PageBlob
from lab.arm.calls import Call, Reply
from lab.arm.disk_access import DiskAccess
from lab.arm.disk_content import DiskContent
from lab.arm.disk_rules import (
    GIB,
    SKUS,
    check_shape,
    check_size_gib,
    check_tags,
    check_update,
    check_upload_size,
    create_option,
)
from lab.arm.errors import ArmError, Json, bad_parameter, not_allowed, required
from lab.arm.operations import Operations, Work, now_text
from lab.arm.resource_ids import ResourceId
from lab.arm.vhd import FOOTER_BYTES
from lab.arm.world import Resource, StorageAccount, World, normal_location


@dataclass(slots=True)
class _Creation:
    """What to do for a new disk, decided before it is accepted; `size_bytes` of an import is known when it is read."""

    file: Path
    work: Work
    size_bytes: int = 0


class Disks:
    """Serves disks."""

    type = "Microsoft.Compute/disks"

    def __init__(self, world: World, operations: Operations, access: DiskAccess, tls: ssl.SSLContext) -> None:
        self._world, self._operations, self._access, self._tls = world, operations, access, tls

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Create a disk, or update one; the same PUT again while it is created joins the running operation."""
        option = create_option(body)
        check_shape(body)
        existing = self._world.find(resource_id)
        if (
            existing is not None
            and existing.properties["provisioningState"] == "Failed"
            and not self._operations.running(resource_id.key)
        ):
            self._world.remove(existing)
            existing = None
        if existing is not None:
            return self._put_again(existing, body, call)
        location = self._world.check_location(body.get("location"), self.type)
        resource_id.check_name()
        quota = self._world.faults.disks_quota
        if quota is not None and sum(1 for _ in self._world.of_kind("disks")) >= quota:
            raise ArmError(409, "QuotaExceeded", f"The number of disks exceeds the quota of {quota} in region '{location}'.")
        creation = self._plan(option, body, location, resource_id.leaf)
        disk = self._new_disk(resource_id, body, option, location, creation.file)
        self._world.add(disk)

        def commit() -> Json:
            self._finish(disk, creation, option)
            return disk.document()

        def fail() -> None:
            disk.properties["provisioningState"] = "Failed"
            creation.file.unlink(missing_ok=True)

        action = f"disks.{'import' if option == 'Import' else 'create'}"
        operation = self._operations.start(action, resource_id.key, location, work=creation.work, commit=commit, fail=fail)
        return self._operations.accepted(call, operation, 202, disk.document())

    def patch(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Update tags, SKU or size."""
        disk = self._world.get(resource_id)
        return self._update(disk, body, call)

    def delete(self, resource_id: ResourceId, call: Call) -> Reply:
        """Delete a disk that is neither attached nor accessed."""
        disk = self._world.find(resource_id)
        if disk is None:
            return Reply(204)
        running = self._operations.running(resource_id.key)
        if running is not None:
            if running.action == "disks.delete":
                return self._operations.accepted(call, running)
            raise not_allowed(f"Disk {disk.id.leaf} cannot be deleted while another operation on it is in progress.")
        if disk.body.get("managedBy"):
            raise not_allowed(f"Disk {disk.id.leaf} is attached to VM {disk.body['managedBy']}.")
        if disk.properties.get("diskState") in {"ActiveSAS", "ActiveUpload"}:
            raise not_allowed(
                f"There is an active shared access signature outstanding for disk {disk.id.leaf}. "
                "Call EndGetAccess before attaching or deleting the disk."
            )
        before, disk.properties["provisioningState"] = disk.properties["provisioningState"], "Deleting"
        operation = self._operations.start(
            "disks.delete",
            resource_id.key,
            disk.body["location"],
            commit=lambda: self._world.remove(disk),
            fail=lambda: disk.properties.update(provisioningState=before),
        )
        return self._operations.accepted(call, operation)

    def action(self, resource_id: ResourceId, name: str, body: Json, call: Call) -> Reply:
        """Grant or revoke access."""
        disk = self._world.get(resource_id)
        if call.method == "POST" and name == "begingetaccess":
            return self._access.begin(disk, body, call)
        if call.method == "POST" and name == "endgetaccess":
            return self._access.end(disk, call)
        raise ArmError(404, "InvalidResourceType", f"The action '{name}' is not known for {self.type}.")

    def _plan(self, option: str, body: Json, location: str, name: str) -> _Creation:
        properties, creation_data = body["properties"], body["properties"]["creationData"]
        asked_gib: int | None = properties.get("diskSizeGB")
        file = self._world.directory / "disks" / f"{uuid.uuid4()}.raw"
        if option == "Empty":
            if asked_gib is None:
                raise required("disk.diskSizeGB")
            size = asked_gib * GIB
            return _Creation(file, lambda: disk_bytes.create_sparse(file, size), size)
        if option == "Upload":
            if asked_gib is not None:
                raise bad_parameter("Parameter 'disk.diskSizeGB' is not allowed with createOption Upload.", "disk.diskSizeGB")
            size = check_upload_size(creation_data)
            return _Creation(file, lambda: disk_bytes.create_sparse(file, size + FOOTER_BYTES), size)
        if option == "Copy":
            return self._plan_copy(creation_data.get("sourceResourceId"), asked_gib, file)
        blob = PageBlob(self._account(creation_data, location), creation_data["sourceUri"], self._tls)
        plan = _Creation(file, lambda: None)

        def read_blob() -> None:
            plan.size_bytes = _grown(blob.copy_to(file), asked_gib, file, properties.get("osType"))

        plan.work = read_blob
        return plan

    def _plan_copy(self, source_id: str | None, asked_gib: int | None, file: Path) -> _Creation:
        if not source_id:
            raise required("disk.creationData.sourceResourceId")
        source = self._world.find(source_id)
        if source is None or source.id.kind not in {"disks", "snapshots"} or source.content is None:
            raise ArmError(404, "ResourceNotFound", f"The source {source_id} of the copy was not found.")
        if source.properties["provisioningState"] != "Succeeded" or source.properties.get("diskState") in {
            "ReadyToUpload",
            "ActiveUpload",
        }:
            raise not_allowed(f"The source {source_id} of the copy is not ready.")
        plan = _Creation(file, lambda: None, source.properties["diskSizeBytes"])
        content = source.content

        def copy() -> None:
            content.copy_to(file)
            plan.size_bytes = _grown(plan.size_bytes, asked_gib, file, None)

        plan.work = copy
        return plan

    def _account(self, creation_data: Json, location: str) -> StorageAccount:
        for parameter in ("storageAccountId", "sourceUri"):
            if not creation_data.get(parameter):
                raise required(parameter)
        account = self._world.accounts.get(str(creation_data["storageAccountId"]).lower().rstrip("/"))
        if account is None:
            raise ArmError(404, "StorageAccountNotFound", f"Storage account {creation_data['storageAccountId']} was not found.")
        if account.location != location:
            raise ArmError(
                400,
                "BadRequest",
                f"The storage account is in region '{account.location}', the disk in '{location}'. They must be the same.",
            )
        source_uri = str(creation_data["sourceUri"])
        url = urlsplit(source_uri)
        if url.query or url.fragment:
            # A snapshot cannot be imported (it has to be copied to a page blob first), and a signature does not belong
            # here, since the account is named: creationData is shown to everyone who may read the disk.
            raise bad_parameter(
                f"The source blob URI {source_uri.partition('?')[0]} must name a page blob, not a snapshot or version, and carry no query.",
                "sourceUri",
            )
        # The port does not count: a proxy of the lab may stand before the account.
        own = urlsplit(account.url)
        same_host = (url.scheme, url.hostname) == (own.scheme, own.hostname)
        inside = url.path.lower().startswith(f"{own.path.lower()}/") and url.path[len(own.path) + 1 :].count("/") >= 1
        if not same_host or not inside:
            raise bad_parameter(f"The source blob URI {source_uri} is not a blob of storage account {account.name}.", "sourceUri")
        return account

    def _new_disk(self, resource_id: ResourceId, body: Json, option: str, location: str, file: Path) -> Resource:
        given = body["properties"]
        sku = (body.get("sku") or {}).get("name", "Standard_LRS")
        properties: Json = {
            **{
                name: given[name]
                for name in ("osType", "hyperVGeneration", "diskSizeGB", "securityProfile", "supportedCapabilities")
                if given.get(name) is not None
            },
            "creationData": {**given["creationData"], "createOption": option},
            "provisioningState": "Creating",
            "timeCreated": now_text(),
            "uniqueId": str(uuid.uuid4()),
            "encryption": {"type": "EncryptionAtRestWithPlatformKey"},
            "networkAccessPolicy": "AllowAll",
            "publicNetworkAccess": "Enabled",
        }
        if properties.get("osType"):
            properties.setdefault("hyperVGeneration", "V1")
        document: Json = {
            "location": location,
            "tags": dict(body.get("tags") or {}),
            "sku": {"name": sku, "tier": SKUS[sku]},
            "properties": properties,
        }
        if body.get("zones"):
            document["zones"] = list(body["zones"])
        return Resource(resource_id, self.type, document, DiskContent(file))

    def _finish(self, disk: Resource, creation: _Creation, option: str) -> None:
        disk.properties.update(
            diskSizeBytes=creation.size_bytes,
            diskSizeGB=-(-creation.size_bytes // GIB),
            diskState="ReadyToUpload" if option == "Upload" else "Unattached",
            provisioningState="Succeeded",
        )

    def _put_again(self, disk: Resource, body: Json, call: Call) -> Reply:
        check_update(disk.body, body)
        if normal_location(str(body.get("location", ""))) != disk.body["location"]:
            raise ArmError(
                409,
                "InvalidResourceLocation",
                f"The resource '{disk.id.leaf}' already exists in location '{disk.body['location']}'.",
            )
        running = self._operations.running(disk.id.key)
        if running is not None and running.action in {"disks.create", "disks.import"}:
            return self._operations.accepted(call, running, 202, disk.document())
        if running is not None:
            raise ArmError(409, "ConflictingUserInput", f"Disk '{disk.id.leaf}' is being changed by another operation.")
        return self._update(disk, {"tags": {}, **body}, call)

    def _update(self, disk: Resource, body: Json, call: Call) -> Reply:
        check_tags(body.get("tags"))
        size: Any = (body.get("properties") or {}).get("diskSizeGB")
        if size is not None:
            check_size_gib(size, disk.properties.get("osType"))
            if size < disk.properties["diskSizeGB"]:
                raise not_allowed("Disk size reduction is not supported.")
        sku = (body.get("sku") or {}).get("name")
        if sku is not None and sku not in SKUS:
            raise bad_parameter(f"Value '{sku}' of parameter 'sku.name' is invalid.", "sku.name")

        def commit() -> Json:
            if body.get("tags") is not None:
                disk.body["tags"] = dict(body["tags"])
            if sku is not None:
                disk.body["sku"] = {"name": sku, "tier": SKUS[sku]}
            if size is not None and size > disk.properties["diskSizeGB"] and isinstance(disk.content, DiskContent):
                disk.content.resize(size * GIB)
                disk.properties.update(diskSizeGB=size, diskSizeBytes=size * GIB)
            return disk.document()

        operation = self._operations.start("disks.update", disk.id.key, disk.body["location"], commit=commit)
        return self._operations.accepted(call, operation, 202, disk.document())


def _grown(size_bytes: int, asked_gib: int | None, file: Path, os_type: str | None) -> int:
    """Extend a new disk to what was asked for; return its size."""
    check_size_gib(-(-size_bytes // GIB), os_type)
    if asked_gib is None:
        return size_bytes
    if asked_gib * GIB < size_bytes:
        raise bad_parameter(
            f"The requested disk size of {asked_gib} GiB is smaller than the source of {size_bytes} bytes.", "disk.diskSizeGB"
        )
    disk_bytes.resize(file, asked_gib * GIB)
    return asked_gib * GIB
