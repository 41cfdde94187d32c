"""Switching change block tracking (CBT), and making the switch take effect on a running VM."""

from typing import Any

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat
from deltaferry.vsphere.claims import extra_value
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import ObjectProperties, read_object
from deltaferry.vsphere.reconfiguring import reconfigure
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.snapshots import list_snapshots, remove_snapshot, take_snapshot
from deltaferry.vsphere.vocabulary import ManagedObject, vim

PENDING_KEY = "deltaferry.tracking"
"""The extraConfig key that stands while tracking was switched and has not yet been made to take effect.

It is set by the very reconfiguration that switches tracking, and removed after the marker snapshot: an attempt that dies
in between leaves it, and the next one finishes the work instead of taking the switch's position for its effect.
"""

_DESCRIPTION = "Taken by Deltaferry to make change tracking take effect. It is removed at once."

_PATHS = ("config.changeTrackingEnabled", "config.extraConfig")


def set_change_tracking(session: Session, instance_uuid: str, enabled: bool, marker: str, beat: Beat) -> None:
    """Switch CBT and make it take effect by creating and removing a snapshot named `marker`; no-op if it is so already.

    The switch takes effect at the next power-on, migration, or snapshot. Marker snapshots that an earlier attempt left
    are removed first. Raises SNAPSHOT_REFUSED while the VM has snapshots and tracking has to be switched on.
    """
    vm = locate(session, instance_uuid)
    for snapshot in list_snapshots(session, vm):
        if snapshot.name == marker:
            remove_snapshot(session, instance_uuid, snapshot.moref, beat)

    def switch(row: ObjectProperties) -> Any | None:
        if bool(row.get("config.changeTrackingEnabled")) == enabled:
            return None
        if enabled:
            _must_have_no_snapshots(session, instance_uuid, vm)
        return vim.vm.ConfigSpec(changeTrackingEnabled=enabled, extraConfig=[_pending(marker)])

    def settle(row: ObjectProperties) -> Any | None:
        return vim.vm.ConfigSpec(extraConfig=[_pending("")]) if _is_pending(row) else None

    reconfigure(session, vm, _PATHS, switch, beat)
    if _is_pending(read_object(session, vm, _PATHS)):
        taken = take_snapshot(session, instance_uuid, marker, _DESCRIPTION, beat)
        remove_snapshot(session, instance_uuid, taken.moref, beat)
    reconfigure(session, vm, _PATHS, settle, beat)


def _is_pending(row: ObjectProperties) -> bool:
    return bool(extra_value(row.get("config.extraConfig") or (), PENDING_KEY))


def _pending(value: str) -> Any:
    return vim.option.OptionValue(key=PENDING_KEY, value=value)


def _must_have_no_snapshots(session: Session, instance_uuid: str, vm: ManagedObject) -> None:
    snapshots = list_snapshots(session, vm)
    if snapshots:
        names = ", ".join(f"{snapshot.name!r} ({snapshot.created_at})" for snapshot in snapshots)
        raise DeltaferryError(
            ErrorKind.SNAPSHOT_REFUSED,
            f"change tracking cannot be switched on while VM {instance_uuid} has snapshots; remove these first: {names}",
        )
