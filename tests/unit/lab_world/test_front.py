"""The front mends what Azurite gets wrong, and passes everything else through."""

import base64
import hashlib
import http.client
import os
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.storage.blob import (
    BlobClient,
    BlobSasPermissions,
    ContainerClient,
    ContainerSasPermissions,
    generate_blob_sas,
    generate_container_sas,
)

from lab.control_client import BlobAction, BlobControl, BlobFault
from tests.unit.lab_world.conftest import Storage

MIB = 1024 * 1024
SECTOR = 512


@pytest.fixture
def container(storage: Storage) -> ContainerClient:
    return storage.client("dfseed").create_container(f"t-{uuid4().hex}")


@pytest.fixture
def control(storage: Storage) -> Iterator[BlobControl]:
    storage.service.control.reset_counts()
    yield storage.service.control
    storage.service.control.clear_faults()


def page_blob(container: ContainerClient, size: int = 16 * MIB, name: str = "disk") -> BlobClient:
    blob = container.get_blob_client(name)
    blob.create_page_blob(size)
    return blob


def put(blob: BlobClient, offset: int, data: bytes, **options: object) -> None:
    blob.upload_page(data, offset, len(data), **options)


def content(blob: BlobClient, **options: object) -> bytes:
    return blob.download_blob(**options).readall()


def raw_put_page(
    storage: Storage, container: ContainerClient, body: bytes, headers: dict[str, str]
) -> tuple[int, str | None, dict[str, str]]:
    sas = generate_container_sas(
        "dfseed",
        container.container_name,
        account_key=storage.keys["dfseed"],
        expiry=datetime.now(UTC) + timedelta(hours=1),
        permission=ContainerSasPermissions(write=True),
    )
    path = f"{urlsplit(container.url).path}/disk?comp=page&{sas}"
    connection = http.client.HTTPSConnection(
        "127.0.0.1", storage.service.port, context=ssl.create_default_context(cafile=storage.certificates.ca_file)
    )
    connection.request(
        "PUT",
        path,
        body,
        {
            "x-ms-page-write": "update",
            "x-ms-range": f"bytes=0-{len(body) - 1}",
            "x-ms-version": "2025-11-05",
            **headers,
        },
    )
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.getheader("x-ms-error-code"), dict(response.getheaders())


def test_block_blobs_pass_through_with_the_account_key_and_the_newest_api_version(storage: Storage) -> None:
    container = storage.client("dflog").create_container(f"t-{uuid4().hex}")
    container.upload_blob("cycles/1/0000000000 ü+&=", b"x" * 100_000, metadata={"digest": "abc"})
    assert [blob.name for blob in container.list_blobs(include=["metadata"])] == ["cycles/1/0000000000 ü+&="]
    assert content(container.get_blob_client("cycles/1/0000000000 ü+&=")) == b"x" * 100_000
    with pytest.raises(HttpResponseError) as error:
        container.upload_blob("cycles/1/0000000000 ü+&=", b"y")
    assert error.value.status_code == 409


