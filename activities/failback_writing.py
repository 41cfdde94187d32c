"""Failback beside vCenter: the disks at the site compared with Azure's hashes, and written, by the one who has them open."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta

from temporalio import activity

from activities.adapters import ACCESS_LIFETIME, Site, Stores
from activities.failback_disks import begin_writing, end_writing, require_as_left
from activities.failures import translated
from activities.keys import data_key
from activities.progress import Heartbeats
from activities.scrubbing import Stretch, first_granule, scrub
from deltaferry.blocks.account import TargetAccount, encode_account
from deltaferry.blocks.checksum_map import ChecksumChunk, decode_chunk
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.blocks.manifest import decode_manifest
from deltaferry.blocks.plan import decode_plan, encode_plan, make_plan
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import covered_name, differs_name, gateway_container, hashes_name, log_container
from deltaferry.model.replication import ObjectRef, PlanRef, ReplicatedDisk, ReplicationRef
from deltaferry.ports.data_plane import CompareJob, DataProgress, GranuleRange, ScrubbedDisk
from deltaferry.ports.reverse_plane import WriteDisk, WriteJob, WrittenDisk
from workflows.messages.failback import (
    ComparedSite,
    CompareSiteInput,
    CompareSiteResult,
    WriteBackInput,
)
from workflows.messages.replication_state import DiskPosition
from workflows.messages.step import AppliedChunk, ApplyResult, SentChunk

_COMPARED = "compared"
_POSITION = "position"
"""Metadata of a stored plan of differences: how many bytes were hashed for it, and up to where it goes."""
_WRITTEN, _ZEROED, _VERIFIED = "written", "zeroed", "verified"
"""Metadata of a stored account: bytes written and zeroed, and checksums compared."""


class FailbackWriting:
    """The appliance's part of failback. Between two steps it holds nothing open."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def compare_site(self, request: CompareSiteInput) -> CompareSiteResult:
        """Compare the next chunk of each disk with the snapshots' hashes, and store a plan of what differs for each.

        A chunk whose plan is stored is done: a repetition returns it, and reads nothing. Of more disks than a host serves at
        once the others stay where they are. Raises SOURCE_MOVED_ON, FENCED, DISK_READ_FAILED, CHECKSUM_MISMATCH for damaged hashes.
        """
        beats = Heartbeats("comparing the site's disks with Azure's")
        ref = request.replication.ref
        site = self._sites[ref.site]
        disks = {disk.key: disk for disk in request.replication.disks}
        present = require_as_left(site, ref, request.number, anew=all(part.position_bytes == 0 for part in request.positions))
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        unfinished = [part for part in request.positions if part.position_bytes < disks[part.disk_key].capacity_bytes]
        turn = unfinished[: _at_once(site)]
        found = {part.disk_key: self._finished(site, ref, request.cycle_key, part) for part in turn}
        stretches = [_whole(disks[part.disk_key], part) for part in turn if found[part.disk_key] is None]
        if stretches:
            key = data_key(site.stores, ref)
            with ExitStack() as exports:
                opened = {
                    stretch.disk.key: exports.enter_context(site.exports.open(vm, present, stretch.disk.key))
                    for stretch in stretches
                }

                def job(
                    parts: Sequence[GranuleRange], left: timedelta, progress: Callable[[DataProgress], None]
                ) -> tuple[ScrubbedDisk, ...]:
                    compared = tuple((part, opened[part.disk_key]) for part in parts)
                    return site.plane.compare(CompareJob(compared, key, left), progress)

                scrub(site.stores, ref, stretches, job, site.chunk_max, beats, read=_hashes(request.cycle_key))
            require_as_left(site, ref, request.number)
        begun_at = {part.disk_key: part for part in turn}
        for stretch in stretches:
            part = begun_at[stretch.disk.key]
            found[stretch.disk.key] = self._store(site, ref, request.cycle_key, part, stretch)
        return CompareSiteResult(
            tuple(
                found.get(part.disk_key) or ComparedSite(part.disk_key, part.position_bytes, None, 0)
                for part in request.positions
            )
        )

    @activity.defn
    @translated
    def write_back(self, request: WriteBackInput) -> ApplyResult:
        """Write a chunk of each disk, read all of it back, and store an account of what was covered.

        Each disk is opened by one connection, which the hypervisor lets nobody share. A chunk whose account is stored is done;
        one that a death cut in the middle is written again from its beginning. Raises SOURCE_MOVED_ON, FENCED, DISK_READ_FAILED (also while somebody else has a disk open),
        CHECKSUM_MISMATCH, SEGMENT_DAMAGED, MANIFEST_MISMATCH, STORE_OBJECT_MISSING.
        """
        beats = Heartbeats("writing to the site's disks")
        ref = request.replication.ref
        site = self._sites[ref.site]
        at_once = _at_once(site)
        require_as_left(site, ref, request.number)  # also where there is nothing to write
        done = {chunk.disk_key: self._accounted(site, request, chunk) for chunk in request.chunks}
        unwritten = [chunk for chunk in request.chunks if done[chunk.disk_key] is None]
        for first in range(0, len(unwritten), at_once):
            turn = unwritten[first : first + at_once]
            written = {disk.disk_key: disk for disk in self._write_turn(site, request, turn, beats)}
            for chunk in turn:
                done[chunk.disk_key] = self._account(site, request, chunk, written[chunk.disk_key])
        return ApplyResult(tuple(chunk for chunk in done.values() if chunk is not None))

    def _write_turn(
        self, site: Site, request: WriteBackInput, chunks: Sequence[SentChunk], beats: Heartbeats
    ) -> tuple[WrittenDisk, ...]:
        ref = request.replication.ref
        present = require_as_left(site, ref, request.number)
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        begin_writing(site, ref, request.number, present)
        with ExitStack() as exports:
            disks = []
            for chunk in chunks:
                manifest = decode_manifest(site.stores.gateway.get(chunk.manifest.key))
                listed = (manifest.cycle_key, manifest.disk_key, manifest.first_segment)
                if listed != (request.cycle_key, chunk.disk_key, chunk.first_segment):
                    raise DeltaferryError(ErrorKind.MANIFEST_MISMATCH, f"{chunk.manifest.key} is not the manifest of this chunk.")
                address = exports.enter_context(site.exports.open_writable(vm, present, chunk.disk_key))
                disks.append(WriteDisk(chunk.disk_key, capacities[chunk.disk_key], address, manifest.segments))
            log = site.stores.log.access(log_container(ref), write=False, lifetime=ACCESS_LIFETIME)
            job = WriteJob(ref.replication_id, request.cycle_key, tuple(disks), log, data_key(site.stores, ref))
            written = site.plane.write_disks(job, beats.progress)
        end_writing(site, ref, request.number)
        return written

    def _account(self, site: Site, request: WriteBackInput, chunk: SentChunk, written: WrittenDisk) -> AppliedChunk | None:
        """Store what was done with a chunk; return it as it is stored."""
        account = TargetAccount(
            request.cycle_key, chunk.disk_key, chunk.first_segment, written.covered, written.granules, written.applied
        )
        metadata = {
            _WRITTEN: str(written.bytes_written),
            _ZEROED: str(written.bytes_zeroed),
            _VERIFIED: str(written.verified_blocks),
        }
        container, name = _account_name(request, chunk)
        site.stores.gateway.put(f"{container}/{name}", encode_account(account), metadata)
        return self._accounted(site, request, chunk)

    def _accounted(self, site: Site, request: WriteBackInput, chunk: SentChunk) -> AppliedChunk | None:
        """Return a chunk that was written, read back and accounted for, or None."""
        container, name = _account_name(request, chunk)
        stored = next((found for found in site.stores.gateway.list(container, name) if found.name == name), None)
        if stored is None:
            return None
        return AppliedChunk(
            disk_key=chunk.disk_key,
            first_segment=chunk.first_segment,
            next_segment=chunk.next_segment,
            manifest=chunk.manifest,
            covered=ObjectRef(site.stores.gateway.store, f"{container}/{name}", stored.etag),
            bytes_written=int(stored.metadata[_WRITTEN]),
            bytes_cleared=int(stored.metadata[_ZEROED]),
            verified_blocks=int(stored.metadata[_VERIFIED]),
        )

    def _finished(self, site: Site, ref: ReplicationRef, cycle_key: str, part: DiskPosition) -> ComparedSite | None:
        """Return the chunk that an earlier attempt stored, or None."""
        container, name = gateway_container(ref), differs_name(cycle_key, part.disk_key, part.position_bytes)
        stored = next(iter(site.stores.gateway.list(container, name)), None)
        if stored is None:
            return None
        key = f"{container}/{name}"
        plan = decode_plan(site.stores.gateway.get(key))
        reference = PlanRef(
            ObjectRef(site.stores.gateway.store, key, stored.etag), plan.segments, plan.data_bytes, plan.covered_bytes
        )
        return ComparedSite(part.disk_key, int(stored.metadata[_POSITION]), reference, int(stored.metadata[_COMPARED]))

    def _store(
        self, site: Site, ref: ReplicationRef, cycle_key: str, part: DiskPosition, stretch: Stretch
    ) -> ComparedSite | None:
        capacity_bytes = stretch.disk.capacity_bytes
        plan = make_plan(capacity_bytes, stretch.differing.extents(capacity_bytes), [])
        key = f"{gateway_container(ref)}/{differs_name(cycle_key, stretch.disk.key, part.position_bytes)}"
        metadata = {_POSITION: str(stretch.position_bytes), _COMPARED: str(stretch.bytes_read)}
        site.stores.gateway.put_new(key, encode_plan(plan), metadata)
        return self._finished(site, ref, cycle_key, part)


