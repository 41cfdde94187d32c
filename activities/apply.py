"""Stage 2 of a cycle: from the log store onto the seed disks, as the one writer whose number the fence holds."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import ACCESS_LIFETIME, Target
from activities.failures import translated
from activities.keys import create_data_key, data_key
from activities.progress import Heartbeats
from deltaferry.blocks.account import TargetAccount, encode_account
from deltaferry.blocks.manifest import decode_manifest
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import (
    container_metadata,
    covered_name,
    gateway_container,
    log_container,
    seed_container,
    seed_name,
)
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.units import seed_blob_size
from deltaferry.ports.data_plane import AppliedDisk, ApplyDisk, ApplyJob
from workflows.messages.step import AppliedChunk, ApplyInput, ApplyResult, OnReplication, SentChunk


class Apply:
    """Writes to seed disks; the only activity group that does."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def prepare_target(self, request: OnReplication) -> None:
        """Create the replication's containers, its wrapped data key and its seed disks; fit seeds whose disk was resized."""
        ref = request.replication.ref
        stores = self._targets[ref.target].stores
        owner = container_metadata(ref)
        stores.gateway.create_container(gateway_container(ref), owner)
        stores.log.create_container(log_container(ref), owner)
        stores.seeds.create_container(seed_container(ref), owner)
        create_data_key(stores, ref)
        for disk in request.replication.disks:
            container, name, size = seed_container(ref), seed_name(disk.key), seed_blob_size(disk.capacity_bytes)
            stores.seeds.resize_seed(container, name, size)
            stores.seeds.create_seed(container, name, size)

    @activity.defn
    @translated
    def apply(self, request: ApplyInput) -> ApplyResult:
        """Apply one chunk of each disk, and store the target's own account of what it did.

        Raises FENCED with the number found where a newer writer, or a reset history, has gone ahead; SEGMENT_DAMAGED,
        CHECKSUM_MISMATCH, MANIFEST_MISMATCH, STORE_OBJECT_MISSING before anything wrong is written.
        """
        beats = Heartbeats("applying to the seed disks")
        ref = request.replication.ref
        stores = self._targets[ref.target].stores
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        container = seed_container(ref)
        disks = []
        for chunk in request.chunks:
            manifest = decode_manifest(stores.gateway.get(chunk.manifest.key))
            if (manifest.cycle_key, manifest.disk_key, manifest.first_segment) != (
                request.cycle_key,
                chunk.disk_key,
                chunk.first_segment,
            ):
                raise DeltaferryError(ErrorKind.MANIFEST_MISMATCH, f"{chunk.manifest.key} is not the manifest of this chunk.")
            name = seed_name(chunk.disk_key)
            stores.seeds.raise_fence(container, name, request.fence)
            first_pass = stores.seeds.mark_first_pass(container, name, request.cycle_key)
            disks.append(
                ApplyDisk(
                    disk_key=chunk.disk_key,
                    capacity_bytes=capacities[chunk.disk_key],
                    seed_name=name,
                    segments=manifest.segments,
                    pristine=request.initial and first_pass == request.cycle_key,
                )
            )
        job = ApplyJob(
            replication_id=ref.replication_id,
            cycle_key=request.cycle_key,
            fence=request.fence,
            disks=tuple(disks),
            log=stores.log.access(log_container(ref), write=False, lifetime=ACCESS_LIFETIME),
            seed=stores.seeds.access(container, write=True, lifetime=ACCESS_LIFETIME),
            data_key=data_key(stores, ref),
        )
        applied = self._targets[ref.target].plane.apply(job, beats.progress)
        chunks = {chunk.disk_key: chunk for chunk in request.chunks}
        return ApplyResult(tuple(self._account(ref, request, chunks[disk.disk_key], disk) for disk in applied))

    def _account(self, ref: ReplicationRef, request: ApplyInput, chunk: SentChunk, applied: AppliedDisk) -> AppliedChunk:
        key = f"{gateway_container(ref)}/{covered_name(request.cycle_key, chunk.disk_key, chunk.first_segment, request.fence)}"
        account = TargetAccount(
            request.cycle_key, chunk.disk_key, chunk.first_segment, applied.covered, applied.granules, applied.applied
        )
        return AppliedChunk(
            disk_key=chunk.disk_key,
            first_segment=chunk.first_segment,
            next_segment=chunk.next_segment,
            manifest=chunk.manifest,
            covered=self._targets[ref.target].stores.gateway.put(key, encode_account(account)),
            bytes_written=applied.bytes_written,
            bytes_cleared=applied.bytes_cleared,
            verified_blocks=applied.verified_blocks,
        )
