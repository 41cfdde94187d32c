"""VMs of an inventory, made for tests."""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from deltaferry.model.inventory import BackingKind, DiscoveredVm, DiskStorage, ToolsState
from deltaferry.model.vm import Claim, Firmware, PowerState, Snapshot, SourceDisk, SourceVm

GIB = 1024**3


def disk(number: int, capacity_bytes: int = 40 * GIB, datastore: str = "ds1") -> SourceDisk:
    return SourceDisk(
        2000 + number, f"6000c29{number}", f"Hard disk {number + 1}", capacity_bytes, f"[{datastore}] vm/vm_{number}.vmdk", datastore,
        0, number, False, False, False, False, False,
    )  # fmt: skip


def snapshot(name: str) -> Snapshot:
    return Snapshot("snapshot-1", name, "", False, "")


def discovered(
    name: str,
    *,
    folder: str = "/",
    disks: tuple[SourceDisk, ...] = (disk(0),),
    committed: int | None = None,
    attributes: tuple[tuple[str, str], ...] = (),
    claim: Claim | None = None,
    tools: ToolsState = ToolsState.RUNNING,
    uuid: str = "",
    host: str = "esxi-1",
    **values: Any,
) -> DiscoveredVm:
    """Return a VM; `committed` is what each of its disks takes."""
    vm = SourceVm(
        **{
            "instance_uuid": uuid or str(uuid5(NAMESPACE_URL, f"{folder}/{name}")),
            "moref": "vm-1",
            "name": name,
            "power": PowerState.ON,
            "host": host,
            "hardware_version": 19,
            "firmware": Firmware.EFI,
            "guest_id": "ubuntu64Guest",
            "guest_full_name": "Ubuntu Linux (64-bit)",
            "memory_mib": 4096,
            "cpus": 2,
            "tools_running": tools is ToolsState.RUNNING,
            "cbt_supported": True,
            "cbt_enabled": False,
            "consolidation_needed": False,
            "disks": disks,
            "nics": (),
            "snapshots": (),
            "claim": claim,
            **values,
        }
    )
    storage = tuple(DiskStorage(item.key, BackingKind.FLAT, "persistent", True, committed) for item in disks)
    return DiscoveredVm(vm, folder, "Lab", "cluster-1", tools, attributes, storage, None)
