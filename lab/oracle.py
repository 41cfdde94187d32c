"""What proves a migration, independently of every check that replication itself makes: both sides read, byte by byte."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import BlobServiceClient

from deltaferry.model.naming import CLAIM_KEY, REPLICATION_TAG, SITES_CONTAINER
from deltaferry.model.units import BLOCK
from lab.world import World

_OUR_TAGS = (REPLICATION_TAG, "deltaferry-migration")
_OUR_SNAPSHOTS = "df/"
_STORES = ("log", "gateway", "seed")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two disks first differ."""

    offset_bytes: int
    length_bytes: int
    """Of the block that differs, or of what one side has too much."""


def first_difference(source: Path, target: Path, size_bytes: int) -> Difference | None:
    """Return where two raw disks first differ in their first `size_bytes`, or where the target holds more than zeros behind."""
    zeros = bytes(BLOCK)
    with source.open("rb") as left, target.open("rb") as right:
        for offset in range(0, size_bytes, BLOCK):
            length = min(BLOCK, size_bytes - offset)
            ours = os.pread(left.fileno(), length, offset)
            if len(ours) != length or ours != os.pread(right.fileno(), length, offset):
                return Difference(offset, length)
        rest = os.pread(right.fileno(), BLOCK, size_bytes)
        if rest != zeros[: len(rest)]:
            return Difference(size_bytes, len(rest))
    return None


def target_disks(world: World, vm_id: str) -> tuple[tuple[str, Path, int], ...]:
    """Return the managed disks that were imported with a VM, by resource id: the OS disk first, then the data disks by key."""
    tags = next(r.tags for r in world.arm_control.resources("virtualmachines") if r.id.lower() == vm_id.lower())
    found = [r for r in world.arm_control.resources("disks") if all(r.tags.get(tag) == tags.get(tag) for tag in _OUR_TAGS)]
    found.sort(key=lambda disk: (not disk.id.endswith("-os"), int(disk.id.rpartition("-")[2]) if disk.id[-1].isdigit() else 0))
    files = ((disk.id, world.arm_control.disk_file(disk.id)) for disk in found)
    return tuple((disk_id, file.path, file.size_bytes) for disk_id, file in files)


def leftovers(world: World, vm_name: str, *, migrated: bool) -> Iterator[str]:
    """Yield a sentence for everything of ours that is still there: on the source VM, in the stores, in Azure.

    The migrated VM, its disks and its NIC are not left over; without a migration nothing at all may be there.
    """
    yield from source_leftovers(world, vm_name)
    for store in _STORES:
        client = BlobServiceClient(
            world.endpoints.accounts[store],
            credential=world.account_key(store),
            connection_verify=str(world.endpoints.ca_file),
            api_version="2025-11-05",
        )
        with client:
            for container in client.list_containers():
                if container.name == SITES_CONTAINER:
                    continue  # what is known of the whole site outlives every replication
                yield f"the {store} account still has the container {container.name}"
    if not migrated:
        for resource in world.arm_control.resources():
            if REPLICATION_TAG in resource.tags:
                yield f"Azure still has {resource.id}"


def source_leftovers(world: World, vm_name: str) -> Iterator[str]:
    """Yield a sentence for everything of ours on the source VM."""
    vm = world.vcenter_control.vm(vm_name)
    for snapshot in vm.snapshots:
        if snapshot.name.startswith(_OUR_SNAPSHOTS):
            yield f"{vm_name} still has the snapshot {snapshot.name}"
    if vm.extra_config.get(CLAIM_KEY):
        yield f"{vm_name} still carries the claim {vm.extra_config[CLAIM_KEY]}"
    if vm.consolidation_needed:
        yield f"the disks of {vm_name} still need consolidation"
    if vm.change_tracking:
        yield f"change block tracking is still on for {vm_name}"
    if not vm.snapshots:
        for disk in vm.disks:
            if disk.file_name.removesuffix(".vmdk")[-7:-6] == "-" and disk.file_name.removesuffix(".vmdk")[-6:].isdigit():
                yield f"{vm_name} still runs on the delta backing {disk.file_name}"
