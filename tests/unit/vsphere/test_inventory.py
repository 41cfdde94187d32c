"""Reading a whole site, against a vCenter with more than 300 VMs in its own process; and what one row of it means."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from deltaferry.model.errors import DeltaferryError
from deltaferry.model.inventory import BackingKind, DiscoveredSite, DiscoveredVm, ToolsState
from deltaferry.model.vm import Claim
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.inventory import discovered
from deltaferry.vsphere.properties import ObjectProperties
from deltaferry.vsphere.vocabulary import vim, vmodl

from .lab_vcenter import DATASTORE_BYTES, ODD_BYTES, LabVcenter

_READING = (
    "RetrievePropertiesEx",
    "ContinueRetrievePropertiesEx",
    "Fetch",
    "RetrieveProperties",
    "CreateContainerView",
    "FindAllByUuid",
)


def no_beat() -> None:
    return


def named(site: DiscoveredSite, name: str) -> DiscoveredVm:
    (found,) = [vm for vm in site.vms if vm.vm.name == name]
    return found


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of the whole site found, and what it cost."""

    site: DiscoveredSite
    calls: Counter[str]
    beats: int


@pytest.fixture(scope="module")
def reading(vsphere: VSphere, lab: LabVcenter) -> Reading:
    vsphere.clock()
    before = Counter({method: lab.calls(method) for method in _READING})
    beats: list[None] = []
    site = vsphere.read_inventory(lambda: beats.append(None))
    return Reading(site, Counter({method: lab.calls(method) for method in _READING}) - before, len(beats))


@pytest.fixture(scope="module")
def site(reading: Reading) -> DiscoveredSite:
    return reading.site


def test_hundreds_of_vms_cost_a_handful_of_calls(reading: Reading, lab: LabVcenter) -> None:
    assert len(reading.site.vms) == lab.vm_count > 300
    pages = 1 + lab.vm_count // 100 + 1
    assert reading.calls["CreateContainerView"] == 1
    assert reading.calls["RetrievePropertiesEx"] + reading.calls["ContinueRetrievePropertiesEx"] <= pages
    assert reading.calls["Fetch"] == reading.calls["RetrieveProperties"] == reading.calls["FindAllByUuid"] == 0
    assert reading.beats >= pages - 1, "a long reading heartbeats after each page"


def test_every_vm_but_the_templates_is_listed_by_name(site: DiscoveredSite, vsphere: VSphere) -> None:
    names = [vm.vm.name for vm in site.vms]
    assert names == sorted(names)
    assert "golden" not in names
    assert site.unreadable == ()
    assert named(site, "big").vm == vsphere.find_vms("big")[0]


def test_a_vm_is_placed_in_its_folder_cluster_and_datacenter(site: DiscoveredSite) -> None:
    web = named(site, "web-01")
    assert (web.folder, web.datacenter, web.cluster, web.vm.host) == ("/Production/Web", "Lab", "cluster-1", "esxi-1.lab")
    assert named(site, "big").folder == "/"
    assert sorted(vm.folder for vm in site.vms if vm.vm.name == "twin") == ["/", "/tier"]


def test_custom_attributes_that_have_a_value_are_told_by_name(site: DiscoveredSite) -> None:
    assert named(site, "web-01").attributes == (("Cost centre", "42"), ("owner", "shop"))
    assert named(site, "big").attributes == ()


def test_the_tools_state_tells_a_guest_without_tools(site: DiscoveredSite) -> None:
    states = {name: named(site, name).tools for name in ("web-01", "no-tools", "legacy")}
    assert states == {"web-01": ToolsState.RUNNING, "no-tools": ToolsState.MISSING, "legacy": ToolsState.STOPPED}


def test_disks_are_told_with_their_backing_and_what_they_take(site: DiscoveredSite) -> None:
    web = named(site, "web-01")
    assert [item.key for item in web.storage] == [disk.key for disk in web.vm.disks]
    assert {(item.backing, item.mode, item.thin) for item in web.storage} == {(BackingKind.FLAT, "persistent", True)}
    assert web.capacity_bytes == (1 << 20) + ODD_BYTES
    assert [item.committed_bytes for item in web.storage] == [0, 0]
    assert web.expected_bytes == 0, "nothing of a thin disk that was never written is allocated"
    assert web.uncommitted_bytes is not None
    assert named(site, "legacy").storage[0].mode == "independent_persistent"


def test_the_datastores_come_with_their_room(site: DiscoveredSite) -> None:
    space, _ = site.datastores
    assert (space.name, space.capacity_bytes) == ("ds1", DATASTORE_BYTES)
    assert 0 < space.free_bytes <= DATASTORE_BYTES


