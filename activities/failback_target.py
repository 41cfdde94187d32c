"""Failback in Azure Resource Manager: the VM that is failed over, and the snapshots of its managed disks."""

from collections.abc import Mapping
from datetime import datetime

from temporalio import activity

from activities.adapters import Target
from activities.failures import translated
from activities.progress import Heartbeats
from activities.target_vm import ResolvedTarget, disk_name, ownership_tags, resolve
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import disk_snapshot_name
from deltaferry.model.units import MIB, round_up
from deltaferry.ports.failback import TargetDisk
from workflows.messages.failback import (
    DropSnapshotsInput,
    OnTarget,
    SnapshotTargetInput,
    TakenSnapshots,
    TargetSurvey,
)
from workflows.messages.operator_input import TargetProperties
from workflows.messages.replication_state import Replication

_PASS_TAG, _DISK_TAG = "deltaferry-pass", "deltaferry-disk"


class FailbackTarget:
    """Looks at the VM in Azure, stops and starts it, and takes and deletes snapshots of its disks."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def survey_failed_over(self, request: OnTarget) -> TargetSurvey:
        """Match the disks of the VM in Azure with those at the site; say which have no counterpart there.

        Raises AZURE_NOT_FOUND, AZURE_CONFLICT, DISKS_CHANGED for a disk that is missing in Azure, or smaller than at the site.
        """
        beats = Heartbeats("looking at the VM in Azure")
        target, vm = self._of(request.replication, request.target)
        found = target.cloud.read_target_vm(vm.resource_group, vm.name, ownership_tags(request.replication.ref), beats.beat)
        left = {disk.resource_id: disk for disk in found.disks}
        matched, sentences = [], []
        for disk in request.replication.disks:
            name = disk_name(vm.name, disk.key, is_boot=disk.is_boot)
            attached = next((one for one in left.values() if one.owned and _leaf(one).lower() == name.lower()), None)
            if attached is None or attached.size_bytes < disk.capacity_bytes:
                has = "is missing" if attached is None else f"has {attached.size_bytes} bytes"
                raise DeltaferryError(
                    ErrorKind.DISKS_CHANGED,
                    f"In Azure, disk {name} {has}; {disk.label!r} at the site has {disk.capacity_bytes} bytes.",
                )
            del left[attached.resource_id]
            matched.append((disk.key, attached.resource_id))
            if attached.size_bytes > round_up(disk.capacity_bytes, MIB):
                sentences.append(
                    f"Disk {name} has grown in Azure: {disk.label!r} at the site keeps its {disk.capacity_bytes} bytes,"
                    " and what lies behind them does not come back."
                )
        sentences += [
            f"Disk {_leaf(added)} was added in Azure: it has no counterpart at the site and does not come back."
            for added in left.values()
        ]
        return TargetSurvey(found.resource_id, found.running, tuple(matched), tuple(sentences))

    @activity.defn
    @translated
    def snapshot_target(self, request: SnapshotTargetInput) -> TakenSnapshots:
        """Take a pass's incremental snapshot of each disk. One that an earlier attempt took is taken as it is.

        They are of moments that lie close together, not of one: what counts is the final pass, of a VM that is stopped.
        Raises AZURE_CONFLICT, AZURE_QUOTA for too many snapshots, AZURE_THROTTLED for too many at once.
        """
        beats = Heartbeats("taking snapshots of the managed disks")
        ref = request.replication.ref
        target, vm = self._of(request.replication, request.target)
        taken, times = [], list[datetime]()
        for disk_key, disk_id in request.disks:
            tags = {**ownership_tags(ref), _PASS_TAG: request.cycle_key, _DISK_TAG: str(disk_key)}
            name = disk_snapshot_name(ref, disk_key, request.cycle_key)
            snapshot = target.cloud.take_disk_snapshot(vm.resource_group, name, disk_id, tags, beats.beat)
            taken.append((disk_key, snapshot.name))
            times.append(snapshot.taken_at)
        return TakenSnapshots(tuple(taken), min(times))

    @activity.defn
    @translated
    def drop_snapshots(self, request: DropSnapshotsInput) -> None:
        """End access to the replication's snapshots of managed disks and delete them, but for those to keep."""
        beats = Heartbeats("deleting snapshots of the managed disks")
        target, vm = self._of(request.replication, request.target)
        tags = ownership_tags(request.replication.ref)
        for snapshot in target.cloud.list_disk_snapshots(vm.resource_group, tags, beats.beat):
            if snapshot.name not in request.keep:
                target.cloud.delete_disk_snapshot(vm.resource_group, snapshot.name, tags, beats.beat)

    @activity.defn
    @translated
    def stop_target(self, request: OnTarget) -> None:
        """Stop and deallocate the VM in Azure; no-op if it is so. Raises AZURE_NOT_FOUND, AZURE_CONFLICT."""
        beats = Heartbeats("stopping the VM in Azure")
        target, vm = self._of(request.replication, request.target)
        target.cloud.deallocate(vm.resource_group, vm.name, ownership_tags(request.replication.ref), beats.beat)

    @activity.defn
    @translated
    def start_target(self, request: OnTarget) -> None:
        """Start the VM in Azure and wait until it runs; no-op if it does. Raises AZURE_NOT_FOUND, AZURE_CONFLICT."""
        beats = Heartbeats("starting the VM in Azure")
        target, vm = self._of(request.replication, request.target)
        target.cloud.start(vm.resource_group, vm.name, ownership_tags(request.replication.ref), beats.beat)

    def _of(self, replication: Replication, properties: TargetProperties) -> tuple[Target, ResolvedTarget]:
        target = self._targets[replication.ref.target]
        return target, resolve(properties, target.defaults, replication.vm_name)


def _leaf(disk: TargetDisk) -> str:
    return disk.resource_id.rpartition("/")[2]
