"""Failback at the site: the VM is off and marked while its disks are written; what it wrote meanwhile is found; the mark goes."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import Site
from activities.clean_stops import note_power_off
from activities.failback_disks import came_home, forget_home, note_home
from activities.failures import translated
from activities.held_snapshots import clear_leftovers, require_replicable
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import DiskBase, ReplicatedDisk, ReplicationRef
from deltaferry.model.vm import Claim, PowerState, Snapshot, SourceVm
from deltaferry.planning.change_ids import tracking_uuid
from deltaferry.ports.access import Beat
from workflows.messages.failback import (
    Homecoming,
    Losses,
    LossesInput,
    LostDisk,
    PreparedFailback,
    PrepareFailbackInput,
    ReleaseFailbackInput,
)
from workflows.messages.step import OnReplication

_SHOWN = 8
_UNTOLD = frozenset(
    {ErrorKind.CBT_OFF, ErrorKind.CBT_RESET, ErrorKind.CBT_NO_EPOCH, ErrorKind.CBT_CHANGE_ID_REJECTED, ErrorKind.CBT_CORRUPT}
)
"""Why change tracking does not say what was written."""


def failback_line(ref: ReplicationRef) -> str:
    """Return what people read on a marked VM."""
    return (
        "Deltaferry writes this VM's disks from Azure: do not power it on, and take no snapshot of it"
        f" (replication {ref.replication_id})."
    )


class FailbackSite:
    """Prepares the VM at the site for what is written to it, and gives it back."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def prepare_failback(self, request: PrepareFailbackInput) -> PreparedFailback:
        """Check that the VM is ours, whole and off, remove snapshots of ours, and mark it. One that came home is left as it is.

        Raises VM_NOT_FOUND, CLAIM_LOST, DISKS_CHANGED; OPERATION_REFUSED with a sentence for a VM that is on (and not to be
        powered off) or that has snapshots of somebody else's.
        """
        beats = Heartbeats("preparing the VM at the site for failback")
        ref = request.replication.ref
        site = self._sites[ref.site]
        vm = _read_whole(site, request)
        home = came_home(site, ref)
        if home:
            self._unmark(site, ref)
            return PreparedFailback(False, (), vm.host, home)
        require_replicable(vm, request.replication.disks, ref)
        powered_off = vm.power is not PowerState.OFF
        if powered_off:
            self._power_off(site, ref, vm, request, beats.beat)
        clear_leftovers(site, ref, beats.beat)
        forget_home(site, ref)
        site.hypervisor.mark_failback(ref.instance_uuid, Claim(ref.installation, ref.replication_id), failback_line(ref))
        marked = site.hypervisor.read_vm(ref.instance_uuid)
        try:
            _require_still(marked)
        except DeltaferryError:
            self._unmark(site, ref)
            raise
        return PreparedFailback(powered_off, tuple(nic.key for nic in marked.nics if nic.start_connected), marked.host)

    @activity.defn
    @translated
    def find_losses(self, request: LossesInput) -> Losses:
        """Ask change tracking what the source wrote since the last committed cycle; say so where it cannot tell.

        The VM is off: its disks are asked about as they are. Raises SOURCE_MOVED_ON unless it is.
        """
        beats = Heartbeats("finding what the source wrote since the failover")
        ref = request.replication.ref
        site = self._sites[ref.site]
        present = site.hypervisor.read_present_disks(ref.instance_uuid)
        bases = {base.disk_key: base for base in request.bases}
        lost = []
        for disk in request.replication.disks:
            beats.beat()
            lost.append(_lost(site, ref, disk, present, bases.get(disk.key), beats.beat))
        return Losses(tuple(lost), request.given_up_bytes)

    @activity.defn
    @translated
    def release_failback(self, request: ReleaseFailbackInput) -> None:
        """Take the mark off the VM: from here on it may be powered on. No-op without our mark, and for a VM that is gone.

        Where it comes home that is noted first, so that whoever asks later knows what it means if the VM is on. Then it raises
        SOURCE_MOVED_ON if somebody else has written to its disks, or powered it on; FENCED if a later pass has begun.
        """
        ref = request.replication.ref
        site = self._sites[ref.site]
        if request.home_pass:
            note_home(site, ref, request.home_pass)
        self._unmark(site, ref)

    @activity.defn
    @translated
    def find_homecoming(self, request: OnReplication) -> Homecoming:
        """Say whether a failback has brought the VM home. Raises VM_NOT_FOUND."""
        ref = request.replication.ref
        return Homecoming(came_home(self._sites[ref.site], ref))

    def _power_off(self, site: Site, ref: ReplicationRef, vm: SourceVm, request: PrepareFailbackInput, beat: Beat) -> None:
        if not request.power_off or vm.power is PowerState.SUSPENDED:
            state = "suspended" if vm.power is PowerState.SUSPENDED else "running"
            raise DeltaferryError(
                ErrorKind.OPERATION_REFUSED,
                f"The VM {vm.name!r} is {state} at the site, and failback overwrites its disks: shut it down first,"
                " or send reprotect with power_off_source.",
            )
        note_power_off(site, ref)
        site.hypervisor.power_off(ref.instance_uuid, beat)

    def _unmark(self, site: Site, ref: ReplicationRef) -> None:
        try:
            site.hypervisor.unmark_failback(ref.instance_uuid, Claim(ref.installation, ref.replication_id), failback_line(ref))
        except DeltaferryError as error:
            if error.kind is not ErrorKind.VM_NOT_FOUND:
                raise


