"""Incremental snapshots of managed disks: points in time, true differences in pages, limits."""

from functools import partial

import pytest
from azure.core.exceptions import HttpResponseError
from azure.core.paging import ItemPaged
from azure.storage.blob import BlobClient
from azure.storage.blob._models import PageRangePaged

MIB = 1 << 20
GIB = 1 << 30
SECTOR = 512


@pytest.fixture
def disk(azure):
    """An empty disk of 1 GiB."""
    return azure.empty_disk(azure.name("disk"))


def taken(azure, disk_id, *, incremental=True):
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": disk_id}, "incremental": incremental}
    request = {"location": "lab", "properties": properties}
    return azure.compute.snapshots.begin_create_or_update(azure.group, azure.name("snap"), request).result()


def signature(azure, snapshot):
    access = {"access": "Read", "durationInSeconds": 600}
    return azure.compute.snapshots.begin_grant_access(azure.group, snapshot.name, access).result().access_sas


def deleted(azure, snapshot):
    azure.compute.snapshots.begin_revoke_access(azure.group, snapshot.name).result()
    azure.compute.snapshots.begin_delete(azure.group, snapshot.name).result()


def blob(azure, url):
    return BlobClient.from_blob_url(url, connection_verify=str(azure.certificates.ca_file), retry_total=0)


def paged_differences(azure, new, old):
    """All differences, page after page: (start, end, cleared) in order."""
    client = blob(azure, new)
    command = partial(client._client.page_blob.get_page_ranges_diff, prev_snapshot_url=old)
    found = ItemPaged(command, results_per_page=None, page_iterator_class=PageRangePaged)
    return sorted((item.start, item.end, item.cleared) for item in found)


def write_apart(azure, disk, count):
    """Write single sectors that do not touch; return the differences that this makes."""
    for number in range(count):
        azure.control.write(disk, number * MIB, b"x" * SECTOR)
    return [(number * MIB, number * MIB + SECTOR - 1, False) for number in range(count)]


def test_a_snapshot_is_the_moment_of_its_request_while_the_disk_is_written(azure, disk, tmp_path):
    azure.control.write(disk, 0, b"a" * SECTOR)
    azure.control.set_times(operation_s=0.3)
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": disk}, "incremental": True}
    poller = azure.compute.snapshots.begin_create_or_update(
        azure.group, azure.name("snap"), {"location": "lab", "properties": properties}
    )
    azure.control.write(disk, 0, b"b" * SECTOR)
    snapshot = poller.result()
    azure.control.dump(snapshot.id, tmp_path / "snapshot")
    assert (tmp_path / "snapshot").open("rb").read(SECTOR) == b"a" * SECTOR
    assert (tmp_path / "snapshot").stat().st_size == GIB


def test_differences_are_what_was_written_or_given_back_in_between(azure, disk):
    azure.control.write(disk, 0, b"a" * MIB)
    first = taken(azure, disk)
    azure.control.write(disk, 512 * 4, b"a" * 1024)  # the bytes that are there already
    azure.control.write(disk, 2 * MIB, bytes(SECTOR))  # zeros, written
    azure.control.discard(disk, 8 * SECTOR, 1024)
    second = taken(azure, disk)
    azure.control.write(disk, 3 * MIB, b"later" + bytes(SECTOR - 5))
    old, new = signature(azure, first), signature(azure, second)
    expected = [
        (4 * SECTOR, 6 * SECTOR - 1, False),
        (8 * SECTOR, 10 * SECTOR - 1, True),
        (2 * MIB, 2 * MIB + SECTOR - 1, False),
    ]
    assert paged_differences(azure, new, old) == expected
    pages, cleared = blob(azure, new).get_page_range_diff_for_managed_disk(previous_snapshot_url=old)
    assert [(one["start"], one["end"]) for one in pages] == [entry[:2] for entry in expected if not entry[2]]
    assert [(one["start"], one["end"]) for one in cleared] == [entry[:2] for entry in expected if entry[2]]
    window = blob(azure, new).get_page_range_diff_for_managed_disk(previous_snapshot_url=old, offset=MIB, length=2 * MIB)
    assert [(one["start"], one["end"]) for one in window[0]] == [(2 * MIB, 2 * MIB + SECTOR - 1)]


def test_the_sdk_convenience_call_loses_all_but_the_first_page(azure, disk):
    first = taken(azure, disk)
    expected = write_apart(azure, disk, 7)
    second = taken(azure, disk)
    old, new = signature(azure, first), signature(azure, second)
    azure.control.set_limits(ranges_per_page=3)
    assert paged_differences(azure, new, old) == expected
    pages, _ = blob(azure, new).get_page_range_diff_for_managed_disk(previous_snapshot_url=old)
    assert [(one["start"], one["end"], False) for one in pages] == expected[:3]
    listed = [(one.start, one.end) for one in blob(azure, new).list_page_ranges()]
    assert listed == [*(entry[:2] for entry in expected), (GIB, GIB + SECTOR - 1)]


def test_deleting_a_middle_snapshot_keeps_the_difference_across_it(azure, disk, tmp_path):
    first = taken(azure, disk)
    azure.control.write(disk, 0, b"1" * SECTOR)
    middle = taken(azure, disk)
    azure.control.write(disk, MIB, b"2" * SECTOR)
    last = taken(azure, disk)
    azure.control.write(disk, 0, b"3" * SECTOR)
    deleted(azure, middle)
    differences = paged_differences(azure, signature(azure, last), signature(azure, first))
    assert differences == [(0, SECTOR - 1, False), (MIB, MIB + SECTOR - 1, False)]
    azure.control.dump(last.id, tmp_path / "last")
    azure.control.dump(first.id, tmp_path / "first")
    assert (tmp_path / "last").open("rb").read(SECTOR) == b"1" * SECTOR
    assert (tmp_path / "first").open("rb").read(SECTOR) == bytes(SECTOR)


