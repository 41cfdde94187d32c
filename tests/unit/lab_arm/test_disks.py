"""Managed disks: names, repeated PUTs, upload through a signature, snapshots, reading."""

import os

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobClient

MIB = 1 << 20
UPLOAD_BYTES = 21 * MIB


@pytest.fixture
def upload_disk(azure):
    name = azure.name("upload")
    properties = {
        "osType": "Linux",
        "hyperVGeneration": "V2",
        "creationData": {"createOption": "Upload", "uploadSizeBytes": UPLOAD_BYTES + 512},
    }
    azure.compute.disks.begin_create_or_update(azure.group, name, {"location": "lab", "properties": properties}).result()
    return name


def grant(azure, operations, name, access):
    return operations.begin_grant_access(azure.group, name, {"access": access, "durationInSeconds": 600}).result().access_sas


def blob_of(azure, url):
    return BlobClient.from_blob_url(url, connection_verify=str(azure.certificates.ca_file), retry_total=0)


def footer(azure, size_bytes):
    return azure.page_blob(size_bytes, {}).download_blob(size_bytes, 512).readall()


@pytest.mark.parametrize("name", ["a" * 81, "-disk", "disk.", "di$k"])
def test_disk_names_follow_the_rule(azure, name):
    with pytest.raises(HttpResponseError) as refusal:
        azure.empty_disk(name)
    assert refusal.value.error.code == "InvalidParameter"


def test_ids_are_compared_without_case_and_keep_their_first_spelling(azure):
    name = azure.name("Disk")
    made = azure.empty_disk(name)
    assert azure.compute.disks.get(azure.group.upper(), name.lower()).id == made


def test_another_create_option_on_an_existing_disk_is_a_conflict(azure):
    name = azure.name("disk")
    azure.empty_disk(name)
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.disks.begin_create_or_update(azure.group, name, azure.import_request(azure.page_blob(MIB, {}).url))
    assert (refusal.value.status_code, refusal.value.error.code) == (409, "PropertyChangeNotAllowed")


def test_a_put_on_an_existing_disk_replaces_tags_and_grows_but_never_shrinks_it(azure):
    name = azure.name("disk")
    azure.empty_disk(name, tags={"a": "1"})
    request = {"location": "lab", "tags": {"b": "2"}, "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 2}}
    disk = azure.compute.disks.begin_create_or_update(azure.group, name, request).result()
    assert (disk.tags, disk.properties.disk_size_gb) == ({"b": "2"}, 2)
    assert azure.control.disk_file(disk.id).path.stat().st_size == 2 << 30
    request["properties"]["diskSizeGB"] = 1
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.disks.begin_create_or_update(azure.group, name, request)
    assert refusal.value.status_code == 409


@pytest.mark.parametrize(("size", "boot"), [(32768, False), (4096, True), (0, False)])
def test_disk_sizes_have_caps(azure, size, boot):
    properties = {"creationData": {"createOption": "Empty"}, "diskSizeGB": size} | ({"osType": "Linux"} if boot else {})
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), {"location": "lab", "properties": properties})
    assert refusal.value.error.target == "diskSizeGb"


def test_an_upload_disk_is_written_once_through_its_signature(azure, upload_disk):
    disks = azure.compute.disks
    assert disks.get(azure.group, upload_disk).properties.disk_state == "ReadyToUpload"
    blob = blob_of(azure, grant(azure, disks, upload_disk, "Write"))
    assert disks.get(azure.group, upload_disk).properties.disk_state == "ActiveUpload"
    data = os.urandom(4 * MIB)
    blob.upload_page(data, MIB, len(data), validate_content="md5")
    blob.clear_page(2 * MIB, MIB)
    blob.upload_page(footer(azure, UPLOAD_BYTES), UPLOAD_BYTES, 512)
    disks.begin_revoke_access(azure.group, upload_disk).result()
    disk = disks.get(azure.group, upload_disk)
    assert (disk.properties.disk_state, disk.properties.disk_size_bytes) == ("Unattached", UPLOAD_BYTES)
    expected = bytes(MIB) + data[:MIB] + bytes(MIB) + data[2 * MIB :] + bytes(UPLOAD_BYTES - 5 * MIB)
    assert azure.control.disk_file(disk.id).path.read_bytes() == expected
    with pytest.raises(HttpResponseError) as refused:
        blob.upload_page(bytes(512), 0, 512)
    assert refused.value.status_code == 403
    with pytest.raises(HttpResponseError) as refused:
        disks.begin_grant_access(azure.group, upload_disk, {"access": "Write", "durationInSeconds": 60})
    assert (refused.value.status_code, refused.value.error.code) == (409, "OperationNotAllowed")


def test_put_page_has_its_limits_and_checks(azure, upload_disk):
    blob = blob_of(azure, grant(azure, azure.compute.disks, upload_disk, "Write"))
    with pytest.raises(HttpResponseError) as refused:
        blob.upload_page(bytes(4 * MIB + 512), 0, 4 * MIB + 512)
    assert refused.value.status_code == 413
    for header, code in (("Content-MD5", "Md5Mismatch"), ("x-ms-content-crc64", "Crc64Mismatch")):
        with pytest.raises(HttpResponseError) as refused:
            blob.upload_page(b"x" * 512, 0, 512, headers={header: "AAAAAAAAAAA="})
        assert refused.value.error_code == code
    with pytest.raises(HttpResponseError) as refused:
        blob.upload_page(bytes(512), UPLOAD_BYTES + 512, 512)
    assert refused.value.status_code == 416


