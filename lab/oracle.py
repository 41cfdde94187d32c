"""What proves a migration or a failover, independently of every check that replication itself makes: all sides, byte by byte."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import BlobServiceClient

from deltaferry.model.naming import CLAIM_KEY, REPLICATION_TAG, SITES_CONTAINER, seed_container, seed_name
from deltaferry.model.replication import ReplicationRef
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


def differing_bytes(source: Path, target: Path, size_bytes: int) -> int:
    """Return in how many of their first `size_bytes` two raw disks differ, byte by byte; a byte that one has not got differs."""
    found = 0
    with source.open("rb") as left, target.open("rb") as right:
        for offset in range(0, size_bytes, BLOCK):
            length = min(BLOCK, size_bytes - offset)
            ours, theirs = (os.pread(file.fileno(), length, offset) for file in (left, right))
            shared = min(len(ours), len(theirs))
            found += length - shared
            if ours[:shared] != theirs[:shared]:
                difference = int.from_bytes(ours[:shared], "little") ^ int.from_bytes(theirs[:shared], "little")
                found += shared - difference.to_bytes(shared, "little").count(0)
    return found


def dump_point(world: World, ref: ReplicationRef, cycle_key: str, disks: Mapping[int, int], folder: Path) -> tuple[Path, ...]:
    """Read a recovery point's disks from the seed account, as raw images in a folder; `disks` are capacities by disk key.

    Raises LookupError where the point lacks a disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with store(world, "seed") as client, client.get_container_client(seed_container(ref)) as container:
        for key, capacity_bytes in disks.items():
            blobs = container.list_blobs(name_starts_with=seed_name(key), include=["snapshots", "metadata"])
            taken = [blob.snapshot for blob in blobs if blob.snapshot and blob.metadata.get("cycle") == cycle_key]
            if not taken:
                raise LookupError(f"The point {cycle_key} has no snapshot of disk {key}.")
            image = folder / f"{key}.raw"
            with container.get_blob_client(seed_name(key), snapshot=taken[-1]) as blob, image.open("wb") as file:
                blob.download_blob().readinto(file)
                file.truncate(capacity_bytes)  # without padding and footer
            found.append(image)
    return tuple(found)


def store(world: World, name: str) -> BlobServiceClient:
    """Return a client of a storage account (`log`, `gateway`, `seed`), as an intruder or an auditor would use it."""
    return BlobServiceClient(
        world.endpoints.accounts[name],
        credential=world.account_key(name),
        connection_verify=str(world.endpoints.ca_file),
        api_version="2025-11-05",
    )


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
    for name in _STORES:
        with store(world, name) as client:
            for container in client.list_containers():
                if container.name == SITES_CONTAINER:
                    continue  # what is known of the whole site outlives every replication
                yield f"the {name} account still has the container {container.name}"
    if not migrated:
        for resource in world.arm_control.resources():
            if REPLICATION_TAG in resource.tags:
                yield f"Azure still has {resource.id}"


def azure_leftovers(world: World, kept_vm_id: str | None) -> Iterator[str]:
    """Yield a sentence for everything of ours in Azure but one VM, its disks and its network interfaces."""
    resources = world.arm_control.resources()
    kept = next((r.tags for r in resources if kept_vm_id is not None and r.id.lower() == kept_vm_id.lower()), {})
    for resource in resources:
        ours = REPLICATION_TAG in resource.tags
        belongs = kept and all(resource.tags.get(tag) == kept.get(tag) for tag in _OUR_TAGS) and resource.kind != "snapshots"
        if ours and not belongs:
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