def refused(azure, new, old):
    with pytest.raises(HttpResponseError) as refusal:
        blob(azure, new).get_page_range_diff_for_managed_disk(previous_snapshot_url=old)
    return refusal.value.status_code, refusal.value.error_code


def test_differences_need_an_older_incremental_snapshot_of_the_same_disk(azure, disk):
    older, newer = (signature(azure, taken(azure, disk)) for _ in range(2))
    assert refused(azure, older, newer) == (400, "PreviousSnapshotCannotBeNewer")
    other = signature(azure, taken(azure, azure.empty_disk(azure.name("other"))))
    assert refused(azure, newer, other) == (409, "BlobGenerationMismatch")
    full = signature(azure, taken(azure, disk, incremental=False))
    assert refused(azure, full, older) == (409, "PreviousSnapshotOperationNotSupported")
    assert refused(azure, newer, older + "x") == (403, "AuthenticationFailed")


def test_there_are_no_differences_across_a_growth_over_4_tib(azure):
    name = azure.name("large")
    request = {"location": "lab", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 4096}}
    disk = azure.compute.disks.begin_create_or_update(azure.group, name, request).result().id
    before = taken(azure, disk)
    request["properties"]["diskSizeGB"] = 4097
    azure.compute.disks.begin_create_or_update(azure.group, name, request).result()
    old, new = signature(azure, before), signature(azure, taken(azure, disk))
    assert refused(azure, new, old) == (409, "PreviousSnapshotOperationNotSupported")


def test_five_snapshots_of_a_family_have_signatures_at_once(azure, disk):
    azure.control.set_limits(snapshots_per_window=100)
    snapshots = [taken(azure, disk) for _ in range(6)]
    for snapshot in snapshots[:5]:
        signature(azure, snapshot)
    signature(azure, snapshots[0])
    with pytest.raises(HttpResponseError) as refusal:
        signature(azure, snapshots[5])
    assert (refusal.value.status_code, refusal.value.error.code) == (409, "OperationNotAllowed")
    azure.compute.snapshots.begin_revoke_access(azure.group, snapshots[2].name).result()
    signature(azure, snapshots[5])


def test_seven_incremental_snapshots_of_a_disk_are_made_in_five_minutes(azure, disk):
    made = [taken(azure, disk) for _ in range(7)]
    deleted(azure, made[0])
    with pytest.raises(HttpResponseError) as refusal:
        taken(azure, disk)
    assert (refusal.value.status_code, refusal.value.error.code) == (409, "SnapshotOperationRateExceeded")
    taken(azure, disk, incremental=False)
    azure.control.set_limits(window_s=0.0)
    taken(azure, disk)


def test_a_disk_has_a_greatest_number_of_incremental_snapshots(azure, disk):
    azure.control.set_limits(snapshots_per_disk=2)
    first, _ = taken(azure, disk), taken(azure, disk)
    with pytest.raises(HttpResponseError) as refusal:
        taken(azure, disk)
    assert (refusal.value.status_code, refusal.value.error.code) == (409, "SnapshotCountExceeded")
    deleted(azure, first)
    taken(azure, disk)


def test_a_snapshot_outlives_its_disk(azure, disk):
    azure.control.write(disk, 0, b"k" * SECTOR)
    snapshot = taken(azure, disk)
    azure.compute.disks.begin_delete(azure.group, disk.rsplit("/", 1)[-1]).result()
    assert blob(azure, signature(azure, snapshot)).download_blob(0, SECTOR).readall() == b"k" * SECTOR


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("snapshot-rate", 409, "SnapshotOperationRateExceeded"),
        ("snapshot-count", 409, "SnapshotCountExceeded"),
        ("snapshot-failed", None, "InternalExecutionError"),
    ],
)
def test_a_snapshot_meets_the_fault_that_was_asked_for_once(azure, disk, name, status, code):
    azure.control.ask_named(name)
    with pytest.raises(HttpResponseError) as failure:
        taken(azure, disk)
    assert failure.value.error.code == code
    assert status is None or failure.value.status_code == status
    taken(azure, disk)


@pytest.mark.parametrize(
    ("name", "status", "code"), [("signature-expired", 403, "AuthenticationFailed"), ("disk-read-busy", 503, "ServerBusy")]
)
def test_a_read_meets_the_fault_that_was_asked_for_in_the_blob_services_form(azure, disk, name, status, code):
    reader = blob(azure, signature(azure, taken(azure, disk)))
    azure.control.ask_named(name)
    with pytest.raises(HttpResponseError) as refusal:
        reader.download_blob(0, SECTOR)
    assert (refusal.value.status_code, refusal.value.error_code) == (status, code)
    assert reader.download_blob(0, SECTOR).readall() == bytes(SECTOR)


def test_a_snapshot_stays_while_a_disk_is_copied_from_it(azure, disk):
    azure.control.write(disk, 0, b"c" * SECTOR)
    snapshot = taken(azure, disk)
    azure.control.set_times(operation_s=0.5)
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": snapshot.id}}
    request = {"location": "lab", "properties": properties}
    poller = azure.compute.disks.begin_create_or_update(azure.group, azure.name("copy"), request)
    with pytest.raises(HttpResponseError) as refusal:
        azure.compute.snapshots.begin_delete(azure.group, snapshot.name)
    assert refusal.value.error.code == "OperationNotAllowed"
    copy = poller.result()
    azure.compute.snapshots.begin_delete(azure.group, snapshot.name).result()
    with azure.control.disk_file(copy.id).path.open("rb") as file:
        assert file.read(SECTOR) == b"c" * SECTOR
