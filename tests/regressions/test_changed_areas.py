"""Reading the changed areas: B1, and complaint 5."""

import itertools

import pytest

from deltaferry.model.extents import Extent
from deltaferry.model.vm import Snapshot
from deltaferry.vsphere.client import VSphere
from tests.unit.vsphere.lab_vcenter import ODD_BYTES, LabVcenter

PREFIX = "df/lab/0123456789abcdef/"
GRANULE = 65536
AREAS = 2300
"""More than the 2,000 that a page has at most."""
BIG_BYTES = 1 << 30


def beat() -> None:
    """Nothing to heartbeat to."""


def take(vsphere: VSphere, vm: str, number: int) -> Snapshot:
    return vsphere.take_snapshot(vm, f"{PREFIX}{number}-x", "", beat)


def change_id(snapshot: Snapshot, key: int) -> str:
    (found,) = (disk.change_id for disk in snapshot.disks if disk.key == key)
    assert found is not None
    return found


def merged(extents: list[Extent]) -> list[tuple[int, int]]:
    """Return start and end of what the extents cover, in order."""
    result: list[tuple[int, int]] = []
    for extent in sorted(extents):
        if result and result[-1][1] >= extent.offset_bytes:
            result[-1] = (result[-1][0], max(result[-1][1], extent.end_bytes))
        else:
            result.append((extent.offset_bytes, extent.end_bytes))
    return result


@pytest.mark.parametrize("allocated", [False, True], ids=["since a change id", "allocated"])
def test_b1_more_than_2000_areas_are_all_read(vcenter: LabVcenter, vsphere: VSphere, allocated: bool) -> None:
    """CDI, vddk-datasource_amd64.go: one of its two queries asked for the first page for ever.

    Both of ours, for changed areas and for allocated ones, go on where the page before ended.
    """
    (described,) = vsphere.find_vms("big")
    vm, key = described.instance_uuid, vsphere.read_vm(described.instance_uuid).disks[0].key
    vsphere.set_change_tracking(vm, True, f"{PREFIX}0-marker", beat)
    base = take(vsphere, vm, 1)
    vsphere.remove_snapshot(vm, base.moref, beat)
    written = [number * 4 * GRANULE for number in range(AREAS)]
    with vcenter.guest_disk(vm, key) as disk:
        for offset in written:
            disk.write(offset, b"b" * GRANULE)
    now = take(vsphere, vm, 2)
    try:
        before = vcenter.calls("QueryChangedDiskAreas")
        since = "*" if allocated else change_id(base, key)
        pages = vsphere.changed_areas(vm, now.moref, key, BIG_BYTES, since)
        found = merged(list(itertools.islice(pages, 3 * AREAS)))
        assert next(pages, None) is None, "it ends"
        assert found == [(offset, offset + GRANULE) for offset in written]
        assert vcenter.calls("QueryChangedDiskAreas") - before == 2
    finally:
        vsphere.remove_snapshot(vm, now.moref, beat)


@pytest.mark.parametrize("limit", [1, 2, 3, 2000])
@pytest.mark.parametrize("cover", [None, GRANULE, 3 * GRANULE, (1 << 20) - 512, 1 << 20, ODD_BYTES])
def test_complaint_5_nothing_is_asked_for_at_the_end_of_a_disk(
    vcenter: LabVcenter, vsphere: VSphere, tracked: str, limit: int, cover: int | None
) -> None:
    """migratekit #24: a query whose start offset is the capacity is refused, and the incremental copy dies of it.

    However the pages fall, also where one ends exactly with the disk, the last area is read and nothing behind it asked for.
    """
    key = vsphere.read_vm(tracked).disks[1].key
    base = take(vsphere, tracked, 1)
    vsphere.remove_snapshot(tracked, base.moref, beat)
    with vcenter.guest_disk(tracked, key) as disk:
        for offset in (0, 2 * GRANULE, 15 * GRANULE, ODD_BYTES - 512):
            disk.write(offset, b"5" * 512)
    now = take(vsphere, tracked, 2)
    vcenter.tracking(tracked, page_cover_bytes=cover)
    try:
        with vcenter.areas_per_page(limit):
            found = list(vsphere.changed_areas(tracked, now.moref, key, ODD_BYTES, change_id(base, key)))
    finally:
        vcenter.tracking(tracked)
    assert merged(found) == [(0, GRANULE), (2 * GRANULE, 3 * GRANULE), (15 * GRANULE, ODD_BYTES)]
