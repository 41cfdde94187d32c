"""Failback beside Azure's storage: snapshots of managed disks hashed, compared with the base's, and sent to the log store."""

import time
from collections.abc import Mapping

from temporalio import activity

from activities.adapters import ACCESS_LIFETIME, Target
from activities.changed_blocks import stored_plan
from activities.failures import translated
from activities.keys import data_key
from activities.progress import Heartbeats
from activities.sent_chunks import finished_chunk, list_chunk, stored_segments
from activities.target_vm import resolve
from deltaferry.blocks.checksum_map import CHUNK_GRANULES, ChecksumChunk, encode_chunk
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.blocks.plan import Plan, make_plan
from deltaferry.model.extents import Extent
from deltaferry.model.naming import gateway_container, hashes_name, log_container, plan_name
from deltaferry.model.replication import ReplicatedDisk
from deltaferry.model.units import GRANULE
from deltaferry.ports.access import Beat, SnapshotAccess
from deltaferry.ports.data_plane import SendDisk, SendJob
from deltaferry.ports.reverse_plane import HashDisk, HashJob
from workflows.messages.failback import (
    HashInput,
    HashResult,
    PlanChangesInput,
    PlannedChanges,
    SendBackInput,
)
from workflows.messages.replication_state import DiskPosition
from workflows.messages.step import TransferResult

_CHUNK_BYTES = CHUNK_GRANULES * GRANULE
"""What is hashed and stored as one: 4 GiB of a disk, 1 MiB of hashes."""


