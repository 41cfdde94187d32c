"""The steps of a resync (spec §4): hashes of the source's snapshot and of the seed, each compared with the checksum map.

The target side checks the seed against the map where the seed is, the source side the snapshot against the map: hashes
travel, data does not. What differs is planned, and goes through the ordinary transfer, apply and both checks.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

from temporalio import activity

from activities.adapters import Site, Target
from activities.changed_blocks import (
    allocated_above_mark,
    change_id_of,
    changed_below_mark,
    frozen_disk,
    planned_areas,
    stored_plan,
)
from activities.comparison import Comparison
from activities.datastore_guard import room_watched
from activities.failures import translated
from activities.held_snapshots import is_elsewhere, placement, require_replicable, take_snapshot
from activities.progress import Heartbeats
from activities.scrubbing import Stretch, scrub_seeds, scrub_snapshot, seed_stretch
from deltaferry.blocks.granules import GranuleSet
from deltaferry.blocks.plan import Plan, decode_plan, encode_plan, make_plan
from deltaferry.blocks.seed_check import SeedCheck, decode_seed_check, encode_seed_check
from deltaferry.model.extents import Extent
from deltaferry.model.naming import (
    differs_name,
    gateway_container,
    known_name,
    plan_name,
    seed_check_name,
    seed_container,
    seed_name,
    survey_name,
)
from deltaferry.model.replication import DiskBase, ObjectRef, PlanRef, ReplicatedDisk, ReplicationRef
from deltaferry.model.units import GRANULE
from deltaferry.model.vm import PowerState, Snapshot
from deltaferry.planning.ladder import Rung
from deltaferry.ports.access import Beat
from workflows.messages.step import (
    BeginResyncInput,
    BegunResync,
    CheckedSeed,
    CheckSeedInput,
    CheckSeedResult,
    ComparedDisk,
    CompareDisk,
    CompareInput,
    CompareResult,
    PlannedResync,
    PlanResyncInput,
    SurveyedDisk,
)

_SHOWN = 8
_COMPARED = "compared"
_POSITION = "position"
"""Metadata of a stored plan of differences: how many bytes of the source were hashed for it, and up to where it goes."""


class ResyncSource:
    """The source's side: the snapshot, what to compare, and comparing it."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def begin_resync(self, request: BeginResyncInput) -> BegunResync:
        """Pass the gates, take the pass's snapshot, and store what is to be sent anyway and what is to be compared.

        A retry finds the snapshot by its name and the plans that are stored. Raises CLAIM_LOST, DISKS_CHANGED,
        SNAPSHOT_LOST, CONSOLIDATION_STUCK, DATASTORE_FULL without room for the snapshot and, where a mark is above 0, the
        kinds of a broken change tracking.
        """
        beats = Heartbeats("taking the snapshot and surveying")
        ref = request.replication.ref
        site = self._sites[ref.site]
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        require_replicable(vm, request.replication.disks, ref)
        if is_elsewhere(site, ref, vm, request.cycle_key, request.granted):
            on = vm.power is PowerState.ON
            return BegunResync("", datetime.now(UTC), on, disks=(), placement=placement(vm), moved=True)
        growth = request.expected_growth if vm.power is not PowerState.OFF else ()
        snapshot = take_snapshot(site, ref, request.cycle_key, beats.beat, growth_bytes=growth)
        with room_watched(site, ref, beats, look_at_once=False):
            surveyed = tuple(self._survey(site, request, base, snapshot, beats.beat) for base in request.bases)
        return BegunResync(
            snapshot=snapshot.moref,
            taken_at=datetime.fromisoformat(snapshot.created_at),
            powered_on=vm.power is PowerState.ON,
            disks=surveyed,
            placement=placement(vm),
        )

    @activity.defn
    @translated
    def compare_source(self, request: CompareInput) -> CompareResult:
        """Compare the next chunk of every disk with its checksum map, and store a plan of what differs for each.

        A chunk whose plan is stored is done: a repetition returns it, and reads nothing. Raises SNAPSHOT_LOST,
        DISK_READ_FAILED, CHECKSUM_MISMATCH for a damaged map or seed check, STORE_*, and DATASTORE_FULL as soon as the
        snapshot has to be released.
        """
        beats = Heartbeats("comparing the source with the checksum maps")
        ref = request.replication.ref
        site = self._sites[ref.site]
        disks = {disk.key: disk for disk in request.replication.disks}
        done = {part.disk_key: self._finished(site, ref, request.cycle_key, part) for part in request.disks}
        comparisons = [
            Comparison(site.stores.gateway, request.rung, disks[part.disk_key], part)
            for part in request.disks
            if done[part.disk_key] is None
        ]
        if comparisons:
            vm = site.hypervisor.read_vm(ref.instance_uuid)
            snapshot = site.hypervisor.read_snapshot(ref.instance_uuid, request.snapshot)
            with room_watched(site, ref, beats):
                scrub_snapshot(site, ref, vm, snapshot, [comparison.stretch for comparison in comparisons], beats)
        for comparison in comparisons:
            done[comparison.stretch.disk.key] = self._store(site, ref, request.cycle_key, comparison)
        return CompareResult(tuple(found for part in request.disks if (found := done[part.disk_key]) is not None))

    def _survey(self, site: Site, request: BeginResyncInput, base: DiskBase, snapshot: Snapshot, beat: Beat) -> SurveyedDisk:
        ref, key, gateway = request.replication.ref, base.disk_key, site.stores.gateway
        frozen = frozen_disk(request.replication.disks, key, snapshot)
        capacity, mark = frozen.capacity_bytes, base.copied_up_to_bytes

        def make_known() -> Plan:
            changed = changed_below_mark(site, ref, base, snapshot, frozen, beat)
            found_earlier = planned_areas(gateway, (plan for disk_key, plan in request.dirty if disk_key == key))
            return make_plan(capacity, changed + found_earlier, [])

        def make_survey() -> Plan:
            above = [Extent(mark, capacity - mark)] if mark < capacity else []
            if above and request.rung is Rung.ALLOCATED:
                above = allocated_above_mark(site, ref, snapshot, frozen, mark, beat)
            return make_plan(capacity, GranuleSet.touching(above).extents(capacity), [])

        container = gateway_container(ref)
        _, known = stored_plan(gateway, f"{container}/{known_name(request.cycle_key, key)}", make_known)
        _, survey = stored_plan(gateway, f"{container}/{survey_name(request.cycle_key, key)}", make_survey)
        return SurveyedDisk(disk_key=key, change_id=change_id_of(frozen), known=known, survey=survey)

    def _finished(self, site: Site, ref: ReplicationRef, cycle_key: str, part: CompareDisk) -> ComparedDisk | None:
        """Return the chunk that an earlier attempt stored, or None."""
        container, name = gateway_container(ref), differs_name(cycle_key, part.disk_key, part.position_bytes)
        stored = next(iter(site.stores.gateway.list(container, name)), None)
        if stored is None:
            return None
        key = f"{container}/{name}"
        plan = decode_plan(site.stores.gateway.get(key))
        reference = ObjectRef(site.stores.gateway.store, key, stored.etag)
        return ComparedDisk(
            disk_key=part.disk_key,
            position_bytes=int(stored.metadata[_POSITION]),
            differing=PlanRef(reference, plan.segments, plan.data_bytes, plan.covered_bytes),
            compared_bytes=int(stored.metadata[_COMPARED]),
        )

    def _store(self, site: Site, ref: ReplicationRef, cycle_key: str, comparison: Comparison) -> ComparedDisk | None:
        stretch = comparison.stretch
        plan = make_plan(stretch.disk.capacity_bytes, comparison.differing().extents(stretch.disk.capacity_bytes), [])
        key = f"{gateway_container(ref)}/{differs_name(cycle_key, stretch.disk.key, comparison.part.position_bytes)}"
        metadata = {_POSITION: str(stretch.position_bytes), _COMPARED: str(stretch.bytes_read)}
        site.stores.gateway.put_new(key, encode_plan(plan), metadata)
        return self._finished(site, ref, cycle_key, comparison.part)


