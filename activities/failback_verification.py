"""Both checks of spec §4 on a chunk that was written to the site, and what a pass leaves to delete."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import Target
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.blocks.account import decode_account
from deltaferry.blocks.manifest import decode_manifest, require_same
from deltaferry.blocks.plan import decode_plan, source_set
from deltaferry.blocks.sector_sets import SectorSet, require_equal
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import FAILBACK_LEFT, cycle_prefix, gateway_container, log_container, segment_name
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
            manifest = decode_manifest(stores.gateway.get(chunk.manifest.key))
            account = decode_account(stores.gateway.get(chunk.covered.key))
            theirs = (account.cycle_key, account.disk_key, account.first_segment)
            if theirs != (manifest.cycle_key, manifest.disk_key, manifest.first_segment):
                raise DeltaferryError(
                    ErrorKind.MANIFEST_MISMATCH, f"{chunk.covered.key} is not the account of {chunk.manifest.key}."
                )
            require_same(manifest.segments, account.applied, chunk.manifest.key)
            plan = decode_plan(stores.gateway.get(plans[chunk.disk_key].ref.key))
            planned = source_set(plan, chunk.first_segment, chunk.next_segment)
            what = f"{plans[chunk.disk_key].ref.key}, segments {chunk.first_segment} to {chunk.next_segment}"
            require_equal(planned, SectorSet.decode(account.covered), what)
            names = [segment_name(request.cycle_key, chunk.disk_key, segment.number) for segment in account.applied]
            stores.log.delete_objects(log_container(ref), names)

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
