"""What failback reads: differences of a managed disk's incremental snapshots, through the signatures that Azure grants."""

from collections.abc import Iterator

import pytest

from deltaferry.azure.page_ranges import PageRangeReader
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR
from deltaferry.ports.recovery import PageRange
from tests.unit.lab_arm.conftest import Azure, azure, running_azure

__all__ = ["azure", "running_azure"]  # the fixtures

WHOLE = Extent(0, 8 * MIB)


class Disk:
    """A managed disk that is written to between incremental snapshots."""

    def __init__(self, lab: Azure) -> None:
        self.lab = lab
        blob = lab.page_blob(8 * MIB, {0: b"a" * 512, 6 * MIB: b"b" * 1024})
        request = lab.import_request(blob.url)
        self.resource_id = lab.compute.disks.begin_create_or_update(lab.group, lab.name("disk"), request).result().id
        self.names: list[str] = []

    def snapshot(self) -> str:
        """Take a snapshot, and return its URL with the signature that was granted."""
        name = self.lab.name("snap")
        properties = {"creationData": {"createOption": "Copy", "sourceResourceId": self.resource_id}, "incremental": True}
        body = {"location": "lab", "properties": properties}
        self.lab.compute.snapshots.begin_create_or_update(self.lab.group, name, body).result()
        self.names.append(name)
        access = {"access": "Read", "durationInSeconds": 600}
        return self.lab.compute.snapshots.begin_grant_access(self.lab.group, name, access).result().access_sas


@pytest.fixture
def disk(azure: Azure) -> Iterator[Disk]:
    made = Disk(azure)
    yield made
    for name in made.names:
        azure.compute.snapshots.begin_revoke_access(azure.group, name).result()


def reader(disk: Disk) -> PageRangeReader:
    return PageRangeReader(ca_file=str(disk.lab.certificates.ca_file), retries=0, max_results=2)


def test_the_differences_of_two_snapshots_are_all_found_answer_by_answer(disk: Disk) -> None:
    old = disk.snapshot()
    for place in range(7):
        disk.lab.control.write(disk.resource_id, MIB + place * 8 * SECTOR, b"c" * SECTOR)
    disk.lab.control.discard(disk.resource_id, 6 * MIB, 1024)
    new = disk.snapshot()
    assert list(reader(disk).of_managed_disk(new, old, WHOLE)) == [
        *(PageRange(Extent(MIB + place * 8 * SECTOR, SECTOR), False) for place in range(7)),
        PageRange(Extent(6 * MIB, 1024), True),
    ]


def test_the_first_pass_lists_what_the_snapshot_holds(disk: Disk) -> None:
    found = list(reader(disk).of_managed_disk(disk.snapshot(), None, WHOLE))
    held = {sector for entry in found for sector in range(entry.extent.offset_bytes // SECTOR, entry.extent.end_bytes // SECTOR)}
    assert {0, 6 * MIB // SECTOR, 6 * MIB // SECTOR + 1} <= held
    assert not any(entry.cleared for entry in found)


def test_a_signature_that_was_revoked_is_access_denied(disk: Disk) -> None:
    url = disk.snapshot()
    disk.lab.compute.snapshots.begin_revoke_access(disk.lab.group, disk.names[0]).result()
    with pytest.raises(DeltaferryError) as caught:
        list(reader(disk).of_managed_disk(url, None, WHOLE))
    assert caught.value.kind is ErrorKind.STORE_ACCESS_DENIED