class ResyncTarget:
    """The target's side: the seed against its checksum map, and the plan of a pass."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def check_seed(self, request: CheckSeedInput) -> CheckSeedResult:
        """Compare the next chunk of every seed with its checksum map, and store what was found for each.

        A chunk whose check is stored is done: a repetition returns it, and reads nothing. A damaged part of a map is
        replaced by one that knows nothing, so that all of it differs. Raises FENCED with the number found, SEED_MISSING,
        DISKS_CHANGED where a seed has not the disk's size.
        """
        beats = Heartbeats("checking seed disks against the checksum maps")
        ref = request.replication.ref
        target = self._targets[ref.target]
        container = seed_container(ref)
        disks = {disk.key: disk for disk in request.replication.disks}
        if request.fence is not None:
            for disk in request.replication.disks:
                target.stores.seeds.raise_fence(container, seed_name(disk.key), request.fence)
        keys = {
            part.disk_key: f"{gateway_container(ref)}/{seed_check_name(request.cycle_key, part.disk_key, part.position_bytes)}"
            for part in request.disks
        }
        unfinished = [part for part in request.disks if target.stores.gateway.get_if_exists(keys[part.disk_key]) is None]
        stretches = [seed_stretch(target, ref, disks[part.disk_key], part.position_bytes, beats.beat) for part in unfinished]
        if stretches:
            scrub_seeds(target, ref, stretches, beats)
        for part, stretch in zip(unfinished, stretches, strict=True):
            target.stores.gateway.put_new(keys[part.disk_key], encode_seed_check(self._found(stretch)))
        return CheckSeedResult(tuple(self._checked(target, disks[part.disk_key], keys[part.disk_key]) for part in request.disks))

    @activity.defn
    @translated
    def plan_resync(self, request: PlanResyncInput) -> PlannedResync:
        """Join stored plans of each disk to the one that the pass transfers. It is made once: a retry reads it."""
        beats = Heartbeats("planning what differs")
        ref = request.replication.ref
        gateway = self._targets[ref.target].stores.gateway
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        planned = []
        for disk_key, parts in request.disks:
            beats.beat()

            def join(disk_key: int = disk_key, parts: tuple[PlanRef, ...] = parts) -> Plan:
                return self._joined(capacities[disk_key], [decode_plan(gateway.get(part.ref.key)) for part in parts])

            key = f"{gateway_container(ref)}/{plan_name(request.cycle_key, disk_key)}"
            planned.append((disk_key, stored_plan(gateway, key, join)[1]))
        return PlannedResync(tuple(planned))

    def _found(self, stretch: Stretch) -> SeedCheck:
        return SeedCheck(
            disk_key=stretch.disk.key,
            position_bytes=min(stretch.first * GRANULE, stretch.disk.capacity_bytes),
            end_bytes=stretch.position_bytes,
            present=stretch.looked_at.within(stretch.first, stretch.position),
            differing=stretch.differing,
        )

    def _checked(self, target: Target, disk: ReplicatedDisk, key: str) -> CheckedSeed:
        stored = target.stores.gateway.get(key)
        check = decode_seed_check(stored)
        return CheckedSeed(
            disk_key=disk.key,
            position_bytes=check.end_bytes,
            check=target.stores.gateway.put_new(key, stored),
            read_bytes=check.present.size_bytes(disk.capacity_bytes),
            differing_bytes=check.differing.size_bytes(disk.capacity_bytes),
            first_differences=tuple(granule * GRANULE for granule in islice(check.differing, _SHOWN)),
        )

    def _joined(self, capacity_bytes: int, plans: Sequence[Plan]) -> Plan:
        data: list[Extent] = []
        holes: list[Extent] = []
        for plan in plans:
            for number in range(plan.segments):
                for entry in plan.segment(number):
                    (holes if entry.hole else data).append(entry.extent)
        return make_plan(capacity_bytes, data, holes)
