"""Stage 1 of a cycle: from the snapshot's disks to the log store, chunk by chunk."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta

from temporalio import activity

from activities.adapters import ACCESS_LIFETIME, Site
from activities.datastore_guard import room_watched
from activities.failures import translated
from activities.keys import data_key
from activities.present_disks import held_still, present_disks
from activities.progress import Heartbeats
from activities.sent_chunks import finished_chunk, list_chunk, stored_segments
from deltaferry.model.naming import log_container
from deltaferry.model.replication import CycleKind
from deltaferry.model.vm import Snapshot
from deltaferry.ports.data_plane import SendDisk, SendJob
from workflows.messages.step import ChunkDisk, SentChunk, TransferInput, TransferResult

PRE_FAILOVER = frozenset({CycleKind.ON_DEMAND, CycleKind.FINAL})
"""The cycles that a migration or failover waits for."""


class Transfer:
    """Moves segments; resumes from the plan and from what the log store holds."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def transfer(self, request: TransferInput) -> TransferResult:
        """Send the next chunk of every disk, and list it in a manifest for each.

        A chunk whose manifest is stored is done: a repetition returns it, and sends nothing. A segment that the log
        store holds is not read again. Without a snapshot, the source is held as it is meanwhile, and what was read while
        it was not counts for nothing. Raises SNAPSHOT_LOST, SOURCE_MOVED_ON, DISK_READ_FAILED, STORE_*, and DATASTORE_FULL as
        soon as the snapshot has to be released.
        """
        beats = Heartbeats("sending changed blocks")
        ref = request.replication.ref
        site = self._sites[ref.site]
        done = {disk.disk_key: finished_chunk(site.stores, ref, request.cycle_key, disk) for disk in request.disks}
        unfinished = tuple(disk for disk in request.disks if done[disk.disk_key] is None)
        sent = self._send(site, request, unfinished, beats) if unfinished else {}
        return TransferResult(tuple(done[disk.disk_key] or sent[disk.disk_key] for disk in request.disks))

    def _send(self, site: Site, request: TransferInput, disks: Sequence[ChunkDisk], beats: Heartbeats) -> Mapping[int, SentChunk]:
        """Send a chunk of each disk, in turns of as many as a host serves at once (spec §3); the turns share a chunk's time."""
        at_once = min(site.profile.disks_per_host, site.profile.disks_per_appliance)
        sent: dict[int, SentChunk] = {}
        with ExitStack() as held:
            if not request.snapshot:
                held.enter_context(held_still(site, request.replication, request.cycle_key))
                at_once -= 1  # the host serves the disk that is held, too
            else:
                held.enter_context(room_watched(site, request.replication.ref, beats))
            turns = [disks[first : first + max(at_once, 1)] for first in range(0, len(disks), max(at_once, 1))]
            for turn in turns:
                sent |= self._send_turn(site, request, turn, site.chunk_max / len(turns), beats)
        return sent

    def _send_turn(
        self, site: Site, request: TransferInput, disks: Sequence[ChunkDisk], stop_after: timedelta, beats: Heartbeats
    ) -> Mapping[int, SentChunk]:
        ref = request.replication.ref
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        snapshot = self._snapshot(site, request)
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        with ExitStack() as exports:
            job = SendJob(
                replication_id=ref.replication_id,
                cycle_key=request.cycle_key,
                disks=tuple(
                    SendDisk(
                        disk_key=disk.disk_key,
                        capacity_bytes=capacities[disk.disk_key],
                        source=exports.enter_context(site.exports.open(vm, snapshot, disk.disk_key)),
                        plan=site.stores.gateway.get(disk.plan.ref.key),
                        first_segment=disk.first_segment,
                        stored=stored_segments(site.stores, ref, request.cycle_key, disk),
                    )
                    for disk in disks
                ),
                log=site.stores.log.access(log_container(ref), write=True, lifetime=ACCESS_LIFETIME),
                data_key=data_key(site.stores, ref),
                stop_after=stop_after,
                stop_after_bytes=site.chunk_max_bytes,
                urgent=request.kind in PRE_FAILOVER,
            )
            sent = site.plane.send(job, beats.progress)
            if not request.snapshot:
                present_disks(site, ref, request.cycle_key)  # before a manifest says that this is what the source held
        asked = {disk.disk_key: disk for disk in job.disks}
        return {disk.disk_key: list_chunk(site.stores, ref, request.cycle_key, asked[disk.disk_key], disk) for disk in sent}

    @staticmethod
    def _snapshot(site: Site, request: TransferInput) -> Snapshot:
        """Return the snapshot, or what stands for it in a pass without one."""
        ref = request.replication.ref
        if not request.snapshot:
            return present_disks(site, ref, request.cycle_key)
        return site.hypervisor.read_snapshot(ref.instance_uuid, request.snapshot)
