"""Taking, reading and removing the replication's own snapshots; nobody else's is ever touched, nor a child of ours."""

import logging
from dataclasses import replace
from datetime import timedelta

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.quiescing import QuiesceOrder
from deltaferry.model.vm import Snapshot
from deltaferry.ports.access import Beat
from deltaferry.vsphere.devices import snapshot_disks
from deltaferry.vsphere.errors import QUIESCE_RULES, SNAPSHOT_RULES, vsphere_errors
from deltaferry.vsphere.failback_marks import require_unmarked
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import read_object
from deltaferry.vsphere.quiescing import patient, specification, too_late
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.snapshot_tree import snapshots_of
from deltaferry.vsphere.tasks import CREATE_SNAPSHOT_TASKS, MERGING_TASKS, wait_for_running, wait_for_task
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

_log = logging.getLogger(__name__)

CREATION_PATIENCE = timedelta(minutes=10)
"""How long a snapshot that somebody is taking is waited for before the VM is looked over for snapshots of ours."""

OWN_PREFIX = "df/"
"""How the names of all snapshots begin that Deltaferry takes (naming.py); no other is ever removed."""


class _StillTakenError(Exception):
    """A snapshot is being taken for longer than it is waited for."""


def take_snapshot(
    session: Session, instance_uuid: str, name: str, description: str, beat: Beat, order: QuiesceOrder | None = None
) -> Snapshot:
    """Return the VM's one snapshot of that name with its disks, creating it if it neither exists nor is being created.

    Running creations are waited for before the tree is read: CreateSnapshot is not idempotent, and its task outlives
    an attempt that died. Without an `order` it is crash-consistent: without memory, not quiesced. With one, whether the
    guest was quiesced stands in what is returned. Raises SNAPSHOT_REFUSED, VSPHERE_BUSY, DATASTORE_FULL, OPERATION_REFUSED
    while the VM is marked for failback; with an order also GUEST_TOOLS_UNAVAILABLE before anything was asked of the guest,
    and QUIESCE_FAILED where it was, in vain: then the snapshot may still come.
    """
    _must_be_ours(name, "taken")
    vm = locate(session, instance_uuid)
    waiting = patient(beat, order.patience, too_late(order)) if order is not None else beat
    wait_for_running(session, vm, CREATE_SNAPSHOT_TASKS, waiting)
    present = _named(list_snapshots(session, vm), name)
    if present is None:
        require_unmarked(session, vm, "taking a snapshot")
        wanted = specification(session, vm, order) if order is not None else None
        with vsphere_errors(f"taking snapshot {name} of VM {instance_uuid}", rules=(*QUIESCE_RULES, *SNAPSHOT_RULES)):
            wait_for_task(session, vm.CreateSnapshotEx_Task(name, description, False, wanted), waiting)
        present = _named(list_snapshots(session, vm), name)
    if present is None:
        raise DeltaferryError(
            ErrorKind.SNAPSHOT_LOST, f"snapshot {name} of VM {instance_uuid} was removed as soon as it was taken"
        )
    return _with_disks(session, present)


def await_creations(session: Session, instance_uuid: str, beat: Beat) -> None:
    """Wait until nobody is taking a snapshot of the VM, so that one which comes late is in the tree; not for ever.

    A quiesced snapshot takes minutes, and its task goes on where whoever asked for it has died or given up. Where it lasts
    longer than any of ours may, the wait ends all the same: what is left then is for the next cycle, or for an audit.
    """
    waiting = patient(beat, CREATION_PATIENCE, _StillTakenError())
    try:
        wait_for_running(session, locate(session, instance_uuid), CREATE_SNAPSHOT_TASKS, waiting)
    except _StillTakenError:
        _log.warning("a snapshot of VM %s is still being taken after %s", instance_uuid, CREATION_PATIENCE)


def read_snapshot(session: Session, instance_uuid: str, moref: str) -> Snapshot:
    """Return a snapshot of the VM with its disks. Raises SNAPSHOT_LOST."""
    found = _by_moref(list_snapshots(session, locate(session, instance_uuid)), moref)
    if found is None:
        raise DeltaferryError(ErrorKind.SNAPSHOT_LOST, f"VM {instance_uuid} has no snapshot {moref}")
    return _with_disks(session, found)


def remove_snapshot(session: Session, instance_uuid: str, moref: str, beat: Beat) -> None:
    """Remove one snapshot of ours, never its children, and wait until its delta disks are merged; no-op if it is gone.

    vSphere takes a snapshot out of the tree before it merges the disks: a removal that an earlier attempt started is
    waited for first. Raises OPERATION_REFUSED for a snapshot whose name is not one of ours.
    """
    vm = locate(session, instance_uuid)
    wait_for_running(session, vm, MERGING_TASKS, beat)
    found = _by_moref(list_snapshots(session, vm), moref)
    if found is None:
        return
    _must_be_ours(found.name, "removed")
    try:
        task = session.object(vim.vm.Snapshot, moref).RemoveSnapshot_Task(False, True)
        wait_for_task(session, task, beat)
    except vmodl.fault.ManagedObjectNotFound:
        if _by_moref(list_snapshots(session, vm), moref) is not None:
            raise


def list_snapshots(session: Session, vm: ManagedObject) -> tuple[Snapshot, ...]:
    """Return the VM's snapshots, oldest first, without their disks."""
    return snapshots_of(read_object(session, vm, ["snapshot"]).get("snapshot"))


def _with_disks(session: Session, snapshot: Snapshot) -> Snapshot:
    with vsphere_errors(f"reading snapshot {snapshot.name}", gone=ErrorKind.SNAPSHOT_LOST):
        row = read_object(session, session.object(vim.vm.Snapshot, snapshot.moref), ["config.hardware.device"])
        disks = snapshot_disks(row.get("config.hardware.device") or ())
    return replace(snapshot, disks=disks)


def _named(snapshots: tuple[Snapshot, ...], name: str) -> Snapshot | None:
    """Return the snapshot of a name, or None. Raises SNAPSHOT_REFUSED if there are several: one name is one snapshot."""
    found = [snapshot for snapshot in snapshots if snapshot.name == name]
    if len(found) > 1:
        morefs = ", ".join(snapshot.moref for snapshot in found)
        raise DeltaferryError(ErrorKind.SNAPSHOT_REFUSED, f"the VM has several snapshots called {name}: {morefs}")
    return found[0] if found else None


def _by_moref(snapshots: tuple[Snapshot, ...], moref: str) -> Snapshot | None:
    return next((snapshot for snapshot in snapshots if snapshot.moref == moref), None)


def _must_be_ours(name: str, verb: str) -> None:
    if not name.startswith(OWN_PREFIX):
        raise DeltaferryError(
            ErrorKind.OPERATION_REFUSED,
            f"snapshot {name!r} is not {verb}: only names that begin with {OWN_PREFIX} are Deltaferry's",
        )
