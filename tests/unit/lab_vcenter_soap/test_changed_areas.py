from collections.abc import Callable
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from deltaferry.blocks.nbd import NbdClient
from lab.vcenter.inventory_file import DiskSpec
from lab.vcenter.tracking import StarAnswer
from tests.unit.lab_vcenter_soap.running import DATA_DISK_BYTES, MIB, Lab, change_id

GRANULE = 65536


def _pages(vm: Any, snapshot: Any, key: int, capacity: int, since: str) -> list[Any]:
    pages, offset = [], 0
    while offset < capacity:
        page = vm.QueryChangedDiskAreas(snapshot, key, offset, since)
        pages.append(page)
        offset = page.startOffset + page.length
    return pages


def _areas(pages: list[Any]) -> list[tuple[int, int]]:
    return [(area.start, area.length) for page in pages for area in page.changedArea]


def test_what_was_written_between_two_snapshots_is_what_changed(lab: Lab) -> None:
    vm = lab.vm()
    lab.track(vm)
    first = lab.snapshot(vm, "first")
    base = change_id(first, 2001)
    lab.run(first.RemoveSnapshot_Task(removeChildren=False))
    lab.control.write(vm._moId, 2001, 5 * GRANULE + 512, b"x" * 512)
    lab.control.write(vm._moId, 2001, DATA_DISK_BYTES - 512, b"y" * 512)
    second = lab.snapshot(vm, "second")
    tail = DATA_DISK_BYTES // GRANULE * GRANULE
    assert _areas(_pages(vm, second, 2001, DATA_DISK_BYTES, base)) == [(5 * GRANULE, GRANULE), (tail, DATA_DISK_BYTES - tail)]
    assert _areas(_pages(vm, second, 2001, DATA_DISK_BYTES, change_id(second, 2001))) == []


def test_tracking_takes_effect_at_the_next_stun_and_not_before(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    assert vm.config.changeTrackingEnabled
    assert lab.state().disks[0].tracking_uuid is None
    assert lab.state().extra_config["scsi0:0.ctkEnabled"] == "TRUE"
    snapshot = lab.snapshot(vm, "stun")
    assert change_id(snapshot, 2000).startswith(str(lab.state().disks[0].tracking_uuid))


def test_a_reset_by_hand_needs_two_stuns_and_changes_the_uuid(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.track(vm)
    before = lab.state().disks[0].tracking_uuid
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))
    lab.run(lab.snapshot(vm, "off").RemoveSnapshot_Task(removeChildren=False))
    assert lab.state().disks[0].tracking_uuid is None
    lab.track(vm)
    assert lab.state().disks[0].tracking_uuid not in (None, before)


def test_pages_have_at_most_2000_areas(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    capacity = 2 * 2500 * GRANULE
    key = lab.control.add_disk(vm._moId, DiskSpec(capacity))
    lab.track(vm)
    first = lab.snapshot(vm, "first")
    base = change_id(first, key)
    lab.run(first.RemoveSnapshot_Task(removeChildren=False))
    from_guest = _scatter(lab, vm, key, 2500)
    second = lab.snapshot(vm, "second")
    pages = _pages(vm, second, key, capacity, base)
    assert [len(page.changedArea) for page in pages] == [2000, 500]
    assert _areas(pages) == from_guest


def _scatter(lab: Lab, vm: Any, key: int, count: int) -> list[tuple[int, int]]:
    """Write to every second granule, as the guest."""
    with NbdClient(lab.address(vm, f"guest={vm._moId};disk={key}")) as guest:
        for number in range(count):
            guest.write(2 * number * GRANULE, b"z" * 512)
    return [(2 * number * GRANULE, GRANULE) for number in range(count)]


def test_a_page_in_the_middle_may_be_empty(lab: Lab) -> None:
    vm = lab.vm()
    lab.track(vm)
    first = lab.snapshot(vm, "first")
    base = change_id(first, 2000)
    lab.run(first.RemoveSnapshot_Task(removeChildren=False))
    lab.control.write(vm._moId, 2000, 0, b"a" * 512)
    lab.control.write(vm._moId, 2000, 15 * MIB, b"b" * 512)
    second = lab.snapshot(vm, "second")
    lab.control.set_tracking(vm._moId, page_cover_bytes=4 * MIB)
    pages = _pages(vm, second, 2000, 16 * MIB, base)
    assert [len(page.changedArea) for page in pages] == [1, 0, 0, 1]
    assert _areas(pages) == [(0, GRANULE), (15 * MIB, GRANULE)]


Question = Callable[[Lab, Any, Any], Any]


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda lab, vm, snapshot: vm.QueryChangedDiskAreas(snapshot, 2000, 16 * MIB, "*"), "startOffset"),
        (lambda lab, vm, snapshot: vm.QueryChangedDiskAreas(snapshot, 2000, -1, "*"), "startOffset"),
        (lambda lab, vm, snapshot: vm.QueryChangedDiskAreas(snapshot, 1999, 0, "*"), "deviceKey"),
        (lambda lab, vm, snapshot: vm.QueryChangedDiskAreas(snapshot, 2000, 0, "rubbish"), "changeId"),
        (lambda lab, vm, snapshot: vm.QueryChangedDiskAreas(None, 2000, 0, "*"), "snapshot"),
        (lambda lab, vm, snapshot: lab.vm("off-01").QueryChangedDiskAreas(snapshot, 2000, 0, "*"), "snapshot"),
    ],
)
def test_a_wrong_argument_is_named(lab: Lab, ask: Question, name: str) -> None:
    vm = lab.vm()
    lab.track(vm)
    snapshot = lab.snapshot(vm, "asked")
    with pytest.raises(vmodl.fault.InvalidArgument) as caught:
        ask(lab, vm, snapshot)
    assert caught.value.invalidProperty == name


