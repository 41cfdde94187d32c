"""Stage 1 of a cycle: from the snapshot's disks to the log store, chunk by chunk."""

import dataclasses
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
from deltaferry.blocks.manifest import Manifest, decode_manifest, encode_manifest
from deltaferry.blocks.plan import Plan, decode_plan
from deltaferry.model.naming import gateway_container, log_container, manifest_name, segment_prefix
from deltaferry.model.replication import CycleKind, ObjectRef, ReplicationRef, StoredSegment
from deltaferry.model.vm import Snapshot
from deltaferry.ports.data_plane import SendDisk, SendJob, SentDisk
from workflows.step_messages import ChunkDisk, SentChunk, TransferInput, TransferResult

PRE_FAILOVER = frozenset({CycleKind.ON_DEMAND, CycleKind.FINAL})
"""The cycles that a migration or failover waits for."""
DIGEST_METADATA = "digest"
"""Metadata of a segment object: hexadecimal BLAKE3-256 of its bytes, so that a listing is enough to write a manifest."""


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
        done = {disk.disk_key: self._finished(site, ref, request, disk) for disk in request.disks}
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
                        stored=self._stored(site, ref, request.cycle_key, disk),
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
        return {disk.disk_key: self._manifest(site, ref, request.cycle_key, asked[disk.disk_key], disk) for disk in sent}

    @staticmethod
    def _snapshot(site: Site, request: TransferInput) -> Snapshot:
        """Return the snapshot, or what stands for it in a pass without one."""
        ref = request.replication.ref
        if not request.snapshot:
            return present_disks(site, ref, request.cycle_key)
        return site.hypervisor.read_snapshot(ref.instance_uuid, request.snapshot)

    def _finished(self, site: Site, ref: ReplicationRef, request: TransferInput, disk: ChunkDisk) -> SentChunk | None:
        """Return the chunk that an earlier attempt listed in its manifest, or None."""
        container, name = gateway_container(ref), manifest_name(request.cycle_key, disk.disk_key, disk.first_segment)
        listed = next((found for found in site.stores.gateway.list(container, name) if found.name == name), None)
        if listed is None:
            return None
        reference = ObjectRef(site.stores.gateway.store, f"{container}/{name}", listed.etag)
        stored = site.stores.gateway.get(reference.key)
        plan = decode_plan(site.stores.gateway.get(disk.plan.ref.key))
        segments = decode_manifest(stored).segments
        nothing_new = SentDisk(disk.disk_key, disk.first_segment + len(segments), segments, 0, 0, 0, len(segments))
        return self._chunk(plan, disk.first_segment, nothing_new, reference)

    def _stored(self, site: Site, ref: ReplicationRef, cycle_key: str, disk: ChunkDisk) -> tuple[StoredSegment, ...]:
        prefix = segment_prefix(cycle_key, disk.disk_key)
        found = []
        for stored in site.stores.log.list(log_container(ref), prefix):
            number = int(stored.name.removeprefix(prefix))
            if number >= disk.first_segment and DIGEST_METADATA in stored.metadata:
                found.append(StoredSegment(number, bytes.fromhex(stored.metadata[DIGEST_METADATA]), stored.size_bytes))
        return tuple(found)

    def _manifest(self, site: Site, ref: ReplicationRef, cycle_key: str, asked: SendDisk, sent: SentDisk) -> SentChunk:
        """List a chunk in its manifest. The first one that is stored wins: whoever else was at it returns the same chunk."""
        key = f"{gateway_container(ref)}/{manifest_name(cycle_key, sent.disk_key, asked.first_segment)}"
        ours = Manifest(cycle_key=cycle_key, disk_key=sent.disk_key, first_segment=asked.first_segment, segments=sent.segments)
        reference, stored_manifest = site.stores.gateway.put_or_get(key, encode_manifest(ours))
        segments = decode_manifest(stored_manifest).segments
        stored = dataclasses.replace(sent, next_segment=asked.first_segment + len(segments), segments=segments)
        return self._chunk(decode_plan(asked.plan), asked.first_segment, stored, reference)

    @staticmethod
    def _chunk(plan: Plan, first_segment: int, sent: SentDisk, manifest: ObjectRef) -> SentChunk:
        done = sent.next_segment >= plan.segments
        return SentChunk(
            disk_key=sent.disk_key,
            first_segment=first_segment,
            next_segment=sent.next_segment,
            position_bytes=plan.capacity_bytes if done else plan.segment(sent.next_segment)[0].extent.offset_bytes,
            manifest=manifest,
            bytes_read=sent.bytes_read,
            bytes_sent=sent.bytes_sent,
            segments_sent=sent.segments_sent,
            segments_found=sent.segments_found,
        )
