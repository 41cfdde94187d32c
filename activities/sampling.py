"""*Trust no CBT*: part of what is said not to have changed since the last commit is compared with the checksum map."""

from collections.abc import Iterable

from activities.adapters import Site
from activities.checksum_maps import CHECKSUM_BYTES, read_chunk
from activities.progress import Heartbeats
from activities.scrubbing import Stretch, scrub_snapshot
from deltaferry.blocks.checksum_map import CHUNK_GRANULES, UNKNOWN
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.blocks.plan import Plan, source_set
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import DiskBase, ReplicatedDisk, ReplicationRef
from deltaferry.model.units import GRANULE
from deltaferry.model.vm import Snapshot, SourceVm
from deltaferry.planning.sampling import sample
from workflows.messages.step import BeginCycleInput


def compare_sample(
    site: Site, request: BeginCycleInput, vm: SourceVm, snapshot: Snapshot, plans: Iterable[Plan], beats: Heartbeats
) -> int:
    """Compare the cycle's sample of every disk; return how many bytes were hashed. For a share of 0 nothing is opened.

    Sampled is what lies whole below the disk's mark and is not planned: of that, the snapshot must hold what the seed
    holds. Granules of which no commit tells anything are left out. Raises CBT_MISSED_CHANGES, saying how many and where.
    """
    if not request.sample_share:
        return 0
    disks = {disk.key: disk for disk in request.replication.disks}
    stretches = [_stretch(disks[base.disk_key], base, plan, request) for base, plan in zip(request.bases, plans, strict=True)]
    scrub_snapshot(site, request.replication.ref, vm, snapshot, stretches, beats)
    for stretch in stretches:
        missed = _known(site, request.replication.ref, stretch)
        if missed:
            first_bytes = next(iter(missed)) * GRANULE
            raise DeltaferryError(
                ErrorKind.CBT_MISSED_CHANGES,
                f"Of {stretch.bytes_read} bytes of {stretch.disk.label!r} that change tracking says did not change, "
                f"{len(missed)} granules of 64 KiB did, the first one at offset {first_bytes}.",
            )
    return sum(stretch.bytes_read for stretch in stretches)


def _stretch(disk: ReplicatedDisk, base: DiskBase, plan: Plan, request: BeginCycleInput) -> Stretch:
    settled = granules_of(disk.capacity_bytes)
    if base.copied_up_to_bytes < disk.capacity_bytes:
        settled = base.copied_up_to_bytes // GRANULE
    granules = sample(settled, request.cycle_number, request.sample_share)
    planned = GranuleSet.touching(source_set(plan).extents())

    def wanted(first: int, end: int) -> GranuleSet:
        return GranuleSet([(first, end - first)]) - planned

    return Stretch(disk, granules.start, granules.stop, wanted)


def _known(site: Site, ref: ReplicationRef, stretch: Stretch) -> GranuleSet:
    """Return the differing granules of which the map knows what they held."""
    known = GranuleSet()
    for number in sorted({granule // CHUNK_GRANULES for granule in stretch.differing}):
        start = number * CHUNK_GRANULES
        checksums = read_chunk(site.stores, ref, stretch.disk.key, number, stretch.disk.capacity_bytes).checksums
        for granule in stretch.differing.within(start, start + CHUNK_GRANULES):
            position = (granule - start) * CHECKSUM_BYTES
            if checksums[position : position + CHECKSUM_BYTES] != UNKNOWN:
                known.add(granule)
    return known
