"""A site as workflows see it, and what the prerequisite checks ask and answer."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
from deltaferry.planning.windows import DEFAULT_OFF_HOURS
from workflows.messages.operator_input import TargetProperties


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a VM is now: what its cycles need slots of."""

    host: str = ""
    datastores: tuple[tuple[str, int], ...] = ()
    """(name, number of the VM's disks on it)."""


@dataclass(frozen=True, slots=True)
class ApplianceProfile:
    """A scale-out appliance of a site: a worker process that only moves data."""

    name: str
    blackout: str = ""
    """Its own blackout windows, beside the site's."""


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """One occurrence of blackout windows that follow each other without a gap, in UTC."""

    start: datetime
    end: datetime | None
    """None: the windows cover the whole week."""
    appliance: str = ""
    """Of which appliance; empty for all of the site's."""


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """A site's settings as workflows see them; each revision holds for everything that is decided from then on."""

    installation: str
    site: str
    appliance: str
    target: str
    min_interval: timedelta
    max_interval: timedelta
    disks_per_appliance: int
    disks_per_host: int
    snapshots_per_datastore: int
    time_zone: str = "UTC"
    """IANA name."""
    off_hours: str = DEFAULT_OFF_HOURS
    """When automatic resyncs may start: weekly windows as `deltaferry.planning.windows` reads them; empty means never."""
    sample_share: float = 0.0
    """The share of blocks, from 0 to 1, that a cycle compares although change tracking calls them unchanged."""
    scrub_every: timedelta = timedelta(0)
    """How often the seed disks are read whole and compared with what was committed; zero means only on request."""
    throttle: str = ""
    """What each appliance may send, by weekly schedule, as `deltaferry.planning.throttle` reads it; empty means no limit."""
    pre_failover_weight: int = 4
    """How many times an ordinary transfer's share of a throttled line a pre-failover cycle gets."""
    replications_per_appliance: int = 300
    replications_per_site: int = 500
    appliances: tuple[ApplianceProfile, ...] = ()
    """Scale-out appliances beside the primary one. `appliance` is the primary one in the arbiter's own profile; in the
    profile that it sends to a replication, `appliance` is the one that the replication is assigned to."""
    blackout: str = ""
    """When no cycle may start: weekly windows, of all appliances."""
    closed: tuple[ClosedWindow, ...] = ()
    """The occurrences of all blackout windows up to `closed_known_until`: computed by an activity, so that a replay sees
    the instants that were decided with."""
    closed_known_until: datetime | None = None
    revision: int = 0
    """How often operators have changed the settings since the configuration was read."""


@dataclass(frozen=True, slots=True)
class BlackoutsInput:
    """Ask for the occurrences of a site's blackout windows, from an instant on."""

    profile: SiteProfile
    now: datetime


@dataclass(frozen=True, slots=True)
class BlackoutsAnswer:
    """The occurrences that have not ended at the instant asked for, up to `known_until`."""

    closed: tuple[ClosedWindow, ...]
    known_until: datetime


@dataclass(frozen=True, slots=True)
class OffHoursInput:
    """Ask when automatic resyncs may start, from an instant on."""

    profile: SiteProfile
    now: datetime


@dataclass(frozen=True, slots=True)
class OffHoursAnswer:
    """The off-hours window that covers the instant asked for, or else the next one. Instants are UTC."""

    start: datetime | None
    """The instant asked for, if it is inside; None if the site has no off-hours, so that none ever starts."""
    end: datetime | None
    """When it ends: that of the union of windows that follow without a gap. None without a start, and if it never ends."""
    inside: bool


@dataclass(frozen=True, slots=True)
class FindingView:
    """A finding of the prerequisite checks."""

    code: str
    severity: str
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SiteInput:
    """Name of a site."""

    site: str


@dataclass(frozen=True, slots=True)
class SiteHolders:
    """Ids of the running workflows that may hold slots of a site."""

    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AppliancesInput:
    """Ask which of these appliances are served."""

    appliances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveAppliances:
    """The appliances on whose queue somebody answers."""

    appliances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SnapshotsLeftInput:
    """Ask whether a VM has snapshots of ours, whoever of us took them."""

    profile: SiteProfile
    instance_uuid: str


@dataclass(frozen=True, slots=True)
class SnapshotsLeft:
    """How many snapshots of this installation a VM has."""

    count: int


@dataclass(frozen=True, slots=True)
class CheckSourceInput:
    """Find a VM and check it, reading only."""

    profile: SiteProfile
    vm: str
    target: TargetProperties
    failback_wanted: bool = False
    """A policy comes with the request, and its failback policy with that: check what failback needs of the site, too."""


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """A VM that was found, and what the checks found."""

    instance_uuid: str
    vm_name: str
    disks: tuple[ReplicatedDisk, ...]
    generation: int
    os_type: str
    cpus: int
    memory_mib: int
    findings: tuple[FindingView, ...]
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class CheckTargetInput:
    """Check what the target needs, reading only."""

    target: str
    properties: TargetProperties
    default_vm_name: str
    replication: ReplicationRef | None = None


@dataclass(frozen=True, slots=True)
class CheckedTarget:
    """What the target's checks found."""

    findings: tuple[FindingView, ...]


@dataclass(frozen=True, slots=True)
class EnableResult:
    """How enabling ended: the id to send signals to, and the warnings."""

    workflow_id: str
    vm_name: str
    instance_uuid: str
    replication_id: str
    warnings: tuple[FindingView, ...] = ()
