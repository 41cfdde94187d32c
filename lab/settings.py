"""What can be chosen when a lab is started."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from deltaferry.model.units import MIB
from lab.vcenter.inventory_file import DatastoreSpec, HostSpec, VmSpec

GIB = 1024 * MIB

SITE = "lab"
TARGET = "lab"
APPLIANCE = "appliance-1"
VCENTER_USER = "administrator@vsphere.local"
ESXI_HOSTS = (HostSpec("esxi-1.lab"), HostSpec("esxi-2.lab"))
DATASTORES = (DatastoreSpec("ds1", 20 * GIB), DatastoreSpec("ds2", 20 * GIB))
NETWORKS = ("VM Network", "Isolated")

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
RESOURCE_GROUP = "rg-target"
LOCATION = "westeurope"
NETWORK = "vnet-target"
ISOLATED_NETWORK = "vnet-isolated"
"""Azure's network without a way to any other; NETWORKS[1] is vSphere's."""
SUBNET = "default"

VmsOf = Callable[[Path], tuple[VmSpec, ...]]


def no_vms(_directory: Path) -> tuple[VmSpec, ...]:
    """Return no VMs: what a vCenter has unless something else is asked for."""
    return ()


@dataclass(frozen=True, slots=True)
class LabTimes:
    """How long the lab's vSphere and Azure take, in seconds. The real ones take longer; the rules are the same."""

    stun_s: float = 0.05
    snapshot_s: float = 0.2
    consolidation_s: float = 0.3
    shutdown_s: float = 0.5
    power_s: float = 0.1
    reconfigure_s: float = 0.05
    session_idle_s: float = 1800.0
    azure_retry_after_s: float = 0.0
    azure_operation_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LabSettings:
    """A lab: its VMs, its times, and what goes into the configuration that is written for workers."""

    vms: VmsOf = no_vms
    """Returns the VMs that vCenter starts with; it may build their disks in the folder given, while Temporal starts."""
    times: LabTimes = field(default_factory=LabTimes)
    search_attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    with_ui: bool = True
    azure_guest_bytes_per_second: int = 0
    """What the guest of every running Azure VM writes to its disks; 0: nothing, unless `ArmControl.switch_guest` says so."""
    inventory_every: timedelta = timedelta(0)
    """How often vCenter's VMs are listed by a schedule; zero: only on request."""
    min_interval: timedelta = timedelta(seconds=5)
    max_interval: timedelta = timedelta(hours=12)
    off_hours: str = "Monday;0:00;7d"
    """The whole week: an automatic resync never waits."""
    chunk_max: timedelta = timedelta(minutes=15)
    chunk_max_bytes: int = 256 * MIB
    """Of one disk; small, so that the initial replication shows progress and its log stays small."""
    threads_per_disk: int = 4
    page_blob_rate_mib_s: int = 1000
    """No pacing below what Azurite can do."""
    hosts: tuple[HostSpec, ...] = ESXI_HOSTS
    scale_out: tuple[str, ...] = ()
    """Scale-out appliances beside APPLIANCE."""
    disks_per_appliance: int = 52
    disks_per_host: int = 8
    snapshots_per_datastore: int = 15
    log_level: str = "info"
    chaos_seed: int | None = None
    """With a seed, the chaos proxy stands between the workers and all that they speak with."""
