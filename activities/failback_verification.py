"""Both checks of spec §4 on a chunk that was written to the site, and what a pass leaves to delete."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import Target
from activities.failures import translated
from activities.progress import Heartbeats
from activities.sent_chunks import check_account, names_in_log
from deltaferry.blocks.plan import decode_plan, source_set
from deltaferry.blocks.sector_sets import SectorSet, require_equal
from deltaferry.model.naming import FAILBACK_LEFT, cycle_prefix, gateway_container, log_container
from workflows.messages.failback import (
    DiscardBackInput,
)
from workflows.messages.step import OnReplication, VerifyChunksInput


class FailbackVerification:
    """Compares what was planned with the writer's own account, beside the stores."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def verify_back(self, request: VerifyChunksInput) -> None:
        """Check chunks: the sectors planned are those written and read back, the objects listed are those applied.

        Then their log is deleted, so that it stays small. The checksum maps are left alone: they are the seeds'.
        Raises COVERAGE_MISMATCH, MANIFEST_MISMATCH.
        """
        beats = Heartbeats("verifying what was written to the site")
        ref = request.replication.ref
        stores = self._targets[ref.target].stores
        plans = dict(request.plans)
        for chunk in request.chunks:
            beats.beat()
            listed, account = check_account(stores, chunk)
            plan = decode_plan(stores.gateway.get(plans[chunk.disk_key].ref.key))
            planned = source_set(plan, chunk.first_segment, chunk.next_segment)
            what = f"{plans[chunk.disk_key].ref.key}, segments {chunk.first_segment} to {chunk.next_segment}"
            require_equal(planned, SectorSet.decode(account.covered), what)
            stores.log.delete_objects(log_container(ref), names_in_log(listed))

    @activity.defn
    @translated
    def forget_site(self, request: OnReplication) -> None:
        """Delete the record of how we left the disks at the site: failback is over, and a later one compares everything first."""
        ref = request.replication.ref
        self._targets[ref.target].stores.gateway.delete_objects(gateway_container(ref), [FAILBACK_LEFT])

    @activity.defn
    @translated
    def discard_back(self, request: DiscardBackInput) -> None:
        """Delete everything that a pass has stored: hashes, plans, manifests, accounts, and what is left of its log."""
        ref = request.replication.ref
        stores = self._targets[ref.target].stores
        stores.log.delete_prefix(log_container(ref), cycle_prefix(request.cycle_key))
        stores.gateway.delete_prefix(gateway_container(ref), cycle_prefix(request.cycle_key))
