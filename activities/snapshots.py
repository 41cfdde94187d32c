"""The source side of a cycle: gates, snapshot, changed areas, plan; and giving the snapshot back.

Merged into two steps, because a workflow would only pass one's result to the next. The order is spec §2.5's: nothing of
an earlier cycle is left on the VM before a new snapshot is taken.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from temporalio import activity

from activities.adapters import Site
from activities.changed_blocks import (
    allocated_above_mark,
    change_id_of,
    changed_below_mark,
    frozen_disk,
    planned_areas,
    stored_plan,
)
from activities.clean_stops import StopWatch
from activities.datastore_guard import require_room, require_room_to_hold, room_watched
from activities.failures import translated
from activities.held_snapshots import (
    clear_leftovers,
    is_elsewhere,
    placement,
    remember_vm,
    require_replicable,
    take_snapshot,
    vm_before,
)
from activities.present_disks import snapshot_or_present
from activities.progress import Heartbeats
from activities.quiesced_snapshots import take_quiesced_snapshot
from activities.sampling import compare_sample
from activities.source_hardware import remember_hardware
from deltaferry.blocks.plan import Plan, make_plan
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.naming import gateway_container, is_of_installation, plan_name, snapshot_prefix
from deltaferry.model.quiescing import QuiesceOutcome
from deltaferry.model.replication import CycleKind, DiskBase
from deltaferry.model.vm import Claim, PowerState, Snapshot, SourceVm
from deltaferry.ports.access import Beat
from workflows.messages.site import SnapshotsLeft, SnapshotsLeftInput
from workflows.messages.step import BeginCycleInput, BegunCycle, OnReplication, PlannedDisk, PreparedSource


class Snapshots:
    """Holds the one snapshot that a replication may have on its VM."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites
        self._stops = StopWatch()

    @activity.defn
    @translated
    def prepare_source(self, request: OnReplication) -> PreparedSource:
        """Claim the VM and switch change block tracking on. Raises ALREADY_PROTECTED, SNAPSHOT_REFUSED, DATASTORE_FULL."""
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
        remember_vm(self._sites[ref.site], ref, before)
        hypervisor.write_claim(ref.instance_uuid, claim, expected=None)
        clear_leftovers(self._sites[ref.site], ref, beats.beat)
        if not before.cbt_enabled:
            require_room(self._sites[ref.site], ref)
        marker = f"{snapshot_prefix(ref)}0-tracking"
        hypervisor.set_change_tracking(ref.instance_uuid, True, marker, beats.beat)
        return PreparedSource(cbt_enabled_by_us=not vm_before(self._sites[ref.site], ref).change_tracking)

    @activity.defn
    @translated
    def begin_cycle(self, request: BeginCycleInput) -> BegunCycle:
        """Pass the gates, take the cycle's snapshot, store its plans, and compare the cycle's sample.

        A retry finds the snapshot by its name and the plans that are stored: it never asks for the areas again.
        A final cycle whose source is off plans from the disks as they are where no snapshot is to be had. Where the guest is
        to be quiesced, and is not, the snapshot is crash-consistent, and the answer says why.
        Raises CLAIM_LOST, DISKS_CHANGED, SNAPSHOT_LOST, CONSOLIDATION_STUCK, SOURCE_LOST_POWER, the kinds of a broken
        change tracking, CBT_MISSED_CHANGES where the sample shows that it is, SOURCE_MOVED_ON, and DATASTORE_FULL without
        room for the snapshot.
        """
        beats = Heartbeats("taking the snapshot and planning")
        ref = request.replication.ref
        site = self._sites[ref.site]
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        require_replicable(vm, request.replication.disks, ref)
        if is_elsewhere(site, ref, vm, request.cycle_key, request.granted):
            on = vm.power is PowerState.ON
            return BegunCycle("", datetime.now(UTC), on, disks=(), placement=placement(vm), moved=True)
        if request.kind is not CycleKind.FINAL:  # the source is down, and waits
            remember_hardware(site, ref)
        outcome: QuiesceOutcome | None = None
        growth = request.expected_growth if vm.power is not PowerState.OFF else ()
        if request.kind is CycleKind.FINAL and vm.power is PowerState.OFF:
            snapshot = snapshot_or_present(site, ref, request.cycle_key, beats)
        elif request.quiesce is not None:
            snapshot, outcome = take_quiesced_snapshot(site, ref, request.cycle_key, request.quiesce, beats.beat, growth)
        else:
            snapshot = take_snapshot(site, ref, request.cycle_key, beats.beat, growth_bytes=growth)
        if request.kind in (CycleKind.DELTA, CycleKind.ON_DEMAND) and request.since is not None:
            self._stops.require_clean(site, ref, request.since)
        with room_watched(site, ref, beats, look_at_once=False):
            begun = self._begun(site, request, vm, snapshot, beats)
        return replace(begun, quiesce=outcome)

    @activity.defn
    @translated
    def release_snapshot(self, request: OnReplication) -> None:
        """Remove every snapshot of this replication, one by one and without children, then consolidate and make sure.

        Raises CONSOLIDATION_STUCK.
        """
        beats = Heartbeats("removing the snapshot and consolidating")
        ref = request.replication.ref
        clear_leftovers(self._sites[ref.site], ref, beats.beat)

    @activity.defn
    @translated
    def look_for_room(self, request: OnReplication) -> None:
        """Raise DATASTORE_FULL if the replication's snapshot, which is held, has to be released."""
        require_room_to_hold(self._sites[request.replication.ref.site], request.replication.ref)

    @activity.defn
    @translated
    def snapshots_left(self, request: SnapshotsLeftInput) -> SnapshotsLeft:
        """Count the snapshots of this installation that a VM has; none on a VM that is gone."""
        profile = request.profile
        try:
            vm = self._sites[profile.site].hypervisor.read_vm(request.instance_uuid)
        except DeltaferryError as error:
            if error.kind is not ErrorKind.VM_NOT_FOUND:
                raise
            return SnapshotsLeft(0)
        return SnapshotsLeft(sum(is_of_installation(snapshot.name, profile.installation) for snapshot in vm.snapshots))

    def _begun(self, site: Site, request: BeginCycleInput, vm: SourceVm, snapshot: Snapshot, beats: Heartbeats) -> BegunCycle:
        """Plan and sample under the snapshot."""
        planned = [self._plan(site, request, base, snapshot, beats.beat) for base in request.bases]
        return BegunCycle(
            snapshot=snapshot.moref,
            taken_at=datetime.fromisoformat(snapshot.created_at),
            powered_on=vm.power is PowerState.ON,
            without_snapshot=not snapshot.moref,
            disks=tuple(disk for disk, _ in planned),
            placement=placement(vm),
            sampled_bytes=compare_sample(site, request, vm, snapshot, (plan for _, plan in planned), beats),
        )

    def _plan(
        self,
        site: Site,
        request: BeginCycleInput,
        base: DiskBase,
        snapshot: Snapshot,
        beat: Beat,
    ) -> tuple[PlannedDisk, Plan]:
        """Plan what the pass must cover: below the mark what changed since the base, above it the whole disk.

        Areas written since the last commit by cycles that failed are planned again, whatever change tracking says.
        """
        ref = request.replication.ref
        gateway = site.stores.gateway
        frozen = frozen_disk(request.replication.disks, base.disk_key, snapshot)
        capacity, mark = frozen.capacity_bytes, base.copied_up_to_bytes

        def make() -> Plan:
            data = changed_below_mark(site, ref, base, snapshot, frozen, beat)
            holes: list[Extent] = []
            if mark < capacity:
                data.extend(allocated_above_mark(site, ref, snapshot, frozen, mark, beat))
                holes.append(Extent(mark, capacity - mark))
            data.extend(
                Extent(extent.offset_bytes, min(extent.end_bytes, mark) - extent.offset_bytes)
                for extent in planned_areas(gateway, (plan for key, plan in request.dirty if key == base.disk_key))
                if extent.offset_bytes < mark
            )
            return make_plan(capacity, data, holes)

        plan, reference = stored_plan(gateway, f"{gateway_container(ref)}/{plan_name(request.cycle_key, base.disk_key)}", make)
        return PlannedDisk(disk_key=base.disk_key, change_id=change_id_of(frozen), plan=reference), plan
