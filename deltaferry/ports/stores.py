"""Log store, gateway store, seed disks, and the wrapping of data keys."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from deltaferry.model.extents import Extent
from deltaferry.model.replication import ObjectRef, Store
from deltaferry.ports.access import BlobAccess


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of an object."""

    name: str
    size_bytes: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredContainer:
    """What a listing says of a container."""

    name: str
    modified_at: datetime
    """Of the container itself, not of what is in it: when it was made, as long as nobody sets its metadata again."""
    metadata: Mapping[str, str] = field(default_factory=dict)


class ObjectStore(Protocol):
    """One storage account with block blobs: the log store and the gateway store. Keys are `<container>/<name>`."""

    store: Store

    def create_container(self, container: str, metadata: Mapping[str, str] | None = None) -> None:
        """Create a container; no-op if it exists, whatever its metadata."""

    def delete_container(self, container: str) -> None:
        """Delete a container and all in it; no-op if it does not exist."""

    def list_containers(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the containers that begin with `prefix`."""

    def describe_containers(self, prefix: str) -> tuple[StoredContainer, ...]:
        """Return the containers that begin with `prefix`, by name, with metadata and when they were made."""

    def put(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> ObjectRef:
        """Write an object, replacing what is there."""

    def put_new(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> ObjectRef:
        """Write an object unless one exists; where one exists, return a reference to the stored one."""

    def put_or_get(self, key: str, data: bytes) -> tuple[ObjectRef, bytes]:
        """Write an object unless one exists; return a reference to what is stored now, and its bytes."""

    def get(self, key: str) -> bytes:
        """Return an object's bytes. Raises STORE_OBJECT_MISSING."""

    def get_if_exists(self, key: str) -> bytes | None:
        """Return an object's bytes, or None."""

    def list(self, container: str, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects of a container whose names begin with `prefix`, with metadata, in name order."""

    def delete_prefix(self, container: str, prefix: str) -> int:
        """Delete the objects whose names begin with `prefix`; return how many. No-op for a missing container."""

    def delete_objects(self, container: str, names: Iterable[str]) -> None:
        """Delete objects by name, several at a time; no-op for what is gone."""

    def access(self, container: str, *, write: bool, lifetime: timedelta) -> BlobAccess:
        """Return short-lived access to a container for a data process."""


@dataclass(frozen=True, slots=True)
class SeedState:
    """A seed page blob as it is now."""

    size_bytes: int
    sequence_number: int
    first_pass: str | None
    """Cycle key of the first pass that wrote to the seed; None while it is pristine."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob in a container of seeds."""

    name: str
    modified_at: datetime


class SeedStore(Protocol):
    """Seed disks: page blobs on a standard account, one container for each replication."""

    def create_container(self, container: str, metadata: Mapping[str, str] | None = None) -> None:
        """Create a container; no-op if it exists, whatever its metadata."""

    def delete_container(self, container: str) -> None:
        """Delete a container with all blobs and their snapshots; no-op if it does not exist."""

    def list_containers(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the containers that begin with `prefix`."""

    def describe_containers(self, prefix: str) -> tuple[StoredContainer, ...]:
        """Return the containers that begin with `prefix`, by name, with metadata and when they were made."""

    def create_seed(self, container: str, name: str, size_bytes: int) -> SeedState:
        """Create a page blob reading as zero; if it exists with that size, return it as it is."""

    def resize_seed(self, container: str, name: str, size_bytes: int) -> None:
        """Give an existing seed the size that its disk has now; no-op if it has it. What is added reads as zero."""

    def list_seeds(self, container: str) -> tuple[str, ...]:
        """Return the names of a container's seeds; none for a container that does not exist."""

    def describe_blobs(self, container: str) -> tuple[StoredBlob, ...]:
        """Return all blobs of a container, seeds and others; none for a container that does not exist."""

    def delete_seed(self, container: str, name: str) -> None:
        """Delete a seed with all its snapshots; no-op if it is gone."""

    def read_seed(self, container: str, name: str) -> SeedState:
        """Return a seed's state. Raises SEED_MISSING."""

    def raise_fence(self, container: str, name: str, number: int) -> None:
        """Set the sequence number with action `max`. Raises FENCED (with the number found) unless the reply is `number`."""

    def mark_first_pass(self, container: str, name: str, cycle_key: str) -> str:
        """Record the first pass unless one is recorded; return the one that is recorded."""

    def snapshot(self, container: str, name: str, seal: int, metadata: Mapping[str, str]) -> str:
        """Return the id of the blob's snapshot with exactly that metadata, taking it if there is none.

        Raises FENCED unless the snapshot's sequence number is `seal`.
        """

    def list_snapshots(self, container: str, name: str) -> tuple[str, ...]:
        """Return the ids of the blob's snapshots, oldest first."""

    def delete_snapshot(self, container: str, name: str, snapshot: str) -> None:
        """Delete one snapshot of a blob; no-op if it is gone."""

    def write_footer(self, container: str, name: str, capacity_bytes: int, fence: int) -> None:
        """Write the fixed VHD footer in the blob's last sector, fenced."""

    def read_range(self, container: str, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Return bytes of a seed."""

    def present_ranges(self, container: str, name: str, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """Yield the parts of a range of a seed that hold pages, in order; everything else reads as zero. Raises SEED_MISSING."""

    def url(self, container: str, name: str) -> str:
        """Return a seed's URL without signature, as Azure's disk import wants it."""

    def access(self, container: str, *, write: bool, lifetime: timedelta) -> BlobAccess:
        """Return short-lived access to a container for a data process."""


class KeyWrapper(Protocol):
    """Wraps data keys by a key that never leaves its vault (or, in the lab, its file)."""

    def wrap(self, data_key: bytes) -> bytes:
        """Return the wrapped key, in a form that names the wrapping key and its version."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the data key. Raises KEY_UNAVAILABLE."""
