"""The room on the datastores that a VM's snapshots grow on."""

import logging
import re
from collections.abc import Iterable
from typing import Any

from deltaferry.model.vm import DatastoreSpace
from deltaferry.vsphere.devices import datastores as datastores_of_disks
from deltaferry.vsphere.errors import fault_name
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import ObjectProperties, moref, read_object, read_objects, unescaped
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

_log = logging.getLogger(__name__)

_PATHS = ("config.hardware.device", "config.files.vmPathName", "config.files.snapshotDirectory", "datastore")

_FOLDER = re.compile(r"\[(?P<datastore>[^]]*)\]")
"""A datastore path is written `[ds1] web-01/web-01.vmx`; vSphere escapes brackets in a datastore's name."""

_NOT_REFRESHED = (vim.fault.NotFound, vim.fault.HostConfigFault, vmodl.fault.NotSupported)
"""The declared faults of RefreshDatastore, met where no host of the datastore answers; and a server that has no such method."""


def datastore_space(session: Session, instance_uuid: str) -> tuple[DatastoreSpace, ...]:
    """Return the room on every datastore that the VM's disks or snapshots are on, by name, as it is at this moment.

    vCenter brings `summary.freeSpace` up to date only now and then, unless RefreshDatastore asks it to (vSphere API
    reference, DatastoreSummary); where that cannot be done, its last word counts. A datastore that is not accessible has
    no valid numbers, and is left out.
    """
    row = read_object(session, locate(session, instance_uuid), _PATHS)
    spaces = []
    for store in _datastores(session, row):
        refresh(store)
        summary = read_object(session, store, ["summary"]).get("summary")
        if summary.accessible:
            spaces.append(DatastoreSpace(unescaped(summary.name), int(summary.capacity), int(summary.freeSpace)))
    return tuple(sorted(spaces, key=lambda space: space.name))


def _datastores(session: Session, row: ObjectProperties) -> Iterable[ManagedObject]:
    """Return the datastores of the disks, of the VM's home and of its snapshot directory; not those of an attached ISO image."""
    found = {moref(store): store for store in datastores_of_disks(row.get("config.hardware.device") or ())}
    folders = _names(row.get("config.files.vmPathName"), row.get("config.files.snapshotDirectory"))
    others = [store for store in row.get("datastore") or () if moref(store) not in found]
    for other in read_objects(session, others, ["name"]):
        if unescaped(other.get("name") or "") in folders:
            found[other.moref] = other.reference
    return found.values()


def _names(*paths: Any) -> set[str]:
    matches = (_FOLDER.match(path) for path in paths if path)
    return {unescaped(match["datastore"]) for match in matches if match is not None}


def refresh(store: ManagedObject) -> None:
    """Have vCenter look how much room a datastore has; where no host of it answers, its last word counts."""
    try:
        store.RefreshDatastore()
    except _NOT_REFRESHED as fault:
        _log.warning("the free space of datastore %s may be out of date: %s", moref(store), fault_name(fault))
