"""What activities are asked and what they answer: references and totals, never blocks, extents or bitmaps."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deltaferry.model.quiescing import QuiesceOrder, QuiesceOutcome
from deltaferry.model.replication import CycleKind, DiskBase, ObjectRef, PlanRef, RecoveryPoint, ReplicatedDisk
from deltaferry.planning.ladder import Rung
from workflows.messages.operator_input import TargetProperties
from workflows.messages.point_views import PointList
from workflows.messages.replication_state import DiskPosition, EntityState, ReplicateVmInput, Replication
from workflows.messages.site import Placement, SiteProfile


@dataclass(frozen=True, slots=True)
class OnReplication:
    """An activity's input where the replication is all it needs."""

    replication: Replication


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """Whether we switched CBT on: then we switch it off at the end."""

    cbt_enabled_by_us: bool


@dataclass(frozen=True, slots=True)
class BeginCycleInput:
    """Pass the gates, take the snapshot, ask for the changed areas, store the plans."""

    replication: Replication
    cycle_key: str
    kind: CycleKind
    bases: tuple[DiskBase, ...]
    dirty: tuple[tuple[int, PlanRef], ...]
    sample_share: float = 0.0
    """From 0 to 1: how much of each disk is compared with its checksum map though nothing is said to have changed there."""
    cycle_number: int = 0
    """Which turn it is: after `ceil(1 / sample_share)` consecutive numbers every part of a disk was sampled."""
    since: datetime | None = None
    """When the last committed snapshot was taken: how the source stopped since then decides whether tracking is trusted."""
    expected_growth: tuple[tuple[int, int], ...] = ()
    """(disk key, bytes) that the snapshot is expected to grow by while it is held; nothing where nothing is known."""
    granted: Placement | None = None
    """Where the VM was when slots were granted: if it is elsewhere now, no snapshot is taken. None: wherever it is."""
    quiesce: QuiesceOrder | None = None
    """How the guest is asked to hold its writes back; None: it is not."""


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk's plan in a begun cycle."""

    disk_key: int
    change_id: str
    plan: PlanRef


@dataclass(frozen=True, slots=True)
class BegunCycle:
    """A cycle whose snapshot is held, or one that reads a source that is off without a snapshot."""

    snapshot: str
    taken_at: datetime
    powered_on: bool
    disks: tuple[PlannedDisk, ...]
    placement: Placement = field(default_factory=Placement)
    sampled_bytes: int = 0
    without_snapshot: bool = False
    """The change ids are those of the source's disks as they are: no base for a later cycle."""
    moved: bool = False
    """The VM is not where slots were granted for, but at `placement`; nothing was done."""
    quiesce: QuiesceOutcome | None = None
    """What was obtained of the guest; None where nothing was asked."""


