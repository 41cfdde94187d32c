"""Failover and failback of one VM step by step, carried out by a test in its own process against the lab's real servers."""

import dataclasses
import random
import tempfile
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from temporalio.exceptions import ApplicationError

from activities.failback_reading import FailbackReading
from activities.failback_site import FailbackSite
from activities.failback_target import FailbackTarget
from activities.failback_verification import FailbackVerification
from activities.failback_writing import FailbackWriting
from activities.resync import ResyncTarget
from activities.target_vm import TargetVmActivities
from deltaferry.model.replication import PlanRef
from deltaferry.model.units import SECTOR
from lab.settings import SITE
from tests.e2e.by_hand import TARGET, ByHand
from tests.e2e.replicated import Replicated
from workers.settings import load_settings
from workers.wiring import build_site, build_target
from workflows.messages.failback import (
    CompareSiteInput,
    DiscardBackInput,
    DropSnapshotsInput,
    HashInput,
    OnTarget,
    PlanChangesInput,
    PreparedFailback,
    PrepareFailbackInput,
    SendBackInput,
    SnapshotTargetInput,
    WriteBackInput,
)
from workflows.messages.operator_input import TargetProperties
from workflows.messages.replication_state import DiskPosition
from workflows.messages.step import (
    ChunkDisk,
    CreateVmInput,
    ImportInput,
    PlanResyncInput,
    SentChunk,
    VerifyChunksInput,
)


@dataclasses.dataclass
class Pass:
    """A pass under way."""

    number: int
    cycle_key: str
    snapshots: tuple[tuple[int, str], ...]
    plans: tuple[tuple[int, PlanRef], ...] = ()
    compared_bytes: int = 0
    sent_bytes: int = 0


