"""The object store against a real Azurite."""

import http.client
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.credentials import AccountKey
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import ObjectRef, Store
from deltaferry.ports.access import BlobAccess

from .conftest import ACCOUNT, RunningAzurite, start_azurite


def request(
    access: BlobAccess, method: str, name: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Make one plain HTTP request with a signature, as a data process does."""
    parts = urlsplit(access.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request(method, f"{parts.path}/{name}?{access.query}", body, {"x-ms-version": "2025-11-05", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_put_replaces_and_get_returns_the_last(objects: BlobObjectStore, container: str) -> None:
    first = objects.put(f"{container}/state", b"one", {"cycle": "1-a"})
    second = objects.put(f"{container}/state", b"two")
    assert objects.get(f"{container}/state") == b"two"
    assert first.etag != second.etag
    assert second == ObjectRef(Store.LOG, f"{container}/state", second.etag)


def test_put_new_keeps_the_stored_object_and_refers_to_it(objects: BlobObjectStore, container: str) -> None:
    first = objects.put_new(f"{container}/cycles/1/0", b"first", {"digest": "aa"})
    second = objects.put_new(f"{container}/cycles/1/0", b"second", {"digest": "bb"})
    assert second == first
    assert objects.get(first.key) == b"first"
    assert [item.metadata for item in objects.list(container, "cycles/")] == [{"digest": "aa"}]


def test_an_empty_object_can_be_stored(objects: BlobObjectStore, container: str) -> None:
    objects.put(f"{container}/empty", b"")
    assert objects.get(f"{container}/empty") == b""


def test_get_of_a_missing_object_says_so(objects: BlobObjectStore, container: str) -> None:
    with pytest.raises(DeltaferryError) as caught:
        objects.get(f"{container}/nothing")
    assert caught.value.kind is ErrorKind.STORE_OBJECT_MISSING
    assert f"{container}/nothing" in caught.value.detail
    assert objects.get_if_exists(f"{container}/nothing") is None
    assert objects.get_if_exists("df-no-such-container/nothing") is None


def test_list_is_in_name_order_with_sizes_etags_and_metadata(objects: BlobObjectStore, container: str) -> None:
    refs = {}
    for number in (10, 2, 0, 1):
        name = f"cycles/7/{number:010d}"
        refs[name] = objects.put(f"{container}/{name}", bytes(number), {"digest": f"d{number}"})
    objects.put(f"{container}/cycles/8/{0:010d}", b"other")
    listed = list(objects.list(container, "cycles/7/"))
    assert [item.name for item in listed] == sorted(refs)
    assert [item.size_bytes for item in listed] == [0, 1, 2, 10]
    assert [item.metadata["digest"] for item in listed] == ["d0", "d1", "d2", "d10"]
    assert [item.etag for item in listed] == [refs[item.name].etag for item in listed]


def test_delete_prefix_deletes_those_objects_only(objects: BlobObjectStore, container: str) -> None:
    for name in ("cycles/1/0", "cycles/1/1", "cycles/10/0", "commit-record"):
        objects.put(f"{container}/{name}", b"x")
    assert objects.delete_prefix(container, "cycles/1/") == 2
    assert [item.name for item in objects.list(container, "")] == ["commit-record", "cycles/10/0"]
    assert objects.delete_prefix(container, "cycles/1/") == 0
    assert objects.delete_prefix("df-no-such-container", "cycles/") == 0


def test_objects_are_deleted_by_name_and_missing_ones_are_passed_over(objects: BlobObjectStore, container: str) -> None:
    names = [f"cycles/1/{number:010d}" for number in range(20)]
    for name in names:
        objects.put(f"{container}/{name}", b"x")
    objects.delete_objects(container, [*names[:-1], "cycles/1/none"])
    assert [item.name for item in objects.list(container, "")] == names[-1:]
    objects.delete_objects("df-no-such-container", names)


def test_containers_are_created_once_listed_by_prefix_and_deleted_for_good(objects: BlobObjectStore) -> None:
    tag = uuid4().hex[:8]
    for suffix in ("b", "a"):
        objects.create_container(f"df-{tag}-{suffix}")
        objects.create_container(f"df-{tag}-{suffix}")
    objects.put(f"df-{tag}-a/left", b"x")
    assert objects.list_containers(f"df-{tag}-") == (f"df-{tag}-a", f"df-{tag}-b")
    for suffix in ("a", "b", "a"):
        objects.delete_container(f"df-{tag}-{suffix}")
    assert objects.list_containers(f"df-{tag}-") == ()
    objects.create_container(f"df-{tag}-a")
    assert list(objects.list(f"df-{tag}-a", "")) == []
    objects.delete_container(f"df-{tag}-a")


def test_a_container_says_in_its_metadata_whose_it_is_and_when_it_was_made(objects: BlobObjectStore) -> None:
    tag = uuid4().hex[:8]
    before = datetime.now(UTC) - timedelta(minutes=1)
    objects.create_container(f"df-{tag}-a", {"deltaferry_site": "london"})
    objects.create_container(f"df-{tag}-a", {"deltaferry_site": "paris"})
    objects.create_container(f"df-{tag}-b")
    objects.put(f"df-{tag}-a/1", b"x")
    first, second = objects.describe_containers(f"df-{tag}-")
    assert (first.name, first.metadata) == (f"df-{tag}-a", {"deltaferry_site": "london"})
    assert (second.name, second.metadata) == (f"df-{tag}-b", {})
    assert before < first.modified_at <= second.modified_at
    for container in (first, second):
        objects.delete_container(container.name)


def test_write_access_writes_once_and_read_access_only_reads(objects: BlobObjectStore, container: str) -> None:
    write = objects.access(container, write=True, lifetime=timedelta(minutes=10))
    read = objects.access(container, write=False, lifetime=timedelta(minutes=10))
    once = {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*"}
    assert request(write, "PUT", "cycles/1/0", b"segment", once)[0] == 201
    assert request(write, "PUT", "cycles/1/0", b"another", once)[0] == 409
    assert request(read, "GET", "cycles/1/0") == (200, b"segment")
    assert request(read, "PUT", "cycles/1/1", b"segment", once)[0] == 403
    assert objects.get(f"{container}/cycles/1/0") == b"segment"


def test_access_ends_and_is_for_one_container(objects: BlobObjectStore, container: str) -> None:
    objects.put(f"{container}/x", b"x")
    ended = objects.access(container, write=False, lifetime=timedelta(seconds=-1))
    assert request(ended, "GET", "x")[0] == 403
    other = objects.access("df-other", write=False, lifetime=timedelta(minutes=1))
    assert request(BlobAccess(f"{objects.account.url}/{container}", other.query), "GET", "x")[0] == 403


def test_no_signature_shows_in_a_repr(objects: BlobObjectStore, container: str) -> None:
    access = objects.access(container, write=True, lifetime=timedelta(minutes=1))
    assert access.query.partition("sig=")[2] and "sig=" not in repr(access)
    assert repr(objects.account) == f"StorageAccount('{objects.account.url}')"


def test_a_wrong_account_key_is_access_denied_and_a_mended_one_is_read_again(azurite: RunningAzurite, container: str) -> None:
    keys = ["bm90IHRoZSBrZXk=", azurite.key]
    store = BlobObjectStore(StorageAccount(azurite.url, AccountKey(lambda: keys[0]), retries=0), Store.LOG)
    with pytest.raises(DeltaferryError) as caught:
        store.get(f"{container}/x")
    assert caught.value.kind is ErrorKind.STORE_ACCESS_DENIED
    assert caught.value.__cause__ is None and keys[0] not in str(caught.value)
    keys.pop(0)
    assert store.get_if_exists(f"{container}/x") is None


def test_a_key_that_is_not_base64_is_access_denied(azurite: RunningAzurite) -> None:
    with pytest.raises(DeltaferryError) as caught:
        BlobObjectStore(azurite.account(key="not base64!"), Store.LOG).list_containers("df-")
    assert caught.value.kind is ErrorKind.STORE_ACCESS_DENIED


def test_a_stopped_account_is_unreachable(tmp_path: Path) -> None:
    running = start_azurite(tmp_path)
    store = BlobObjectStore(running.account(), Store.GATEWAY)
    store.create_container("df-test")
    running.process.stop()
    with pytest.raises(DeltaferryError) as caught:
        store.get("df-test/x")
    assert caught.value.kind is ErrorKind.STORE_UNREACHABLE
    assert ACCOUNT in caught.value.detail
