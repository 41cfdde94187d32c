"""What an audit of a site sees, what exists beside it, and what it finds (spec §2.5, §5).

What is seen is stored between the steps of an audit, so its types are a published schema: fields are added with defaults.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from deltaferry.model.naming import Owner
from deltaferry.model.replication import Store

AUDIT_VERSION = 1
"""Of the stored objects; a reader refuses another one."""


class FindingCode(StrEnum):
    """What a finding is about; programs branch on it."""

    SNAPSHOT = "Snapshot"
    CONSOLIDATION_PENDING = "ConsolidationPending"
    CLAIM = "Claim"
    MADE_VM = "MadeVm"
    LEASE = "Lease"
    NOT_RUNNING = "NotRunning"
    RECORD_UNREADABLE = "RecordUnreadable"
    LOG_CONTAINER = "LogContainer"
    SEED_DISKS = "SeedDisks"
    BOOKKEEPING = "Bookkeeping"
    TEMPORARY_BLOBS = "TemporaryBlobs"
    UNKNOWN_CONTAINER = "UnknownContainer"
    MANAGED_DISK = "ManagedDisk"
    DISK_SNAPSHOT = "DiskSnapshot"
    NETWORK_INTERFACE = "NetworkInterface"
    OPEN_DISK_ACCESS = "OpenDiskAccess"
    TEST_VM = "TestVm"
    VIRTUAL_MACHINE = "VirtualMachine"
    VM_MISSING = "VmMissing"
    POINT_COPIES = "PointCopies"


class Verdict(StrEnum):
    """What an audit does about something."""

    REPAIR = "repair"
    """It is ours, nobody needs it, and taking it away cannot lose anything."""
    REPORT = "report"
    """A person has to decide."""
    LEAVE = "leave"
    """It belongs where it is, or may do so."""


# --- what is seen ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeenSnapshot:
    """A snapshot on a VM, whoever's."""

    moref: str
    name: str
    created_at: datetime | None
    owner: Owner | None
    """None: it is not one of Deltaferry's."""


@dataclass(frozen=True, slots=True)
class SeenVm:
    """A VM that has something of Deltaferry's, or whose disks need consolidation."""

    instance_uuid: str
    name: str
    claim: Owner | None
    consolidation_needed: bool
    snapshots: tuple[SeenSnapshot, ...]
    made: Owner | None = None
    """For whose failback to another place it was made; None for any other VM."""


@dataclass(frozen=True, slots=True)
class SeenSource:
    """The source side at one moment of the site's own clock, by which the ages of its snapshots are reckoned."""

    version: int
    read_at: datetime
    vms: tuple[SeenVm, ...]


@dataclass(frozen=True, slots=True)
class SeenCopies:
    """What a test or a failover has copied of a recovery point, to import managed disks from it."""

    job: str
    """What made them, as `SeenResource.job`."""
    modified_at: datetime
    """Of the one that was written last."""


@dataclass(frozen=True, slots=True)
class SeenContainer:
    """A container of a store."""

    store: Store
    name: str
    created_at: datetime | None
    owner: Owner | None
    """None: it does not tell."""
    stray: tuple[str, ...] = ()
    """In a container of seeds: names of blobs that are no seed of a disk."""
    copies: tuple[SeenCopies, ...] = ()
    """Those of them that are copies of recovery points, by job."""


class ResourceKind(StrEnum):
    """What was made through Azure Resource Manager."""

    DISK = "disk"
    DISK_SNAPSHOT = "disk snapshot"
    NETWORK_INTERFACE = "network interface"
    VIRTUAL_MACHINE = "virtual machine"


@dataclass(frozen=True, slots=True)
class SeenResource:
    """An Azure resource that carries our tags."""

    kind: ResourceKind
    resource_id: str
    owner: Owner
    created_at: datetime | None
    """None for kinds of which Azure does not tell."""
    in_use: bool
    """A VM has it."""
    open_access: bool = False
    """A signature to read or write it was granted and has not been revoked."""
    job: str = ""
    """What made it, by its tag: a test, a failover or a migration; empty for what belongs to none of them."""


