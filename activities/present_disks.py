"""A final pass without a snapshot: a source that is off is read as it is where vSphere takes no snapshot of it.

While the pass reads, a disk is held open, so that the VM cannot be powered on; before and after each reading the VM is off,
and its disks' change ids and content ids are those of the plan (docs/decisions/0014-final-pass-without-a-snapshot.md).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter
from temporalio import activity

from activities.adapters import Site
from activities.held_snapshots import take_snapshot
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import gateway_container, present_name
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.vm import Snapshot, SnapshotDisk
from workflows.messages.replication_state import Replication

PATIENCE = timedelta(seconds=30)
"""How long a final cycle tries to get its snapshot: the source is off, and every second of it is downtime."""

_POLL_S = 2.0

_GATE_FAILED = frozenset(
    {ErrorKind.CONSOLIDATION_STUCK, ErrorKind.SNAPSHOT_REFUSED, ErrorKind.DATASTORE_FULL, ErrorKind.VSPHERE_BUSY}
)
"""Why vSphere takes no snapshot, or must not be asked for one, though it can be asked for everything else."""

_PRESENT = TypeAdapter(Snapshot)


def snapshot_or_present(site: Site, ref: ReplicationRef, cycle_key: str, beats: Heartbeats) -> Snapshot:
    """Return the snapshot of a final cycle whose source is off, or its disks as they are where none was to be had in time.

    The limit runs from the first attempt, however often the worker dies; once the disks were chosen, they stay chosen.
    Raises SOURCE_MOVED_ON, SNAPSHOT_LOST.
    """
    if site.stores.gateway.get_if_exists(_record(ref, cycle_key)) is not None:
        return present_disks(site, ref, cycle_key)
    deadline = activity.info().scheduled_time + PATIENCE

    def gate_beat() -> None:
        beats.beat()
        if datetime.now(UTC) >= deadline:
            sentence = f"The VM's disks were still being merged after {PATIENCE.total_seconds():.0f} s."
            raise DeltaferryError(ErrorKind.CONSOLIDATION_STUCK, sentence)

    refused: DeltaferryError | None = None
    while refused is None or datetime.now(UTC) < deadline:
        try:
            return take_snapshot(site, ref, cycle_key, beats.beat, gate_beat)
        except DeltaferryError as error:
            if error.kind not in _GATE_FAILED:
                raise
            refused = error
        beats.beat()
        time.sleep(_POLL_S)
    activity.logger.warning("the final pass reads without a snapshot: %s: %s", refused.kind.value, refused.detail)
    present = site.hypervisor.read_present_disks(ref.instance_uuid)
    site.stores.gateway.put_new(_record(ref, cycle_key), _PRESENT.dump_json(present))
    return present_disks(site, ref, cycle_key)


def present_disks(site: Site, ref: ReplicationRef, cycle_key: str) -> Snapshot:
    """Return the source's disks under their present files, of the time when the pass was planned.

    Raises SOURCE_MOVED_ON unless the VM is off and nobody has written to its disks, or taken a snapshot of them, since.
    """
    planned = _PRESENT.validate_json(site.stores.gateway.get(_record(ref, cycle_key)))
    present = site.hypervisor.read_present_disks(ref.instance_uuid)
    moved = {_identity(disk) for disk in planned.disks} ^ {_identity(disk) for disk in present.disks}
    if moved:
        keys = ", ".join(map(str, sorted({identity[0] for identity in moved})))
        raise DeltaferryError(
            ErrorKind.SOURCE_MOVED_ON, f"Disks {keys} of the source are not as they were when the pass was planned."
        )
    return replace(present, created_at=planned.created_at)


@contextmanager
def held_still(site: Site, replication: Replication, cycle_key: str) -> Iterator[None]:
    """Hold a disk of the source open as long as the context lasts: one locked disk keeps the whole VM from being powered on.

    Raises SOURCE_MOVED_ON unless the source is held as it was when the pass was planned.
    """
    ref = replication.ref
    vm = site.hypervisor.read_vm(ref.instance_uuid)
    disks = present_disks(site, ref, cycle_key)
    with site.exports.open(vm, disks, replication.disks[0].key) as address, site.plane.hold(address):
        present_disks(site, ref, cycle_key)
        yield


def _record(ref: ReplicationRef, cycle_key: str) -> str:
    return f"{gateway_container(ref)}/{present_name(cycle_key)}"


def _identity(disk: SnapshotDisk) -> tuple[int, int, str | None, str | None]:
    """Return what stays as long as nobody writes; a consolidation may change the file's name, and nothing else."""
    return disk.key, disk.capacity_bytes, disk.change_id, disk.content_id
