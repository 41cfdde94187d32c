"""A site as workflows see it, and what the prerequisite checks ask and answer."""

from dataclasses import dataclass, field
from datetime import timedelta

from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
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
