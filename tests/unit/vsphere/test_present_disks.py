"""A powered-off VM's disks without a snapshot: change ids, changed areas, content, and what a held disk forbids."""

import pytest

from deltaferry.blocks.nbd import NbdClient
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import Snapshot
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.exports import PlainNbdExports

from .lab_vcenter import LabVcenter

PREFIX = "df/lab/0123456789abcdef/"
KEY = 2000
GRANULE = 65536


def beat() -> None:
    """Nothing to heartbeat to."""


def write(lab: LabVcenter, vm: str, offset: int, data: bytes) -> None:
    with lab.guest_disk(vm, KEY) as disk:
        disk.write(offset, data)


def areas(vsphere: VSphere, vm: str, change_id: str) -> list[tuple[int, int]]:
    found = vsphere.changed_areas(vm, "", KEY, 1 << 20, change_id)
    return [(extent.offset_bytes, extent.length_bytes) for extent in found]


def change_id(disks: Snapshot) -> str:
    found = next(disk.change_id for disk in disks.disks if disk.key == KEY)
    assert found is not None
    return found


@pytest.fixture
def base(vsphere: VSphere, vm: str) -> str:
    """The change id of a committed cycle of the VM."""
    vsphere.set_change_tracking(vm, True, f"{PREFIX}0-marker", beat)
    taken = vsphere.take_snapshot(vm, f"{PREFIX}1-x", "", beat)
    vsphere.remove_snapshot(vm, taken.moref, beat)
    return change_id(taken)


def test_a_powered_off_vm_is_asked_what_changed_up_to_now(vsphere: VSphere, lab: LabVcenter, vm: str, base: str) -> None:
    write(lab, vm, 3 * GRANULE, b"x" * 512)
    vsphere.power_off(vm, beat)
    present = vsphere.read_present_disks(vm)
    assert present.moref == ""
    assert change_id(present).partition("/")[0] == base.partition("/")[0]
    assert areas(vsphere, vm, base) == [(3 * GRANULE, GRANULE)]


def test_a_running_vm_is_neither_read_nor_asked_without_a_snapshot(vsphere: VSphere, vm: str, base: str) -> None:
    for ask in (lambda: vsphere.read_present_disks(vm), lambda: areas(vsphere, vm, base)):
        with pytest.raises(DeltaferryError) as caught:
            ask()
        assert caught.value.kind is ErrorKind.SOURCE_MOVED_ON


def test_a_change_id_of_an_older_tracking_is_refused_without_a_snapshot_too(
    vsphere: VSphere, lab: LabVcenter, vm: str, base: str
) -> None:
    lab.tracking(vm, reset=True)
    vsphere.power_off(vm, beat)
    with pytest.raises(DeltaferryError) as caught:
        areas(vsphere, vm, base)
    assert caught.value.kind is ErrorKind.CBT_CHANGE_ID_REJECTED


def test_who_starts_the_vm_and_writes_leaves_another_content_id(vsphere: VSphere, lab: LabVcenter, vm: str, base: str) -> None:
    vsphere.power_off(vm, beat)
    before = vsphere.read_present_disks(vm).disks
    assert vsphere.read_present_disks(vm).disks == before
    vsphere.power_on(vm, beat)
    write(lab, vm, 0, b"y" * 512)
    vsphere.power_off(vm, beat)
    after = vsphere.read_present_disks(vm).disks
    assert after[0].content_id != before[0].content_id
    assert after[1].content_id == before[1].content_id, "nobody wrote to the other disk"


def test_a_vm_on_a_foreign_snapshots_delta_is_read_merged(vsphere: VSphere, lab: LabVcenter, vm: str, base: str) -> None:
    write(lab, vm, 0, b"a" * 1024)
    lab.wait(lab.start_snapshot(vm, "of a backup"))
    write(lab, vm, 512, b"b" * 512)
    vsphere.power_off(vm, beat)
    present = vsphere.read_present_disks(vm)
    source = vsphere.read_vm(vm)
    assert source.disks[0].is_delta_backing
    assert present.disks[0].file_name == source.disks[0].file_name
    content = bytearray(1024)
    with PlainNbdExports(lab.nbd_addresses()).open(source, present, KEY) as address, NbdClient(address) as client:
        client.read_into(0, memoryview(content))
    assert content == b"a" * 512 + b"b" * 512


def test_while_a_disk_is_held_the_vm_is_not_started_nor_its_disks_changed(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.wait(lab.start_snapshot(vm, "of a backup"))
    vsphere.power_off(vm, beat)
    source = vsphere.read_vm(vm)
    present = vsphere.read_present_disks(vm)
    with PlainNbdExports(lab.nbd_addresses()).open(source, present, KEY) as address, NbdClient(address):
        with pytest.raises(DeltaferryError):
            vsphere.power_on(vm, beat)
        with pytest.raises(DeltaferryError):
            vsphere.take_snapshot(vm, f"{PREFIX}2-x", "", beat)
        lab.wait(lab.start_removal(source.snapshots[0].moref))
        assert vsphere.read_vm(vm).consolidation_needed, "a removal that cannot merge leaves its delta behind"
        with pytest.raises(DeltaferryError) as caught:
            vsphere.consolidate(vm, beat)
        assert caught.value.kind is ErrorKind.CONSOLIDATION_STUCK