@dataclass(frozen=True, slots=True)
class DisksNow:
    """The disks to replicate from now on, and a sentence for what happened to them; empty where nothing did."""

    disks: tuple[ReplicatedDisk, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class BeginResyncInput:
    """Pass the gates, take the snapshot of a resync pass, and say per disk what it has to send anyway and what to compare."""

    replication: Replication
    cycle_key: str
    rung: Rung
    bases: tuple[DiskBase, ...]
    """`copied_up_to_bytes` is up to where a disk was compared already, under the snapshot that `change_id` is of."""
    dirty: tuple[tuple[int, PlanRef], ...]
    """(disk key, plan) of what earlier passes found different: it is sent whatever changed since."""
    expected_growth: tuple[tuple[int, int], ...] = ()
    """(disk key, bytes) that the snapshot is expected to grow by while it is held; nothing where nothing is known."""
    granted: Placement | None = None
    """Where the VM was when slots were granted: if it is elsewhere now, no snapshot is taken. None: wherever it is."""


@dataclass(frozen=True, slots=True)
class SurveyedDisk:
    """A disk in a begun resync pass."""

    disk_key: int
    change_id: str
    known: PlanRef
    """What is sent without comparing: below the mark what changed since the earlier pass, and what that one found."""
    survey: PlanRef
    """Above the mark, what the source has to compare: whole granules, as the rung says."""


@dataclass(frozen=True, slots=True)
class BegunResync:
    """A resync pass whose snapshot is held."""

    snapshot: str
    taken_at: datetime
    powered_on: bool
    disks: tuple[SurveyedDisk, ...]
    placement: Placement = field(default_factory=Placement)
    moved: bool = False
    """The VM is not where slots were granted for, but at `placement`; nothing was done."""


@dataclass(frozen=True, slots=True)
class CheckSeedInput:
    """Compare seed disks with their checksum maps, where they are, from the given positions on."""

    replication: Replication
    cycle_key: str
    fence: int | None
    """Raised on every seed first, so that no late writer changes what was checked; None for a scrub between two cycles."""
    disks: tuple[DiskPosition, ...]


@dataclass(frozen=True, slots=True)
class CheckedSeed:
    """What a chunk of a disk's check found."""

    disk_key: int
    position_bytes: int
    """Up to where it was checked; the capacity at the disk's end."""
    check: ObjectRef
    """The stored `SeedCheck`: which granules are present on the seed, and which differ from the map."""
    read_bytes: int
    differing_bytes: int
    first_differences: tuple[int, ...] = ()
    """Offsets of the first differing granules, at most 8."""


@dataclass(frozen=True, slots=True)
class CheckSeedResult:
    """One chunk for each disk."""

    disks: tuple[CheckedSeed, ...]


@dataclass(frozen=True, slots=True)
class CompareDisk:
    """A disk's part of a comparison: from `position_bytes` up to `end_bytes`, where the seed's check ended."""

    disk_key: int
    survey: PlanRef
    position_bytes: int
    end_bytes: int
    check: ObjectRef


@dataclass(frozen=True, slots=True)
class CompareInput:
    """Hash the snapshot's granules, and find those that differ from the checksum map, or whose seed does."""

    replication: Replication
    cycle_key: str
    snapshot: str
    rung: Rung
    disks: tuple[CompareDisk, ...]


@dataclass(frozen=True, slots=True)
class ComparedDisk:
    """What a chunk of a disk's comparison found."""

    disk_key: int
    position_bytes: int
    differing: PlanRef
    """A plan of the differing granules; it may be empty."""
    compared_bytes: int


@dataclass(frozen=True, slots=True)
class CompareResult:
    """One chunk for each disk."""

    disks: tuple[ComparedDisk, ...]


@dataclass(frozen=True, slots=True)
class PlanResyncInput:
    """Make each disk's plan of a resync pass: (disk key, plans to join)."""

    replication: Replication
    cycle_key: str
    disks: tuple[tuple[int, tuple[PlanRef, ...]], ...]


@dataclass(frozen=True, slots=True)
class PlannedResync:
    """(disk key, plan) of each disk."""

    plans: tuple[tuple[int, PlanRef], ...]


@dataclass(frozen=True, slots=True)
class ChunkDisk:
    """A disk's part of a chunk: segments from `first_segment` on."""

    disk_key: int
    plan: PlanRef
    first_segment: int


@dataclass(frozen=True, slots=True)
class TransferInput:
    """Send a chunk of a cycle's segments to the log store."""

    replication: Replication
    cycle_key: str
    snapshot: str
    disks: tuple[ChunkDisk, ...]
    kind: CycleKind = CycleKind.DELTA
    """Of a throttled line a pre-failover cycle gets a larger share."""


@dataclass(frozen=True, slots=True)
class SentChunk:
    """A disk's chunk that is in the log store, listed in a manifest."""

    disk_key: int
    first_segment: int
    next_segment: int
    position_bytes: int
    """Everything of the plan below this offset is in the log store by now; the capacity at the plan's end."""
    manifest: ObjectRef
    bytes_read: int
    bytes_sent: int
    segments_sent: int
    segments_found: int


@dataclass(frozen=True, slots=True)
class TransferResult:
    """One chunk for each disk that had something left."""

    chunks: tuple[SentChunk, ...]


@dataclass(frozen=True, slots=True)
class ApplyInput:
    """Apply chunks to the seed disks, as the writer of number `fence`."""

    replication: Replication
    cycle_key: str
    fence: int
    chunks: tuple[SentChunk, ...]
    initial: bool


@dataclass(frozen=True, slots=True)
class AppliedChunk:
    """A disk's chunk that was applied, and where the target's own account of it is."""

    disk_key: int
    first_segment: int
    next_segment: int
    manifest: ObjectRef
    covered: ObjectRef
    bytes_written: int
    bytes_cleared: int
    verified_blocks: int


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """One account for each chunk."""

    chunks: tuple[AppliedChunk, ...]


@dataclass(frozen=True, slots=True)
class VerifyChunksInput:
    """Both checks of spec §4 on chunks of an initial replication; then their log is deleted."""

    replication: Replication
    cycle_key: str
    plans: tuple[tuple[int, PlanRef], ...]
    chunks: tuple[AppliedChunk, ...]


@dataclass(frozen=True, slots=True)
class SealInput:
    """Seal all seeds, verify the whole cycle, bring the checksum maps up to date, take the recovery point."""

    replication: Replication
    cycle_key: str
    taken_at: datetime
    seal: int
    plans: tuple[tuple[int, PlanRef], ...]
    chunks: tuple[AppliedChunk, ...]
    verified_up_to: tuple[tuple[int, int], ...] = ()
    """(disk key, segment): segments below were verified chunk by chunk already (initial replication)."""


@dataclass(frozen=True, slots=True)
class SealedCycle:
    """All checks passed and the recovery point is taken: the caller may commit."""

    point: RecoveryPoint


@dataclass(frozen=True, slots=True)
class SettleInput:
    """After a commit: write the commit record, then delete what it makes superfluous."""

    replication: Replication
    state: EntityState
    record_only: bool = False
    """Only write the record: nothing was committed, but the state is one that `adopt` should know."""
    at: datetime | None = None
    """The time by which the retention is reckoned; needed unless `record_only`."""


@dataclass(frozen=True, slots=True)
class SettledCycle:
    """What there is after it."""

    points: PointList | None = None
    """None with `record_only`, and before the first commit."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The source's power, and the keys of the NICs that connect at power-on."""

    powered_on: bool
    nics_at_power_on: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShutDownInput:
    """Shut the guest down and wait until it is off."""

    replication: Replication
    timeout: timedelta
    allow_power_off: bool


@dataclass(frozen=True, slots=True)
class ShutDownResult:
    """How the source came to be off."""

    forced: bool


@dataclass(frozen=True, slots=True)
class GuardInput:
    """Mark the source as migrated."""

    replication: Replication
    note: str
    disconnect_nics: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnguardInput:
    """Have NICs connect at power-on again, and power the source on if asked."""

    replication: Replication
    reconnect_nics: tuple[int, ...]
    power_on: bool


@dataclass(frozen=True, slots=True)
class ImportInput:
    """Import the sealed seed disks into managed disks."""

    replication: Replication
    target: TargetProperties
    seal: int
    job: str = ""
    """Which migration it is for: what another migration of the replication made is neither used nor deleted."""


@dataclass(frozen=True, slots=True)
class ImportedDisks:
    """(disk key, managed disk's resource id) of each disk."""

    disks: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class CreateVmInput:
    """Create the target VM from imported disks."""

    replication: Replication
    target: TargetProperties
    disks: tuple[tuple[int, str], ...]
    job: str = ""
    """Which migration it is for: what another migration of the replication made is neither used nor deleted."""


@dataclass(frozen=True, slots=True)
class CreatedVm:
    """The target VM, running."""

    resource_id: str


@dataclass(frozen=True, slots=True)
class DeleteTargetInput:
    """Delete the target VM and disks that a failed migration made."""

    replication: Replication
    target: TargetProperties
    job: str = ""
    """Which migration it is for: what another migration of the replication made is neither used nor deleted."""
    disk_keys: tuple[int, ...] = ()
    """Disks that it may have made beside those of the replication's present disks."""


@dataclass(frozen=True, slots=True)
class CleanSourceInput:
    """Remove everything of ours from the source VM."""

    replication: Replication
    disable_change_tracking: bool
    add_note: str = ""


@dataclass(frozen=True, slots=True)
class ArchiveInput:
    """Store the history of a run in the gateway store."""

    replication: Replication
    workflow_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class CommitRecordsInput:
    """Ask for a page of what the gateway store holds of a site's replications, or of one VM's (name or instance UUID)."""

    profile: SiteProfile
    after: str = ""
    """Container that the page before ended with; empty: the first page."""
    vm: str | None = None


@dataclass(frozen=True, slots=True)
class CommitRecords:
    """A page of what the gateway store holds of a site's replications."""

    records: tuple[ReplicateVmInput, ...]
    unreadable: tuple[str, ...] = ()
    ended_with: str = ""
    """Container behind which the next page begins; empty: this is the last one."""
    settings: SiteProfile | None = None
    """Of the first page: the newest settings that any of the site's records carries, of whatever page."""


@dataclass(frozen=True, slots=True)
class AdoptResult:
    """Which entities were started again, and which were not, each with the reason."""

    adopted: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
