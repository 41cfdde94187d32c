"""What the data processes are asked on the way back to the site, and what they answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from deltaferry.model.replication import StoredSegment
from deltaferry.ports.access import BlobAccess, NbdAddress, SnapshotAccess
from deltaferry.ports.data_plane import DataProgress


@dataclass(frozen=True, slots=True)
class HashDisk:
    """Granules of a managed disk's snapshot: `[first_granule, end_granule)`."""

    disk_key: int
    capacity_bytes: int
    """The disk's size at the site: what the snapshot holds beyond it is left out."""
    source: SnapshotAccess
    first_granule: int
    end_granule: int
    granules: bytes = field(repr=False)
    """Encoded granule set: those that hold pages. All others read as zero, and are not read."""


@dataclass(frozen=True, slots=True)
class HashJob:
    """Hash granules of snapshots, of each disk all that are asked for."""

    disks: tuple[HashDisk, ...]
    data_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HashedDisk:
    """The checksums of the granules asked for, 16 bytes each."""

    disk_key: int
    checksums: bytes = field(repr=False)
    bytes_read: int


@dataclass(frozen=True, slots=True)
class WriteDisk:
    """One disk's part of a write: the segments of a manifest, onto a disk that this job alone has open."""

    disk_key: int
    capacity_bytes: int
    disk: NbdAddress
    segments: tuple[StoredSegment, ...]


@dataclass(frozen=True, slots=True)
class WriteJob:
    """Get, decrypt, decompress, compare checksums, write, flush, read everything back and compare again."""

    replication_id: str
    cycle_key: str
    disks: tuple[WriteDisk, ...]
    log: BlobAccess
    data_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WrittenDisk:
    """What a write did for one disk, all of it read back."""

    disk_key: int
    covered: bytes = field(repr=False)
    """Encoded sector set of the ranges that were written and read back, zeros included."""
    applied: tuple[StoredSegment, ...]
    """Number, digest and size of each object as it was read."""
    granules: bytes = field(repr=False)
    """Encoded granule checksums that the segments' headers carried."""
    bytes_written: int
    bytes_zeroed: int
    verified_blocks: int
    """How many checksums were compared and found equal, before writing and after reading back."""


class ReversePlane(Protocol):
    """The bulk jobs of failback, in processes of their own."""

    def hash_snapshots(self, job: HashJob, progress: Callable[[DataProgress], None]) -> tuple[HashedDisk, ...]:
        """Hash snapshots. Raises AZURE_NOT_FOUND for one that is gone, STORE_ACCESS_DENIED for a signature that ended, STORE_*."""

    def write_disks(self, job: WriteJob, progress: Callable[[DataProgress], None]) -> tuple[WrittenDisk, ...]:
        """Write to disks at the site, and read it all back.

        Raises SEGMENT_DAMAGED, CHECKSUM_MISMATCH, MANIFEST_MISMATCH, STORE_OBJECT_MISSING before anything wrong is written;
        CHECKSUM_MISMATCH where a disk gives back something else; DISK_READ_FAILED.
        """
