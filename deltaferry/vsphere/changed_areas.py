"""What changed on a disk: QueryChangedDiskAreas, page by page, to the disk's end."""

from collections.abc import Iterator
from typing import Any

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.vsphere.errors import CHANGED_AREAS_RULES, invalid_property, vsphere_errors
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.present_disks import read_present_disks
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.snapshots import read_snapshot
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

ALLOCATED = "*"
"""The change id that asks for allocated areas instead of changed ones."""

_ALLOCATION_UNKNOWN = frozenset({ErrorKind.CBT_CHANGE_ID_REJECTED, ErrorKind.CBT_CORRUPT})


def changed_areas(
    session: Session, instance_uuid: str, snapshot_moref: str, disk_key: int, capacity_bytes: int, change_id: str
) -> Iterator[Extent]:
    """Yield the areas that changed since `change_id`, or the allocated ones for `*`, as vSphere's pages bring them.

    A page covers `length` bytes from its start and may hold no area at all without being the last. Nothing is asked
    for at or behind the capacity: vSphere refuses that. Extents end at the capacity; their order is vSphere's.
    Without `snapshot_moref` the disk is asked about as it is now, which vSphere answers only while the VM is off.
    Raises CBT_OFF, CBT_NO_EPOCH (`*` only), CBT_CHANGE_ID_REJECTED, CBT_CORRUPT, DISKS_CHANGED, SNAPSHOT_LOST, and
    without a snapshot SOURCE_MOVED_ON.
    """
    what = f"asking for the changed areas of disk {disk_key} of VM {instance_uuid}"
    with vsphere_errors(what):
        vm = locate(session, instance_uuid)
    offset = 0
    while offset < capacity_bytes:
        page = _page(session, instance_uuid, vm, snapshot_moref, disk_key, offset, change_id, what)
        for area in page.changedArea or ():
            start, end = int(area.start), min(int(area.start + area.length), capacity_bytes)
            if start < end:
                yield Extent(start, end - start)
        following = int(page.startOffset + page.length)
        if following <= offset:
            raise DeltaferryError(ErrorKind.VSPHERE_FAULT, f"{what}: the page at {offset} says that it ends at {following}")
        offset = following


def _page(
    session: Session,
    instance_uuid: str,
    vm: ManagedObject,
    snapshot_moref: str,
    disk_key: int,
    offset: int,
    change_id: str,
    what: str,
) -> Any:
    snapshot = session.object(vim.vm.Snapshot, snapshot_moref) if snapshot_moref else None
    try:
        with vsphere_errors(what, gone=ErrorKind.SNAPSHOT_LOST, rules=CHANGED_AREAS_RULES):
            return vm.QueryChangedDiskAreas(snapshot, disk_key, offset, change_id)
    except DeltaferryError as error:
        fault = error.__cause__
        if not snapshot_moref and error.kind is ErrorKind.SNAPSHOT_LOST:
            raise DeltaferryError(ErrorKind.SOURCE_MOVED_ON, error.detail) from fault
        if isinstance(fault, vim.fault.NotFound) or _names_the_key(fault):
            with vsphere_errors(what):
                kind = _why_key_is_refused(session, instance_uuid, snapshot_moref, disk_key)
            raise DeltaferryError(kind, error.detail) from fault
        if change_id == ALLOCATED and error.kind in _ALLOCATION_UNKNOWN:
            raise DeltaferryError(ErrorKind.CBT_NO_EPOCH, error.detail) from fault
        raise


def _names_the_key(fault: BaseException | None) -> bool:
    return isinstance(fault, vmodl.fault.InvalidArgument) and invalid_property(fault) == "deviceKey"


def _why_key_is_refused(session: Session, instance_uuid: str, snapshot_moref: str, disk_key: int) -> ErrorKind:
    """Tell apart why a disk is not found: the snapshot lacks it, it is not tracked there, or the change id is bad.

    vSphere names the key for the last as well. Raises SNAPSHOT_LOST, SOURCE_MOVED_ON.
    """
    if snapshot_moref:
        frozen = read_snapshot(session, instance_uuid, snapshot_moref)
    else:
        frozen = read_present_disks(session, instance_uuid)
    disk = next((disk for disk in frozen.disks if disk.key == disk_key), None)
    if disk is None:
        return ErrorKind.DISKS_CHANGED
    return ErrorKind.CBT_OFF if disk.change_id is None else ErrorKind.CBT_CHANGE_ID_REJECTED
