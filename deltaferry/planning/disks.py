"""Which disk boots, and whether a VM's disks are still those under replication."""

from deltaferry.model.replication import ReplicatedDisk
from deltaferry.model.vm import SourceDisk, SourceVm
from deltaferry.planning.phrases import size_text


def boot_disk(vm: SourceVm, designated_key: int | None = None) -> SourceDisk | None:
    """Return the disk that the operator designated, else the one lowest by controller bus, unit and key.

    None where the VM has no disks, or none with the designated key.
    """
    if designated_key is not None:
        return next((disk for disk in vm.disks if disk.key == designated_key), None)
    return min(vm.disks, key=lambda disk: (disk.controller_bus, disk.unit_number, disk.key), default=None)


def replicated_disks(vm: SourceVm, designated_key: int | None = None) -> tuple[ReplicatedDisk, ...]:
    """Return the VM's disks as a replication records them when it begins, in key order."""
    boot = boot_disk(vm, designated_key)
    return tuple(
        ReplicatedDisk(disk.key, disk.uuid, disk.label, disk.capacity_bytes, boot is not None and disk.key == boot.key)
        for disk in sorted(vm.disks, key=lambda disk: disk.key)
    )


def disks_changed(replicated: tuple[ReplicatedDisk, ...], vm: SourceVm) -> str | None:
    """Return what happened to the VM's disks since the replication began, one sentence for each, or None if nothing did.

    A disk is the same if its key and its uuid are; a backing without uuid is known by its key alone. File names and
    labels do not count: snapshots change the one, people the other.
    """
    now = {disk.key: disk for disk in vm.disks}
    sentences = []
    for disk in replicated:
        present = now.pop(disk.key, None)
        if present is None:
            sentences.append(f"{disk.label} (key {disk.key}) was removed.")
        elif disk.uuid and present.uuid and disk.uuid != present.uuid:
            sentences.append(f"{disk.label} (key {disk.key}) was replaced by another disk.")
        elif disk.capacity_bytes != present.capacity_bytes:
            before, after = _distinct(disk.capacity_bytes, present.capacity_bytes)
            sentences.append(f"{disk.label} (key {disk.key}) was resized from {before} to {after}.")
    sentences += [
        f"{disk.label} (key {disk.key}, {size_text(disk.capacity_bytes)}) was added." for _, disk in sorted(now.items())
    ]
    return " ".join(sentences) or None


def _distinct(first_bytes: int, second_bytes: int) -> tuple[str, str]:
    """Return two different sizes as texts that differ."""
    first, second = size_text(first_bytes), size_text(second_bytes)
    return (first, second) if first != second else (f"{first_bytes} bytes", f"{second_bytes} bytes")