@dataclass(frozen=True, slots=True)
class SeenTarget:
    """The target side, and the commit records as they were before it was looked at."""

    version: int
    recorded: tuple[Owner, ...]
    unreadable: tuple[str, ...]
    """Ids of replications whose commit record cannot be read."""
    containers: tuple[SeenContainer, ...]
    resources: tuple[SeenResource, ...]
    groups: tuple[str, ...] = ()
    """The resource groups that were looked through."""
    read_at: datetime | None = None
    """When that was begun; None where an earlier release looked."""


@dataclass(frozen=True, slots=True)
class SeenLease:
    """A lease in the site's arbiter."""

    holder: str
    """Workflow id."""
    instance_uuid: str
    """Of the VM that the holder works for."""
    request_id: str
    granted_at: datetime


# --- what exists -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownVm:
    """A VM in Azure that a replication says that it has made."""

    resource_id: str
    since: datetime
    """When it ran first."""


@dataclass(frozen=True, slots=True)
class KnownInAzure:
    """What a replication knows of what is its own in Azure: noted before it is made, and forgotten when it is deleted."""

    jobs: tuple[str, ...]
    """Tags of the tests, failovers and migrations that have made something, or may have."""
    vms: tuple[KnownVm, ...] = ()
    """Those that run, or did, and that nothing is about to delete or to replace."""
    disk_snapshots: tuple[str, ...] = ()
    """Names of those that the next pass back to the site is compared with."""
    takes_disk_snapshots: bool = False
    """Replication back to the site runs, or something of it does: it takes further ones and deletes them."""


@dataclass(frozen=True, slots=True)
class RunningReplication:
    """A VM of the site for which a replication, or a job of one, runs."""

    instance_uuid: str
    replication_id: str | None
    """None: it was not asked, or did not answer. It may be any replication of the VM then."""
    parked: bool = False
    """It said that it waits for a person: no cycle and no job runs, and none begins by itself."""
    has_jobs: bool = True
    """A copy, resync or migration of it runs, or may do so."""
    known: KnownInAzure | None = None
    """What it said of what is its own in Azure; None: it was not asked, or did not say."""


@dataclass(frozen=True, slots=True)
class Existing:
    """Who there is that things may belong to. Read after the things: what is made later is not among them."""

    installation: str
    site: str
    recorded: tuple[Owner, ...]
    """The commit records that can be read, of every site and installation."""
    unreadable: frozenset[str]
    """Ids of replications whose commit record cannot be read: whose they are is not known."""
    ended: tuple[Owner, ...]
    """Replications that had a commit record when the audit began, and have none now: they have just ended."""
    running: tuple[RunningReplication, ...]
    holders: frozenset[str]
    """Holders of leases that run."""


# --- what is found ---------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What became of a finding."""

    FOUND = "found"
    """Nothing was tried: it was only reported, or the audit was a dry run."""
    REPAIRED = "repaired"
    PASSED_OVER = "passed over"
    """When it was to be repaired, it was gone or belonged to somebody."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not belong."""

    code: FindingCode
    verdict: Verdict
    what: str
    """A sentence."""
    where: str
    """The VM, container, workflow or resource that it is about."""
    remedy: str
    """What to do about it, or what the audit does."""
    key: str
    """Names the thing for a program: a snapshot's moref, a container, a lease's request id, a resource id."""
    replication_id: str = ""
    instance_uuid: str = ""
    outcome: Outcome = Outcome.FOUND
    detail: str = ""
    """Why a repair failed or was passed over."""

    @property
    def left(self) -> bool:
        """Whether something is still to be done about it."""
        return self.outcome in (Outcome.FOUND, Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The stored object: everything that an audit found, and what became of it."""

    version: int
    installation: str
    site: str
    dry_run: bool
    read_at: datetime
    findings: tuple[Finding, ...]
