"""`VSphere`: one site's vCenter as the activities see it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from deltaferry.model.elsewhere import AskedPlace, FoundPlace, NewVm
from deltaferry.model.extents import Extent
from deltaferry.model.hardware import VmHardware
from deltaferry.model.inventory import DiscoveredSite
from deltaferry.model.quiescing import QuiesceOrder
from deltaferry.model.vm import Claim, DatastoreSpace, PowerState, Snapshot, SourceVm
from deltaferry.ports.access import Beat
from deltaferry.vsphere import (
    changed_areas,
    claims,
    consolidation,
    datastores,
    failback_marks,
    guard,
    hardware,
    inventory,
    making,
    placing,
    power,
    present_disks,
    privileges,
    snapshots,
    stops,
    tracking,
    vms,
)
from deltaferry.vsphere.errors import vsphere_errors
from deltaferry.vsphere.session import Endpoint, Session


class VSphere:
    """The `Hypervisor` port on one cached session, logged in at the first call.

    A worker makes one for each site and closes it when it stops. Safe for use by several threads at once.
    """

    def __init__(self, endpoint: Endpoint, password: Callable[[], str]) -> None:
        self._session = Session(endpoint, password)

    def __repr__(self) -> str:
        """Name the endpoint, nothing secret."""
        return f"<VSphere {self._session!r}>"

    def __enter__(self) -> "VSphere":
        """Return the client itself; it logs in at its first call."""
        return self

    def __exit__(self, *_: object) -> None:
        """Log out."""
        self.close()

    def close(self) -> None:
        """Log out."""
        self._session.close()

    def list_vms(self) -> tuple[SourceVm, ...]:
        """Return every VM of the site."""
        with vsphere_errors("listing the site's VMs"):
            return vms.list_vms(self._session)

    def read_inventory(self, beat: Beat) -> DiscoveredSite:
        """Return every VM of the site with where it is and how its disks lie."""
        with vsphere_errors("reading the site's inventory"):
            return inventory.read_inventory(self._session, beat)

    def find_vms(self, reference: str) -> tuple[SourceVm, ...]:
        """Return the VMs whose name or instance UUID is `reference`."""
        with vsphere_errors(f"looking for VM {reference!r}"):
            return vms.find_vms(self._session, reference)

    def read_vm(self, instance_uuid: str) -> SourceVm:
        """Return a VM as it is now."""
        with vsphere_errors(f"reading VM {instance_uuid}"):
            return vms.read_vm(self._session, instance_uuid)

    def write_claim(self, instance_uuid: str, claim: Claim | None, *, expected: Claim | None) -> None:
        """Set or remove the VM's claim if it is `expected`, or already as asked."""
        with vsphere_errors(f"writing the claim of VM {instance_uuid}"):
            claims.write_claim(self._session, instance_uuid, claim, expected)

    def set_change_tracking(self, instance_uuid: str, enabled: bool, marker: str, beat: Beat) -> None:
        """Switch CBT and make it take effect at once."""
        with vsphere_errors(f"switching change tracking {'on' if enabled else 'off'} on VM {instance_uuid}"):
            tracking.set_change_tracking(self._session, instance_uuid, enabled, marker, beat)

    def take_snapshot(
        self, instance_uuid: str, name: str, description: str, beat: Beat, order: QuiesceOrder | None = None
    ) -> Snapshot:
        """Return the VM's one snapshot of that name, creating it if need be, quiesced where that is ordered and possible."""
        with vsphere_errors(f"taking snapshot {name} of VM {instance_uuid}"):
            return snapshots.take_snapshot(self._session, instance_uuid, name, description, beat, order)

    def await_creations(self, instance_uuid: str, beat: Beat) -> None:
        """Wait until nobody is taking a snapshot of the VM."""
        with vsphere_errors(f"waiting for snapshots of VM {instance_uuid} that are being taken"):
            snapshots.await_creations(self._session, instance_uuid, beat)

    def read_snapshot(self, instance_uuid: str, moref: str) -> Snapshot:
        """Return a snapshot with its disks."""
        with vsphere_errors(f"reading snapshot {moref} of VM {instance_uuid}"):
            return snapshots.read_snapshot(self._session, instance_uuid, moref)

    def read_present_disks(self, instance_uuid: str) -> Snapshot:
        """Return the disks of a powered-off VM as they are."""
        with vsphere_errors(f"reading the disks of VM {instance_uuid}"):
            return present_disks.read_present_disks(self._session, instance_uuid)

    def clock(self) -> datetime:
        """Return the site's time."""
        with vsphere_errors(f"reading the time of {self._session.endpoint.host}"):
            return present_disks.clock(self._session)

    def unclean_stops(self, instance_uuid: str, since: datetime, ours: Sequence[datetime]) -> tuple[str, ...]:
        """Return how a VM stopped since then without its guest having shut down."""
        with vsphere_errors(f"reading the events of VM {instance_uuid}"):
            return stops.unclean_stops(self._session, instance_uuid, since, ours)

    def remove_snapshot(self, instance_uuid: str, moref: str, beat: Beat) -> None:
        """Remove one snapshot of ours and wait for it."""
        with vsphere_errors(f"removing snapshot {moref} of VM {instance_uuid}"):
            snapshots.remove_snapshot(self._session, instance_uuid, moref, beat)

    def consolidate(self, instance_uuid: str, beat: Beat) -> None:
        """Consolidate the VM's disks if that is needed, and wait."""
        with vsphere_errors(f"consolidating VM {instance_uuid}"):
            consolidation.consolidate(self._session, instance_uuid, beat)

    def changed_areas(
        self, instance_uuid: str, snapshot_moref: str, disk_key: int, capacity_bytes: int, change_id: str
    ) -> Iterator[Extent]:
        """Yield what changed on a disk since `change_id`, asking for a page when the one before is used up.

        Without a snapshot's moref the disk of a powered-off VM is asked about as it is.
        """
        return changed_areas.changed_areas(self._session, instance_uuid, snapshot_moref, disk_key, capacity_bytes, change_id)

    def shut_down_guest(self, instance_uuid: str) -> None:
        """Ask the guest to shut down, and return at once."""
        with vsphere_errors(f"shutting down the guest of VM {instance_uuid}"):
            power.shut_down_guest(self._session, instance_uuid)

    def power_off(self, instance_uuid: str, beat: Beat) -> None:
        """Power off hard."""
        with vsphere_errors(f"powering off VM {instance_uuid}"):
            power.power_off(self._session, instance_uuid, beat)

    def power_on(self, instance_uuid: str, beat: Beat) -> None:
        """Power on."""
        with vsphere_errors(f"powering on VM {instance_uuid}"):
            power.power_on(self._session, instance_uuid, beat)

    def power_state(self, instance_uuid: str) -> PowerState:
        """Return the VM's power state."""
        with vsphere_errors(f"reading the power state of VM {instance_uuid}"):
            return power.power_state(self._session, instance_uuid)

    def annotate(self, instance_uuid: str, line: str) -> None:
        """Add a line to the VM's annotation, once."""
        with vsphere_errors(f"annotating VM {instance_uuid}"):
            guard.annotate(self._session, instance_uuid, line)

    def set_nics_at_power_on(self, instance_uuid: str, connected: Mapping[int, bool]) -> None:
        """Set, by NIC key, whether each NIC connects at power-on."""
        with vsphere_errors(f"setting the network adapters of VM {instance_uuid}"):
            guard.set_nics_at_power_on(self._session, instance_uuid, connected)

    def mark_failback(self, instance_uuid: str, holder: Claim, line: str) -> None:
        """Mark the VM as one whose disks are written from Azure."""
        with vsphere_errors(f"marking VM {instance_uuid} for failback"):
            failback_marks.mark_failback(self._session, instance_uuid, holder, line)

    def unmark_failback(self, instance_uuid: str, holder: Claim, line: str) -> None:
        """Take the failback mark away."""
        with vsphere_errors(f"taking the failback mark off VM {instance_uuid}"):
            failback_marks.unmark_failback(self._session, instance_uuid, holder, line)

    def read_hardware(self, instance_uuid: str) -> VmHardware:
        """Return what a VM is made of."""
        with vsphere_errors(f"reading the hardware of VM {instance_uuid}"):
            return hardware.read_hardware(self._session, instance_uuid)

    def find_place(self, asked: AskedPlace) -> FoundPlace:
        """Return what the inventory has of the names of a place."""
        with vsphere_errors("looking for the place of a new VM"):
            return placing.find_place(self._session, asked)

    def missing_for_place(self, place: FoundPlace) -> tuple[tuple[str, str], ...]:
        """Return (privilege id, name of the object) of what the user lacks to make a VM at a place."""
        with vsphere_errors("checking the privileges at the place of a new VM"):
            return privileges.missing_for_place(self._session, place)

    def find_made_vm(self, instance_uuid: str, holder: Claim) -> bool:
        """Return whether the VM that was made for `holder` exists."""
        with vsphere_errors(f"looking for VM {instance_uuid}"):
            return making.find_made_vm(self._session, instance_uuid, holder)

    def make_vm(self, new: NewVm, beat: Beat) -> None:
        """Make a VM, powered off, marked and with empty disks, unless it exists."""
        with vsphere_errors(f"making VM {new.name}"):
            making.make_vm(self._session, new, beat)

    def keep_made_vm(self, instance_uuid: str, holder: Claim) -> None:
        """Take the mark off a VM that was made."""
        with vsphere_errors(f"keeping VM {instance_uuid}"):
            making.keep_made_vm(self._session, instance_uuid, holder)

    def delete_made_vm(self, instance_uuid: str, holder: Claim, beat: Beat) -> None:
        """Delete a VM that was made for `holder`."""
        with vsphere_errors(f"deleting VM {instance_uuid}"):
            making.delete_made_vm(self._session, instance_uuid, holder, beat)

    def datastore_space(self, instance_uuid: str) -> tuple[DatastoreSpace, ...]:
        """Return the room on every datastore that the VM's disks or snapshots are on, as it is at this moment."""
        with vsphere_errors(f"reading the datastores of VM {instance_uuid}"):
            return datastores.datastore_space(self._session, instance_uuid)

    def missing_privileges(self, instance_uuid: str) -> tuple[str, ...]:
        """Return the ids of the privileges that the user needs on a VM and does not have."""
        with vsphere_errors(f"checking the privileges on VM {instance_uuid}"):
            return privileges.missing_privileges(self._session, instance_uuid)

    def missing_for_failback(self, instance_uuid: str) -> tuple[str, ...]:
        """Return the ids of the privileges that the user needs on a VM to write to its disks, and does not have."""
        with vsphere_errors(f"checking the privileges for failback on VM {instance_uuid}"):
            return privileges.missing_for_failback(self._session, instance_uuid)
