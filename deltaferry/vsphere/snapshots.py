"""Taking, reading and removing the replication's own snapshots; nobody else's is ever touched, nor a child of ours."""

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import Snapshot
from deltaferry.ports.access import Beat
from deltaferry.vsphere.devices import snapshot_disks
from deltaferry.vsphere.errors import SNAPSHOT_RULES, vsphere_errors
from deltaferry.vsphere.failback_marks import require_unmarked
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import read_object
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.snapshot_tree import snapshots_of
from deltaferry.vsphere.tasks import CREATE_SNAPSHOT_TASKS, MERGING_TASKS, wait_for_running, wait_for_task
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

OWN_PREFIX = "df/"
"""How the names of all snapshots begin that Deltaferry takes (naming.py); no other is ever removed."""


def take_snapshot(session: Session, instance_uuid: str, name: str, description: str, beat: Beat) -> Snapshot:
    """Return the VM's one snapshot of that name with its disks, creating it if it neither exists nor is being created.

    Running creations are waited for before the tree is read: CreateSnapshot is not idempotent, and its task outlives
    an attempt that died. Crash-consistent: without memory, not quiesced. Raises SNAPSHOT_REFUSED, VSPHERE_BUSY,
    DATASTORE_FULL, OPERATION_REFUSED while the VM is marked for failback.
    """
    _must_be_ours(name, "taken")
    vm = locate(session, instance_uuid)
    wait_for_running(session, vm, CREATE_SNAPSHOT_TASKS, beat)
    present = _named(list_snapshots(session, vm), name)
    if present is None:
        require_unmarked(session, vm, "taking a snapshot")
        with vsphere_errors(f"taking snapshot {name} of VM {instance_uuid}", rules=SNAPSHOT_RULES):
            wait_for_task(session, vm.CreateSnapshotEx_Task(name, description, False, None), beat)
        present = _named(list_snapshots(session, vm), name)
    if present is None:
        raise DeltaferryError(
            ErrorKind.SNAPSHOT_LOST, f"snapshot {name} of VM {instance_uuid} was removed as soon as it was taken"
        )
    return _with_disks(session, present)


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
    return Snapshot(snapshot.moref, snapshot.name, snapshot.description, snapshot.has_children, snapshot.created_at, disks)


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
