"""Resetting change block tracking: what mends a damaged change tracking file."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import Site
from activities.datastore_guard import require_room
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import snapshot_prefix
from deltaferry.model.vm import Claim
from workflows.messages.step import OnReplication


class Tracking:
    """Switches change tracking off and on again."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def reset_tracking(self, request: OnReplication) -> None:
        """Give every disk of the VM a new tracking UUID. Whatever was known of changes is void afterwards.

        Our own leftover snapshots are for the caller to remove first. Raises TRACKING_RESET_REFUSED, with the snapshots'
        names, while the VM has any, CLAIM_LOST where another replication holds the VM, and DATASTORE_FULL without room for
        the snapshots that make the switching take effect.
        """
        beats = Heartbeats("resetting change tracking")
        ref = request.replication.ref
        hypervisor = self._sites[ref.site].hypervisor
        vm = hypervisor.read_vm(ref.instance_uuid)
        if vm.claim is not None and vm.claim != Claim(ref.installation, ref.replication_id):
            holder = f"replication {vm.claim.replication_id} of {vm.claim.installation!r}"
            raise DeltaferryError(ErrorKind.CLAIM_LOST, f"The VM {vm.name!r} is now claimed by {holder}.")
        marker = f"{snapshot_prefix(ref)}0-tracking"
        held = [snapshot.name for snapshot in vm.snapshots if snapshot.name != marker]
        if held:
            names = ", ".join(repr(name) for name in held)
            raise DeltaferryError(
                ErrorKind.TRACKING_RESET_REFUSED,
                f"Change tracking of {vm.name!r} cannot be reset while the VM has snapshots. Remove these first: {names}.",
            )
        require_room(self._sites[ref.site], ref)
        hypervisor.set_change_tracking(ref.instance_uuid, False, marker, beats.beat)
        hypervisor.set_change_tracking(ref.instance_uuid, True, marker, beats.beat)
