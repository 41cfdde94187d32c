"""The end of a replication: nothing of ours stays behind on either side."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import Site, Target
from activities.datastore_guard import require_room
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import gateway_container, log_container, seed_container, snapshot_prefix
from deltaferry.model.vm import Claim
from workflows.messages.step import CleanSourceInput, OnReplication


class SourceCleanup:
    """Gives the source VM back as it was."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def clean_source(self, request: CleanSourceInput) -> None:
        """Remove our snapshots, consolidate, switch CBT off if we switched it on, and remove the claim last.

        A VM that is gone needs nothing of us; one that another replication has claimed loses our snapshots, and is else left alone.
        Raises DATASTORE_FULL without room for the snapshot that makes switching CBT off take effect.
        """
        beats = Heartbeats("removing what is ours from the source VM")
        ref = request.replication.ref
        hypervisor = self._sites[ref.site].hypervisor
        try:
            vm = hypervisor.read_vm(ref.instance_uuid)
        except DeltaferryError as error:
            if error.kind is ErrorKind.VM_NOT_FOUND:
                return
            raise
        ours = Claim(ref.installation, ref.replication_id)
        hypervisor.await_creations(ref.instance_uuid, beats.beat)
        vm = hypervisor.read_vm(ref.instance_uuid)
        snapshots = [snapshot for snapshot in vm.snapshots if snapshot.name.startswith(snapshot_prefix(ref))]
        for snapshot in snapshots:
            hypervisor.remove_snapshot(ref.instance_uuid, snapshot.moref, beats.beat)
        if snapshots or vm.claim == ours:
            hypervisor.consolidate(ref.instance_uuid, beats.beat)
        if vm.claim != ours:
            return
        if request.disable_change_tracking:
            if vm.cbt_enabled:
                require_room(self._sites[ref.site], ref)
            hypervisor.set_change_tracking(ref.instance_uuid, False, f"{snapshot_prefix(ref)}0-tracking", beats.beat)
        hypervisor.write_claim(ref.instance_uuid, None, expected=ours)


class TargetCleanup:
    """Deletes seeds, logs, bookkeeping and the wrapped data key."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def clean_target(self, request: OnReplication) -> None:
        """Delete the replication's three containers; the gateway's last, since `adopt` finds a replication by it."""
        beats = Heartbeats("deleting seed disks, logs and bookkeeping")
        ref = request.replication.ref
        stores = self._targets[ref.target].stores
        stores.log.delete_container(log_container(ref))
        beats.beat()
        stores.seeds.delete_container(seed_container(ref))
        beats.beat()
        stores.gateway.delete_container(gateway_container(ref))