def _account_name(request: WriteBackInput, chunk: SentChunk) -> tuple[str, str]:
    """Return container and name of the account of a chunk."""
    ref = request.replication.ref
    return gateway_container(ref), covered_name(request.cycle_key, chunk.disk_key, chunk.first_segment, request.number)


def _at_once(site: Site) -> int:
    """Return how many disks a host serves at a time."""
    return max(1, min(site.profile.disks_per_host, site.profile.disks_per_appliance))


def _whole(disk: ReplicatedDisk, part: DiskPosition) -> Stretch:
    """Return what is left of a disk, all of it to be read."""
    return Stretch(
        disk,
        first_granule(disk, part.position_bytes),
        granules_of(disk.capacity_bytes),
        lambda first, end: GranuleSet([(first, end - first)]),
    )


def _hashes(cycle_key: str) -> Callable[[Stores, ReplicationRef, int, int, int], ChecksumChunk]:
    """Return what reads a chunk of a pass's hashes in place of the checksum map."""

    def read(stores: Stores, ref: ReplicationRef, disk_key: int, number: int, capacity_bytes: int) -> ChecksumChunk:
        key = f"{gateway_container(ref)}/{hashes_name(cycle_key, disk_key, number)}"
        chunk = decode_chunk(stores.gateway.get(key), number)
        return chunk

    return read
