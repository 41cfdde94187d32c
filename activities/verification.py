"""The two checks of spec §4, the seal, and the snapshots of the recovery point."""

from collections.abc import Iterable, Mapping

from temporalio import activity

from activities.adapters import Stores, Target
from activities.checksum_maps import chunk_key, read_chunk
from activities.failures import translated
from activities.progress import Heartbeats
from activities.sent_chunks import check_account, names_in_log
from deltaferry.blocks.account import TargetAccount
from deltaferry.blocks.checksum_map import decode_updates, encode_chunk, merge
from deltaferry.blocks.plan import decode_plan, source_set
from deltaferry.blocks.sector_sets import SectorSet, require_equal
from deltaferry.model.naming import (
    log_container,
    seed_container,
    seed_name,
)
from deltaferry.model.replication import PlanRef, RecoveryPoint, ReplicationRef
from deltaferry.ports.access import Beat
from workflows.messages.step import SealedCycle, SealInput, VerifyChunksInput


class Verification:
    """Compares what had to be done with what was done; commits nothing itself."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def verify_chunks(self, request: VerifyChunksInput) -> None:
        """Check chunks of an initial replication, bring the checksum maps up to date, and delete their log.

        Raises COVERAGE_MISMATCH, MANIFEST_MISMATCH.
        """
        beats = Heartbeats("verifying")
        ref = request.replication.ref
        stores = self._targets[ref.target].stores
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        plans = dict(request.plans)
        for chunk in request.chunks:
            listed, account = check_account(stores, chunk)
            self._check_coverage(stores, plans[chunk.disk_key], chunk.first_segment, chunk.next_segment, [account])
            self._update_map(stores, ref, chunk.disk_key, capacities[chunk.disk_key], [account])
            beats.beat()
            stores.log.delete_objects(log_container(ref), names_in_log(listed))

    @activity.defn
    @translated
    def seal_cycle(self, request: SealInput) -> SealedCycle:
        """Seal every seed, check the cycle on every disk, update the checksum maps, take the recovery point.

        From the seal on no writer of a lower number reaches a seed, so that what was checked is what the point holds.
        Raises FENCED, COVERAGE_MISMATCH, MANIFEST_MISMATCH.
        """
        beats = Heartbeats("sealing and verifying")
        ref = request.replication.ref
        stores = self._targets[ref.target].stores
        container = seed_container(ref)
        for disk in request.replication.disks:
            stores.seeds.raise_fence(container, seed_name(disk.key), request.seal)
        checked_up_to = dict(request.verified_up_to)
        accounts: dict[int, list[TargetAccount]] = {}
        for disk_key, plan in request.plans:
            beats.beat()
            chunks = sorted((c for c in request.chunks if c.disk_key == disk_key), key=lambda c: c.first_segment)
            accounts[disk_key] = [check_account(stores, chunk)[1] for chunk in chunks]
            first = checked_up_to.get(disk_key, 0)
            self._check_coverage(stores, plan, first, plan.segments, accounts[disk_key])
        for disk in request.replication.disks:
            beats.beat()
            self._update_map(stores, ref, disk.key, disk.capacity_bytes, accounts.get(disk.key, []))
        return SealedCycle(self._take_point(stores, request, beats.beat))

    def _check_coverage(self, stores: Stores, plan_ref: PlanRef, first: int, end: int, accounts: Iterable[TargetAccount]) -> None:
        plan = decode_plan(stores.gateway.get(plan_ref.ref.key))
        covered = SectorSet()
        for account in accounts:
            covered.update(SectorSet.decode(account.covered))
        require_equal(source_set(plan, first, end), covered, f"{plan_ref.ref.key}, segments {first} to {end}")

    def _update_map(
        self, stores: Stores, ref: ReplicationRef, disk_key: int, capacity_bytes: int, accounts: Iterable[TargetAccount]
    ) -> None:
        for account in accounts:
            updates = decode_updates(account.granules)
            for number in updates.chunk_numbers():
                chunk = read_chunk(stores, ref, disk_key, number, capacity_bytes)
                stores.gateway.put(chunk_key(ref, disk_key, number), encode_chunk(merge(chunk, updates)))

    def _take_point(self, stores: Stores, request: SealInput, beat: Beat) -> RecoveryPoint:
        ref = request.replication.ref
        snapshots = []
        for disk in request.replication.disks:
            beat()
            metadata = {"cycle": request.cycle_key, "seal": str(request.seal)}
            snapshot = stores.seeds.snapshot(seed_container(ref), seed_name(disk.key), request.seal, metadata)
            snapshots.append((disk.key, snapshot))
        return RecoveryPoint(request.cycle_key, request.taken_at, request.seal, tuple(snapshots))