class ReverseByHand(ByHand):
    """A VM that runs in Azure. `disks` are its managed disks by disk key, `base` the snapshots that the site's disks hold."""

    def __init__(
        self,
        vm: Replicated,
        again: Callable[[], bool] = lambda: False,
        chunk_max_bytes: int = 1 << 40,
        chunk_max: timedelta = timedelta(minutes=15),
    ) -> None:
        super().__init__(vm, chunk_max_bytes, again, chunk_max)
        settings = load_settings(vm.world.config_file, vm.world.environment)
        site, self._close_site = build_site(settings, SITE)
        target = dataclasses.replace(build_target(settings, TARGET), chunk_max=chunk_max, chunk_max_bytes=chunk_max_bytes)
        sites, targets = {SITE: dataclasses.replace(site, chunk_max=chunk_max)}, {TARGET: target}
        self.site = sites[SITE]
        self.at_site, self.writing = FailbackSite(sites), FailbackWriting(sites)
        self.in_azure, self.reading = FailbackTarget(targets), FailbackReading(targets)
        self.checks, self._plans, self._vms = FailbackVerification(targets), ResyncTarget(targets), TargetVmActivities(targets)
        self.target = TargetProperties()
        self.disks: tuple[tuple[int, str], ...] = ()
        self.base: tuple[tuple[int, str], ...] = ()
        self.passes = 0

    def close(self) -> None:
        """Log out of vCenter, and close the connections to the stores."""
        self._close_site()
        super().close()

    def fail_over(self) -> None:
        """Replicate, and make the VM in Azure of the seeds, as a failover to the latest point does."""
        self.prepare()
        self.initial()
        request = ImportInput(self.replication, self.target, self.state.fence, "failover")
        self.disks = self.do(self._vms.import_disks, request).disks
        self.do(self._vms.create_target_vm, CreateVmInput(self.replication, self.target, self.disks, "failover"))

    @property
    def on_target(self) -> OnTarget:
        return OnTarget(self.replication, self.target)

    def prepare_site(self, *, power_off: bool = True) -> PreparedFailback:
        return self.do(self.at_site.prepare_failback, PrepareFailbackInput(self.replication, power_off))

    # --- a pass ---

    def begin_pass(self) -> Pass:
        """Take the snapshots of a new pass."""
        self.passes += 1
        cycle_key = f"reverse-{self.passes}-{uuid.uuid4()}"
        request = SnapshotTargetInput(self.replication, self.target, cycle_key, self.disks)
        return Pass(self.passes, cycle_key, self.do(self.in_azure.snapshot_target, request).snapshots)

    def plan_full(self, run: Pass) -> None:
        """Hash Azure's disks, compare the site's, and plan what differs."""
        capacities = {disk.key: disk.capacity_bytes for disk in self.replication.disks}
        at = tuple(DiskPosition(key, 0) for key in capacities)
        while any(part.position_bytes < capacities[part.disk_key] for part in at):
            request = HashInput(self.replication, self.target, run.cycle_key, run.snapshots, at)
            at = self.do(self.reading.hash_snapshots, request).positions
        at = tuple(DiskPosition(key, 0) for key in capacities)
        differing: dict[int, tuple[PlanRef, ...]] = dict.fromkeys(capacities, ())
        while any(part.position_bytes < capacities[part.disk_key] for part in at):
            found = self.do(self.writing.compare_site, CompareSiteInput(self.replication, run.cycle_key, run.number, at)).disks
            at = tuple(DiskPosition(disk.disk_key, disk.position_bytes) for disk in found)
            for disk in found:
                run.compared_bytes += disk.compared_bytes
                if disk.differing is not None:
                    differing[disk.disk_key] += (disk.differing,)
        planned = self.do(self._plans.plan_resync, PlanResyncInput(self.replication, run.cycle_key, tuple(differing.items())))
        run.plans = planned.plans

    def plan_delta(self, run: Pass) -> None:
        """Plan what differs from the base."""
        request = PlanChangesInput(self.replication, self.target, run.cycle_key, run.snapshots, self.base)
        run.plans = self.do(self.reading.plan_changes, request).plans

    def left_of(self, run: Pass) -> list[ChunkDisk]:
        return [ChunkDisk(key, plan, 0) for key, plan in run.plans if plan.segments]

    def send_back(self, run: Pass, left: list[ChunkDisk]) -> tuple[SentChunk, ...]:
        """Send a chunk of each disk."""
        request = SendBackInput(self.replication, self.target, run.cycle_key, run.snapshots, tuple(left))
        chunks = self.do(self.reading.send_back, request).chunks
        run.sent_bytes += sum(chunk.bytes_sent for chunk in chunks)
        return chunks

    def write_request(self, run: Pass, chunks: tuple[SentChunk, ...]) -> WriteBackInput:
        return WriteBackInput(self.replication, run.cycle_key, run.number, chunks)

    def carry_back(self, run: Pass) -> int:
        """Send, write and verify all that is planned; return in how many rounds."""
        left, rounds = self.left_of(run), 0
        while left:
            rounds += 1
            chunks = self.send_back(run, left)
            written = self.do(self.writing.write_back, self.write_request(run, chunks)).chunks
            self.do(self.checks.verify_back, VerifyChunksInput(self.replication, run.cycle_key, run.plans, written))
            reached = {chunk.disk_key: chunk.next_segment for chunk in chunks}
            rest = [ChunkDisk(disk.disk_key, disk.plan, reached[disk.disk_key]) for disk in left]
            left = [disk for disk in rest if disk.first_segment < disk.plan.segments]
        return rounds

    def commit_pass(self, run: Pass) -> None:
        """Keep the pass's snapshots as base, and delete the others and what it stored."""
        self.base = run.snapshots
        keep = tuple(name for _, name in run.snapshots)
        self.do(self.in_azure.drop_snapshots, DropSnapshotsInput(self.replication, self.target, keep))
        self.do(self.checks.discard_back, DiscardBackInput(self.replication, run.cycle_key))

    def full(self) -> Pass:
        run = self.begin_pass()
        self.plan_full(run)
        self.carry_back(run)
        return run

    def delta_back(self) -> Pass:
        run = self.begin_pass()
        self.plan_delta(run)
        self.carry_back(run)
        return run

    # --- the guest in Azure, and oracles ---

    def azure_write(self, disk: int, offset: int, data: bytes) -> None:
        """Have the guest in Azure write to its `disk`-th disk."""
        self.world.arm_control.write(self.disks[disk][1], offset, data)

    def azure_scribble(self, source: random.Random, writes: int = 12) -> None:
        """Write random data and zeros, and give space back, at random sectors of all disks."""
        for _ in range(writes):
            number = source.randrange(len(self.disks))
            sectors = self.replication.disks[number].capacity_bytes // SECTOR
            length = source.choice((1, 8, 129))
            offset = source.randrange(sectors - length) * SECTOR
            kind = source.randrange(4)
            if kind == 0:
                self.world.arm_control.discard(self.disks[number][1], offset, length * SECTOR)
            else:
                data = bytes(length * SECTOR) if kind == 1 else source.randbytes(length * SECTOR)
                self.azure_write(number, offset, data)

    def resource(self, name: str) -> str:
        """Return the id of a snapshot by its name."""
        return next(one.id for one in self.world.arm_control.resources("snapshots") if one.id.endswith(f"/{name}"))

    def our_azure_snapshots(self) -> list[str]:
        ours = [
            one.id.rpartition("/")[2]
            for one in self.world.arm_control.resources("snapshots")
            if self.replication.ref.replication_id in one.tags.values()
        ]
        return sorted(ours)

    def in_snapshot(self, run: Pass) -> list[bytes]:
        """Return what a pass's snapshots hold, as far as the site's disks go."""
        capacities = {disk.key: disk.capacity_bytes for disk in self.replication.disks}
        with tempfile.TemporaryDirectory(dir=self.world.directory) as folder:
            found = []
            for key, name in run.snapshots:
                dump = Path(folder) / f"{key}.raw"
                self.world.arm_control.dump(self.resource(name), dump)
                found.append(dump.read_bytes()[: capacities[key]])
            return found

    def on_site(self) -> list[bytes]:
        return [self.vm.source_bytes(number) for number in range(len(self.replication.disks))]

    def assert_site_is(self, run: Pass) -> None:
        """Compare every byte of the site's disks with the pass's snapshots."""
        for number, (held, wanted) in enumerate(zip(self.on_site(), self.in_snapshot(run), strict=True)):
            assert held == wanted, f"disk {number} at the site differs from its snapshot in Azure"


def refusal_of(step: Callable[[], object]) -> ApplicationError:
    """Return what a step is refused with."""
    try:
        step()
    except ApplicationError as error:
        return error
    raise AssertionError("the step was not refused")
