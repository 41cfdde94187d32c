"""QueryChangedDiskAreas, with the faults of facts F4."""

from typing import Any

from lab.vcenter.disk import VirtualDisk
from lab.vcenter.disk_present import PresentDisk
from lab.vcenter.faults_disk import (
    BadChangeId,
    BadStartOffset,
    CannotGetChanges,
    CorruptTracking,
    NoEpoch,
    NoTrack,
    SnapshotGone,
    TrackingFault,
)
from lab.vcenter.snapshot_operations import snapshot_of
from lab.vcenter.tracking import TrackedDisk
from lab.vcenter.virtual_machine import VirtualMachine
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import World, data_object, object_not_found

_KEY = "vim.hostd.vmsvc.cbt."
_FILE_FAULT_KEYS: dict[type[TrackingFault], tuple[str, ...]] = {
    NoTrack: ("noTrack",),
    NoEpoch: ("noEpoch",),
    CannotGetChanges: ("cannotGetChanges",),
    CorruptTracking: ("cannotGetChanges", "corrupt"),
}


def query_changed_areas(
    world: World, vm: VirtualMachine, snapshot: Any, device_key: int, start_offset: int, change_id: str
) -> Any:
    """Return one page as a DiskChangeInfo.

    Raises FileFault (cbt.noTrack, .noEpoch, .cannotGetChanges), InvalidArgument (startOffset, deviceKey, changeId,
    snapshot), NotFound for a disk that the snapshot does not have, ManagedObjectNotFound for a snapshot that is gone.
    """
    disk, state, file_name = _find(world, vm, snapshot, device_key)
    try:
        start, length, areas = disk.tracking.changed_areas(state, change_id, start_offset, world.answers.page_limit_areas)
    except (NoTrack, NoEpoch, CannotGetChanges, CorruptTracking) as error:
        raise _file_fault(file_name, _FILE_FAULT_KEYS[type(error)]) from error
    except BadStartOffset as error:
        raise invalid_argument("startOffset") from error
    except BadChangeId as error:
        raise invalid_argument("changeId") from error
    except SnapshotGone as error:
        raise object_not_found(snapshot) from error
    return data_object(
        vim.VirtualMachine.DiskChangeInfo,
        startOffset=start,
        length=length,
        changedArea=[vim.VirtualMachine.DiskChangeInfo.DiskChangeExtent(start=first, length=size) for first, size in areas],
    )


def _find(world: World, vm: VirtualMachine, snapshot: Any, device_key: int) -> tuple[VirtualDisk, TrackedDisk, str]:
    """Return the disk, the state of it that is asked about, and that state's file name. Raises vmodl faults."""
    with world.lock:
        attached = vm.disks.get(device_key)
        if snapshot is None:
            if vm.running:
                raise invalid_argument("snapshot")
            if attached is None:
                raise invalid_argument("deviceKey")
            return attached.disk, PresentDisk(attached.disk), attached.backing_name(attached.disk.file_name)
        world.get(snapshot)
        found = snapshot_of(vm, snapshot)
        if found is None:
            raise invalid_argument("snapshot")
        if device_key not in found.disks:
            if attached is not None:
                raise vim.fault.NotFound(msg=f"The snapshot does not have the disk {device_key}.")
            raise invalid_argument("deviceKey")
        item = found.disks[device_key]
        return item.attached.disk, item.frozen, item.attached.backing_name(item.frozen.file_name)


def invalid_argument(name: str) -> Any:
    """Return the fault that names a wrong parameter."""
    return vmodl.fault.InvalidArgument(invalidProperty=name, msg=f"A specified parameter was not correct: {name}")


def _file_fault(file_name: str, keys: tuple[str, ...]) -> Any:
    messages = [vmodl.LocalizableMessage(key=_KEY + key, message=f"Change tracking: {key}.") for key in keys]
    return vim.fault.FileFault(file=file_name, faultMessage=messages, msg=f"Error caused by file {file_name}")
