"""QueryChangedDiskAreas against real change tracking in a vCenter of its own process."""

from collections.abc import Iterator

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.vm import Snapshot
from deltaferry.vsphere.client import VSphere

from .lab_vcenter import ODD_BYTES, LabVcenter

PREFIX = "df/lab/0123456789abcdef/"
GRANULE = 65536
UNKNOWN_ID = "52 00 00 00 00 00 00 00-00 00 00 00 00 00 00 00/1"


def beat() -> None:
    """Nothing to heartbeat to."""


def take(vsphere: VSphere, vm: str, number: int) -> Snapshot:
    return vsphere.take_snapshot(vm, f"{PREFIX}{number}-x", "", beat)


def cycle(vsphere: VSphere, vm: str, number: int) -> Snapshot:
    """A snapshot that is already removed: its change ids are what stays."""
    taken = take(vsphere, vm, number)
    vsphere.remove_snapshot(vm, taken.moref, beat)
    return taken


def change_id(snapshot: Snapshot, key: int) -> str:
    found = next(disk.change_id for disk in snapshot.disks if disk.key == key)
    assert found is not None
    return found


@pytest.fixture
def tracked(vsphere: VSphere, vm: str) -> str:
    vsphere.set_change_tracking(vm, True, f"{PREFIX}0-marker", beat)
    return vm


@pytest.fixture(scope="module")
def big(vsphere: VSphere) -> str:
    (vm,) = vsphere.find_vms("big")
    vsphere.set_change_tracking(vm.instance_uuid, True, f"{PREFIX}0-marker", beat)
    return vm.instance_uuid


@pytest.fixture
def faults(lab: LabVcenter) -> Iterator[LabVcenter]:
    yield lab
    lab.clear_faults()


def merged(extents: list[Extent]) -> list[tuple[int, int]]:
    """Start and end of what the extents cover, in order."""
    result: list[tuple[int, int]] = []
    for extent in sorted(extents):
        if result and result[-1][1] == extent.offset_bytes:
            result[-1] = (result[-1][0], extent.end_bytes)
        else:
            result.append((extent.offset_bytes, extent.end_bytes))
    return result


def test_what_the_guest_wrote_since_the_change_id_is_told_and_nothing_else(
    vsphere: VSphere, lab: LabVcenter, tracked: str
) -> None:
    key = vsphere.read_vm(tracked).disks[0].key
    base = cycle(vsphere, tracked, 1)
    with lab.guest_disk(tracked, key) as disk:
        disk.write(3 * GRANULE, b"x" * 512)
        disk.write(9 * GRANULE, b"y" * GRANULE)
    now = take(vsphere, tracked, 2)
    found = list(vsphere.changed_areas(tracked, now.moref, key, 1 << 20, change_id(base, key)))
    assert merged(found) == [(3 * GRANULE, 4 * GRANULE), (9 * GRANULE, 10 * GRANULE)]
    other = vsphere.read_vm(tracked).disks[1].key
    assert list(vsphere.changed_areas(tracked, now.moref, other, ODD_BYTES, change_id(base, other))) == []


