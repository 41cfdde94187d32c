"""The few Protocols between activities and adapters.

All calls block and are made from activity threads; every implementation is safe to call from several threads.
Every failure leaves as `DeltaferryError`; no implementation retries for longer than about half a minute by itself
(longer waits are Temporal's). `beat` is called at least every few seconds during a wait: it heartbeats, and what it
raises (a cancellation) ends the wait and is passed on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from deltaferry.model.audit import SeenResource
from deltaferry.model.extents import Extent
from deltaferry.model.inventory import DiscoveredSite
from deltaferry.model.recovery_points import Pin, PointCopy, RecoveryPointRecord
from deltaferry.model.replication import ObjectRef, ReplicationRef, Store, StoredSegment
from deltaferry.model.vm import Claim, DatastoreSpace, PowerState, Snapshot, SourceVm

Beat = Callable[[], None]


# --- source side -----------------------------------------------------------------------------------------------------


class Hypervisor(Protocol):
    """One site's vCenter."""

    def list_vms(self) -> tuple[SourceVm, ...]:
        """Return every VM of the site."""

    def read_inventory(self, beat: Beat) -> DiscoveredSite:
        """Return every VM of the site, templates left out, with folder, cluster, custom attributes and storage; in one paged reading."""

    def find_vms(self, reference: str) -> tuple[SourceVm, ...]:
        """Return the VMs whose name or instance UUID is `reference` (none, one, or several of one name)."""

    def read_vm(self, instance_uuid: str) -> SourceVm:
        """Return a VM as it is now. Raises VM_NOT_FOUND."""

    def missing_privileges(self, instance_uuid: str) -> tuple[str, ...]:
        """Return the ids of the privileges that the site's user needs on the VM and does not have."""

    def write_claim(self, instance_uuid: str, claim: Claim | None, *, expected: Claim | None) -> None:
        """Set or remove the VM's claim if it is `expected` (or already `claim`); else raise ALREADY_PROTECTED, naming the holder."""

    def set_change_tracking(self, instance_uuid: str, enabled: bool, marker: str, beat: Beat) -> None:
        """Switch CBT and make it take effect at once by a create-and-remove snapshot named `marker`; no-op if it is so already.

        Raises SNAPSHOT_REFUSED while the VM has snapshots and tracking has to be switched on.
        """

    def take_snapshot(self, instance_uuid: str, name: str, description: str, beat: Beat) -> Snapshot:
        """Return the VM's one snapshot of that name with its disks, creating it if neither the tree nor a recent task has it."""

    def read_snapshot(self, instance_uuid: str, moref: str) -> Snapshot:
        """Return a snapshot with its disks. Raises SNAPSHOT_LOST."""

    def read_present_disks(self, instance_uuid: str) -> Snapshot:
        """Return a powered-off VM's disks as they are, as a snapshot without moref. Raises SOURCE_MOVED_ON unless it is off."""

    def remove_snapshot(self, instance_uuid: str, moref: str, beat: Beat) -> None:
        """Remove one snapshot, never its children, and wait for the task; no-op if it is gone."""

    def consolidate(self, instance_uuid: str, beat: Beat) -> None:
        """Consolidate the VM's disks if vSphere says that it is needed, and wait. Raises CONSOLIDATION_STUCK."""

    def changed_areas(
        self, instance_uuid: str, snapshot_moref: str, disk_key: int, capacity_bytes: int, change_id: str
    ) -> Iterator[Extent]:
        """Yield every page of QueryChangedDiskAreas; `*` asks for allocated areas (CBT_NO_EPOCH where they cannot be told).

        An empty `snapshot_moref` asks about a powered-off VM's disk as it is. Raises SOURCE_MOVED_ON if the VM is not off.
        """

    def shut_down_guest(self, instance_uuid: str) -> None:
        """Ask the guest to shut down, and return at once. Raises GUEST_TOOLS_UNAVAILABLE. No-op when off."""

    def power_off(self, instance_uuid: str, beat: Beat) -> None:
        """Power off hard; no-op when off."""

    def power_on(self, instance_uuid: str, beat: Beat) -> None:
        """Power on; no-op when on."""

    def power_state(self, instance_uuid: str) -> PowerState:
        """Return the VM's power state."""

    def clock(self) -> datetime:
        """Return the site's own time, of which its events and snapshots speak."""

    def unclean_stops(self, instance_uuid: str, since: datetime, ours: Sequence[datetime]) -> tuple[str, ...]:
        """Return a sentence for each time after `since` that the VM lost power or was forcibly shut down.

        The first power-off after each of `ours` is ours, and left out. Raises VSPHERE_PERMISSION where events cannot be read.
        """

    def annotate(self, instance_uuid: str, line: str) -> None:
        """Add a line to the VM's annotation, once."""

    def set_nics_at_power_on(self, instance_uuid: str, connected: Mapping[int, bool]) -> None:
        """Set, by NIC key, whether each NIC connects at power-on."""

    def datastore_space(self, instance_uuid: str) -> tuple[DatastoreSpace, ...]:
        """Return the room on every datastore that the VM's disks or snapshots are on, as it is at this moment.

        Datastores of which nothing valid is known, because no host reaches them, are left out.
        """


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where an NBD server exports a snapshot's disk: a Unix socket, or host and port."""

    export: str
    unix_path: str | None = None
    host: str | None = None
    port: int | None = None


