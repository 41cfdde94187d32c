"""Chunks of segments in the log store, and the manifests that list them: the same in both directions."""

import dataclasses

from activities.adapters import Stores
from deltaferry.blocks.account import TargetAccount, decode_account
from deltaferry.blocks.manifest import Manifest, decode_manifest, encode_manifest, require_same
from deltaferry.blocks.plan import Plan, decode_plan
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import gateway_container, log_container, manifest_name, segment_name, segment_prefix
from deltaferry.model.replication import ObjectRef, ReplicationRef, StoredSegment
from deltaferry.ports.data_plane import SendDisk, SentDisk
from workflows.messages.step import AppliedChunk, ChunkDisk, SentChunk

DIGEST_METADATA = "digest"
"""Metadata of a segment object: hexadecimal BLAKE3-256 of its bytes, so that a listing is enough to write a manifest."""


def finished_chunk(stores: Stores, ref: ReplicationRef, cycle_key: str, disk: ChunkDisk) -> SentChunk | None:
    """Return the chunk that an earlier attempt listed in its manifest, or None."""
    container, name = gateway_container(ref), manifest_name(cycle_key, disk.disk_key, disk.first_segment)
    listed = next((found for found in stores.gateway.list(container, name) if found.name == name), None)
    if listed is None:
        return None
    reference = ObjectRef(stores.gateway.store, f"{container}/{name}", listed.etag)
    segments = decode_manifest(stores.gateway.get(reference.key)).segments
    plan = decode_plan(stores.gateway.get(disk.plan.ref.key))
    nothing_new = SentDisk(disk.disk_key, disk.first_segment + len(segments), segments, 0, 0, 0, len(segments))
    return _chunk(plan, disk.first_segment, nothing_new, reference)


def stored_segments(stores: Stores, ref: ReplicationRef, cycle_key: str, disk: ChunkDisk) -> tuple[StoredSegment, ...]:
    """Return the segments of a disk, from the chunk's first on, that the log store holds already."""
    prefix = segment_prefix(cycle_key, disk.disk_key)
    found = []
    for stored in stores.log.list(log_container(ref), prefix):
        number = int(stored.name.removeprefix(prefix))
        if number >= disk.first_segment and DIGEST_METADATA in stored.metadata:
            found.append(StoredSegment(number, bytes.fromhex(stored.metadata[DIGEST_METADATA]), stored.size_bytes))
    return tuple(found)


def list_chunk(stores: Stores, ref: ReplicationRef, cycle_key: str, asked: SendDisk, sent: SentDisk) -> SentChunk:
    """List a chunk in its manifest. The first one that is stored wins: whoever else was at it returns the same chunk."""
    key = f"{gateway_container(ref)}/{manifest_name(cycle_key, sent.disk_key, asked.first_segment)}"
    ours = Manifest(cycle_key=cycle_key, disk_key=sent.disk_key, first_segment=asked.first_segment, segments=sent.segments)
    reference, stored_manifest = stores.gateway.put_or_get(key, encode_manifest(ours))
    segments = decode_manifest(stored_manifest).segments
    stored = dataclasses.replace(sent, next_segment=asked.first_segment + len(segments), segments=segments)
    return _chunk(decode_plan(asked.plan), asked.first_segment, stored, reference)


def check_account(stores: Stores, chunk: AppliedChunk) -> tuple[Manifest, TargetAccount]:
    """Return a chunk's manifest, and the target's account of exactly the objects that it lists, by digest.

    Raises MANIFEST_MISMATCH.
    """
    manifest = decode_manifest(stores.gateway.get(chunk.manifest.key))
    account = decode_account(stores.gateway.get(chunk.covered.key))
    theirs = (account.cycle_key, account.disk_key, account.first_segment)
    if theirs != (manifest.cycle_key, manifest.disk_key, manifest.first_segment):
        raise DeltaferryError(ErrorKind.MANIFEST_MISMATCH, f"{chunk.covered.key} is not the account of {chunk.manifest.key}.")
    require_same(manifest.segments, account.applied, chunk.manifest.key)
    return manifest, account


def names_in_log(manifest: Manifest) -> list[str]:
    """Return the names of a chunk's objects in the log store: of all but those that stand in the manifest."""
    return [
        segment_name(manifest.cycle_key, manifest.disk_key, segment.number) for segment in manifest.segments if not segment.inline
    ]


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