def test_extents_end_at_the_capacity_of_a_disk_of_an_odd_size(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    key = vsphere.read_vm(tracked).disks[1].key
    base = cycle(vsphere, tracked, 1)
    with lab.guest_disk(tracked, key) as disk:
        disk.write(ODD_BYTES - 512, b"z" * 512)
    now = take(vsphere, tracked, 2)
    assert merged(list(vsphere.changed_areas(tracked, now.moref, key, ODD_BYTES, change_id(base, key)))) == [(1 << 20, ODD_BYTES)]


def test_more_than_two_thousand_areas_with_empty_pages_in_the_middle_are_all_told(
    vsphere: VSphere, lab: LabVcenter, big: str
) -> None:
    (described,) = (disk for disk in vsphere.read_vm(big).disks)
    base = cycle(vsphere, big, 1)
    written = [number * 4 * GRANULE for number in range(2300)] + [(1 << 30) - GRANULE]
    with lab.guest_disk(big, described.key) as disk:
        for offset in written:
            disk.write(offset, b"d" * 512)
    now = take(vsphere, big, 2)
    try:
        before = lab.calls("QueryChangedDiskAreas")
        found = list(vsphere.changed_areas(big, now.moref, described.key, 1 << 30, change_id(base, described.key)))
        assert merged(found) == [(offset, offset + GRANULE) for offset in written]
        assert lab.calls("QueryChangedDiskAreas") - before == 2

        lab.tracking(big, page_cover_bytes=100 << 20, reverse_areas=True)
        before = lab.calls("QueryChangedDiskAreas")
        found = list(vsphere.changed_areas(big, now.moref, described.key, 1 << 30, change_id(base, described.key)))
        assert merged(found) == [(offset, offset + GRANULE) for offset in written]
        assert lab.calls("QueryChangedDiskAreas") - before == 11
    finally:
        lab.tracking(big)
        vsphere.remove_snapshot(big, now.moref, beat)


def test_an_empty_page_in_front_of_areas_is_not_the_end(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    key = vsphere.read_vm(tracked).disks[0].key
    base = cycle(vsphere, tracked, 1)
    with lab.guest_disk(tracked, key) as disk:
        disk.write(15 * GRANULE, b"x" * 512)
    now = take(vsphere, tracked, 2)
    lab.tracking(tracked, page_cover_bytes=4 * GRANULE)
    before = lab.calls("QueryChangedDiskAreas")
    found = list(vsphere.changed_areas(tracked, now.moref, key, 1 << 20, change_id(base, key)))
    assert merged(found) == [(15 * GRANULE, 1 << 20)]
    assert lab.calls("QueryChangedDiskAreas") - before == 4


def test_a_page_that_does_not_advance_is_an_error_and_no_endless_loop(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    base = cycle(vsphere, tracked, 1)
    now = take(vsphere, tracked, 2)
    key = now.disks[0].key
    lab.tracking(tracked, page_cover_bytes=0)
    assert kind_of(vsphere, tracked, now.moref, key, change_id(base, key)) is ErrorKind.VSPHERE_FAULT


def test_pages_are_asked_for_only_when_the_one_before_is_used_up(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    key = vsphere.read_vm(tracked).disks[0].key
    base = cycle(vsphere, tracked, 1)
    with lab.guest_disk(tracked, key) as disk:
        for number in range(0, 16, 2):
            disk.write(number * GRANULE, b"x" * 512)
    now = take(vsphere, tracked, 2)
    with lab.areas_per_page(2):
        before = lab.calls("QueryChangedDiskAreas")
        areas = vsphere.changed_areas(tracked, now.moref, key, 1 << 20, change_id(base, key))
        assert lab.calls("QueryChangedDiskAreas") == before
        next(areas)
        next(areas)
        assert lab.calls("QueryChangedDiskAreas") == before + 1
        assert len(list(areas)) == 6


def test_a_star_asks_for_the_allocated_areas(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    key = vsphere.read_vm(tracked).disks[0].key
    with lab.guest_disk(tracked, key) as disk:
        disk.write(2 * GRANULE, b"x" * GRANULE)
    now = take(vsphere, tracked, 1)
    found = merged(list(vsphere.changed_areas(tracked, now.moref, key, 1 << 20, "*")))
    assert any(start <= 2 * GRANULE and end >= 3 * GRANULE for start, end in found)
    assert sum(end - start for start, end in found) < 1 << 20
    lab.tracking(tracked, star="one area covering the disk")
    assert list(vsphere.changed_areas(tracked, now.moref, key, 1 << 20, "*")) == [Extent(0, 1 << 20)]
    lab.tracking(tracked, star="refused")
    assert kind_of(vsphere, tracked, now.moref, key, "*") is ErrorKind.CBT_NO_EPOCH


# --- every row of the fault table that the server can be brought to ---


def kind_of(vsphere: VSphere, vm: str, moref: str, key: int, change: str, capacity: int = 1 << 20) -> ErrorKind:
    with pytest.raises(DeltaferryError) as caught:
        list(vsphere.changed_areas(vm, moref, key, capacity, change))
    return caught.value.kind


def test_an_untracked_disk_means_that_tracking_is_off(vsphere: VSphere, vm: str) -> None:
    taken = take(vsphere, vm, 1)
    assert kind_of(vsphere, vm, taken.moref, taken.disks[0].key, UNKNOWN_ID) is ErrorKind.CBT_OFF


def test_unknown_and_malformed_change_ids_are_rejected(vsphere: VSphere, tracked: str) -> None:
    taken = take(vsphere, tracked, 1)
    key = taken.disks[0].key
    own = change_id(taken, key)
    assert kind_of(vsphere, tracked, taken.moref, key, UNKNOWN_ID) is ErrorKind.CBT_CHANGE_ID_REJECTED
    assert kind_of(vsphere, tracked, taken.moref, key, own.rpartition("/")[0] + "/999") is ErrorKind.CBT_CHANGE_ID_REJECTED
    assert kind_of(vsphere, tracked, taken.moref, key, "nonsense") is ErrorKind.CBT_CHANGE_ID_REJECTED


def test_an_id_from_before_a_reset_is_rejected(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    base = cycle(vsphere, tracked, 1)
    lab.tracking(tracked, reset=True)
    now = take(vsphere, tracked, 2)
    key = now.disks[0].key
    assert change_id(now, key).partition("/")[0] != change_id(base, key).partition("/")[0]
    assert kind_of(vsphere, tracked, now.moref, key, change_id(base, key)) is ErrorKind.CBT_CHANGE_ID_REJECTED


def test_a_damaged_tracking_file_is_told_apart(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    base = cycle(vsphere, tracked, 1)
    now = take(vsphere, tracked, 2)
    lab.tracking(tracked, corrupt=True)
    key = now.disks[0].key
    assert kind_of(vsphere, tracked, now.moref, key, change_id(base, key)) is ErrorKind.CBT_CORRUPT


def test_a_disk_that_is_smaller_than_it_was_has_changed(vsphere: VSphere, tracked: str) -> None:
    base = cycle(vsphere, tracked, 1)
    now = take(vsphere, tracked, 2)
    key = now.disks[0].key
    assert kind_of(vsphere, tracked, now.moref, key, change_id(base, key), capacity=1 << 21) is ErrorKind.DISKS_CHANGED


def test_a_disk_that_the_snapshot_does_not_have_has_changed(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    now = take(vsphere, tracked, 1)
    added = lab.add_disk(tracked, 1 << 20)
    own = change_id(now, now.disks[0].key)
    assert kind_of(vsphere, tracked, now.moref, 2999, own) is ErrorKind.DISKS_CHANGED
    assert kind_of(vsphere, tracked, now.moref, added, own) is ErrorKind.DISKS_CHANGED


def test_a_snapshot_that_is_gone_or_of_another_vm_is_lost(vsphere: VSphere, lab: LabVcenter, tracked: str) -> None:
    gone = cycle(vsphere, tracked, 1)
    key = gone.disks[0].key
    assert kind_of(vsphere, tracked, gone.moref, key, change_id(gone, key)) is ErrorKind.SNAPSHOT_LOST
    other = take(vsphere, lab.unused_vm(), 1)
    assert kind_of(vsphere, tracked, other.moref, key, change_id(gone, key)) is ErrorKind.SNAPSHOT_LOST


@pytest.mark.parametrize(
    ("fault", "change", "kind"),
    [
        ("FileFault", "id", ErrorKind.VSPHERE_FAULT),
        ("SystemError", "id", ErrorKind.VSPHERE_FAULT),
        ("NotSupported", "id", ErrorKind.CBT_CHANGE_ID_REJECTED),
        ("NotSupported", "*", ErrorKind.CBT_NO_EPOCH),
        ("NotFound", "id", ErrorKind.CBT_CHANGE_ID_REJECTED),
        ("ManagedObjectNotFound", "id", ErrorKind.SNAPSHOT_LOST),
    ],
)
def test_other_faults_that_vsphere_has_been_seen_to_raise(
    vsphere: VSphere, faults: LabVcenter, tracked: str, fault: str, change: str, kind: ErrorKind
) -> None:
    now = take(vsphere, tracked, 1)
    key = now.disks[0].key
    faults.fault(fault, "QueryChangedDiskAreas", tracked)
    assert kind_of(vsphere, tracked, now.moref, key, change_id(now, key) if change == "id" else "*") is kind
