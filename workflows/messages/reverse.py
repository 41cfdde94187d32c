"""What a replication, `ReprotectVm` and `FailbackVm` say to each other, and what their runs hand to the next ones."""

from dataclasses import dataclass, field
from datetime import datetime

from deltaferry.model.policy import FailbackPolicy
from deltaferry.model.replication import DiskBase, PlanRef
from deltaferry.model.states import HealthError, JobOutcome
from workflows.messages.failback import Losses
from workflows.messages.operator_input import AlternateLocation, TargetProperties
from workflows.messages.replication_state import DiskPosition, Replication
from workflows.messages.reverse_records import MadeVm, PassRecord, ReverseBase
from workflows.messages.site import SiteProfile


@dataclass(frozen=True, slots=True)
class PassState:
    """A pass under way: carried over continue-as-new. What is not filled in yet is the next thing to do."""

    number: int
    cycle_key: str
    started_at: datetime
    final: bool
    taken_at: datetime | None = None
    disks: tuple[tuple[int, str], ...] = ()
    """(disk key, resource id of the managed disk)."""
    snapshots: tuple[tuple[int, str], ...] = ()
    hashed: tuple[DiskPosition, ...] = ()
    compared: tuple[DiskPosition, ...] = ()
    differing: tuple[tuple[int, PlanRef], ...] = ()
    """Of a full comparison: a plan for each chunk that was compared."""
    plans: tuple[tuple[int, PlanRef], ...] = ()
    next_segments: tuple[tuple[int, int], ...] = ()
    compared_bytes: int = 0
    bytes_sent: int = 0
    verified_blocks: int = 0


@dataclass(frozen=True, slots=True)
class ReprotectInput:
    """What the entity starts `ReprotectVm` with."""

    entity_id: str
    replication: Replication
    target: TargetProperties
    """Those that the VM in Azure was made with."""
    profile: SiteProfile
    policy: FailbackPolicy = field(default_factory=FailbackPolicy)
    bases: tuple[DiskBase, ...] = ()
    """Of the last committed cycle: what the source wrote since is listed."""
    given_up_bytes: int = 0
    """What cycles had changed that were committed after the point that was failed over to."""
    confirm_losses: bool = False
    power_off_source: bool = False
    base: ReverseBase | None = None
    """Go on from here: a failback was tried and given up. None: compare everything first."""
    start_target: bool = False
    """Start the VM in Azure first: a failback had stopped it."""
    carried: "ReprotectCarried | None" = None
    location: AlternateLocation | None = None
    """Where a new VM is made; None: the VM that it came from is written to."""
    instance_uuid: str = ""
    """Of the new VM; empty without a location."""
    made: MadeVm | None = None
    """The new VM, where a job before this one has made it."""
    delete_first: tuple[str, ...] = ()
    """Instance UUIDs of VMs that earlier jobs have made, or may have, and could not delete."""
    reconnect_nics: tuple[int, ...] = ()
    """NICs of the VM at the site that the failover had disconnected at power-on."""


@dataclass(frozen=True, slots=True)
class ReprotectCarried:
    """What a run of `ReprotectVm` hands to the next one."""

    number: int
    passing: PassState | None = None
    last: PassRecord | None = None
    failures_in_row: int = 0
    next_due: datetime | None = None
    information: tuple[str, ...] = ()
    nics_at_power_on: tuple[int, ...] = ()
    host: str = ""
    made: MadeVm | None = None
    pristine: bool = False
    """The disks of the VM that was made are empty still."""


@dataclass(frozen=True, slots=True)
class FinishReverse:
    """The entity tells `ReprotectVm` to end."""

    keep: bool
    """To hand over to a failback: the pass that runs is finished, base and mark stay. Otherwise all of it is undone at once."""


@dataclass(frozen=True, slots=True)
class ReverseProgress:
    """What `ReprotectVm` and `FailbackVm` tell the entity while they run. With a base, failback is ready."""

    job_id: str
    percent: float
    activity: str
    base: ReverseBase | None = None
    last: PassRecord | None = None
    next_due: datetime | None = None
    information: tuple[str, ...] = ()
    error: HealthError | None = None
    """What the last pass failed with; another one follows by itself."""
    made: MadeVm | None = None


@dataclass(frozen=True, slots=True)
class ReverseReport:
    """How `ReprotectVm` ended."""

    base: ReverseBase | None
    """What failback goes on from; None where there is nothing to go on from, or all of it was undone."""
    last: PassRecord | None = None
    losses: Losses | None = None
    """Found, and not confirmed: reprotect was not begun."""
    information: tuple[str, ...] = ()
    nics_at_power_on: tuple[int, ...] = ()
    """Of the VM at the site."""
    undone: bool = False
    """Its snapshots in Azure are deleted, and the mark is taken off the VM at the site, or the VM that was made is deleted."""
    made: MadeVm | None = None
    home: str = ""
    """A sentence where it was not begun because a failback has brought the VM home, whose end nobody knew of."""


@dataclass(frozen=True, slots=True)
class FailbackInput:
    """What the entity starts `FailbackVm` with."""

    entity_id: str
    replication: Replication
    target: TargetProperties
    profile: SiteProfile
    base: ReverseBase
    reconnect_nics: tuple[int, ...] = ()
    """NICs of the VM at the site that the failover had disconnected at power-on."""
    carried: "FailbackCarried | None" = None


@dataclass(frozen=True, slots=True)
class FailbackCarried:
    """What a run of `FailbackVm` hands to the next one, in the middle of its final pass."""

    passing: PassState
    base: ReverseBase | None
    stopped_at: datetime
    phases: tuple[tuple[str, float], ...] = ()
    host: str = ""


@dataclass(frozen=True, slots=True)
class FailbackResult:
    """How a failback went."""

    outcome: JobOutcome
    base: ReverseBase
    """What the disks at the site hold for certain: from here `ReprotectVm` goes on if the failback is given up."""
    downtime_s: float | None = None
    """From the request to stop the VM in Azure until the one at the site is on."""
    phases: tuple[tuple[str, float], ...] = ()
    information: tuple[str, ...] = ()
    last: PassRecord | None = None
    target_stopped: bool = False
    """The VM in Azure is deallocated, or may be."""
    source_on: bool = False
