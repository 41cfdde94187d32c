"""What activities are given to work with: the ports of one site and of one target, wired by `workers/`."""

from dataclasses import dataclass
from datetime import timedelta

from deltaferry.ports.failback import TwoWayCloud, TwoWayExports, TwoWayHypervisor, TwoWayPlane
from deltaferry.ports.recovery import RecoveryPoints
from deltaferry.ports.stores import KeyWrapper, ObjectStore, SeedStore
from workflows.messages.site import SiteProfile


@dataclass(frozen=True, slots=True)
class Stores:
    """A target's storage accounts and the key that wraps data keys: both sides need them."""

    log: ObjectStore
    gateway: ObjectStore
    seeds: SeedStore
    keys: KeyWrapper


@dataclass(frozen=True, slots=True)
class TargetDefaults:
    """What a target's configuration says where the target properties are silent."""

    resource_group: str
    network: str
    subnet: str
    vm_size: str
    disk_sku: str


@dataclass(frozen=True, slots=True)
class Site:
    """The source side of one site."""

    profile: SiteProfile
    hypervisor: TwoWayHypervisor
    exports: TwoWayExports
    stores: Stores
    plane: TwoWayPlane
    chunk_max: timedelta
    chunk_max_bytes: int


@dataclass(frozen=True, slots=True)
class Target:
    """The target side of one target."""

    name: str
    stores: Stores
    cloud: TwoWayCloud
    plane: TwoWayPlane
    points: RecoveryPoints
    defaults: TargetDefaults
    chunk_max: timedelta = timedelta(minutes=15)
    """After so long a check of seed disks, or a transfer back to the site, hands out no more work (spec §3)."""
    chunk_max_bytes: int = 1 << 50
    """Nor does a transfer back to the site after so many bytes of a disk."""


ACCESS_LIFETIME = timedelta(hours=6)
"""How long the signature lives that a data process gets: longer than any attempt may take (`workflows/policies.py`)."""