class DiskExports(Protocol):
    """Makes a snapshot's disks readable over NBD, and a powered-off VM's disks as they are."""

    def open(self, vm: SourceVm, snapshot: Snapshot, disk_key: int) -> AbstractContextManager[NbdAddress]:
        """Export one disk of a snapshot read-only until the context ends. Raises DISK_READ_FAILED, SNAPSHOT_LOST.

        Without the snapshot's moref it is the powered-off VM's disk as it is: the VM cannot be powered on while a client is
        connected.
        """


# --- stores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of an object."""

    name: str
    size_bytes: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredContainer:
    """What a listing says of a container."""

    name: str
    modified_at: datetime
    """Of the container itself, not of what is in it: when it was made, as long as nobody sets its metadata again."""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlobAccess:
    """What a data process needs to reach one container over plain HTTP: base URL, and a short-lived signature.

    `url` is `<scheme>://<host>[:port][/<account>]/<container>`; `query` is the SAS without `?`. Its repr hides the SAS.
    """

    url: str
    query: str = field(repr=False)
    ca_file: str | None = None


class ObjectStore(Protocol):
    """One storage account with block blobs: the log store and the gateway store. Keys are `<container>/<name>`."""

    store: Store

    def create_container(self, container: str, metadata: Mapping[str, str] | None = None) -> None:
        """Create a container; no-op if it exists, whatever its metadata."""

    def delete_container(self, container: str) -> None:
        """Delete a container and all in it; no-op if it does not exist."""

    def list_containers(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the containers that begin with `prefix`."""

    def describe_containers(self, prefix: str) -> tuple[StoredContainer, ...]:
        """Return the containers that begin with `prefix`, by name, with metadata and when they were made."""

    def put(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> ObjectRef:
        """Write an object, replacing what is there."""

    def put_new(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> ObjectRef:
        """Write an object unless one exists; where one exists, return a reference to the stored one."""

    def put_or_get(self, key: str, data: bytes) -> tuple[ObjectRef, bytes]:
        """Write an object unless one exists; return a reference to what is stored now, and its bytes."""

    def get(self, key: str) -> bytes:
        """Return an object's bytes. Raises STORE_OBJECT_MISSING."""

    def get_if_exists(self, key: str) -> bytes | None:
        """Return an object's bytes, or None."""

    def list(self, container: str, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects of a container whose names begin with `prefix`, with metadata, in name order."""

    def delete_prefix(self, container: str, prefix: str) -> int:
        """Delete the objects whose names begin with `prefix`; return how many. No-op for a missing container."""

    def delete_objects(self, container: str, names: Iterable[str]) -> None:
        """Delete objects by name, several at a time; no-op for what is gone."""

    def access(self, container: str, *, write: bool, lifetime: timedelta) -> BlobAccess:
        """Return short-lived access to a container for a data process."""


@dataclass(frozen=True, slots=True)
class SeedState:
    """A seed page blob as it is now."""

    size_bytes: int
    sequence_number: int
    first_pass: str | None
    """Cycle key of the first pass that wrote to the seed; None while it is pristine."""


class SeedStore(Protocol):
    """Seed disks: page blobs on a standard account, one container for each replication."""

    def create_container(self, container: str, metadata: Mapping[str, str] | None = None) -> None:
        """Create a container; no-op if it exists, whatever its metadata."""

    def delete_container(self, container: str) -> None:
        """Delete a container with all blobs and their snapshots; no-op if it does not exist."""

    def list_containers(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the containers that begin with `prefix`."""

    def describe_containers(self, prefix: str) -> tuple[StoredContainer, ...]:
        """Return the containers that begin with `prefix`, by name, with metadata and when they were made."""

    def create_seed(self, container: str, name: str, size_bytes: int) -> SeedState:
        """Create a page blob reading as zero; if it exists with that size, return it as it is."""

    def resize_seed(self, container: str, name: str, size_bytes: int) -> None:
        """Give an existing seed the size that its disk has now; no-op if it has it. What is added reads as zero."""

    def list_seeds(self, container: str) -> tuple[str, ...]:
        """Return the names of a container's seeds; none for a container that does not exist."""

    def delete_seed(self, container: str, name: str) -> None:
        """Delete a seed with all its snapshots; no-op if it is gone."""

    def read_seed(self, container: str, name: str) -> SeedState:
        """Return a seed's state. Raises SEED_MISSING."""

    def raise_fence(self, container: str, name: str, number: int) -> None:
        """Set the sequence number with action `max`. Raises FENCED (with the number found) unless the reply is `number`."""

    def mark_first_pass(self, container: str, name: str, cycle_key: str) -> str:
        """Record the first pass unless one is recorded; return the one that is recorded."""

    def snapshot(self, container: str, name: str, seal: int, metadata: Mapping[str, str]) -> str:
        """Return the id of the blob's snapshot with exactly that metadata, taking it if there is none.

        Raises FENCED unless the snapshot's sequence number is `seal`.
        """

    def list_snapshots(self, container: str, name: str) -> tuple[str, ...]:
        """Return the ids of the blob's snapshots, oldest first."""

    def delete_snapshot(self, container: str, name: str, snapshot: str) -> None:
        """Delete one snapshot of a blob; no-op if it is gone."""

    def write_footer(self, container: str, name: str, capacity_bytes: int, fence: int) -> None:
        """Write the fixed VHD footer in the blob's last sector, fenced."""

    def read_range(self, container: str, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Return bytes of a seed."""

    def present_ranges(self, container: str, name: str, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """Yield the parts of a range of a seed that hold pages, in order; everything else reads as zero. Raises SEED_MISSING."""

    def url(self, container: str, name: str) -> str:
        """Return a seed's URL without signature, as Azure's disk import wants it."""

    def access(self, container: str, *, write: bool, lifetime: timedelta) -> BlobAccess:
        """Return short-lived access to a container for a data process."""


class KeyWrapper(Protocol):
    """Wraps data keys by a key that never leaves its vault (or, in the lab, its file)."""

    def wrap(self, data_key: bytes) -> bytes:
        """Return the wrapped key, in a form that names the wrapping key and its version."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the data key. Raises KEY_UNAVAILABLE."""


# --- data plane ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendDisk:
    """One disk's part of a transfer: segments `first_segment` and on of an encoded plan, less those already stored."""

    disk_key: int
    capacity_bytes: int
    source: NbdAddress
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


# --- recovery points ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PointListing:
    """A replication's recovery points, oldest first, and what looks like one and is none."""

    points: tuple[RecoveryPointRecord, ...]
    incomplete: tuple[str, ...] = ()
    """Cycle keys of records of which a disk's snapshot is gone, or is not of that cycle and fence number."""
    damaged: tuple[str, ...] = ()
    """Cycle keys of records that cannot be read."""


@dataclass(frozen=True, slots=True)
class PrunedPoints:
    """What a pruning did."""

    pruned: tuple[str, ...]
    pinned: tuple[str, ...]
    """Cycle keys that were asked for and are kept, because somebody has pinned them."""
    orphans: int = 0
    """Snapshots of ours that belonged to no point, and were deleted."""


@dataclass(frozen=True, slots=True)
class PageRange:
    """A range of pages of a disk's snapshot that are present, or that differ from an earlier snapshot."""

    extent: Extent
    cleared: bool
    """The pages were there in the earlier snapshot and are gone: they read as zero now."""


class RecoveryPoints(Protocol):
    """The recovery points of one target's replications: records in the gateway store, snapshots of the seeds' page blobs.

    A point exists only if its record does, which is written last and deleted first, and if the snapshot of each of its disks
    carries the record's cycle key and fence number. So a point is never a mix of two cycles, whatever died when.
    """

    def write(self, replication: ReplicationRef, record: RecoveryPointRecord) -> None:
        """Make a point exist; no-op if it does. Raises SEED_MISSING unless each of its snapshots is there as it should be."""

    def list(self, replication: ReplicationRef) -> PointListing:
        """Return the points; none for a replication without containers."""

    def pins(self, replication: ReplicationRef) -> tuple[Pin, ...]:
        """Return all pins, by cycle key and holder."""

    def pin(self, replication: ReplicationRef, pin: Pin) -> None:
        """Keep a point from being pruned; no-op if this holder does already. Raises OPERATION_REFUSED if there is no such point."""

    def unpin(self, replication: ReplicationRef, holder: str, cycle_key: str | None = None) -> None:
        """Take back a holder's pin on a point, or all its pins; no-op for what is gone."""

    def prune(self, replication: ReplicationRef, cycle_keys: Sequence[str], beat: Beat) -> PrunedPoints:
        """Delete points, and what earlier prunings did not finish. Pinned points stay. What is gone already is not counted."""

    def sweep(self, replication: ReplicationRef, below: int, beat: Beat) -> int:
        """Delete snapshots of ours with a number below `below` that belong to no point; return how many."""

    def stored_bytes(
        self, replication: ReplicationRef, point: RecoveryPointRecord, previous: RecoveryPointRecord | None
    ) -> int | None:
        """Return how many bytes of pages a point holds that the previous one does not; None where counting them is not cheap."""

    def copy(
        self, replication: ReplicationRef, point: RecoveryPointRecord, job: str, progress: Callable[[DataProgress], None]
    ) -> tuple[PointCopy, ...]:
        """Copy each disk of a point to a page blob of its own, with the VHD footer, inside the storage service.

        A copy that an earlier attempt began or finished is taken up. What `progress` raises ends the wait and is passed on; the
        copies are then aborted and deleted, except at INTERRUPTED, since another attempt goes on with them.
        Raises OPERATION_REFUSED if the point is not whole, AZURE_FAILED if the service gave a copy up.
        """

    def delete_copies(self, replication: ReplicationRef, job: str, beat: Beat) -> int:
        """Abort and delete all copies that a job made; return how many there were."""


class PageRanges(Protocol):
    """Reads which pages a managed disk's incremental snapshot holds, and which differ from an earlier one's."""

    def of_managed_disk(self, url: str, previous_url: str | None, span: Extent) -> Iterator[PageRange]:
        """Yield the pages inside `span` of a snapshot, or what differs from an earlier one. Both URLs carry signatures."""


# --- target cloud ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportedDisk:
    """A managed disk that a seed was imported into."""

    disk_key: int
    resource_id: str


@dataclass(frozen=True, slots=True)
class DiskImport:
    """What to import: a whole page blob, by its URL, into a new managed disk."""

    disk_key: int
    name: str
    source_url: str
    capacity_bytes: int
    """The VM disk's size; the managed disk's is this rounded up to a whole MiB."""
    is_boot: bool
    generation: int
    os_type: str
    """`Linux` or `Windows`."""
    sku: str


@dataclass(frozen=True, slots=True)
class TargetVmSpec:
    """The VM to create from imported disks."""

    name: str
    size: str
    os_disk: ImportedDisk
    data_disks: tuple[ImportedDisk, ...]
    network: str
    subnet: str
    zone: str | None
    license_type: str | None


@dataclass(frozen=True, slots=True)
class TargetVm:
    """A VM in Azure."""

    resource_id: str
    running: bool


class TargetCloud(Protocol):
    """Azure Resource Manager for one target: a subscription, resource group and location.

    Everything it creates carries the tags given; a resource of that name with other tags raises AZURE_CONFLICT.
    Creating again what exists with the same tags returns it.
    """

    def missing(self, resource_group: str, network: str, subnet: str) -> tuple[str, ...]:
        """Return a sentence for each of these that does not exist."""

    def vm_exists(self, resource_group: str, name: str, tags: Mapping[str, str]) -> bool:
        """Return whether a VM of that name exists that does not carry these tags."""

    def import_disk(self, resource_group: str, spec: DiskImport, tags: Mapping[str, str], beat: Beat) -> ImportedDisk:
        """Import a page blob into a managed disk and wait until it is done."""

    def create_vm(self, resource_group: str, spec: TargetVmSpec, tags: Mapping[str, str], beat: Beat) -> TargetVm:
        """Create NIC and VM and wait until the VM runs."""

    def list_owned(self, resource_group: str, installation: str, beat: Beat) -> tuple[SeenResource, ...]:
        """Return the disks, disk snapshots and network interfaces of a resource group that carry an installation's tags.

        None of a resource group that does not exist.
        """

    def delete_vm(self, resource_group: str, name: str, disks: Sequence[str], tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a VM, its NIC and the named disks, as far as they carry the tags; no-op for what is gone."""


Clock = Callable[[], datetime]
