"""What vSphere says of a snapshot's disks: what changed, what is allocated; and plans, stored once and read ever after."""

from collections.abc import Callable, Iterable

from activities.adapters import Site
from deltaferry.blocks.plan import Plan, decode_plan, encode_plan, source_set
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import DiskBase, PlanRef, ReplicatedDisk, ReplicationRef
from deltaferry.model.vm import Snapshot, SnapshotDisk
from deltaferry.planning.change_ids import tracking_uuid
from deltaferry.ports.access import Beat
from deltaferry.ports.stores import ObjectStore


def frozen_disk(disks: tuple[ReplicatedDisk, ...], key: int, snapshot: Snapshot) -> SnapshotDisk:
    """Return a replicated disk as a snapshot has it. Raises DISKS_CHANGED."""
    expected = next(disk for disk in disks if disk.key == key)
    frozen = next((disk for disk in snapshot.disks if disk.key == key), None)
    if frozen is None or frozen.capacity_bytes != expected.capacity_bytes:
        found = "is missing" if frozen is None else f"has {frozen.capacity_bytes} bytes"
        raise DeltaferryError(
            ErrorKind.DISKS_CHANGED,
            f"In the snapshot, disk {expected.label!r} {found}; replicated are {expected.capacity_bytes}.",
        )
    return frozen


def change_id_of(frozen: SnapshotDisk) -> str:
    """Return the change id that the next cycle starts from. Raises CBT_OFF."""
    if frozen.change_id is None:
        raise DeltaferryError(ErrorKind.CBT_OFF, f"The snapshot has no change id for disk {frozen.key}.")
    return frozen.change_id


def changed_below_mark(
    site: Site, ref: ReplicationRef, base: DiskBase, snapshot: Snapshot, frozen: SnapshotDisk, beat: Beat
) -> list[Extent]:
    """Return what changed below the mark since the base's change id; nothing, and without asking, where the mark is 0.

    Raises CBT_OFF, CBT_RESET and the kinds of a broken change tracking.
    """
    mark = base.copied_up_to_bytes
    if mark <= 0:
        return []
    if base.change_id is None or frozen.change_id is None:
        raise DeltaferryError(ErrorKind.CBT_OFF, f"Change block tracking is off on disk {base.disk_key}.")
    if tracking_uuid(base.change_id) != tracking_uuid(frozen.change_id):
        raise DeltaferryError(
            ErrorKind.CBT_RESET,
            f"The tracking UUID of disk {base.disk_key} is {tracking_uuid(frozen.change_id)};"
            f" the last committed one is {tracking_uuid(base.change_id)}.",
        )
    changes = []
    for extent in site.hypervisor.changed_areas(
        ref.instance_uuid, snapshot.moref, base.disk_key, frozen.capacity_bytes, base.change_id
    ):
        beat()
        if extent.offset_bytes < mark:
            changes.append(Extent(extent.offset_bytes, min(extent.end_bytes, mark) - extent.offset_bytes))
    return changes


def allocated_above_mark(
    site: Site, ref: ReplicationRef, snapshot: Snapshot, frozen: SnapshotDisk, mark: int, beat: Beat
) -> list[Extent]:
    """Return what is allocated above the mark; all of it where the datastore cannot tell."""
    capacity = frozen.capacity_bytes
    allocated = []
    try:
        for extent in site.hypervisor.changed_areas(ref.instance_uuid, snapshot.moref, frozen.key, capacity, "*"):
            beat()
            if extent.end_bytes > mark:
                start = max(extent.offset_bytes, mark)
                allocated.append(Extent(start, extent.end_bytes - start))
    except DeltaferryError as error:
        if error.kind is not ErrorKind.CBT_NO_EPOCH:
            raise
        return [Extent(mark, capacity - mark)]
    return allocated


def stored_plan(gateway: ObjectStore, key: str, make: Callable[[], Plan]) -> tuple[Plan, PlanRef]:
    """Return the plan of that key and a reference to it; it is made only where none is stored: the stored one wins."""
    stored = gateway.get_if_exists(key)
    reference, stored = gateway.put_or_get(key, encode_plan(make()) if stored is None else stored)
    plan = decode_plan(stored)
    return plan, PlanRef(reference, plan.segments, plan.data_bytes, plan.covered_bytes)


def planned_areas(gateway: ObjectStore, plans: Iterable[PlanRef]) -> list[Extent]:
    """Return everything that stored plans cover, data and holes."""
    return [extent for plan in plans for extent in source_set(decode_plan(gateway.get(plan.ref.key))).extents()]
