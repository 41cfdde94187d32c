"""Disks and network adapters out of a VM's or a snapshot's list of virtual devices."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deltaferry.model.vm import SnapshotDisk, SourceDisk, SourceNic
from deltaferry.vsphere.properties import moref
from deltaferry.vsphere.vocabulary import ManagedObject, vim

_Disk = vim.vm.device.VirtualDisk

TRACKED_BACKINGS: tuple[Any, ...] = (
    _Disk.FlatVer2BackingInfo,
    _Disk.SparseVer2BackingInfo,
    _Disk.SeSparseBackingInfo,
    _Disk.RawDiskMappingVer1BackingInfo,
    _Disk.RawDiskVer2BackingInfo,
)
"""The backings that carry a change id."""

_SHARED_BUSES = ("physicalSharing", "virtualSharing")


def source_disks(devices: Sequence[Any], datastore_names: Mapping[str, str]) -> tuple[SourceDisk, ...]:
    """Return a VM's disks in the order of their keys: vCenter's own order differs between a VM and its snapshots."""
    by_key = {device.key: device for device in devices}
    disks = (_source_disk(device, by_key.get(device.controllerKey), datastore_names) for device in _disks(devices))
    return tuple(sorted(disks, key=lambda disk: disk.key))


def snapshot_disks(devices: Sequence[Any]) -> tuple[SnapshotDisk, ...]:
    """Return a snapshot's disks, with change ids, in the order of their keys."""
    disks = (
        SnapshotDisk(
            key=device.key,
            uuid=_uuid(device.backing),
            capacity_bytes=_capacity_bytes(device),
            file_name=_file_name(device.backing),
            change_id=(device.backing.changeId or None) if isinstance(device.backing, TRACKED_BACKINGS) else None,
            content_id=getattr(device.backing, "contentId", None) or None,
        )
        for device in _disks(devices)
    )
    return tuple(sorted(disks, key=lambda disk: disk.key))


def datastores(devices: Sequence[Any]) -> tuple[ManagedObject, ...]:
    """Return references to the datastores that the disks are on, each once."""
    found = {moref(store): store for device in _disks(devices) if (store := getattr(device.backing, "datastore", None))}
    return tuple(found.values())


def ethernet_cards(devices: Sequence[Any]) -> tuple[Any, ...]:
    """Return the devices that are network adapters."""
    return tuple(device for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard))


def virtual_disks(devices: Sequence[Any]) -> tuple[Any, ...]:
    """Return the devices that are disks."""
    return tuple(_disks(devices))


def source_nics(devices: Sequence[Any], network_names: Mapping[str, str]) -> tuple[SourceNic, ...]:
    """Return a VM's network adapters in the order of their keys."""
    nics = (
        SourceNic(
            key=card.key,
            label=card.deviceInfo.label if card.deviceInfo else "",
            network=_network(card.backing, network_names),
            mac_address=card.macAddress or "",
            connected=bool(card.connectable and card.connectable.connected),
            start_connected=bool(card.connectable and card.connectable.startConnected),
        )
        for card in ethernet_cards(devices)
    )
    return tuple(sorted(nics, key=lambda nic: nic.key))


def _disks(devices: Sequence[Any]) -> Iterable[Any]:
    return (device for device in devices if isinstance(device, _Disk))


def _source_disk(device: Any, controller: Any, datastore_names: Mapping[str, str]) -> SourceDisk:
    backing = device.backing
    store = getattr(backing, "datastore", None)
    return SourceDisk(
        key=device.key,
        uuid=_uuid(backing),
        label=device.deviceInfo.label if device.deviceInfo else f"disk {device.key}",
        capacity_bytes=_capacity_bytes(device),
        file_name=_file_name(backing),
        datastore=datastore_names.get(moref(store), "") if store is not None else "",
        controller_bus=controller.busNumber if controller is not None else 0,
        unit_number=device.unitNumber or 0,
        independent=str(getattr(backing, "diskMode", "") or "").startswith("independent"),
        physical_rdm=_is_physical(backing),
        shared=getattr(backing, "sharing", None) == "sharingMultiWriter"
        or getattr(controller, "sharedBus", None) in _SHARED_BUSES,
        encrypted=getattr(backing, "keyId", None) is not None,
        is_delta_backing=getattr(backing, "parent", None) is not None,
    )


def _is_physical(backing: Any) -> bool:
    if isinstance(backing, _Disk.RawDiskMappingVer1BackingInfo):
        return bool(backing.compatibilityMode == "physicalMode")
    return isinstance(backing, _Disk.RawDiskVer2BackingInfo)


def _uuid(backing: Any) -> str:
    return getattr(backing, "uuid", None) or ""


def _file_name(backing: Any) -> str:
    return getattr(backing, "fileName", None) or getattr(backing, "descriptorFileName", None) or ""


def _capacity_bytes(device: Any) -> int:
    """Return a disk's capacity; `capacityInKB` cannot say sizes that are no whole KiB."""
    return int(device.capacityInBytes or device.capacityInKB * 1024)


def _network(backing: Any, network_names: Mapping[str, str]) -> str:
    """Return a network's name; a distributed port group's is found by its key, which is its moref."""
    port = getattr(backing, "port", None)
    if port is not None and port.portgroupKey:
        return network_names.get(port.portgroupKey, port.portgroupKey)
    return getattr(backing, "deviceName", None) or ""
