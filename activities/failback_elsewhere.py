"""Failback to another place of the site: the VM that is made there, and what becomes of the one that it came from (spec §8)."""

from collections.abc import Mapping
from dataclasses import replace

from temporalio import activity

from activities.adapters import Site
from activities.clean_stops import note_power_off
from activities.failback_disks import begin_pristine, is_pristine
from activities.failback_site import failback_line
from activities.failures import translated
from activities.held_snapshots import forget_vm_before, placement
from activities.progress import Heartbeats
from activities.source_hardware import remembered_hardware
from deltaferry.model.elsewhere import AskedPlace, FoundPlace, NewDisk, NewVm
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.hardware import VmHardware
from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
from deltaferry.model.vm import Claim, PowerState, SourceVm
from deltaferry.planning.elsewhere import networks_of, refusals
from deltaferry.ports.access import Beat
from workflows.messages.failback import KeepMadeVmInput, MakeVmInput, OnMadeVm
from workflows.messages.operator_input import AlternateLocation
from workflows.messages.reverse_records import MadeVm


class FailbackElsewhere:
    """Makes the VM at the other place, deletes it again, or lets it stay."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def make_vm(self, request: MakeVmInput) -> MadeVm:
        """Make the VM, off and marked, with empty disks; one that an earlier attempt has made is taken as it is.

        Raises OPERATION_REFUSED with every reason why it cannot be made there, or where the VM that it came from runs;
        VSPHERE_PERMISSION with the privileges that are missing.
        """
        beats = Heartbeats("making the VM at the other place")
        ref = request.replication.ref
        site, holder = self._sites[ref.site], Claim(ref.installation, ref.replication_id)
        there = replace(ref, instance_uuid=request.instance_uuid)
        original = self._stopped_original(site, request, beats.beat)
        hardware = _connected(_hardware(site, ref, request.replication.disks, original), request.reconnect_nics)
        if not site.hypervisor.find_made_vm(request.instance_uuid, holder):
            new = _new_vm(site, request, hardware, holder)
            site.hypervisor.make_vm(new, beats.beat)
            begin_pristine(site, there)
        made = site.hypervisor.read_vm(request.instance_uuid)
        uuids = {disk.key: disk.uuid for disk in made.disks}
        return MadeVm(
            instance_uuid=made.instance_uuid,
            name=made.name,
            disks=tuple(replace(disk, uuid=uuids[disk.key]) for disk in request.replication.disks),
            placement=placement(made),
            pristine=is_pristine(site, there),
            information=_information(made, hardware, original),
        )

    @activity.defn
    @translated
    def delete_made_vm(self, request: OnMadeVm) -> None:
        """Delete the VM that was made for the replication under a UUID; no-op where there is none, and for any other VM.

        Raises OPERATION_REFUSED while it is on.
        """
        beats = Heartbeats("deleting the VM that was made at the other place")
        ref = request.replication.ref
        holder = Claim(ref.installation, ref.replication_id)
        self._sites[ref.site].hypervisor.delete_made_vm(request.instance_uuid, holder, beats.beat)

    @activity.defn
    @translated
    def keep_made_vm(self, request: KeepMadeVmInput) -> None:
        """Let the VM that was made stay for good: it is one like any other from now on, and is replicated."""
        ref = request.replication.ref
        site = self._sites[ref.site]
        site.hypervisor.keep_made_vm(request.made.instance_uuid, Claim(ref.installation, ref.replication_id))
        forget_vm_before(site, ref)

    def _stopped_original(self, site: Site, request: MakeVmInput, beat: Beat) -> SourceVm | None:
        """Return the VM that it came from, off; None where it is gone. Raises OPERATION_REFUSED while it runs."""
        ref = request.replication.ref
        original = _read(site, ref)
        if original is None or original.power is PowerState.OFF:
            return original
        ours = original.claim == Claim(ref.installation, ref.replication_id)
        if not request.power_off or not ours or original.power is PowerState.SUSPENDED:
            state = "suspended" if original.power is PowerState.SUSPENDED else "running"
            raise DeltaferryError(
                ErrorKind.OPERATION_REFUSED,
                f"The VM {original.name!r} is {state} at the site, and two VMs with its name in the network do harm: "
                "shut it down first, or send reprotect with power_off_source; where its host is gone for good, remove it in vCenter.",
            )
        note_power_off(site, ref)
        site.hypervisor.power_off(ref.instance_uuid, beat)
        return replace(original, power=PowerState.OFF)


def _read(site: Site, ref: ReplicationRef) -> SourceVm | None:
    try:
        return site.hypervisor.read_vm(ref.instance_uuid)
    except DeltaferryError as error:
        if error.kind is not ErrorKind.VM_NOT_FOUND:
            raise
        return None


def _hardware(site: Site, ref: ReplicationRef, disks: tuple[ReplicatedDisk, ...], original: SourceVm | None) -> VmHardware:
    """Return what the VM was made of: as it is, where it still has the replicated disks, else as a cycle last saw it."""
    wanted = {disk.key for disk in disks}
    if original is not None:
        present = site.hypervisor.read_hardware(ref.instance_uuid)
        if wanted <= {slot.disk_key for slot in present.slots}:
            return present
    stored = remembered_hardware(site, ref)
    if stored is None or not wanted <= {slot.disk_key for slot in stored.slots}:
        raise DeltaferryError(
            ErrorKind.OPERATION_REFUSED,
            "What the VM was made of is not known: it is gone from the site, and no cycle has looked since disks were added."
            " Make a VM by hand from the disks in Azure.",
        )
    return stored


def _connected(hardware: VmHardware, nics: tuple[int, ...]) -> VmHardware:
    """Return the hardware with those adapters connecting at power-on."""
    connected = (replace(nic, start_connected=nic.start_connected or nic.key in nics) for nic in hardware.nics)
    return replace(hardware, nics=tuple(connected))


def _new_vm(site: Site, request: MakeVmInput, hardware: VmHardware, holder: Claim) -> NewVm:
    """Return the VM to make. Raises OPERATION_REFUSED, VSPHERE_PERMISSION."""
    location, ref = request.location, request.replication.ref
    networks = networks_of(hardware, location.networks)
    asked = _asked(location, hardware, networks)
    place = site.hypervisor.find_place(asked)
    disks = tuple(NewDisk(disk.key, disk.capacity_bytes) for disk in request.replication.disks)
    total_bytes = sum(disk.capacity_bytes for disk in disks)
    reasons = refusals(asked, place, hardware, location.networks, total_bytes)
    if reasons:
        raise DeltaferryError(ErrorKind.OPERATION_REFUSED, " ".join(reasons))
    _require_privileges(site, place)
    line = failback_line(ref)
    return NewVm(request.instance_uuid, asked.name, hardware, disks, place, networks, holder, line)


def _asked(location: AlternateLocation, hardware: VmHardware, networks: tuple[str, ...]) -> AskedPlace:
    return AskedPlace(
        datastore=location.datastore,
        name=location.name or hardware.name,
        host=location.host or "",
        cluster=location.cluster or "",
        resource_pool=location.resource_pool or "",
        folder=location.folder or "",
        networks=tuple(dict.fromkeys(networks)),
    )


def _require_privileges(site: Site, place: FoundPlace) -> None:
    missing = site.hypervisor.missing_for_place(place)
    if missing:
        told = ", ".join(f"{privilege} on {name!r}" for privilege, name in missing)
        raise DeltaferryError(ErrorKind.VSPHERE_PERMISSION, f"To make a VM there, the site's vSphere user lacks {told}.")


def _information(made: SourceVm, hardware: VmHardware, original: SourceVm | None) -> tuple[str, ...]:
    where = ", ".join(name for name, _ in placement(made).datastores)
    told = [f"The VM {made.name!r} was made on {made.host}, its disks on {where}; its adapters have new MAC addresses."]
    if original is not None:
        told.append(
            f"The VM {original.name!r} that it came from ({original.instance_uuid}) stays at the site as it is, powered off."
        )
    return (*told, *hardware.replaced)