def test_file_faults_carry_their_message_keys(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()

    def keys(snapshot: Any, since: str) -> list[str]:
        with pytest.raises(vim.fault.FileFault) as caught:
            vm.QueryChangedDiskAreas(snapshot, 2000, 0, since)
        assert caught.value.file.startswith(f"[ds1] {lab.name}/")
        return [message.key.removeprefix("vim.hostd.vmsvc.cbt.") for message in caught.value.faultMessage]

    untracked = lab.snapshot(vm, "untracked")
    assert keys(untracked, "*") == ["noTrack"]
    lab.run(untracked.RemoveSnapshot_Task(removeChildren=False))
    lab.track(vm)
    first = lab.snapshot(vm, "first")
    base = change_id(first, 2000)
    lab.control.set_tracking(vm._moId, star=StarAnswer.NO_EPOCH)
    assert keys(first, "*") == ["noEpoch"]
    lab.control.set_tracking(vm._moId, corrupt=True)
    assert keys(first, base) == ["cannotGetChanges", "corrupt"]
    lab.control.set_tracking(vm._moId, reset=True)
    lab.run(first.RemoveSnapshot_Task(removeChildren=False))
    second = lab.snapshot(vm, "second")
    assert change_id(second, 2000).split("/")[0] != base.split("/")[0]
    assert keys(second, base) == ["cannotGetChanges"]


def test_a_snapshot_that_is_gone_and_a_disk_it_never_had(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.track(vm)
    snapshot = lab.snapshot(vm, "here")
    key = lab.control.add_disk(vm._moId, DiskSpec(MIB))
    with pytest.raises(vim.fault.NotFound):
        vm.QueryChangedDiskAreas(snapshot, key, 0, "*")
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        vm.QueryChangedDiskAreas(snapshot, 2000, 0, "*")


def test_a_hard_power_off_may_lose_tracking_and_a_clean_one_does_not(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.track(vm)
    before = lab.state().disks[0].tracking_uuid
    lab.control.power_off(vm._moId)
    assert lab.state().disks[0].tracking_uuid == before
    lab.control.power_on(vm._moId)
    lab.control.power_off(vm._moId, reset_tracking=True)
    assert lab.state().disks[0].tracking_uuid not in (None, before)


def test_a_powered_off_vm_is_asked_without_a_snapshot(fresh_lab: Lab) -> None:
    lab, vm = fresh_lab, fresh_lab.vm()
    lab.track(vm)
    snapshot = lab.snapshot(vm, "base")
    base = change_id(snapshot, 2000)
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    lab.control.write(vm._moId, 2000, GRANULE, b"last".ljust(512))
    lab.control.power_off(vm._moId)
    assert _areas(_pages(vm, None, 2000, 16 * MIB, base)) == [(GRANULE, GRANULE)]
