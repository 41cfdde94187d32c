"""The lab's datastores: what takes room on them and gives it back, and when vCenter knows of it."""

from typing import Any

import pytest

from lab.vcenter.control import ControlRefusedError
from lab.vcenter.vocabulary import vim
from tests.unit.lab_vcenter_soap.running import Lab

_KIB_256 = 262144
_GUEST_OFFSET = 1 << 20


def free_bytes(lab: Lab) -> int:
    store = lab.vm().datastore[0]
    store.RefreshDatastore()
    return int(store.summary.freeSpace)


def write(lab: Lab, fill: bytes) -> None:
    lab.control.write(lab.vm()._moId, 2000, _GUEST_OFFSET, fill * _KIB_256)


def test_a_full_datastore_takes_no_snapshot(lab: Lab) -> None:
    lab.control.fill_datastore("ds1", 0)
    with pytest.raises(vim.fault.NoDiskSpace):
        lab.snapshot(lab.vm(), "full")
    lab.control.fill_datastore("ds1", None)


def test_free_space_is_what_the_files_leave(lab: Lab) -> None:
    write(lab, b"\0")
    before = free_bytes(lab)
    lab.control.fill_datastore("ds1", 4096)
    assert free_bytes(lab) == 4096
    lab.control.fill_datastore("ds1", None)
    assert free_bytes(lab) == before


def test_vcenter_knows_of_less_room_only_when_it_is_refreshed(lab: Lab) -> None:
    store = lab.vm().datastore[0]
    store.RefreshDatastore()
    before, at = store.summary.freeSpace, store.info.timestamp
    lab.control.fill_datastore("ds1", 4096)
    assert store.summary.freeSpace == store.info.freeSpace == before
    store.RefreshDatastore()
    assert store.summary.freeSpace == store.info.freeSpace == 4096
    assert store.info.timestamp > at
    lab.control.fill_datastore("ds1", None)


def test_vcenter_looks_by_itself_after_a_while(lab: Lab) -> None:
    store = lab.vm().datastore[0]
    store.RefreshDatastore()
    lab.control.fill_datastore("ds1", 4096)
    lab.control.set_times(datastore_update_s=0.0)
    assert store.summary.freeSpace == 4096
    lab.control.set_times(datastore_update_s=600.0)
    lab.control.fill_datastore("ds1", None)


def test_a_snapshot_takes_what_the_guest_writes_and_consolidation_gives_it_back(lab: Lab) -> None:
    write(lab, b"a")
    before = free_bytes(lab)
    made = lab.snapshot(lab.vm(), "held")
    write(lab, b"b")
    grown = before - free_bytes(lab)
    assert grown >= _KIB_256
    write(lab, b"c")
    assert before - free_bytes(lab) == grown
    lab.run(made.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
    assert free_bytes(lab) == before


def test_a_datastore_can_be_enlarged(lab: Lab) -> None:
    store = lab.vm().datastore[0]
    store.RefreshDatastore()
    capacity, free = store.summary.capacity, store.summary.freeSpace
    lab.control.set_datastore("ds1", capacity_bytes=capacity + (1 << 30))
    assert store.summary.capacity == capacity
    store.RefreshDatastore()
    assert (store.summary.capacity, store.summary.freeSpace) == (capacity + (1 << 30), free + (1 << 30))
    (state,) = (item for item in lab.control.state().datastores if item.name == "ds1")
    assert (state.capacity_bytes, state.free_bytes) == (capacity + (1 << 30), free + (1 << 30))
    lab.control.set_datastore("ds1", capacity_bytes=capacity)


@pytest.fixture
def lost(lab: Lab) -> Any:
    """A datastore that no host reaches."""
    lab.control.set_datastore("ds1", accessible=False)
    yield lab.vm().datastore[0]
    lab.control.set_datastore("ds1", accessible=True)


def test_a_datastore_that_no_host_reaches_has_no_numbers_and_is_not_refreshed(lost: Any) -> None:
    summary = lost.summary
    assert (summary.accessible, summary.capacity, summary.freeSpace) == (False, 0, 0)
    with pytest.raises(vim.fault.HostConfigFault):
        lost.RefreshDatastore()


def test_what_there_is_not_is_refused(lab: Lab) -> None:
    with pytest.raises(ControlRefusedError):
        lab.control.set_datastore("ds9", capacity_bytes=1)
    with pytest.raises(ControlRefusedError):
        lab.control.set_datastore("ds1", capacity_bytes=0)
