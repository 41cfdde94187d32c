"""The one snapshot that a replication may have on its VM: what must hold before it is taken, taking it, clearing it away.

Everything that begins a pass under a snapshot goes through here. The order is spec §2.5's: nothing of an earlier cycle is
left on the VM before a new snapshot is taken.
"""

from dataclasses import dataclass

from pydantic import TypeAdapter

from activities.adapters import Site
from activities.datastore_guard import require_room
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import (
    SNAPSHOT_DESCRIPTION,
    VM_BEFORE,
    cycle_prefix,
    gateway_container,
    snapshot_name,
    snapshot_prefix,
)
from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
from deltaferry.model.vm import Claim, Snapshot, SourceVm
from deltaferry.planning.prerequisites import disks_changed
from deltaferry.ports.access import Beat
from workflows.messages.site import Placement


@dataclass(frozen=True, slots=True)
class VmBefore:
    """How a VM was when its replication was enabled."""

    change_tracking: bool
    delta_disks: tuple[int, ...]
    """Keys of disks on a parent backing without any snapshot: linked clones, which keep it for ever."""


_VM_BEFORE = TypeAdapter(VmBefore)


def remember_vm(site: Site, ref: ReplicationRef, vm: SourceVm) -> None:
    """Store, once, how the VM was before we touched it: a retry must not take our own change for the VM's state."""
    delta_disks = () if vm.snapshots else tuple(disk.key for disk in vm.disks if disk.is_delta_backing)
    before = VmBefore(vm.cbt_enabled, delta_disks)
    site.stores.gateway.put_new(f"{gateway_container(ref)}/{VM_BEFORE}", _VM_BEFORE.dump_json(before))


def forget_vm_before(site: Site, ref: ReplicationRef) -> None:
    """Store what holds of a VM that was made by us: change tracking was off, and no disk stood on a parent backing."""
    site.stores.gateway.put(f"{gateway_container(ref)}/{VM_BEFORE}", _VM_BEFORE.dump_json(VmBefore(False, ())))


def vm_before(site: Site, ref: ReplicationRef) -> VmBefore:
    """Return how the VM was before we touched it."""
    return _VM_BEFORE.validate_json(site.stores.gateway.get(f"{gateway_container(ref)}/{VM_BEFORE}"))


def placement(vm: SourceVm) -> Placement:
    """Return where a VM is: its host, and how many of its disks each datastore has."""
    names = sorted({disk.datastore for disk in vm.disks})
    return Placement(vm.host, tuple((name, sum(disk.datastore == name for disk in vm.disks)) for name in names))


def is_elsewhere(site: Site, ref: ReplicationRef, vm: SourceVm, cycle_key: str, granted: Placement | None) -> bool:
    """Return whether a VM is not where its slots were granted for, before the cycle's snapshot is taken.

    Disks and host alone decide. Behind the snapshot it is too late to wait for other slots.
    """
    if granted is None or placement(vm) == granted:
        return False
    return site.stores.gateway.get_if_exists(_record_name(ref, cycle_key)) is None


def _record_name(ref: ReplicationRef, cycle_key: str) -> str:
    return f"{gateway_container(ref)}/{cycle_prefix(cycle_key)}snapshot"


def noted_snapshot(site: Site, ref: ReplicationRef, cycle_key: str) -> str | None:
    """Return the id of the snapshot that was taken for a cycle; None if none is known."""
    noted = site.stores.gateway.get_if_exists(_record_name(ref, cycle_key))
    return noted.decode() if noted is not None else None


def note_snapshot(site: Site, ref: ReplicationRef, cycle_key: str, snapshot: Snapshot) -> None:
    """Remember which snapshot is a cycle's: the cycle, and a retry, take that one."""
    site.stores.gateway.put(_record_name(ref, cycle_key), snapshot.moref.encode())


def require_replicable(vm: SourceVm, disks: tuple[ReplicatedDisk, ...], ref: ReplicationRef) -> None:
    """Raise CLAIM_LOST or DISKS_CHANGED unless the VM is still ours and has the disks that are replicated."""
    if vm.claim != Claim(ref.installation, ref.replication_id):
        holder = f"replication {vm.claim.replication_id} of {vm.claim.installation!r}" if vm.claim else "nobody"
        raise DeltaferryError(ErrorKind.CLAIM_LOST, f"The VM {vm.name!r} is now claimed by {holder}.")
    sentence = disks_changed(disks, vm)
    if sentence:
        raise DeltaferryError(ErrorKind.DISKS_CHANGED, sentence)


