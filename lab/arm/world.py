"""All that the endpoint knows: subscription, locations, resource groups, and resources, in memory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock

from lab.arm.disk_content import Content
from lab.arm.errors import ArmError, Json
from lab.arm.faults import Faults
from lab.arm.limits import Limits
from lab.arm.resource_ids import ResourceId


@dataclass(slots=True)
class Resource:
    """One resource: its ARM document without `id`, `name` and `type`, and for disks and snapshots its bytes."""

    id: ResourceId
    type: str
    body: Json
    content: Content | None = None

    @property
    def properties(self) -> Json:
        """The document's `properties`."""
        properties: Json = self.body["properties"]
        return properties

    def document(self) -> Json:
        """Return the document as a GET shows it."""
        return {"id": str(self.id), "name": self.id.leaf, "type": self.type, **self.body}


@dataclass(frozen=True, slots=True)
class StorageAccount:
    """A storage account whose page blobs can be imported. Its repr hides the key."""

    id: str
    url: str
    name: str
    key: str = field(repr=False)
    location: str


def normal_location(location: str) -> str:
    """Return a location as it is compared: `East US` is `eastus`."""
    return location.replace(" ", "").lower()


@dataclass(slots=True)
class World:
    """The state behind the endpoint. Hold `lock` to read or change anything but `faults` and disks' contents."""

    subscription_id: str
    locations: tuple[str, ...]
    directory: Path
    faults: Faults
    accounts: dict[str, StorageAccount]
    limits: Limits = field(default_factory=Limits)
    lock: RLock = field(default_factory=RLock)
    groups: dict[str, Json] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)

    def check_location(self, location: object, type_name: str) -> str:
        """Return the location in normal form. Raises LocationRequired, LocationNotAvailableForResourceType."""
        if not isinstance(location, str) or not location:
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        if normal_location(location) not in {normal_location(known) for known in self.locations}:
            known_ones = ", ".join(self.locations)
            raise ArmError(
                400,
                "LocationNotAvailableForResourceType",
                f"The provided location '{location}' is not available for resource type '{type_name}'. "
                f"List of available regions for the resource type is '{known_ones}'.",
            )
        return normal_location(location)

    def group(self, name: str) -> Json:
        """Return a resource group. Raises ResourceGroupNotFound."""
        found = self.groups.get(name.lower())
        if found is None:
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        return found

    def find(self, resource_id: ResourceId | str | None) -> Resource | None:
        """Return a resource, or None."""
        key = resource_id.key if isinstance(resource_id, ResourceId) else (resource_id or "").lower().rstrip("/")
        return self.resources.get(key)

    def get(self, resource_id: ResourceId) -> Resource:
        """Return a resource. Raises ResourceGroupNotFound, ResourceNotFound (404)."""
        self.group(resource_id.group)
        found = self.find(resource_id)
        if found is None:
            raise ArmError(
                404,
                "ResourceNotFound",
                f"The Resource '{resource_id.namespace}/{resource_id.type}/{resource_id.leaf}' under resource group "
                f"'{resource_id.group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
            )
        return found

    def add(self, resource: Resource) -> None:
        """Add a resource."""
        self.resources[resource.id.key] = resource

    def remove(self, resource: Resource) -> None:
        """Remove a resource and its bytes."""
        if self.resources.pop(resource.id.key, None) is not None and resource.content is not None:
            resource.content.release()

    def of_kind(self, kind: str, group: str | None = None) -> Iterator[Resource]:
        """Yield the resources of a kind (`disks`), of one group or of all, in order of creation."""
        for resource in list(self.resources.values()):
            if resource.id.kind == kind and (group is None or resource.id.group.lower() == group.lower()):
                yield resource


def read_accounts(path: Path, default_location: str) -> dict[str, StorageAccount]:
    """Return the accounts of a JSON file `{ARM id: {"url", "name", "key"[, "location"]}}`, by id in lower case."""
    accounts = {}
    for account_id, account in json.loads(path.read_text(encoding="utf-8")).items():
        accounts[account_id.lower().rstrip("/")] = StorageAccount(
            id=account_id,
            url=account["url"].rstrip("/"),
            name=account["name"],
            key=account["key"],
            location=normal_location(account.get("location", default_location)),
        )
    return accounts
