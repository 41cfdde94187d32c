"""A site as workflows see it, and what the prerequisite checks ask and answer."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
from deltaferry.planning.windows import DEFAULT_OFF_HOURS
from workflows.operator_input import TargetProperties


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a VM is now: what its cycles need slots of."""

    host: str = ""
    datastores: tuple[tuple[str, int], ...] = ()
    """(name, number of the VM's disks on it)."""


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """What workflows need to know of a site's configuration."""

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
class CheckSourceInput:
    """Find a VM and check it, reading only."""

    profile: SiteProfile
    vm: str
    target: TargetProperties


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
