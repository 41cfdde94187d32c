"""A replication driven step by step by the activities themselves, without Temporal: what `run_cycle` does, cut wherever a test likes."""

import dataclasses
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from azure.core.exceptions import ResourceNotFoundError
from blake3 import blake3
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.apply import Apply
from activities.cleanup import SourceCleanup, TargetCleanup
from activities.prerequisites import SourceChecks
from activities.resync import ResyncSource, ResyncTarget
from activities.settling import Settling
from activities.snapshots import Snapshots
from activities.transfer import Transfer
from activities.verification import Verification
from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import gateway_container, log_container, seed_container, seed_name
from deltaferry.model.quiescing import QuiesceOrder
from deltaferry.model.recovery_points import PointKind, record_of
from deltaferry.model.replication import CycleKind, DiskBase, PlanRef, RecoveryPoint, ReplicationRef
from deltaferry.planning.ladder import Rung
from lab.configuration import ACCOUNTS, INSTALLATION
from lab.control_client import BlobAction, BlobFault
from lab.settings import SITE, TARGET
from lab.world import World
from tests.e2e.replicated import Replicated
from workers.settings import load_settings
from workers.wiring import build_site, build_target
from workflows.messages.operator_input import TargetProperties
from workflows.messages.replication_state import DiskPosition, EntityState, Replication
from workflows.messages.site import CheckSourceInput
from workflows.messages.step import (
    AppliedChunk,
    ApplyInput,
    BeginCycleInput,
    BeginResyncInput,
    BegunCycle,
    BegunResync,
    CheckedSeed,
    CheckSeedInput,
    ChunkDisk,
    CleanSourceInput,
    CompareDisk,
    CompareInput,
    OnReplication,
    PlannedDisk,
    PlanResyncInput,
    SealInput,
    SentChunk,
    SettleInput,
    TransferInput,
    VerifyChunksInput,
)

A = TypeVar("A")
R = TypeVar("R")

_HOLD_MANY = 10_000
_POLL_S = 0.02
_HELD_WITHIN_S = 120.0

NO_CONTAINER = "no container"
"""What a picture says of a container that is not there."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a resync's comparisons found."""

    differing: tuple[tuple[int, PlanRef], ...]
    compared_bytes: int
    checks: tuple[CheckedSeed, ...]
    rounds: int

    @property
    def differing_bytes(self) -> int:
        return sum(plan.covered_bytes for _, plan in self.differing)


class NotIdempotentError(AssertionError):
    """A step that was carried out a second time changed something."""


