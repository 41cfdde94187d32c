"""Log store and gateway store: block blobs, written once or replaced whole."""

import contextvars
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobClient

from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.containers import BlobContainers
from deltaferry.model.replication import ObjectRef, Store
from deltaferry.ports.stores import StoredObject

_DELETERS = 8


def plain_etag(etag: str) -> str:
    """Return an ETag without its quotes: listings have none, replies have."""
    return etag.strip('"')


class BlobObjectStore(BlobContainers):
    """`ObjectStore` on a storage account."""

    def __init__(self, account: StorageAccount, store: Store) -> None:
        super().__init__(account)
        self.store = store

    def put(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> ObjectRef:
        """Write an object, replacing what is there."""
        with self.account.errors(f"writing {key}"):
            reply = self._blob(key).upload_blob(data, overwrite=True, metadata=dict(metadata or {}))
        return self._ref(key, str(reply["etag"]))

    def put_new(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> ObjectRef:
        """Write an object unless one exists (`If-None-Match: *`); where one exists, return a reference to the stored one."""
        blob = self._blob(key)
        with self.account.errors(f"writing {key} once"):
            try:
                reply = blob.upload_blob(data, overwrite=False, metadata=dict(metadata or {}))
            except ResourceExistsError:
                return self._ref(key, str(blob.get_blob_properties().etag))
        return self._ref(key, str(reply["etag"]))

    def put_or_get(self, key: str, data: bytes) -> tuple[ObjectRef, bytes]:
        """Write an object unless one exists; return a reference to what is stored now, and its bytes."""
        blob = self._blob(key)
        with self.account.errors(f"writing {key} once"):
            try:
                reply = blob.upload_blob(data, overwrite=False)
            except ResourceExistsError:
                stored = blob.download_blob()
                return self._ref(key, str(stored.properties.etag)), stored.readall()
        return self._ref(key, str(reply["etag"])), data

    def get(self, key: str) -> bytes:
        """Return an object's bytes. Raises STORE_OBJECT_MISSING."""
        with self.account.errors(f"reading {key}"):
            return self._blob(key).download_blob().readall()

    def get_if_exists(self, key: str) -> bytes | None:
        """Return an object's bytes, or None where the object or its container does not exist."""
        with self.account.errors(f"reading {key}"):
            try:
                return self._blob(key).download_blob().readall()
            except ResourceNotFoundError:
                return None

    def list(self, container: str, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose names begin with `prefix`, with metadata, in name order. Raises STORE_OBJECT_MISSING."""
        with self.account.errors(f"listing {container}/{prefix}*"):
            client = self.account.client.get_container_client(container)
            for item in client.list_blobs(name_starts_with=prefix, include=["metadata"]):
                yield StoredObject(
                    name=item.name, size_bytes=item.size, etag=plain_etag(item.etag), metadata=dict(item.metadata or {})
                )

    def delete_prefix(self, container: str, prefix: str) -> int:
        """Delete the objects whose names begin with `prefix`; return how many. No-op for a missing container."""
        with self.account.errors(f"deleting {container}/{prefix}*"):
            try:
                names = list(self.account.client.get_container_client(container).list_blob_names(name_starts_with=prefix))
            except ResourceNotFoundError:
                return 0
        return self._delete(container, names)

    def delete_objects(self, container: str, names: Iterable[str]) -> None:
        """Delete objects by name, several at a time; no-op for what is gone."""
        self._delete(container, names)

    def _delete(self, container: str, names: Iterable[str]) -> int:
        """Delete objects and return how many were there; the first failure is raised after the others have ended."""
        client = self.account.client.get_container_client(container)

        def delete(name: str) -> int:
            with self.account.errors(f"deleting {container}/{name}"):
                try:
                    client.delete_blob(name, delete_snapshots="include")
                except ResourceNotFoundError:
                    return 0
                return 1

        with ThreadPoolExecutor(_DELETERS, thread_name_prefix="delete") as pool:
            asked = [pool.submit(contextvars.copy_context().run, delete, name) for name in names]  # a beat finds its step by it
        return sum(one.result() for one in asked)

    def _blob(self, key: str) -> BlobClient:
        container, _, name = key.partition("/")
        return self.account.client.get_blob_client(container, name)

    def _ref(self, key: str, etag: str) -> ObjectRef:
        return ObjectRef(store=self.store, key=key, etag=plain_etag(etag))
