"""The source side of a cycle: gates, snapshot, changed areas, plan; and giving the snapshot back.

Merged into two steps, because a workflow would only pass one's result to the next. The order is spec §2.5's: nothing of
an earlier cycle is left on the VM before a new snapshot is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter
from temporalio import activity

from activities.adapters import Site
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.blocks.plan import Plan, decode_plan, encode_plan, make_plan, source_set
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.naming import (
    SNAPSHOT_DESCRIPTION,
    VM_BEFORE,
    cycle_prefix,
    gateway_container,
    plan_name,
    snapshot_name,
    snapshot_prefix,
)
from deltaferry.model.replication import DiskBase, PlanRef, ReplicatedDisk, ReplicationRef
from deltaferry.model.vm import Claim, PowerState, Snapshot, SnapshotDisk, SourceVm
from deltaferry.planning.change_ids import tracking_uuid
from deltaferry.planning.prerequisites import disks_changed
from deltaferry.ports import Beat
from workflows.site_messages import Placement
from workflows.step_messages import BeginCycleInput, BegunCycle, OnReplication, PlannedDisk, PreparedSource


def placement(vm: SourceVm) -> Placement:
    """Return where a VM is: its host, and how many of its disks each datastore has."""
    names = sorted({disk.datastore for disk in vm.disks})
    return Placement(vm.host, tuple((name, sum(disk.datastore == name for disk in vm.disks)) for name in names))


class Snapshots:
    """Holds the one snapshot that a replication may have on its VM."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def prepare_source(self, request: OnReplication) -> PreparedSource:
        """Claim the VM and switch change block tracking on. Raises ALREADY_PROTECTED, SNAPSHOT_REFUSED."""
        beats = Heartbeats("preparing the source VM")
        ref = request.replication.ref
        hypervisor = self._sites[ref.site].hypervisor
        claim = Claim(ref.installation, ref.replication_id)
        before = hypervisor.read_vm(ref.instance_uuid)
        if before.claim not in (None, claim):
            held = before.claim
            raise DeltaferryError(
                ErrorKind.ALREADY_PROTECTED,
                f"The VM {before.name!r} is claimed by replication {held.replication_id} of installation {held.installation!r}."
                if held
                else "",
            )
        self._remember(self._sites[ref.site], ref, before)
        hypervisor.write_claim(ref.instance_uuid, claim, expected=None)
        self._clear_leftovers(self._sites[ref.site], ref, beats.beat)
        marker = f"{snapshot_prefix(ref)}0-tracking"
        hypervisor.set_change_tracking(ref.instance_uuid, True, marker, beats.beat)
        return PreparedSource(cbt_enabled_by_us=not self._before(self._sites[ref.site], ref).change_tracking)

    @activity.defn
    @translated
    def begin_cycle(self, request: BeginCycleInput) -> BegunCycle:
        """Pass the gates, take the cycle's snapshot and store its plans.

        A retry finds the snapshot by its name and the plans that are stored: it never asks for the areas again.
        Raises CLAIM_LOST, DISKS_CHANGED, SNAPSHOT_LOST, CONSOLIDATION_STUCK and the kinds of a broken change tracking.
        """
        beats = Heartbeats("taking the snapshot and planning")
        ref = request.replication.ref
        site = self._sites[ref.site]
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        self._check_vm(vm, request.replication.disks, ref)
        snapshot = self._take(site, ref, vm, request.cycle_key, beats.beat)
        dirty = tuple(request.dirty)
        planned = tuple(
            self._plan(site, request, base, snapshot, tuple(plan for key, plan in dirty if key == base.disk_key), beats.beat)
            for base in request.bases
        )
        return BegunCycle(
            snapshot=snapshot.moref,
            taken_at=datetime.fromisoformat(snapshot.created_at),
            powered_on=vm.power is PowerState.ON,
            disks=planned,
            placement=placement(vm),
        )

    @activity.defn
    @translated
    def release_snapshot(self, request: OnReplication) -> None:
        """Remove every snapshot of this replication, one by one and without children, then consolidate and make sure.

        Raises CONSOLIDATION_STUCK.
        """
        beats = Heartbeats("removing the snapshot and consolidating")
        ref = request.replication.ref
        self._clear_leftovers(self._sites[ref.site], ref, beats.beat)

    def _check_vm(self, vm: SourceVm, disks: tuple[ReplicatedDisk, ...], ref: ReplicationRef) -> None:
        if vm.claim != Claim(ref.installation, ref.replication_id):
            holder = f"replication {vm.claim.replication_id} of {vm.claim.installation!r}" if vm.claim else "nobody"
            raise DeltaferryError(ErrorKind.CLAIM_LOST, f"The VM {vm.name!r} is now claimed by {holder}.")
        sentence = disks_changed(disks, vm)
        if sentence:
            raise DeltaferryError(ErrorKind.DISKS_CHANGED, sentence)

    def _clear_leftovers(self, site: Site, ref: ReplicationRef, beat: Beat, keep: str | None = None) -> None:
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        ours = [snapshot for snapshot in vm.snapshots if snapshot.name.startswith(snapshot_prefix(ref)) and snapshot.name != keep]
        for snapshot in ours:
            site.hypervisor.remove_snapshot(ref.instance_uuid, snapshot.moref, beat)
        if keep is not None and any(snapshot.name == keep for snapshot in vm.snapshots):
            return
        if not ours and vm.claim != Claim(ref.installation, ref.replication_id):
            return  # whoever has claimed the VM since may be working on it: what is not ours is not consolidated
        site.hypervisor.consolidate(ref.instance_uuid, beat)
        after = site.hypervisor.read_vm(ref.instance_uuid)
        delta_before = self._before(site, ref).delta_disks
        if not after.snapshots and any(disk.is_delta_backing and disk.key not in delta_before for disk in after.disks):
            raise DeltaferryError(
                ErrorKind.CONSOLIDATION_STUCK, f"The VM {after.name!r} has no snapshot, yet still runs on a delta backing."
            )

    def _take(self, site: Site, ref: ReplicationRef, vm: SourceVm, cycle_key: str, beat: Beat) -> Snapshot:
        """Return the cycle's snapshot. One key stands for one snapshot, ever: a recorded one that is gone is not replaced."""
        name = snapshot_name(ref, cycle_key)
        record = f"{gateway_container(ref)}/{cycle_prefix(cycle_key)}snapshot"
        recorded = site.stores.gateway.get_if_exists(record)
        if recorded is not None:
            return site.hypervisor.read_snapshot(ref.instance_uuid, recorded.decode())
        self._clear_leftovers(site, ref, beat, keep=name)
        snapshot = site.hypervisor.take_snapshot(vm.instance_uuid, name, SNAPSHOT_DESCRIPTION, beat)
        site.stores.gateway.put(record, snapshot.moref.encode())
        return snapshot

    def _plan(
        self,
        site: Site,
        request: BeginCycleInput,
        base: DiskBase,
        snapshot: Snapshot,
        dirty: tuple[PlanRef, ...],
        beat: Beat,
    ) -> PlannedDisk:
        ref = request.replication.ref
        frozen = self._frozen_disk(request.replication.disks, base.disk_key, snapshot)
        key = f"{gateway_container(ref)}/{plan_name(request.cycle_key, base.disk_key)}"
        stored = site.stores.gateway.get_if_exists(key)
        if stored is None:
            plan = self._make_plan(site, ref, base, snapshot, frozen, dirty, beat)
            site.stores.gateway.put_new(key, encode_plan(plan))
            stored = site.stores.gateway.get(key)
        plan = decode_plan(stored)
        reference = site.stores.gateway.put_new(key, stored)
        if frozen.change_id is None:
            raise DeltaferryError(ErrorKind.CBT_OFF, f"The snapshot has no change id for disk {base.disk_key}.")
        return PlannedDisk(
            disk_key=base.disk_key,
            change_id=frozen.change_id,
            plan=PlanRef(reference, plan.segments, plan.data_bytes, plan.covered_bytes),
        )

    def _frozen_disk(self, disks: tuple[ReplicatedDisk, ...], key: int, snapshot: Snapshot) -> SnapshotDisk:
        expected = next(disk for disk in disks if disk.key == key)
        frozen = next((disk for disk in snapshot.disks if disk.key == key), None)
        if frozen is None or frozen.capacity_bytes != expected.capacity_bytes:
            found = "is missing" if frozen is None else f"has {frozen.capacity_bytes} bytes"
            raise DeltaferryError(
                ErrorKind.DISKS_CHANGED,
                f"In the snapshot, disk {expected.label!r} {found}; replicated are {expected.capacity_bytes}.",
            )
        return frozen

    def _make_plan(
        self,
        site: Site,
        ref: ReplicationRef,
        base: DiskBase,
        snapshot: Snapshot,
        frozen: SnapshotDisk,
        dirty: tuple[PlanRef, ...],
        beat: Beat,
    ) -> Plan:
        """Plan what the next pass must cover: below the mark what changed since the base, above it the whole disk.

        Areas written since the last commit by cycles that failed are planned again, whatever change tracking says.
        """
        capacity = frozen.capacity_bytes
        mark = base.copied_up_to_bytes
        data: list[Extent] = []
        holes: list[Extent] = []
        if mark > 0:
            data.extend(self._changes(site, ref, base, snapshot, frozen, mark, beat))
        if mark < capacity:
            allocated = self._allocated(site, ref, base.disk_key, snapshot, capacity, mark, beat)
            data.extend(allocated)
            holes.append(Extent(mark, capacity - mark))
        for plan_ref in dirty:
            earlier = decode_plan(site.stores.gateway.get(plan_ref.ref.key))
            data.extend(
                Extent(extent.offset_bytes, min(extent.end_bytes, mark) - extent.offset_bytes)
                for extent in source_set(earlier).extents()
                if extent.offset_bytes < mark
            )
        return make_plan(capacity, data, holes)

    def _changes(
        self, site: Site, ref: ReplicationRef, base: DiskBase, snapshot: Snapshot, frozen: SnapshotDisk, mark: int, beat: Beat
    ) -> list[Extent]:
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

    def _allocated(
        self, site: Site, ref: ReplicationRef, disk_key: int, snapshot: Snapshot, capacity: int, mark: int, beat: Beat
    ) -> list[Extent]:
        allocated = []
        try:
            for extent in site.hypervisor.changed_areas(ref.instance_uuid, snapshot.moref, disk_key, capacity, "*"):
                beat()
                if extent.end_bytes > mark:
                    start = max(extent.offset_bytes, mark)
                    allocated.append(Extent(start, extent.end_bytes - start))
        except DeltaferryError as error:
            if error.kind is not ErrorKind.CBT_NO_EPOCH:
                raise
            return [Extent(mark, capacity - mark)]
        return allocated

    def _remember(self, site: Site, ref: ReplicationRef, vm: SourceVm) -> None:
        """Store, once, how the VM was before we touched it: a retry must not take our own change for the VM's state."""
        delta_disks = () if vm.snapshots else tuple(disk.key for disk in vm.disks if disk.is_delta_backing)
        before = _VmBefore(vm.cbt_enabled, delta_disks)
        site.stores.gateway.put_new(f"{gateway_container(ref)}/{VM_BEFORE}", _VM_BEFORE.dump_json(before))

    def _before(self, site: Site, ref: ReplicationRef) -> "_VmBefore":
        return _VM_BEFORE.validate_json(site.stores.gateway.get(f"{gateway_container(ref)}/{VM_BEFORE}"))


@dataclass(frozen=True, slots=True)
class _VmBefore:
    """How a VM was when its replication was enabled."""

    change_tracking: bool
    delta_disks: tuple[int, ...]
    """Keys of disks on a parent backing without any snapshot: linked clones, which keep it for ever."""


_VM_BEFORE = TypeAdapter(_VmBefore)
