"""A scrub in time-limited chunks: stretches of disks, compared with their checksum maps by one data process after another."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from activities.adapters import ACCESS_LIFETIME, Site, Stores, Target
from activities.checksum_maps import ReadChunk, mended_chunk, read_checksums, read_chunk
from activities.keys import data_key
from activities.progress import Heartbeats
from deltaferry.blocks.checksum_map import CHUNK_GRANULES
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import seed_container, seed_name
from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
from deltaferry.model.units import GRANULE, seed_blob_size
from deltaferry.model.vm import Snapshot, SourceVm
from deltaferry.ports.access import Beat
from deltaferry.ports.data_plane import CheckJob, CompareJob, DataProgress, GranuleRange, ScrubbedDisk

_GRANULES_AT_ONCE = 16 * CHUNK_GRANULES
"""How much one job compares, all its disks together: 64 GiB, so that at most 16 MiB of checksums are in memory at a time."""


@dataclass(slots=True)
class Stretch:
    """A part of a disk, from granule `first` up to `end`; `position` moves on from the one to the other as it is scrubbed."""

    disk: ReplicatedDisk
    first: int
    end: int
    wanted: Callable[[int, int], GranuleSet]
    """Says which granules of `[first, end)` have to be read."""
    looked_at: GranuleSet = field(default_factory=GranuleSet)
    differing: GranuleSet = field(default_factory=GranuleSet)
    bytes_read: int = 0
    position: int = field(init=False)

    def __post_init__(self) -> None:
        """Begin at the beginning."""
        self.position = self.first

    @property
    def position_bytes(self) -> int:
        """Up to where it was scrubbed; the capacity at the disk's end."""
        return min(self.position * GRANULE, self.disk.capacity_bytes)


ScrubJob = Callable[[Sequence[GranuleRange], timedelta, Callable[[DataProgress], None]], tuple[ScrubbedDisk, ...]]
"""Has the data plane scrub ranges, one for each disk, within a time, saying how far it is."""


def first_granule(disk: ReplicatedDisk, position_bytes: int) -> int:
    """Return the granule that a position on a disk is in; one past the last one at the disk's end."""
    return granules_of(disk.capacity_bytes) if position_bytes >= disk.capacity_bytes else position_bytes // GRANULE


def scrub(
    stores: Stores,
    ref: ReplicationRef,
    stretches: Sequence[Stretch],
    job: ScrubJob,
    chunk_max: timedelta,
    beats: Heartbeats,
    read: ReadChunk = read_chunk,
) -> None:
    """Carry stretches on until all are at their end or the time is up; each gets on by something."""
    deadline_s = time.monotonic() + chunk_max.total_seconds()
    total_bytes = sum((stretch.end - stretch.position) * GRANULE for stretch in stretches)
    done_bytes = 0

    def progress(now: DataProgress) -> None:
        beats.progress(DataProgress(done_bytes + now.bytes_done, total_bytes, 0, ()))

    while unfinished := {stretch.disk.key: stretch for stretch in stretches if stretch.position < stretch.end}:
        each = max(_GRANULES_AT_ONCE // len(unfinished), 1)
        parts = []
        for stretch in unfinished.values():
            granules = range(stretch.position, min(stretch.position + each, stretch.end))
            wanted = stretch.wanted(granules.start, granules.stop)
            stretch.looked_at |= wanted
            checksums = read_checksums(stores, ref, stretch.disk, granules, beats.beat, read)
            parts.append(GranuleRange(stretch.disk.key, stretch.disk.capacity_bytes, granules.start, checksums, wanted.encode()))
        left_s = max(0.0, deadline_s - time.monotonic())
        for found in job(parts, timedelta(seconds=left_s), progress):
            stretch = unfinished[found.disk_key]
            done_bytes += (found.next_granule - stretch.position) * GRANULE
            stretch.position = found.next_granule
            stretch.differing |= GranuleSet.decode(found.differing)
            stretch.bytes_read += found.bytes_read
        if time.monotonic() >= deadline_s:
            return


def scrub_snapshot(
    site: Site, ref: ReplicationRef, vm: SourceVm, snapshot: Snapshot, stretches: Sequence[Stretch], beats: Heartbeats
) -> None:
    """Scrub stretches of a snapshot's disks. Raises SNAPSHOT_LOST, DISK_READ_FAILED, CHECKSUM_MISMATCH for a damaged map."""
    key = data_key(site.stores, ref)
    with ExitStack() as exports:
        opened = {
            stretch.disk.key: exports.enter_context(site.exports.open(vm, snapshot, stretch.disk.key))
            for stretch in stretches
            if stretch.position < stretch.end
        }

        def job(
            parts: Sequence[GranuleRange], left: timedelta, progress: Callable[[DataProgress], None]
        ) -> tuple[ScrubbedDisk, ...]:
            return site.plane.compare(CompareJob(tuple((part, opened[part.disk_key]) for part in parts), key, left), progress)

        scrub(site.stores, ref, stretches, job, site.chunk_max, beats)


def seed_stretch(target: Target, ref: ReplicationRef, disk: ReplicatedDisk, position_bytes: int, beat: Beat) -> Stretch:
    """Return a disk's seed from a position on, to be read where it holds pages. Raises SEED_MISSING, DISKS_CHANGED."""
    seeds, container, name = target.stores.seeds, seed_container(ref), seed_name(disk.key)
    size_bytes = seeds.read_seed(container, name).size_bytes
    if size_bytes != seed_blob_size(disk.capacity_bytes):
        raise DeltaferryError(
            ErrorKind.DISKS_CHANGED,
            f"The seed of disk {disk.label!r} has {size_bytes} bytes, its disk needs {seed_blob_size(disk.capacity_bytes)}.",
        )

    def present(first: int, end: int) -> GranuleSet:
        start_bytes, end_bytes = first * GRANULE, min(end * GRANULE, disk.capacity_bytes)
        found = GranuleSet()
        for extent in seeds.present_ranges(container, name, start_bytes, end_bytes - start_bytes):
            beat()
            touched = extent.offset_bytes // GRANULE
            found.add(touched, granules_of(extent.end_bytes) - touched)
        return found

    return Stretch(disk, first_granule(disk, position_bytes), granules_of(disk.capacity_bytes), present)


def scrub_seeds(target: Target, ref: ReplicationRef, stretches: Sequence[Stretch], beats: Heartbeats) -> None:
    """Scrub stretches of seed disks where they are. A damaged part of a map is replaced by one that knows nothing."""
    key = data_key(target.stores, ref)
    access = target.stores.seeds.access(seed_container(ref), write=False, lifetime=ACCESS_LIFETIME)

    def job(parts: Sequence[GranuleRange], left: timedelta, progress: Callable[[DataProgress], None]) -> tuple[ScrubbedDisk, ...]:
        disks = tuple((part, seed_name(part.disk_key)) for part in parts)
        return target.plane.check(CheckJob(disks, access, key, left), progress)

    scrub(target.stores, ref, stretches, job, target.chunk_max, beats, read=mended_chunk)
