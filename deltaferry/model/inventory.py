"""A site's inventory: what one reading found of every VM of a site, as far as it matters for replication.

vSphere's tags are not part of it: they belong to another API (vSphere Automation) than the one that is used here. Custom
attributes and annotations are.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from deltaferry.model.naming import cycle_of_snapshot
from deltaferry.model.replication import ObjectRef
from deltaferry.model.vm import DatastoreSpace, PowerState, SourceVm

INVENTORY_VERSION = 1
"""Of the stored object; a reader refuses another one."""


class ToolsState(StrEnum):
    """Whether the guest can be asked to shut down."""

    RUNNING = "running"
    STOPPED = "not running"
    MISSING = "not installed"


class BackingKind(StrEnum):
    """How a disk is stored, by the class of its backing in the vSphere API."""

    FLAT = "flat"
    SPARSE = "sparse"
    SE_SPARSE = "se-sparse"
    RAW_DEVICE = "raw device mapping"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class DiskStorage:
    """How one of a VM's disks lies on its datastore."""

    key: int
    backing: BackingKind
    mode: str
    """vSphere's disk mode, such as `persistent` or `independent_persistent`."""
    thin: bool | None
    """Whether blocks are allocated when they are written to; None where vSphere does not say."""
    committed_bytes: int | None
    """What the disk's files take, snapshots' redo logs too, as vSphere last counted it; None where it has not."""


@dataclass(frozen=True, slots=True)
class DiscoveredVm:
    """A VM of the inventory."""

    vm: SourceVm
    folder: str
    """Path below the datacenter's VM folder, such as `/Production/Web`; `/` is that folder itself."""
    datacenter: str
    cluster: str
    """Empty on a host that is in none."""
    tools: ToolsState
    attributes: tuple[tuple[str, str], ...]
    """Custom attributes that have a value, by name."""
    storage: tuple[DiskStorage, ...]
    """One for each disk of the VM, in the same order."""
    uncommitted_bytes: int | None
    """What the VM's disks may still grow by on their datastores; None where vSphere does not say."""

    @property
    def capacity_bytes(self) -> int:
        """The sizes of all disks together."""
        return sum(disk.capacity_bytes for disk in self.vm.disks)

    @property
    def expected_bytes(self) -> int:
        """What a first copy has to read at most: of each disk what is committed, or all of it where that is not known."""
        committed = {item.key: item.committed_bytes for item in self.storage}
        return sum(min(disk.capacity_bytes, _or(committed.get(disk.key), disk.capacity_bytes)) for disk in self.vm.disks)

    @property
    def datastores(self) -> tuple[str, ...]:
        """The datastores that its disks are on, each once, by name."""
        return tuple(sorted({disk.datastore for disk in self.vm.disks if disk.datastore}))

    @property
    def our_snapshots(self) -> tuple[str, ...]:
        """Names of its snapshots that Deltaferry took, of whatever installation."""
        return tuple(snapshot.name for snapshot in self.vm.snapshots if cycle_of_snapshot(snapshot.name) is not None)

    @property
    def other_snapshots(self) -> tuple[str, ...]:
        """Names of its snapshots that somebody else took."""
        return tuple(snapshot.name for snapshot in self.vm.snapshots if cycle_of_snapshot(snapshot.name) is None)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


@dataclass(frozen=True, slots=True)
class UnreadableVm:
    """A VM that is there but cannot be listed, and why."""

    moref: str
    name: str
    """Empty where not even that could be read."""
    reason: str


@dataclass(frozen=True, slots=True)
class DiscoveredSite:
    """What one reading of a vCenter found. Templates are left out, and VMs that vanished while it was read."""

    vms: tuple[DiscoveredVm, ...]
    """By name, then instance UUID."""
    datastores: tuple[DatastoreSpace, ...]
    unreadable: tuple[UnreadableVm, ...]


@dataclass(frozen=True, slots=True)
class SiteInventory:
    """The stored object: a reading, and of which site and when it was. A published schema (docs/format.md)."""

    version: int
    installation: str
    site: str
    read_at: datetime
    """When the reading began: what is in it is no older."""
    found: DiscoveredSite


@dataclass(frozen=True, slots=True)
class InventorySummary:
    """A reading in numbers, and where it is stored: all that a workflow's history holds of it."""

    site: str
    read_at: datetime
    seconds: float
    """How long reading and storing took."""
    ref: ObjectRef
    size_bytes: int
    """Of the stored object."""
    vms: int
    powered_on: int
    replicated: int
    """VMs with a claim, of whatever installation."""
    tracked: int
    """VMs with change block tracking on."""
    with_snapshots: int
    """VMs with snapshots that are not Deltaferry's."""
    hosts: int
    datastores: int
    disks: int
    capacity_bytes: int
    expected_bytes: int
    """What first copies of all of them would have to read at most."""
    unreadable: int


def summary(inventory: SiteInventory, ref: ObjectRef, size_bytes: int, seconds: float) -> InventorySummary:
    """Return an inventory in numbers."""
    vms = inventory.found.vms
    return InventorySummary(
        site=inventory.site,
        read_at=inventory.read_at,
        seconds=seconds,
        ref=ref,
        size_bytes=size_bytes,
        vms=len(vms),
        powered_on=sum(vm.vm.power is PowerState.ON for vm in vms),
        replicated=sum(vm.vm.claim is not None for vm in vms),
        tracked=sum(vm.vm.cbt_enabled for vm in vms),
        with_snapshots=sum(bool(vm.other_snapshots) for vm in vms),
        hosts=len({vm.vm.host for vm in vms if vm.vm.host}),
        datastores=len(inventory.found.datastores),
        disks=sum(len(vm.vm.disks) for vm in vms),
        capacity_bytes=sum(vm.capacity_bytes for vm in vms),
        expected_bytes=sum(vm.expected_bytes for vm in vms),
        unreadable=len(inventory.found.unreadable),
    )
