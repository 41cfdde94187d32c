"""The source's side: the hypervisor's VMs and snapshots, and their disks as exports to read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from deltaferry.model.extents import Extent
from deltaferry.model.inventory import DiscoveredSite
from deltaferry.model.quiescing import QuiesceOrder
from deltaferry.model.vm import Claim, DatastoreSpace, PowerState, Snapshot, SourceVm
from deltaferry.ports.access import Beat, NbdAddress


class Hypervisor(Protocol):
    """One site's vCenter."""

    def list_vms(self) -> tuple[SourceVm, ...]:
        """Return every VM of the site."""

    def read_inventory(self, beat: Beat) -> DiscoveredSite:
        """Return every VM of the site, templates left out, with folder, cluster, custom attributes and storage; in one paged reading."""

    def find_vms(self, reference: str) -> tuple[SourceVm, ...]:
        """Return the VMs whose name or instance UUID is `reference` (none, one, or several of one name)."""

    def read_vm(self, instance_uuid: str) -> SourceVm:
        """Return a VM as it is now. Raises VM_NOT_FOUND."""

    def missing_privileges(self, instance_uuid: str) -> tuple[str, ...]:
        """Return the ids of the privileges that the site's user needs on the VM and does not have."""

    def missing_for_failback(self, instance_uuid: str) -> tuple[str, ...]:
        """Return the ids of the privileges that failback needs besides, and that the site's user does not have on the VM."""

    def write_claim(self, instance_uuid: str, claim: Claim | None, *, expected: Claim | None) -> None:
        """Set or remove the VM's claim if it is `expected` (or already `claim`); else raise ALREADY_PROTECTED, naming the holder."""

    def set_change_tracking(self, instance_uuid: str, enabled: bool, marker: str, beat: Beat) -> None:
        """Switch CBT and make it take effect at once by a create-and-remove snapshot named `marker`; no-op if it is so already.

        Raises SNAPSHOT_REFUSED while the VM has snapshots and tracking has to be switched on.
        """

    def take_snapshot(
        self, instance_uuid: str, name: str, description: str, beat: Beat, order: QuiesceOrder | None = None
    ) -> Snapshot:
        """Return the VM's one snapshot of that name with its disks, creating it if neither the tree nor a recent task has it.

        With an order the guest is asked to hold its writes back; whether it did stands in what is returned. Raises
        GUEST_TOOLS_UNAVAILABLE before anything was asked, and QUIESCE_FAILED where it was, in vain: the snapshot may still come.
        """

    def await_creations(self, instance_uuid: str, beat: Beat) -> None:
        """Wait until nobody is taking a snapshot of the VM, so that one which comes late can be found; some minutes at most."""

    def read_snapshot(self, instance_uuid: str, moref: str) -> Snapshot:
        """Return a snapshot with its disks. Raises SNAPSHOT_LOST."""

    def read_present_disks(self, instance_uuid: str) -> Snapshot:
        """Return a powered-off VM's disks as they are, as a snapshot without moref. Raises SOURCE_MOVED_ON unless it is off."""

    def remove_snapshot(self, instance_uuid: str, moref: str, beat: Beat) -> None:
        """Remove one snapshot, never its children, and wait for the task; no-op if it is gone."""

    def consolidate(self, instance_uuid: str, beat: Beat) -> None:
        """Consolidate the VM's disks if vSphere says that it is needed, and wait. Raises CONSOLIDATION_STUCK."""

    def changed_areas(
        self, instance_uuid: str, snapshot_moref: str, disk_key: int, capacity_bytes: int, change_id: str
    ) -> Iterator[Extent]:
        """Yield every page of QueryChangedDiskAreas; `*` asks for allocated areas (CBT_NO_EPOCH where they cannot be told).

        An empty `snapshot_moref` asks about a powered-off VM's disk as it is. Raises SOURCE_MOVED_ON if the VM is not off.
        """

    def shut_down_guest(self, instance_uuid: str) -> None:
        """Ask the guest to shut down, and return at once. Raises GUEST_TOOLS_UNAVAILABLE. No-op when off."""

    def power_off(self, instance_uuid: str, beat: Beat) -> None:
        """Power off hard; no-op when off."""

    def power_on(self, instance_uuid: str, beat: Beat) -> None:
        """Power on; no-op when on."""

    def power_state(self, instance_uuid: str) -> PowerState:
        """Return the VM's power state."""

    def clock(self) -> datetime:
        """Return the site's own time, of which its events and snapshots speak."""

    def unclean_stops(self, instance_uuid: str, since: datetime, ours: Sequence[datetime]) -> tuple[str, ...]:
        """Return a sentence for each time after `since` that the VM lost power or was forcibly shut down.

        The first power-off after each of `ours` is ours, and left out. Raises VSPHERE_PERMISSION where events cannot be read.
        """

    def annotate(self, instance_uuid: str, line: str) -> None:
        """Add a line to the VM's annotation, once."""

    def set_nics_at_power_on(self, instance_uuid: str, connected: Mapping[int, bool]) -> None:
        """Set, by NIC key, whether each NIC connects at power-on."""

    def datastore_space(self, instance_uuid: str) -> tuple[DatastoreSpace, ...]:
        """Return the room on every datastore that the VM's disks or snapshots are on, as it is at this moment.

        Datastores of which nothing valid is known, because no host reaches them, are left out.
        """


class DiskExports(Protocol):
    """Makes a snapshot's disks readable over NBD, and a powered-off VM's disks as they are."""

    def open(self, vm: SourceVm, snapshot: Snapshot, disk_key: int) -> AbstractContextManager[NbdAddress]:
        """Export one disk of a snapshot read-only until the context ends. Raises DISK_READ_FAILED, SNAPSHOT_LOST.

        Without the snapshot's moref it is the powered-off VM's disk as it is: the VM cannot be powered on while a client is
        connected.
        """