def test_a_sas_of_the_sdks_newest_version_works_and_a_wrong_key_does_not(storage: Storage, container: ContainerClient) -> None:
    page_blob(container)
    sas = generate_blob_sas(
        "dfseed",
        container.container_name,
        "disk",
        account_key=storage.keys["dfseed"],
        permission=BlobSasPermissions(read=True, write=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    blob = BlobClient.from_blob_url(f"{container.url}/disk?{sas}", connection_verify=str(storage.certificates.ca_file))
    put(blob, 512, b"a" * 512)
    assert content(blob, offset=0, length=1024) == bytes(512) + b"a" * 512
    wrong = BlobClient.from_blob_url(
        f"{container.url}/disk?{sas.replace('sig=', 'sig=A')}", connection_verify=str(storage.certificates.ca_file), retry_total=0
    )
    with pytest.raises(HttpResponseError) as error:
        wrong.get_blob_properties()
    assert error.value.status_code == 403


def test_put_page_over_4_mib_is_refused(container: ContainerClient) -> None:
    blob = page_blob(container)
    put(blob, 0, os.urandom(4 * MIB))
    with pytest.raises(HttpResponseError) as error:
        put(blob, 0, bytes(4 * MIB + 512))
    assert (error.value.status_code, error.value.error_code) == (413, "RequestBodyTooLarge")


def test_put_page_with_a_wrong_md5_changes_nothing(container: ContainerClient, storage: Storage) -> None:
    blob = page_blob(container)
    put(blob, 0, b"a" * 512, validate_content=True)
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert raw_put_page(storage, container, b"b" * 512, {"Content-MD5": wrong})[:2] == (400, "Md5Mismatch")
    assert content(blob, offset=0, length=512) == b"a" * 512


def test_put_page_with_a_crc64_is_verified(container: ContainerClient, storage: Storage) -> None:
    blob = page_blob(container)
    crc = base64.b64encode(_crc64_nvme(b"a" * 512).to_bytes(8, "little")).decode()
    status, _, headers = raw_put_page(storage, container, b"a" * 512, {"x-ms-content-crc64": crc})
    assert (status, headers["x-ms-content-crc64"]) == (201, crc)
    assert raw_put_page(storage, container, b"b" * 512, {"x-ms-content-crc64": crc})[:2] == (400, "Crc64Mismatch")
    assert content(blob, offset=0, length=512) == b"a" * 512


def test_a_request_signed_with_the_account_key_may_carry_a_crc64(container: ContainerClient) -> None:
    blob = page_blob(container)
    crc = base64.b64encode(_crc64_nvme(b"a" * 512).to_bytes(8, "little")).decode()
    put(blob, 0, b"a" * 512, headers={"x-ms-content-crc64": crc})
    assert content(blob, offset=0, length=512) == b"a" * 512


def test_a_copied_page_blob_is_independent_of_its_source(container: ContainerClient) -> None:
    source = page_blob(container)
    put(source, 0, b"1" * 4096)
    put(source, 8 * MIB, os.urandom(4 * MIB))
    source.set_sequence_number("max", 7)
    snapshot = source.create_snapshot()["snapshot"]
    then = content(source)
    put(source, 0, b"2" * 4096)
    copy = container.get_blob_client("copy")
    started = copy.start_copy_from_url(f"{source.url}?snapshot={snapshot}", metadata={"of": "a snapshot"})
    assert started["copy_status"] == "success"
    properties = copy.get_blob_properties()
    assert (properties.copy.status, properties.page_blob_sequence_number, properties.metadata) == (
        "success",
        7,
        {"of": "a snapshot"},
    )
    assert content(copy) == then
    put(copy, 512, b"3" * 512)
    put(source, 1024, b"4" * 512)
    assert content(copy, offset=0, length=2048) == b"1" * 512 + b"3" * 512 + b"1" * 1024
    assert content(source, offset=0, length=2048) == b"2" * 1024 + b"4" * 512 + b"2" * 512
    assert content(container.get_blob_client("disk", snapshot=snapshot)) == then


def test_a_copy_without_the_right_to_write_is_refused(storage: Storage, container: ContainerClient) -> None:
    source = page_blob(container)
    sas = generate_container_sas(
        "dfseed",
        container.container_name,
        account_key=storage.keys["dfseed"],
        expiry=datetime.now(UTC) + timedelta(hours=1),
        permission=ContainerSasPermissions(read=True),
    )
    copy = BlobClient.from_blob_url(
        f"{container.url}/copy?{sas}", connection_verify=str(storage.certificates.ca_file), retry_total=0
    )
    with pytest.raises(HttpResponseError) as error:
        copy.start_copy_from_url(f"{source.url}?{sas}")
    assert error.value.status_code == 403
    assert not container.get_blob_client("copy").exists()


def test_the_difference_between_snapshots_names_what_changed_and_what_was_cleared(container: ContainerClient) -> None:
    blob = page_blob(container)
    put(blob, 0, b"a" * 8192)
    put(blob, 1 * MIB, b"b" * 4096)
    first = blob.create_snapshot()["snapshot"]
    put(blob, 1024, b"c" * 512)
    put(blob, 4096, b"a" * 512)
    blob.clear_page(1 * MIB, 1024)
    put(blob, 10 * MIB, b"d" * 512)
    second = blob.create_snapshot()["snapshot"]
    put(blob, 12 * MIB, b"e" * 512)
    at_second = container.get_blob_client("disk", snapshot=second)
    ranges = [(r.start, r.end, r.cleared) for r in at_second.list_page_ranges(previous_snapshot=first)]
    assert ranges == [
        (1024, 1535, False),
        (1 * MIB, 1 * MIB + 1023, True),
        (10 * MIB, 10 * MIB + 511, False),
    ]
    now = [(r.start, r.end) for r in blob.list_page_ranges(previous_snapshot=second)]
    assert now == [(12 * MIB, 12 * MIB + 511)]
    paged = list(at_second.list_page_ranges(previous_snapshot=first, results_per_page=1).by_page())
    assert [len(list(page)) for page in paged] == [1, 1, 1]


def test_ordered_faults_hit_the_next_matching_requests_only(container: ContainerClient, control: BlobControl) -> None:
    blob = page_blob(container)
    control.order(BlobFault(BlobAction.UNAVAILABLE, operation="PutPage", skip=1, count=1, retry_after_s=3))
    put(blob, 0, b"a" * 512)
    with pytest.raises(HttpResponseError) as error:
        put(blob, 0, b"b" * 512)
    assert (error.value.status_code, error.value.error_code, error.value.response.headers["Retry-After"]) == (
        503,
        "ServerBusy",
        "3",
    )
    put(blob, 0, b"c" * 512)
    assert control.counts()["PutPage"] == {201: 2, 503: 1}


def test_a_dropped_response_hides_an_effect_and_a_cut_request_has_none(container: ContainerClient, control: BlobControl) -> None:
    blob = page_blob(container)
    control.order(BlobFault(BlobAction.DROP, operation="PutPage"))
    control.order(BlobFault(BlobAction.CUT, operation="ClearPages"))
    with pytest.raises((ServiceResponseError, ServiceRequestError)):
        put(blob, 0, b"a" * 512)
    with pytest.raises((ServiceResponseError, ServiceRequestError)):
        blob.clear_page(0, 512)
    assert content(blob, offset=0, length=512) == b"a" * 512


def test_the_log_of_requests_says_how_long_each_took(container: ContainerClient, control: BlobControl) -> None:
    blob = page_blob(container)
    control.order(BlobFault(BlobAction.DELAY, operation="PutPage", delay_s=0.3))
    put(blob, 0, b"a" * 512)
    (slow,) = [one for one in control.requests() if (one.operation, one.container) == ("PutPage", container.container_name)]
    assert slow.seconds >= 0.3


def test_a_held_write_that_arrives_after_the_fence_was_raised_is_counted_as_refused(
    container: ContainerClient, control: BlobControl
) -> None:
    blob = page_blob(container)
    blob.set_sequence_number("max", 4)
    control.order(BlobFault(BlobAction.HOLD, operation="PutPage", path_contains=container.container_name))
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(put, blob, 0, b"a" * 512, if_sequence_number_eq=4)
        while control.held() == 0:
            assert not late.done()
        blob.set_sequence_number("max", 5)
        control.clear_faults()
        with pytest.raises(HttpResponseError):
            late.result()
    assert control.count("PutPage", 412) == 1
    refused = [r for r in control.requests() if r.status == 412]
    assert [(r.operation, r.blob, r.if_sequence_number_eq) for r in refused] == [("PutPage", "disk", "4")]
    assert content(blob, offset=0, length=512) == bytes(512)


def test_data_survive_a_restart_of_the_stores(storage: Storage) -> None:
    container = storage.client("dfseed").create_container(f"t-{uuid4().hex}")
    blob = page_blob(container, 1 * MIB)
    put(blob, 0, b"k" * 4096)
    storage.service.restart()
    assert content(blob) == b"k" * 4096 + bytes(1 * MIB - 4096)


def _crc64_nvme(data: bytes) -> int:
    crc = 0xFFFF_FFFF_FFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x9A6C_9329_AC4B_C9B5 if crc & 1 else crc >> 1
    return crc ^ 0xFFFF_FFFF_FFFF_FFFF
