"""What failback needs of both sides: marks and writable disks at the site, and snapshots of managed disks in Azure."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from deltaferry.model.elsewhere import AskedPlace, FoundPlace, NewVm
from deltaferry.model.extents import Extent
from deltaferry.model.hardware import VmHardware
from deltaferry.model.vm import Claim, Snapshot, SourceVm
from deltaferry.ports.access import Beat, NbdAddress, SnapshotAccess
from deltaferry.ports.data_plane import DataPlane
from deltaferry.ports.hypervisor import DiskExports, Hypervisor
from deltaferry.ports.recovery import PageRange
from deltaferry.ports.reverse_plane import ReversePlane
from deltaferry.ports.target_cloud import TargetCloud


class FailbackMarks(Protocol):
    """The mark on a VM whose disks are written from Azure: while it stands, our side neither powers it on nor snapshots it."""

    def mark_failback(self, instance_uuid: str, holder: Claim, line: str) -> None:
        """Mark the VM, and add `line` to its annotation, once. Raises ALREADY_PROTECTED where somebody else's mark stands."""

    def unmark_failback(self, instance_uuid: str, holder: Claim, line: str) -> None:
        """Take the mark and the line away; no-op without a mark of this holder."""


class VmMaker(Protocol):
    """Makes a VM at another place of the site, and deletes what it made: never anything else."""

    def read_hardware(self, instance_uuid: str) -> VmHardware:
        """Return what a VM is made of, as far as another one can be made like it. Raises VM_NOT_FOUND."""

    def find_place(self, asked: AskedPlace) -> FoundPlace:
        """Return what the inventory has of the names of a place; `planning.elsewhere` judges it."""

    def missing_for_place(self, place: FoundPlace) -> tuple[tuple[str, str], ...]:
        """Return (privilege id, name of the object) of all that making a VM there needs and the site's user lacks."""

    def find_made_vm(self, instance_uuid: str, holder: Claim) -> bool:
        """Return whether the VM made for `holder` under this UUID exists. Raises ALREADY_PROTECTED where another VM has it."""

    def make_vm(self, new: NewVm, beat: Beat) -> None:
        """Make the VM: off, with claim, failback mark and a mark of its own, and empty thin disks; no-op if it exists.

        Raises OPERATION_REFUSED, ALREADY_PROTECTED, DATASTORE_FULL, VSPHERE_PERMISSION.
        """

    def keep_made_vm(self, instance_uuid: str, holder: Claim) -> None:
        """Take the VM's own mark off: it is never deleted from then on. No-op without it, or for a VM that is gone."""

    def delete_made_vm(self, instance_uuid: str, holder: Claim, beat: Beat) -> None:
        """Delete a VM that carries that mark of `holder`, with its disks; no-op for any other. Raises OPERATION_REFUSED while it is on."""


class DiskWriters(Protocol):
    """Makes a powered-off VM's disks writable over NBD."""

    def open_writable(self, vm: SourceVm, present: Snapshot, disk_key: int) -> AbstractContextManager[NbdAddress]:
        """Export one disk for its one writer until the context ends. Raises DISK_READ_FAILED.

        The hypervisor's own lock refuses a second writer, and keeps the VM from being powered on while a client is connected.
        """


@dataclass(frozen=True, slots=True)
class TargetDisk:
    """A managed disk that is attached to a VM in Azure."""

    resource_id: str
    is_os: bool
    lun: int | None
    size_bytes: int
    owned: bool
    """It carries the tags asked for."""


@dataclass(frozen=True, slots=True)
class TargetVmDisks:
    """A VM in Azure with its disks."""

    resource_id: str
    running: bool
    disks: tuple[TargetDisk, ...]


@dataclass(frozen=True, slots=True)
class DiskSnapshot:
    """An incremental snapshot of a managed disk."""

    name: str
    disk_id: str
    taken_at: datetime
    tags: Mapping[str, str]


class TargetDisks(Protocol):
    """A VM's managed disks in Azure, their incremental snapshots, and the VM's power. Names are of one resource group."""

    def read_target_vm(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> TargetVmDisks:
        """Return a VM with its disks. Raises AZURE_NOT_FOUND, AZURE_CONFLICT for a VM without these tags."""

    def deallocate(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Stop a VM and give its host back; no-op if it is so. Raises AZURE_NOT_FOUND, AZURE_CONFLICT."""

    def start(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Start a VM and wait until it runs; no-op if it does. Raises AZURE_NOT_FOUND, AZURE_CONFLICT."""

    def take_disk_snapshot(
        self, resource_group: str, name: str, disk_id: str, tags: Mapping[str, str], beat: Beat
    ) -> DiskSnapshot:
        """Return the incremental snapshot of that name, taking it unless it exists with these tags. Raises AZURE_CONFLICT, AZURE_QUOTA."""

    def list_disk_snapshots(self, resource_group: str, tags: Mapping[str, str], beat: Beat) -> tuple[DiskSnapshot, ...]:
        """Return the snapshots that carry these tags, oldest first; none of a group that does not exist."""

    def delete_disk_snapshot(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """End all access to a snapshot and delete it; no-op if it is gone, or carries other tags."""

    def open_disk_snapshots(
        self, resource_group: str, names: Sequence[str], lifetime: timedelta, beat: Beat
    ) -> AbstractContextManager[Mapping[str, SnapshotAccess]]:
        """Grant read access to snapshots until the context ends. Raises AZURE_NOT_FOUND."""

    def pages(self, snapshot: SnapshotAccess, previous: SnapshotAccess | None, span: Extent) -> Iterator[PageRange]:
        """Yield the pages inside `span` that a snapshot holds, or that differ from an earlier one, in order."""


class TwoWayHypervisor(Hypervisor, FailbackMarks, VmMaker, Protocol):
    """A site's hypervisor as both directions need it."""


class TwoWayExports(DiskExports, DiskWriters, Protocol):
    """A site's disks, to read and, for failback, to write."""


class TwoWayPlane(DataPlane, ReversePlane, Protocol):
    """The bulk work of both directions."""


class TwoWayCloud(TargetCloud, TargetDisks, Protocol):
    """The cloud that the VM is made in, and comes back from."""
