"""What object store and seed store have in common: containers of one storage account, and access to them."""

from collections.abc import Mapping
from datetime import timedelta

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.errors import error_code
from deltaferry.ports.access import BlobAccess
from deltaferry.ports.stores import StoredContainer

_BEING_DELETED = "ContainerBeingDeleted"


class BlobContainers:
    """Containers of one storage account."""

    def __init__(self, account: StorageAccount) -> None:
        self.account = account

    def create_container(self, container: str, metadata: Mapping[str, str] | None = None) -> None:
        """Create a container without public access; no-op if it exists, whatever its metadata."""
        with self.account.errors(f"creating container {container}"):
            try:
                self.account.client.create_container(container, metadata=dict(metadata) if metadata else None)
            except ResourceExistsError as error:
                if error_code(error) == _BEING_DELETED:
                    raise

    def delete_container(self, container: str) -> None:
        """Delete a container with all blobs and their snapshots; no-op if it does not exist."""
        with self.account.errors(f"deleting container {container}"):
            try:
                self.account.client.delete_container(container)
            except ResourceNotFoundError:
                return
            except ResourceExistsError as error:
                if error_code(error) != _BEING_DELETED:
                    raise

    def list_containers(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the containers that begin with `prefix`, sorted."""
        with self.account.errors(f"listing containers {prefix}*"):
            return tuple(sorted(item.name for item in self.account.client.list_containers(name_starts_with=prefix)))

    def describe_containers(self, prefix: str) -> tuple[StoredContainer, ...]:
        """Return the containers that begin with `prefix`, by name, with metadata and when they were made."""
        with self.account.errors(f"listing containers {prefix}*"):
            listed = self.account.client.list_containers(name_starts_with=prefix, include_metadata=True)
            found = [StoredContainer(item.name, item.last_modified, dict(item.metadata or {})) for item in listed]
        return tuple(sorted(found, key=lambda container: container.name))

    def access(self, container: str, *, write: bool, lifetime: timedelta) -> BlobAccess:
        """Return short-lived access to a container for a data process."""
        return self.account.access(container, write=write, lifetime=lifetime)