def test_writes_snapshots_and_a_claim_are_told_when_they_are_there(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    with lab.guest_disk(vm, vsphere.read_vm(vm).disks[0].key) as disk:
        disk.write(0, b"x" * 65536)
        disk.flush()
    ours = "df/lab/0123456789abcdef/1-00000000-0000-4000-8000-000000000000"
    lab.wait(lab.start_snapshot(vm, "before upgrade"))
    vsphere.take_snapshot(vm, ours, "", no_beat)
    vsphere.write_claim(vm, Claim("lab", "0123456789abcdef"), expected=None)
    (found,) = [item for item in vsphere.read_inventory(no_beat).vms if item.vm.instance_uuid == vm]
    assert (found.our_snapshots, found.other_snapshots) == ((ours,), ("before upgrade",))
    assert found.vm.claim == Claim("lab", "0123456789abcdef")
    assert found.storage[0].committed_bytes == found.expected_bytes >= 65536


@pytest.mark.chaos
def test_a_session_that_expired_is_renewed_in_the_middle(vsphere: VSphere, lab: LabVcenter) -> None:
    expired: list[None] = []

    def beat() -> None:
        if not expired:
            expired.append(None)
            lab.end_sessions()

    assert len(vsphere.read_inventory(beat).vms) == lab.vm_count


@pytest.mark.chaos
def test_an_object_that_vanishes_under_the_reading_has_it_done_once_more(vsphere: VSphere, lab: LabVcenter) -> None:
    lab.fault("ManagedObjectNotFound", "ContinueRetrievePropertiesEx")
    assert len(vsphere.read_inventory(no_beat).vms) == lab.vm_count
    assert lab.pending_faults() == 0


def test_a_vcenter_that_does_not_answer_is_an_error_of_the_taxonomy(vsphere: VSphere, lab: LabVcenter) -> None:
    with lab.unreachable(), pytest.raises(DeltaferryError) as caught:
        vsphere.read_inventory(no_beat)
    assert caught.value.kind.value == "VsphereUnreachable"


# --- single rows, as a vCenter answers in the middle of a change ---


def _row(reference: Any, faults: dict[str, Exception] | None = None, **values: Any) -> ObjectProperties:
    return ObjectProperties(reference, {name.replace("__", "."): value for name, value in values.items()}, faults or {})


def _vm_row(moref: str, **values: Any) -> ObjectProperties:
    given = {"name": moref, "config__instanceUuid": f"uuid-{moref}", "runtime__powerState": "poweredOn", **values}
    return _row(vim.VirtualMachine(moref), **given)


def test_a_vm_that_vanishes_while_it_is_read_does_not_fail_the_whole() -> None:
    gone = ObjectProperties(vim.VirtualMachine("vm-2"), {}, {"config.template": vmodl.fault.ManagedObjectNotFound()})
    site = discovered([_vm_row("vm-1"), gone], {})
    assert [vm.vm.moref for vm in site.vms] == ["vm-1"]
    assert site.unreadable == ()


def test_a_vm_that_cannot_be_read_is_named_with_the_reason() -> None:
    denied = vim.fault.NoPermission(privilegeId="System.Read")
    hidden = ObjectProperties(vim.VirtualMachine("vm-2"), {"name": "secret%2f1"}, {"config.template": denied})
    orphan = _row(vim.VirtualMachine("vm-3"), name="orphan")
    site = discovered([_vm_row("vm-1"), hidden, orphan], {})
    assert [(item.moref, item.name) for item in site.unreadable] == [("vm-3", "orphan"), ("vm-2", "secret/1")]
    assert "System.Read" in site.unreadable[1].reason
    assert "inaccessible" in site.unreadable[0].reason


def test_a_vm_on_a_stand_alone_host_is_in_no_cluster() -> None:
    host = _row(vim.HostSystem("ha-host"), name="esxi", parent=vim.ComputeResource("ha-compute-res"))
    resource = _row(vim.ComputeResource("ha-compute-res"), name="esxi")
    site = discovered([host, resource, _vm_row("1", runtime__host=vim.HostSystem("ha-host"))], {})
    assert (site.vms[0].vm.host, site.vms[0].cluster) == ("esxi", "")


def test_a_vm_in_a_vapp_is_placed_below_the_vapps_folder() -> None:
    rows = [
        _row(vim.Datacenter("datacenter-2"), name="Lab"),
        _row(vim.Folder("group-v3"), name="vm", parent=vim.Datacenter("datacenter-2")),
        _row(vim.Folder("group-v4"), name="a%2fb", parent=vim.Folder("group-v3")),
        _row(vim.VirtualApp("resgroup-v9"), name="shop", parentFolder=vim.Folder("group-v4")),
        _vm_row("vm-1", parentVApp=vim.VirtualApp("resgroup-v9")),
    ]
    (found,) = discovered(rows, {}).vms
    assert (found.folder, found.datacenter) == ("/a/b/shop", "Lab")


def test_what_may_stay_unknown_does_not_keep_a_vm_off_the_list() -> None:
    denied = vim.fault.NoPermission(privilegeId="System.Read")
    row = _vm_row("vm-1")
    faults = dict.fromkeys(("parent", "customValue", "layoutEx.disk", "summary.storage"), denied)
    (found,) = discovered([ObjectProperties(row.reference, row.values, faults)], {}).vms
    assert (found.folder, found.attributes, found.uncommitted_bytes) == ("/", (), None)
