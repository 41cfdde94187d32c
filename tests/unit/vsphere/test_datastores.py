"""The room on a VM's datastores, read from a vCenter that knows it only when it is asked to look."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.datastores import _names

from .lab_vcenter import DATASTORE_BYTES, LabVcenter


@contextmanager
def filled(lab: LabVcenter, name: str, free_bytes: int) -> Iterator[None]:
    lab.fill_datastore(name, free_bytes)
    try:
        yield
    finally:
        lab.fill_datastore(name, None)


def test_the_datastores_of_the_disks_are_read(vsphere: VSphere) -> None:
    (vm,) = vsphere.find_vms("web-01")
    (space,) = vsphere.datastore_space(vm.instance_uuid)
    assert (space.name, space.capacity_bytes) == ("ds1", DATASTORE_BYTES)
    assert 0 < space.free_bytes <= DATASTORE_BYTES


def test_free_space_is_as_of_now_and_not_as_vcenter_last_looked(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    vsphere.datastore_space(vm)
    with filled(lab, "ds1", 12345678):
        (space,) = vsphere.datastore_space(vm)
    assert space.free_bytes == 12345678


def test_the_home_and_snapshot_directory_counts_where_no_disk_is_on_it(vsphere: VSphere) -> None:
    (vm,) = vsphere.find_vms("elsewhere")
    assert [disk.datastore for disk in vm.disks] == ["ds2"]
    assert [space.name for space in vsphere.datastore_space(vm.instance_uuid)] == ["ds1", "ds2"]


def test_vcenters_last_word_counts_where_it_cannot_look_again(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    (before,) = vsphere.datastore_space(vm)
    lab.fault("HostConfigFault", "RefreshDatastore")
    with filled(lab, "ds1", 12345678):
        assert vsphere.datastore_space(vm) == (before,)
        assert vsphere.datastore_space(vm) != (before,)


def test_a_datastore_that_no_host_reaches_is_left_out(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    with lab.lost_datastore("ds1"):
        assert vsphere.datastore_space(vm) == ()
    assert vsphere.datastore_space(vm) != ()


def test_a_vcenter_that_does_not_answer_is_an_error_of_its_own(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.fault("HostNotConnected", "RefreshDatastore")
    with pytest.raises(DeltaferryError) as caught:
        vsphere.datastore_space(vm)
    assert caught.value.kind is ErrorKind.HOST_GONE


def test_a_datastores_name_is_read_out_of_a_path_as_vsphere_writes_it() -> None:
    assert _names("[ds1] web-01/web-01.vmx", "[nfs %2f old] snapshots/", None, "") == {"ds1", "nfs / old"}
    assert _names("/vmfs/volumes/1/web-01") == set()
