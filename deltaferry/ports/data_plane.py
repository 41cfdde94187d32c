"""What the data processes are asked and what they answer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from deltaferry.model.replication import StoredSegment
from deltaferry.ports.access import BlobAccess, NbdAddress, SnapshotAccess


@dataclass(frozen=True, slots=True)
class SendDisk:
    """One disk's part of a transfer: segments `first_segment` and on of an encoded plan, less those already stored."""

    disk_key: int
    capacity_bytes: int
    source: NbdAddress | SnapshotAccess
    """A disk as a host exports it; for failback, the snapshot of a managed disk."""
    plan: bytes = field(repr=False)
    first_segment: int
    stored: tuple[StoredSegment, ...]


@dataclass(frozen=True, slots=True)
class SendJob:
    """Stage 1: read, hash, compress, encrypt, put.

    Stops handing out new segments after `stop_after` or once `stop_after_bytes` of a disk were read; what it has done
    is then a gapless run of segments from `first_segment` on.
    """

    replication_id: str
    cycle_key: str
    disks: tuple[SendDisk, ...]
    log: BlobAccess
    data_key: bytes = field(repr=False)
    stop_after: timedelta
    stop_after_bytes: int
    urgent: bool = False
    """Somebody waits for it (a pre-failover cycle): of a throttled line it gets a larger share."""


@dataclass(frozen=True, slots=True)
class SentDisk:
    """What a transfer did for one disk."""

    disk_key: int
    next_segment: int
    """One past the last segment of the chunk; the plan's number of segments when the disk is done."""
    segments: tuple[StoredSegment, ...]
    """All segments of the chunk in order, those found stored as well: the manifest's content."""
    bytes_read: int
    bytes_sent: int
    segments_sent: int
    segments_found: int


@dataclass(frozen=True, slots=True)
class ApplyDisk:
    """One disk's part of an apply: the segments of a manifest, onto a seed fenced with `fence`."""

    disk_key: int
    capacity_bytes: int
    seed_name: str
    segments: tuple[StoredSegment, ...]
    pristine: bool
    """True if zero entries need no clearing, because only this very pass has ever written to the seed."""


@dataclass(frozen=True, slots=True)
class ApplyJob:
    """Stage 2: get, decrypt, decompress, compare checksums, Put or Clear Page."""

    replication_id: str
    cycle_key: str
    fence: int
    disks: tuple[ApplyDisk, ...]
    log: BlobAccess
    seed: BlobAccess
    data_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AppliedDisk:
    """What an apply did for one disk."""

    disk_key: int
    covered: bytes = field(repr=False)
    """Encoded sector set: acknowledged writes and clears, plus zero entries skipped on a pristine seed."""
    applied: tuple[StoredSegment, ...]
    """Number, digest and size of each object as it was read: compared with the manifest before commit."""
    granules: bytes = field(repr=False)
    """Encoded granule checksums that the segments' headers carried, for the checksum map."""
    bytes_written: int
    bytes_cleared: int
    verified_blocks: int
    """How many checksums were compared and found equal."""


@dataclass(frozen=True, slots=True)
class GranuleRange:
    """A part of a disk to compare with its checksum map: granules `first_granule` and on, as many as there are checksums."""

    disk_key: int
    capacity_bytes: int
    first_granule: int
    checksums: bytes = field(repr=False)
    """The map's 16 bytes for each granule; zero bytes where no commit has covered it, which then differs."""
    granules: bytes = field(repr=False)
    """Encoded granule set: those to read."""


@dataclass(frozen=True, slots=True)
class CompareJob:
    """Hash granules of a snapshot's disks, and compare with the checksum maps. Granules not to be read are passed over.

    Stops handing out work after `stop_after`, but each disk gets on by at least one piece of work.
    """

    disks: tuple[tuple[GranuleRange, NbdAddress], ...]
    data_key: bytes = field(repr=False)
    stop_after: timedelta


@dataclass(frozen=True, slots=True)
class CheckJob:
    """Hash granules of seed disks, and compare with the checksum maps. Granules not to be read count as zeros."""

    disks: tuple[tuple[GranuleRange, str], ...]
    """Each with its seed's name."""
    seed: BlobAccess
    data_key: bytes = field(repr=False)
    stop_after: timedelta


@dataclass(frozen=True, slots=True)
class ScrubbedDisk:
    """What a comparison or check found on one disk."""

    disk_key: int
    next_granule: int
    """Everything of the range below was looked at; the range's end when it is done."""
    differing: bytes = field(repr=False)
    """Encoded granule set."""
    bytes_read: int


@dataclass(frozen=True, slots=True)
class DataProgress:
    """Totals so far of a running transfer or apply, all disks together, and per disk key the bytes done."""

    bytes_done: int
    bytes_total: int
    bytes_sent: int
    by_disk: tuple[tuple[int, int], ...]


class DataPlane(Protocol):
    """Runs bulk work in processes of its own, never in the process of Temporal's event loop."""

    def send(self, job: SendJob, progress: Callable[[DataProgress], None]) -> tuple[SentDisk, ...]:
        """Carry out stage 1. `progress` is called about once a second; what it raises kills the process and passes on."""

    def apply(self, job: ApplyJob, progress: Callable[[DataProgress], None]) -> tuple[AppliedDisk, ...]:
        """Carry out stage 2. Raises FENCED, SEGMENT_DAMAGED, CHECKSUM_MISMATCH, MANIFEST_MISMATCH, STORE_OBJECT_MISSING."""

    def compare(self, job: CompareJob, progress: Callable[[DataProgress], None]) -> tuple[ScrubbedDisk, ...]:
        """Compare snapshots' disks with their checksum maps. Raises DISK_READ_FAILED."""

    def hold(self, source: NbdAddress) -> AbstractContextManager[object]:
        """Keep a connection to a disk open, and read nothing, until the context ends. Raises DISK_READ_FAILED."""

    def check(self, job: CheckJob, progress: Callable[[DataProgress], None]) -> tuple[ScrubbedDisk, ...]:
        """Compare seed disks with their checksum maps. Raises SEED_MISSING and the kinds of a store."""