def _read_whole(site: Site, request: PrepareFailbackInput) -> SourceVm:
    """Return the VM with all its disks. Raises OPERATION_REFUSED, naming the way out, where it or one of them is gone."""
    replication = request.replication
    try:
        vm = site.hypervisor.read_vm(replication.ref.instance_uuid)
    except DeltaferryError as error:
        if error.kind is not ErrorKind.VM_NOT_FOUND:
            raise
        lost = f"The VM {replication.vm_name!r} ({replication.ref.instance_uuid}) does not exist at the site any more"
    else:
        present = {disk.key for disk in vm.disks}
        missing = [f"{disk.label!r} (key {disk.key})" for disk in replication.disks if disk.key not in present]
        if not missing:
            return vm
        lost = f"The VM {vm.name!r} has lost {', '.join(missing)} at the site"
    raise DeltaferryError(
        ErrorKind.OPERATION_REFUSED,
        f'{lost}: send reprotect with a location, at which a new one is made: {{"location": {{"datastore": "…", "host": "…"}}}}.',
    )


def _require_still(vm: SourceVm) -> None:
    """Raise OPERATION_REFUSED unless a marked VM is off and without snapshots."""
    if vm.power is not PowerState.OFF:
        raise DeltaferryError(
            ErrorKind.OPERATION_REFUSED, f"The VM {vm.name!r} was powered on at the site meanwhile: shut it down."
        )
    if vm.snapshots:
        names = ", ".join(repr(snapshot.name) for snapshot in vm.snapshots)
        raise DeltaferryError(
            ErrorKind.OPERATION_REFUSED,
            f"The VM {vm.name!r} has snapshots, and failback writes to its disks: remove these first: {names}.",
        )


def _lost(
    site: Site, ref: ReplicationRef, disk: ReplicatedDisk, present: Snapshot, base: DiskBase | None, beat: Beat
) -> LostDisk:
    """Return what was written to a disk since its base."""
    frozen = next((found for found in present.disks if found.key == disk.key), None)
    if base is None or base.change_id is None or frozen is None or frozen.change_id is None:
        return LostDisk(disk.key, disk.label, None, sentence="Change tracking was off: what was written is not known.")
    if tracking_uuid(base.change_id) != tracking_uuid(frozen.change_id):
        return LostDisk(
            disk.key, disk.label, None, sentence="Change tracking was reset since the last commit: what was written is not known."
        )
    ranges: list[Extent] = []
    total_bytes = 0
    try:
        for extent in site.hypervisor.changed_areas(ref.instance_uuid, "", disk.key, frozen.capacity_bytes, base.change_id):
            beat()
            total_bytes += extent.length_bytes
            if len(ranges) < _SHOWN:
                ranges.append(extent)
    except DeltaferryError as error:
        if error.kind not in _UNTOLD:
            raise
        return LostDisk(disk.key, disk.label, None, sentence=f"Change tracking cannot tell what was written: {error.detail}")
    return LostDisk(disk.key, disk.label, total_bytes, tuple((extent.offset_bytes, extent.length_bytes) for extent in ranges))