class ByHand:
    """One VM's replication. Fields hold what the entity's state would hold; `again` says before each step whether to repeat it."""

    def __init__(
        self, vm: Replicated, chunk_max_bytes: int, again: Callable[[], bool], chunk_max: timedelta = timedelta(minutes=15)
    ) -> None:
        world = vm.world
        settings = load_settings(world.config_file, world.environment)
        site, self._close = build_site(settings, SITE)
        site = dataclasses.replace(site, chunk_max_bytes=chunk_max_bytes, chunk_max=chunk_max)
        sites, targets = {SITE: site}, {TARGET: dataclasses.replace(build_target(settings, TARGET), chunk_max=chunk_max)}
        self.vm = vm
        self.snapshots, self.transfers = Snapshots(sites), Transfer(sites)
        self.applies, self.verification, self._settling = Apply(targets), Verification(targets), Settling(targets)
        self.resync_source, self.resync_target = ResyncSource(sites), ResyncTarget(targets)
        self._source_cleanup, self._target_cleanup = SourceCleanup(sites), TargetCleanup(targets)
        self._again = again
        self._stores = {store: vm.blobs(store) for store in ACCOUNTS}
        checked = ActivityEnvironment().run(
            SourceChecks(sites).check_source, CheckSourceInput(site.profile, vm.name, TargetProperties())
        )
        ref = ReplicationRef(INSTALLATION, SITE, TARGET, checked.instance_uuid, uuid.uuid4().hex[:16])
        self.replication = Replication(ref, checked.vm_name, site.profile, checked.disks, checked.generation, checked.os_type)
        self.state = EntityState()
        self.repeated: set[str] = set()

    def close(self) -> None:
        """Log out of vCenter, and close the connections to the stores."""
        self._close()
        for client in self._stores.values():
            client.close()

    @property
    def world(self) -> World:
        return self.vm.world

    # --- steps ---

    def do(self, step: Callable[[A], R], request: A) -> R:
        """Carry out a step, and perhaps once more with the same input, which must not change anything."""
        result = ActivityEnvironment().run(step, request)
        if self._again():
            self.repeated.add(step.__name__)
            before = self.picture()
            result = ActivityEnvironment().run(step, request)
            after = self.picture()
            changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
            if changed:
                raise NotIdempotentError(f"{step.__name__}, carried out twice, changed {changed}")
        return result

    def cut(self, step: Callable[[A], Any], request: A, operation: str, store: str, after: int) -> None:
        """Start a step, and end it in the middle: after some requests to a store, the worker is told to shut down."""
        control = self.world.blob_control
        control.order(BlobFault(BlobAction.HOLD, operation=operation, account=ACCOUNTS[store], skip=after, count=_HOLD_MANY))
        environment = ActivityEnvironment()
        unexpected: list[BaseException] = []

        def run() -> None:
            try:
                environment.run(step, request)
            except ApplicationError as error:
                if error.type != ErrorKind.INTERRUPTED.value:
                    unexpected.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + _HELD_WITHIN_S
        while thread.is_alive() and not control.held() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        environment.worker_shutdown()
        thread.join()
        control.clear_faults()
        assert not unexpected, unexpected

    def prepare(self) -> None:
        """Do what enabling does."""
        on = OnReplication(self.replication)
        self.do(self.applies.prepare_target, on)
        self.do(self.snapshots.prepare_source, on)
        self.state.bases = tuple(DiskBase(disk.key, None, 0) for disk in self.replication.disks)

    def new_cycle_key(self) -> str:
        """Return the key of a cycle that is about to begin."""
        self.state.cycles_minted += 1
        return f"{self.state.cycles_minted}-{uuid.uuid4()}"

    def begin(self, kind: CycleKind, sample_share: float = 0.0, cycle_number: int = 0) -> tuple[str, BegunCycle]:
        """Take a new cycle's snapshot and plan it."""
        cycle_key = self.new_cycle_key()
        return cycle_key, self.begin_again(cycle_key, kind, sample_share, cycle_number)

    def quiesce_request(self, cycle_key: str, order: QuiesceOrder) -> BeginCycleInput:
        """Return what begins a delta cycle of that key that has the guest quiesced."""
        return BeginCycleInput(self.replication, cycle_key, CycleKind.DELTA, self.state.bases, self.state.dirty, quiesce=order)

    def begin_quiesced(self, cycle_key: str, order: QuiesceOrder) -> BegunCycle:
        """Begin a delta cycle that has the guest quiesced, or a repetition of it."""
        return self.do(self.snapshots.begin_cycle, self.quiesce_request(cycle_key, order))

    def begin_again(self, cycle_key: str, kind: CycleKind, sample_share: float = 0.0, cycle_number: int = 0) -> BegunCycle:
        """Carry out the beginning of a cycle of that key, as a repetition does."""
        return self.do(
            self.snapshots.begin_cycle,
            BeginCycleInput(self.replication, cycle_key, kind, self.state.bases, self.state.dirty, sample_share, cycle_number),
        )

    def unsent(self, begun: BegunCycle) -> list[ChunkDisk]:
        """Return what has to be sent of a cycle that has just begun."""
        return [ChunkDisk(disk.disk_key, disk.plan, 0) for disk in begun.disks if disk.plan.segments]

    def transfer_request(self, cycle_key: str, begun: BegunCycle, left: list[ChunkDisk]) -> TransferInput:
        return TransferInput(self.replication, cycle_key, begun.snapshot, tuple(left))

    def send(self, cycle_key: str, begun: BegunCycle, left: list[ChunkDisk]) -> tuple[tuple[SentChunk, ...], list[ChunkDisk]]:
        """Send one chunk of each disk; return the chunks and what is left."""
        chunks = self.do(self.transfers.transfer, self.transfer_request(cycle_key, begun, left)).chunks
        reached = {chunk.disk_key: chunk.next_segment for chunk in chunks}
        rest = [ChunkDisk(disk.disk_key, disk.plan, reached[disk.disk_key]) for disk in left]
        return chunks, [disk for disk in rest if disk.first_segment < disk.plan.segments]

    def mark_dirty(self, begun: BegunCycle) -> None:
        """Note, before the first write, which areas may be written from now on."""
        self.state.dirty += tuple((disk.disk_key, disk.plan) for disk in begun.disks if disk.plan.segments)

    def apply_request(self, cycle_key: str, chunks: tuple[SentChunk, ...], kind: CycleKind) -> ApplyInput:
        self.state.fence += 1
        return ApplyInput(self.replication, cycle_key, self.state.fence, chunks, kind is CycleKind.INITIAL)

    def apply(self, cycle_key: str, chunks: tuple[SentChunk, ...], kind: CycleKind) -> tuple[AppliedChunk, ...]:
        """Apply one chunk of each disk under a new number."""
        return self.do(self.applies.apply, self.apply_request(cycle_key, chunks, kind)).chunks

    def verify(self, cycle_key: str, begun: BegunCycle, applied: tuple[AppliedChunk, ...]) -> None:
        """Check an initial replication's chunks, and delete their log."""
        self.do(self.verification.verify_chunks, VerifyChunksInput(self.replication, cycle_key, self.plans(begun), applied))

    def plans(self, begun: BegunCycle) -> tuple[tuple[int, PlanRef], ...]:
        return tuple((disk.disk_key, disk.plan) for disk in begun.disks)

    def seal(
        self, cycle_key: str, begun: BegunCycle, applied: tuple[AppliedChunk, ...], verified: tuple[tuple[int, int], ...] = ()
    ) -> RecoveryPoint:
        """Seal, verify, take the recovery point."""
        self.state.fence += 1
        plans = self.plans(begun)
        request = SealInput(self.replication, cycle_key, begun.taken_at, self.state.fence, plans, applied, verified)
        return self.do(self.verification.seal_cycle, request).point

    def commit(self, begun: BegunCycle, point: RecoveryPoint) -> None:
        """Write the new bases, then settle."""
        capacities = {disk.key: disk.capacity_bytes for disk in self.replication.disks}
        self.state.bases = tuple(DiskBase(disk.disk_key, disk.change_id, capacities[disk.disk_key]) for disk in begun.disks)
        kind = begun.quiesce.kind if begun.quiesce is not None else PointKind.CRASH_CONSISTENT
        note = begun.quiesce.note if begun.quiesce is not None else ""
        record = record_of(point, self.replication.disks, datetime.now(UTC), kind=kind, note=note)
        self.state.point, self.state.dirty = record, ()
        self.state.cycles_committed += 1
        self.do(self._settling.settle_cycle, SettleInput(self.replication, self.state, at=datetime.now(UTC)))

    # --- resync ---

    def begin_resync(self, rung: Rung) -> tuple[str, BegunResync]:
        """Take a resync pass's snapshot and survey everything, as where no change id can be trusted."""
        self.state.cycles_minted += 1
        cycle_key = f"{self.state.cycles_minted}-{uuid.uuid4()}"
        bases = tuple(DiskBase(disk.key, None, 0) for disk in self.replication.disks)
        return cycle_key, self.do(
            self.resync_source.begin_resync, BeginResyncInput(self.replication, cycle_key, rung, bases, self.state.dirty)
        )

    def check_seeds(self, cycle_key: str, positions: tuple[DiskPosition, ...], *, seal: bool) -> tuple[CheckedSeed, ...]:
        """Check a chunk of each seed against its checksum map."""
        self.state.fence += seal
        fence = self.state.fence if seal else None
        return self.do(self.resync_target.check_seed, CheckSeedInput(self.replication, cycle_key, fence, positions)).disks

    def scrub(self) -> tuple[CheckedSeed, ...]:
        """Check all seeds whole, between two cycles."""
        capacities = {disk.key: disk.capacity_bytes for disk in self.replication.disks}
        self.state.cycles_minted += 1
        cycle_key = f"{self.state.cycles_minted}-{uuid.uuid4()}"
        left = tuple(DiskPosition(key, 0) for key in capacities)
        found: list[CheckedSeed] = []
        while left:
            checked = self.check_seeds(cycle_key, left, seal=False)
            found += checked
            left = tuple(
                DiskPosition(seed.disk_key, seed.position_bytes)
                for seed in checked
                if seed.position_bytes < capacities[seed.disk_key]
            )
        return tuple(found)

    def compare(self, cycle_key: str, begun: BegunResync, rung: Rung) -> Found:
        """Check seeds and compare the source, chunk by chunk, to the disks' ends."""
        capacities = {disk.key: disk.capacity_bytes for disk in self.replication.disks}
        surveys = {disk.disk_key: disk.survey for disk in begun.disks}
        positions = dict.fromkeys(capacities, 0)
        differing: list[tuple[int, PlanRef]] = []
        checks: list[CheckedSeed] = []
        compared = rounds = 0
        while left := tuple(DiskPosition(key, at) for key, at in positions.items() if at < capacities[key]):
            checked = {seed.disk_key: seed for seed in self.check_seeds(cycle_key, left, seal=not rounds)}
            checks += checked.values()
            rounds += 1
            while checked:
                parts = tuple(
                    CompareDisk(key, surveys[key], positions[key], seed.position_bytes, seed.check)
                    for key, seed in checked.items()
                )
                request = CompareInput(self.replication, cycle_key, begun.snapshot, rung, parts)
                for found in self.do(self.resync_source.compare_source, request).disks:
                    assert found.position_bytes > positions[found.disk_key]
                    positions[found.disk_key] = found.position_bytes
                    differing.append((found.disk_key, found.differing))
                    compared += found.compared_bytes
                    if found.position_bytes >= checked[found.disk_key].position_bytes:
                        del checked[found.disk_key]
        return Found(tuple(differing), compared, tuple(checks), rounds)

    def plan_resync(self, cycle_key: str, begun: BegunResync, found: Found) -> BegunCycle:
        """Return the pass as the cycle that sends what differs, and what has to be sent anyway."""
        plans = tuple(
            (disk.disk_key, (disk.known, *(plan for key, plan in found.differing if key == disk.disk_key)))
            for disk in begun.disks
        )
        request = PlanResyncInput(self.replication, cycle_key, plans)
        planned = dict(self.do(self.resync_target.plan_resync, request).plans)
        disks = tuple(PlannedDisk(disk.disk_key, disk.change_id, planned[disk.disk_key]) for disk in begun.disks)
        return BegunCycle(begun.snapshot, begun.taken_at, begun.powered_on, disks, begun.placement)

    def resync(self, rung: Rung = Rung.ALLOCATED) -> tuple[Found, list[bytes], RecoveryPoint]:
        """Resynchronise in one pass and commit; return what differed, the snapshot's bytes, and the recovery point."""
        cycle_key, begun = self.begin_resync(rung)
        found = self.compare(cycle_key, begun, rung)
        cycle = self.plan_resync(cycle_key, begun, found)
        frozen = self.snapshot_bytes(cycle)
        self.mark_dirty(cycle)
        point = self.carry(cycle_key, cycle)
        self.commit(cycle, point)
        self.release()
        return found, frozen, point

    def carry(self, cycle_key: str, begun: BegunCycle) -> RecoveryPoint:
        """Send and apply all of a pass that is not an initial replication, and seal it."""
        left = self.unsent(begun)
        applied: list[AppliedChunk] = []
        while left:
            sent, left = self.send(cycle_key, begun, left)
            applied += self.apply(cycle_key, sent, CycleKind.DELTA)
        return self.seal(cycle_key, begun, tuple(applied))

    def initial(self) -> RecoveryPoint:
        """Do the initial replication, and commit it."""
        cycle_key, begun = self.begin(CycleKind.INITIAL)
        left = self.unsent(begun)
        while left:
            sent, left = self.send(cycle_key, begun, left)
            self.verify(cycle_key, begun, self.apply(cycle_key, sent, CycleKind.INITIAL))
        point = self.seal(cycle_key, begun, (), tuple((disk.disk_key, disk.plan.segments) for disk in begun.disks))
        self.commit(begun, point)
        self.release()
        return point

    def delta(self) -> RecoveryPoint:
        """Do a delta cycle, and commit it."""
        cycle_key, begun = self.begin(CycleKind.DELTA)
        self.mark_dirty(begun)
        point = self.carry(cycle_key, begun)
        self.commit(begun, point)
        self.release()
        return point

    def release(self) -> None:
        self.do(self.snapshots.release_snapshot, OnReplication(self.replication))

    def discard_logs(self) -> None:
        self.do(self._settling.discard_logs, OnReplication(self.replication))

    def clean(self) -> None:
        """End the replication."""
        self.do(self._source_cleanup.clean_source, CleanSourceInput(self.replication, True))
        self.do(self._target_cleanup.clean_target, OnReplication(self.replication))

    # --- oracles ---

    def snapshot_bytes(self, begun: BegunCycle) -> list[bytes]:
        """Return the source's disks as a cycle's snapshot froze them."""
        frozen = []
        for disk in self.vm.source.disks:
            with tempfile.TemporaryDirectory(dir=self.world.directory) as folder:
                dump = Path(folder) / "frozen.raw"
                self.world.vcenter_control.dump(self.vm.source.moref, disk.key, dump, snapshot=begun.snapshot)
                frozen.append(dump.read_bytes())
        return frozen

    def seeds(self, point: RecoveryPoint) -> list[bytes]:
        """Return the replica as a recovery point has it."""
        snapshots = dict(point.snapshots)
        return [self._seed(disk.key, disk.capacity_bytes, snapshots[disk.key]) for disk in self.vm.source.disks]

    def present_seeds(self) -> list[bytes]:
        """Return the replica as it is now."""
        return [self._seed(disk.key, disk.capacity_bytes, None) for disk in self.vm.source.disks]

    def _seed(self, key: int, capacity_bytes: int, snapshot: str | None) -> bytes:
        blob = self._stores["seed"].get_blob_client(seed_container(self.replication.ref), seed_name(key), snapshot=snapshot)
        return blob.download_blob().readall()[:capacity_bytes]

    def picture(self) -> Mapping[str, object]:
        """Return all that this replication has on both sides, by name.

        Segments and blob snapshots are write-once, so their ETag says enough; of all else the content counts, since a
        step may well write again what is there.
        """
        vm = self.world.vcenter_control.vm(self.vm.name)
        seen: dict[str, object] = {
            "snapshots": [(snapshot.moref, snapshot.name) for snapshot in vm.snapshots],
            "configuration": (vm.change_tracking, vm.consolidation_needed, vm.power, vm.annotation, dict(vm.extra_config)),
            "disks": [(disk.key, disk.file_name, disk.tracking_uuid) for disk in vm.disks],
        }
        ref = self.replication.ref
        containers = {"log": log_container(ref), "gateway": gateway_container(ref), "seed": seed_container(ref)}
        for store, name in containers.items():
            container = self._stores[store].get_container_client(name)
            try:
                for blob in container.list_blobs(include=["snapshots", "metadata"]):
                    once = store == "log" or blob.snapshot is not None
                    content = blob.etag if once else blake3(container.download_blob(blob.name).readall()).hexdigest()
                    present = content, dict(blob.metadata or {}), blob.page_blob_sequence_number
                    seen[f"{name}/{blob.name}@{blob.snapshot or 'now'}"] = present
            except ResourceNotFoundError:
                seen[name] = NO_CONTAINER
        return seen


def random_write(vm: Replicated, source: random.Random, largest_sectors: int) -> None:
    """Have the guest write random data or zeros somewhere, often at a disk's very end."""
    disk = source.randrange(len(vm.source.disks))
    sectors = vm.source.disks[disk].capacity_bytes // 512
    length = min(sectors, source.randint(1, largest_sectors))
    offset = sectors - length if source.random() < 0.2 else source.randrange(sectors - length + 1)
    data = bytes(length * 512) if source.random() < 0.3 else source.randbytes(length * 512)
    vm.write(disk, offset * 512, data)
