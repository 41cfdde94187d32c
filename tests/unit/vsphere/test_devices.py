"""Disks, NICs and snapshots as vSphere's own types say them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from deltaferry.vsphere.devices import TRACKED_BACKINGS, snapshot_disks, source_disks, source_nics
from deltaferry.vsphere.properties import unescaped
from deltaferry.vsphere.snapshot_tree import snapshots_of
from deltaferry.vsphere.vocabulary import vim

Disk = vim.vm.device.VirtualDisk


def scsi(key: int = 1000, bus: int = 0, sharing: str = "noSharing") -> Any:
    return vim.vm.device.ParaVirtualSCSIController(key=key, busNumber=bus, sharedBus=sharing)


def disk(key: int, backing: Any, capacity_bytes: int = 1024, controller: int = 1000, unit: int = 0) -> Any:
    return Disk(
        key=key,
        backing=backing,
        capacityInBytes=capacity_bytes,
        capacityInKB=capacity_bytes // 1024,
        controllerKey=controller,
        unitNumber=unit,
        deviceInfo=vim.Description(label=f"Hard disk {key}", summary=""),
    )


def flat(**values: Any) -> Any:
    return Disk.FlatVer2BackingInfo(**{"fileName": "[ds1] web/web.vmdk", "diskMode": "persistent", "uuid": "6000C29a", **values})


def test_the_size_is_exact_where_it_is_no_whole_kib() -> None:
    (found,) = source_disks([scsi(), disk(2000, flat(), capacity_bytes=37 * 512)], {})
    assert found.capacity_bytes == 37 * 512


def test_disks_come_in_the_order_of_their_keys_whatever_vcenters_order_is() -> None:
    devices = [disk(2001, flat(uuid="b"), unit=1), scsi(), disk(2000, flat(uuid="a"))]
    assert [item.uuid for item in source_disks(devices, {})] == ["a", "b"]
    assert [item.uuid for item in snapshot_disks(devices)] == ["a", "b"]


def test_what_cannot_be_replicated_is_told() -> None:
    rdm = Disk.RawDiskMappingVer1BackingInfo(fileName="[ds1] r.vmdk", compatibilityMode="physicalMode", uuid="r")
    virtual_rdm = Disk.RawDiskMappingVer1BackingInfo(fileName="[ds1] v.vmdk", compatibilityMode="virtualMode", uuid="v")
    key = vim.encryption.CryptoKeyId(keyId="k")
    devices = [
        scsi(),
        scsi(1001, bus=1, sharing="physicalSharing"),
        disk(2000, flat()),
        disk(2001, flat(diskMode="independent_nonpersistent"), unit=1),
        disk(2002, rdm, unit=2),
        disk(2003, virtual_rdm, unit=3),
        disk(2004, flat(sharing="sharingMultiWriter"), unit=4),
        disk(2005, flat(keyId=key), unit=5),
        disk(2016, flat(parent=flat()), controller=1001),
    ]
    found = {item.key: item for item in source_disks(devices, {})}
    assert {key for key, item in found.items() if item.independent} == {2001}
    assert {key for key, item in found.items() if item.physical_rdm} == {2002}
    assert {key for key, item in found.items() if item.shared} == {2004, 2016}
    assert {key for key, item in found.items() if item.encrypted} == {2005}
    assert {key for key, item in found.items() if item.is_delta_backing} == {2016}
    assert (found[2016].controller_bus, found[2004].unit_number) == (1, 4)


@pytest.mark.parametrize("kind", TRACKED_BACKINGS, ids=lambda kind: kind.__name__)
def test_a_change_id_is_read_from_each_backing_that_carries_one(kind: Any) -> None:
    backing = kind(changeId="52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81")
    (found,) = snapshot_disks([disk(2000, backing)])
    assert found.change_id == "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81"


def test_five_backings_carry_change_ids() -> None:
    assert len(TRACKED_BACKINGS) == 5


def test_no_change_id_is_none_and_never_empty() -> None:
    old = Disk.FlatVer1BackingInfo(fileName="[ds1] old.vmdk", diskMode="persistent")
    found = snapshot_disks([disk(2000, flat()), disk(2001, flat(changeId="")), disk(2002, old)])
    assert [item.change_id for item in found] == [None, None, None]


def test_a_nic_on_a_distributed_port_group_shows_the_groups_name() -> None:
    port = vim.dvs.PortConnection(switchUuid="50", portgroupKey="dvportgroup-9")
    backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    connect = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, connected=False, allowGuestControl=True)
    card = vim.vm.device.VirtualVmxnet3(key=4000, backing=backing, connectable=connect, macAddress="00:50:56:00:00:01")
    (nic,) = source_nics([card], {"dvportgroup-9": "web tier"})
    assert (nic.network, nic.start_connected, nic.connected) == ("web tier", True, False)


def test_snapshots_are_listed_oldest_first_through_the_whole_tree() -> None:
    def tree(number: int, day: int, *children: Any) -> Any:
        return vim.vm.SnapshotTree(
            snapshot=vim.vm.Snapshot(f"snapshot-{number}"),
            name=f"a%2fb%25{number}",
            description="",
            createTime=datetime(2026, 1, day, tzinfo=UTC),
            childSnapshotList=list(children),
        )

    information = vim.vm.SnapshotInfo(rootSnapshotList=[tree(3, 3), tree(1, 1, tree(2, 2))])
    found = snapshots_of(information)
    assert [item.moref for item in found] == ["snapshot-1", "snapshot-2", "snapshot-3"]
    assert [item.has_children for item in found] == [True, False, False]
    assert found[0].name == "a/b%1"
    assert found[0].created_at == "2026-01-01T00:00:00+00:00"
    assert snapshots_of(None) == ()


@pytest.mark.parametrize(
    ("stored", "shown"), [("a%2fb", "a/b"), ("c%5cd", "c\\d"), ("100%25", "100%"), ("50%252f", "50%2f"), ("plain", "plain")]
)
def test_names_are_shown_as_people_write_them(stored: str, shown: str) -> None:
    assert unescaped(stored) == shown