def test_an_upload_without_footer_cannot_be_finished(azure, upload_disk):
    grant(azure, azure.compute.disks, upload_disk, "Write")
    with pytest.raises(HttpResponseError) as failure:
        azure.compute.disks.begin_revoke_access(azure.group, upload_disk).result()
    assert failure.value.error.code == "BadRequest"
    assert azure.compute.disks.get(azure.group, upload_disk).properties.disk_state == "ActiveUpload"


@pytest.mark.parametrize("size", [UPLOAD_BYTES, 20 * MIB - 512 + 512, UPLOAD_BYTES + 1024])
def test_upload_sizes_are_whole_mib_and_a_footer(azure, size):
    properties = {"creationData": {"createOption": "Upload", "uploadSizeBytes": size}}
    with pytest.raises(HttpResponseError):
        azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), {"location": "lab", "properties": properties})


def snapshot(azure, disk_id, name):
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": disk_id}, "incremental": True}
    return azure.compute.snapshots.begin_create_or_update(
        azure.group, name, {"location": "lab", "properties": properties}
    ).result()


def test_incremental_snapshots_are_read_and_compared_through_signatures(azure):
    blob = azure.page_blob(4 * MIB, {0: b"a" * 512, 2 * MIB: b"b" * 512})
    disk = azure.compute.disks.begin_create_or_update(azure.group, azure.name("disk"), azure.import_request(blob.url)).result()
    names = [azure.name("snap"), azure.name("snap")]
    first = snapshot(azure, disk.id, names[0])
    azure.control.write(disk.id, MIB, b"c" * 1024)
    azure.control.discard(disk.id, 2 * MIB, 512)
    second = snapshot(azure, disk.id, names[1])
    assert first.properties.creation_data.source_unique_id == disk.properties.unique_id
    assert first.properties.incremental_snapshot_family_id == second.properties.incremental_snapshot_family_id
    old, new = (grant(azure, azure.compute.snapshots, name, "Read") for name in names)
    reader = blob_of(azure, new)
    assert reader.get_blob_properties().size == 4 * MIB + 512
    assert reader.download_blob(MIB - 512, 2048).readall() == bytes(512) + b"c" * 1024 + bytes(512)
    assert blob_of(azure, old).download_blob(2 * MIB, 512).readall() == b"b" * 512
    assert reader.download_blob(4 * MIB, 512).readall()[:8] == b"conectix"
    changed, cleared = reader.get_page_range_diff_for_managed_disk(previous_snapshot_url=old)
    assert changed == [{"start": MIB, "end": MIB + 1023}]
    assert cleared == [{"start": 2 * MIB, "end": 2 * MIB + 511}]
    with pytest.raises(HttpResponseError):
        azure.compute.snapshots.begin_delete(azure.group, names[0])
    azure.compute.snapshots.begin_revoke_access(azure.group, names[0]).result()
    azure.compute.snapshots.begin_delete(azure.group, names[0]).result()
    with pytest.raises(ResourceNotFoundError):
        azure.compute.snapshots.get(azure.group, names[0])


def test_a_copy_of_a_disk_is_its_own(azure):
    source = azure.compute.disks.begin_create_or_update(
        azure.group, azure.name("disk"), azure.import_request(azure.page_blob(MIB, {0: b"a" * 512}).url)
    ).result()
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": source.id}}
    copy = azure.compute.disks.begin_create_or_update(
        azure.group, azure.name("copy"), {"location": "lab", "properties": properties}
    ).result()
    azure.compute.disks.begin_delete(azure.group, source.name).result()
    assert azure.control.disk_file(copy.id).path.read_bytes() == b"a" * 512 + bytes(MIB - 512)


def test_a_disk_that_is_being_read_cannot_be_deleted(azure):
    name = azure.name("disk")
    azure.empty_disk(name)
    grant(azure, azure.compute.disks, name, "Read")
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.disks.begin_delete(azure.group, name)
    assert refusal.value.error.code == "OperationNotAllowed"
    azure.compute.disks.begin_revoke_access(azure.group, name).result()
    azure.compute.disks.begin_delete(azure.group, name).result()


def test_a_disk_quota_refuses_the_next_disk(azure):
    azure.control.set_quota(disks=0)
    with pytest.raises(ResourceExistsError) as refusal:
        azure.empty_disk(azure.name("disk"))
    assert refusal.value.error.code == "QuotaExceeded"


def test_lists_follow_next_link(azure):
    names = {azure.name(f"many{number}") for number in range(55)}
    for name in names:
        azure.compute.disks.begin_create_or_update(
            azure.group,
            name,
            {"location": "lab", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}},
            polling=False,
        )
    assert names <= {disk.name for disk in azure.compute.disks.list_by_resource_group(azure.group)}