def clear_leftovers(site: Site, ref: ReplicationRef, beat: Beat, keep: str | None = None) -> None:
    """Remove every snapshot of ours but `keep`, one by one and without children, then consolidate and make sure.

    One that is being taken at this moment, for an attempt that died or gave up, is waited for. Raises CONSOLIDATION_STUCK.
    """
    site.hypervisor.await_creations(ref.instance_uuid, beat)
    vm = site.hypervisor.read_vm(ref.instance_uuid)
    ours = [snapshot for snapshot in vm.snapshots if snapshot.name.startswith(snapshot_prefix(ref)) and snapshot.name != keep]
    for snapshot in ours:
        site.hypervisor.remove_snapshot(ref.instance_uuid, snapshot.moref, beat)
    if keep is not None and any(snapshot.name == keep for snapshot in vm.snapshots):
        return
    if not ours and vm.claim != Claim(ref.installation, ref.replication_id):
        return  # whoever has claimed the VM since may be working on it: what is not ours is not consolidated
    site.hypervisor.consolidate(ref.instance_uuid, beat)
    after = site.hypervisor.read_vm(ref.instance_uuid)
    delta_before = vm_before(site, ref).delta_disks
    if not after.snapshots and any(disk.is_delta_backing and disk.key not in delta_before for disk in after.disks):
        raise DeltaferryError(
            ErrorKind.CONSOLIDATION_STUCK, f"The VM {after.name!r} has no snapshot, yet still runs on a delta backing."
        )


def take_snapshot(
    site: Site,
    ref: ReplicationRef,
    cycle_key: str,
    beat: Beat,
    gate_beat: Beat | None = None,
    growth_bytes: tuple[tuple[int, int], ...] = (),
) -> Snapshot:
    """Return the cycle's snapshot. One key stands for one snapshot, ever: a recorded one that is gone is not replaced.

    `gate_beat` stands for `beat` while what is left of an earlier cycle is cleared away: it may end that wait.
    `growth_bytes` has (disk key, bytes) that the snapshot is expected to grow by; without room for that, none is taken.
    Raises SNAPSHOT_LOST, CONSOLIDATION_STUCK, SNAPSHOT_REFUSED, DATASTORE_FULL.
    """
    recorded = recorded_snapshot(site, ref, cycle_key)
    if recorded is not None:
        return recorded
    name = snapshot_name(ref, cycle_key)
    pass_gates(site, ref, name, gate_beat or beat, growth_bytes)
    snapshot = site.hypervisor.take_snapshot(ref.instance_uuid, name, SNAPSHOT_DESCRIPTION, beat)
    record_snapshot(site, ref, cycle_key, snapshot)
    return snapshot


def recorded_snapshot(site: Site, ref: ReplicationRef, cycle_key: str) -> Snapshot | None:
    """Return the snapshot that was recorded as the cycle's; None where there is no record. Raises SNAPSHOT_LOST if it is gone."""
    recorded = site.stores.gateway.get_if_exists(_record_name(ref, cycle_key))
    return site.hypervisor.read_snapshot(ref.instance_uuid, recorded.decode()) if recorded is not None else None


def record_snapshot(site: Site, ref: ReplicationRef, cycle_key: str, snapshot: Snapshot) -> None:
    """Record a snapshot as the cycle's, for good."""
    site.stores.gateway.put(_record_name(ref, cycle_key), snapshot.moref.encode())


def pass_gates(site: Site, ref: ReplicationRef, name: str, beat: Beat, growth_bytes: tuple[tuple[int, int], ...]) -> None:
    """Clear away what is left of earlier snapshots, all but `name`, and make sure of room for the next one.

    Raises CONSOLIDATION_STUCK, DATASTORE_FULL.
    """
    clear_leftovers(site, ref, beat, keep=name)
    require_room(site, ref, growth_bytes)