class FailbackReading:
    """Reads snapshots through signatures that end with the step."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def hash_snapshots(self, request: HashInput) -> HashResult:
        """Hash snapshots from the given positions on, chunk by chunk, until they end or the step's time does.

        A chunk whose hashes are stored is not read again. Raises AZURE_NOT_FOUND, STORE_*.
        """
        beats = Heartbeats("hashing the disks in Azure")
        ref = request.replication.ref
        target = self._targets[ref.target]
        disks = {disk.key: disk for disk in request.replication.disks}
        snapshots = dict(request.snapshots)
        positions = {part.disk_key: part.position_bytes for part in request.positions}
        deadline_s = time.monotonic() + target.chunk_max.total_seconds()
        key = data_key(target.stores, ref)
        group = resolve(request.target, target.defaults, request.replication.vm_name).resource_group
        with target.cloud.open_disk_snapshots(group, list(snapshots.values()), ACCESS_LIFETIME, beats.beat) as access:
            while unfinished := [disks[disk_key] for disk_key, at in positions.items() if at < disks[disk_key].capacity_bytes]:
                self._hash_round(request, target, key, unfinished, positions, access, beats)
                for disk in unfinished:
                    positions[disk.key] = min((positions[disk.key] // _CHUNK_BYTES + 1) * _CHUNK_BYTES, disk.capacity_bytes)
                if time.monotonic() >= deadline_s:
                    break
        return HashResult(tuple(DiskPosition(part.disk_key, positions[part.disk_key]) for part in request.positions))

    @activity.defn
    @translated
    def plan_changes(self, request: PlanChangesInput) -> PlannedChanges:
        """Plan what differs between two snapshots of each disk: changed pages are read, cleared ones are zeros.

        Without a base it is all that the snapshots hold: for disks at the site that are new and empty.

        It is made once: a retry reads it. Raises AZURE_NOT_FOUND, STORE_*.
        """
        beats = Heartbeats("comparing the snapshots of the disks in Azure")
        ref = request.replication.ref
        target = self._targets[ref.target]
        gateway = target.stores.gateway
        snapshots, base = dict(request.snapshots), dict(request.base)
        group = resolve(request.target, target.defaults, request.replication.vm_name).resource_group
        planned = []
        with target.cloud.open_disk_snapshots(
            group, [*snapshots.values(), *base.values()], ACCESS_LIFETIME, beats.beat
        ) as access:
            for disk in request.replication.disks:
                new, old = access[snapshots[disk.key]], access[base[disk.key]] if base else None

                def differences(disk: ReplicatedDisk = disk, new: SnapshotAccess = new, old: SnapshotAccess | None = old) -> Plan:
                    return _changes(target, disk, new, old, beats.beat)

                key = f"{gateway_container(ref)}/{plan_name(request.cycle_key, disk.key)}"
                planned.append((disk.key, stored_plan(gateway, key, differences)[1]))
        return PlannedChanges(tuple(planned))

    @activity.defn
    @translated
    def send_back(self, request: SendBackInput) -> TransferResult:
        """Send the next chunk of every disk to the log store, and list it in a manifest for each.

        A chunk whose manifest is stored is done; a segment that the log store holds is not read again.
        Raises AZURE_NOT_FOUND, STORE_*.
        """
        beats = Heartbeats("sending changed blocks back")
        ref = request.replication.ref
        target = self._targets[ref.target]
        stores = target.stores
        done = {disk.disk_key: finished_chunk(stores, ref, request.cycle_key, disk) for disk in request.disks}
        unfinished = [disk for disk in request.disks if done[disk.disk_key] is None]
        if unfinished:
            capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
            snapshots = dict(request.snapshots)
            group = resolve(request.target, target.defaults, request.replication.vm_name).resource_group
            names = [snapshots[disk.disk_key] for disk in unfinished]
            with target.cloud.open_disk_snapshots(group, names, ACCESS_LIFETIME, beats.beat) as access:
                disks = tuple(
                    SendDisk(
                        disk_key=disk.disk_key,
                        capacity_bytes=capacities[disk.disk_key],
                        source=access[snapshots[disk.disk_key]],
                        plan=stores.gateway.get(disk.plan.ref.key),
                        first_segment=disk.first_segment,
                        stored=stored_segments(stores, ref, request.cycle_key, disk),
                    )
                    for disk in unfinished
                )
                job = SendJob(
                    replication_id=ref.replication_id,
                    cycle_key=request.cycle_key,
                    disks=disks,
                    log=stores.log.access(log_container(ref), write=True, lifetime=ACCESS_LIFETIME),
                    data_key=data_key(stores, ref),
                    stop_after=target.chunk_max,
                    stop_after_bytes=target.chunk_max_bytes,
                    urgent=request.urgent,
                )
                sent = target.plane.send(job, beats.progress)
            asked = {disk.disk_key: disk for disk in disks}
            for disk in sent:
                done[disk.disk_key] = list_chunk(stores, ref, request.cycle_key, asked[disk.disk_key], disk)
        return TransferResult(tuple(chunk for disk in request.disks if (chunk := done[disk.disk_key]) is not None))

    def _hash_round(
        self,
        request: HashInput,
        target: Target,
        key: bytes,
        disks: list[ReplicatedDisk],
        positions: Mapping[int, int],
        access: Mapping[str, SnapshotAccess],
        beats: Heartbeats,
    ) -> None:
        """Hash one chunk of each disk, and store it."""
        ref, gateway, snapshots = request.replication.ref, target.stores.gateway, dict(request.snapshots)
        names, parts = {}, []
        for disk in disks:
            number = positions[disk.key] // _CHUNK_BYTES
            names[disk.key] = number, f"{gateway_container(ref)}/{hashes_name(request.cycle_key, disk.key, number)}"
            if gateway.get_if_exists(names[disk.key][1]) is not None:
                continue
            span = Extent(number * _CHUNK_BYTES, min(_CHUNK_BYTES, disk.capacity_bytes - number * _CHUNK_BYTES))
            source = access[snapshots[disk.key]]
            held = GranuleSet()
            for page in target.cloud.pages(source, None, span):
                beats.beat()
                held.add(
                    page.extent.offset_bytes // GRANULE, granules_of(page.extent.end_bytes) - page.extent.offset_bytes // GRANULE
                )
            first, end = span.offset_bytes // GRANULE, granules_of(span.end_bytes)
            parts.append(HashDisk(disk.key, disk.capacity_bytes, source, first, end, held.within(first, end).encode()))
        if not parts:
            return
        for hashed in target.plane.hash_snapshots(HashJob(tuple(parts), key), beats.progress):
            number, name = names[hashed.disk_key]
            gateway.put_new(name, encode_chunk(ChecksumChunk(number, hashed.checksums)))


def _changes(target: Target, disk: ReplicatedDisk, new: SnapshotAccess, old: SnapshotAccess | None, beat: Beat) -> Plan:
    data: list[Extent] = []
    holes: list[Extent] = []
    for page in target.cloud.pages(new, old, Extent(0, disk.capacity_bytes)):
        beat()
        (holes if page.cleared else data).append(page.extent)
    return make_plan(disk.capacity_bytes, data, holes)
