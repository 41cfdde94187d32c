"""Import: what a managed disk's bytes are, and what is refused."""

import os
import random
import uuid

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

MIB = 1 << 20


def test_import_copies_exactly_the_blobs_bytes_without_the_footer(azure):
    source = random.Random(1)
    pages = {
        0: source.randbytes(512),
        70 * 512: source.randbytes(1024),
        5 * MIB: source.randbytes(2 * MIB),
        12 * MIB - 512: source.randbytes(512),
    }
    blob = azure.page_blob(12 * MIB, pages)
    disk = azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), azure.import_request(blob.url)).result()
    assert disk.properties.disk_size_bytes == 12 * MIB
    assert disk.properties.disk_state == "Unattached"
    expected = bytearray(12 * MIB)
    for offset, data in pages.items():
        expected[offset : offset + len(data)] = data
    file = azure.control.disk_file(disk.id)
    assert file.path.read_bytes() == expected
    assert file.path.stat().st_blocks * 512 < 6 * MIB, "what is not allocated in the blob stays a hole"


def test_import_takes_the_bytes_of_that_moment_and_is_not_repeated_by_a_second_put(azure):
    blob = azure.page_blob(MIB, {0: b"a" * 512})
    name, request = azure.name("disk"), azure.import_request(blob.url)
    disk = azure.compute.disks.begin_create_or_update(azure.group, name, request).result()
    blob.upload_page(b"b" * 512, 0, 512)
    again = azure.compute.disks.begin_create_or_update(azure.group, name.upper(), request).result()
    assert again.id == disk.id
    blob.delete_blob()
    assert azure.control.disk_file(disk.id).path.read_bytes()[:512] == b"a" * 512


def test_import_reads_every_page_of_a_blob_with_many_ranges(azure):
    pages = {2 * index * 128 * 1024: os.urandom(512) for index in range(60)}
    blob = azure.page_blob(16 * MIB, pages)
    disk = azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), azure.import_request(blob.url)).result()
    data = azure.control.disk_file(disk.id).path.read_bytes()
    assert all(data[offset : offset + 512] == page for offset, page in pages.items())


def test_import_of_a_blob_snapshot_is_refused(azure):
    blob = azure.page_blob(MIB, {})
    snapshot = blob.create_snapshot()["snapshot"]
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.disks.begin_create_or_update(
            azure.group, azure.name("disk"), azure.import_request(f"{blob.url}?snapshot={snapshot}")
        )
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidParameter")


@pytest.mark.parametrize("missing", ["storageAccountId", "sourceUri"])
def test_import_needs_account_and_source(azure, missing):
    request = azure.import_request(azure.page_blob(MIB, {}).url)
    del request["properties"]["creationData"][missing]
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), request)
    assert (refusal.value.error.code, refusal.value.error.target) == ("InvalidParameter", missing)


def test_import_into_another_region_than_the_accounts_is_refused(azure):
    request = azure.import_request(azure.page_blob(MIB, {}).url, location="far")
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), request)
    assert refusal.value.error.code == "BadRequest"


@pytest.mark.parametrize("offset", [0, 48, 60, 64], ids=["cookie", "size", "type", "checksum"])
def test_import_with_a_damaged_footer_fails_in_the_operation(azure, offset):
    blob = azure.page_blob(MIB, {})
    footer = bytearray(blob.download_blob(MIB, 512).readall())
    footer[offset + 3] ^= 1
    blob.upload_page(bytes(footer), MIB, 512)
    name = azure.name("disk")
    poller = azure.compute.disks.begin_create_or_update(azure.group, name, azure.import_request(blob.url))
    with pytest.raises(HttpResponseError) as failure:
        poller.result()
    assert failure.value.error.code == "BadRequest"
    assert azure.compute.disks.get(azure.group, name).properties.provisioning_state == "Failed"
    azure.compute.disks.begin_delete(azure.group, name).result()


def test_import_without_footer_fails_and_succeeds_once_it_is_written(azure):
    blob = azure.page_blob(MIB, {512: b"x" * 512}, footer=bytes(512))
    name, request = azure.name("disk"), azure.import_request(blob.url)
    with pytest.raises(HttpResponseError):
        azure.compute.disks.begin_create_or_update(azure.group, name, request).result()
    good = azure.page_blob(MIB, {}).download_blob(MIB, 512).readall()
    blob.upload_page(good, MIB, 512)
    disk = azure.compute.disks.begin_create_or_update(azure.group, name, request).result()
    assert azure.control.disk_file(disk.id).path.read_bytes()[512:1024] == b"x" * 512


def test_import_of_a_size_that_is_no_whole_mib_fails(azure):
    blob = azure.page_blob(MIB + 512, {})
    with pytest.raises(HttpResponseError, match="whole number"):
        azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), azure.import_request(blob.url)).result()


def test_import_of_a_missing_blob_and_of_a_block_blob_fails(azure):
    missing = azure.seeds.get_blob_client("seeds", f"{uuid.uuid4()}.vhd")
    with pytest.raises(HttpResponseError) as failure:
        azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), azure.import_request(missing.url)).result()
    assert failure.value.error.code == "DiskBlobNotFound"
    missing.upload_blob(b"no pages")
    with pytest.raises(HttpResponseError) as failure:
        azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), azure.import_request(missing.url)).result()
    assert failure.value.error.code == "BadRequest"


def test_a_failure_asked_for_surfaces_from_the_poller_with_its_code(azure):
    azure.control.fail_next("disks.import", "InternalDiskManagementError")
    name = azure.name("disk")
    request = azure.import_request(azure.page_blob(MIB, {}).url)
    poller = azure.compute.disks.begin_create_or_update(azure.group, name, request)
    with pytest.raises(HttpResponseError) as failure:
        poller.result()
    assert failure.value.error.code == "InternalDiskManagementError"
    assert (
        azure.compute.disks.begin_create_or_update(azure.group, name, request).result().properties.provisioning_state
        == "Succeeded"
    )


def test_deleting_a_disk_removes_its_bytes(azure):
    name = azure.name("disk")
    disk = azure.compute.disks.begin_create_or_update(
        azure.group, name, azure.import_request(azure.page_blob(MIB, {}).url)
    ).result()
    path = azure.control.disk_file(disk.id).path
    azure.compute.disks.begin_delete(azure.group, name).result()
    assert not path.exists()
    with pytest.raises(ResourceNotFoundError):
        azure.compute.disks.get(azure.group, name)
    azure.compute.disks.begin_delete(azure.group, name).result()
