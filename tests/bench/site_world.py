"""The site that the bench of a whole site runs: its VMs, where they are, and steps that do nothing."""

import asyncio
import dataclasses
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from deltaferry.model.recovery_points import RecoveryPointRecord
from deltaferry.model.recovery_points import record_of as point_record
from deltaferry.model.replication import DiskBase, RecoveryPoint, ReplicationRef
from deltaferry.model.states import MigrationState, ReplicationState
from tests.workflows.stand_ins import StandIns
from tests.workflows.world import APPLIANCE, DISKS, TARGET, World, listed, new_profile
from workflows import names
from workflows.messages.replication_state import EntityState, ReplicateVmInput, Replication
from workflows.messages.site import ApplianceProfile, Placement, SiteProfile
from workflows.messages.step import BeginCycleInput, BegunCycle, CommitRecords, CommitRecordsInput, SettledCycle, SettleInput

SITE = "bench"
HOSTS = 20
PROBE = "probe"
"""How the names of VMs begin that are on a host and a datastore of their own."""
PROBES = 2
_SECOND = "second-appliance"
_DATASTORES = 12
_NEVER = timedelta(hours=12)
_QUICK = timedelta(seconds=1)
_BEAT = timedelta(seconds=5)
_KEPT_POINTS = 24
"""Of each replication: all that a listing names itself, and some more."""


@dataclass(slots=True)
class SiteWorld(World):
    """A world that counts where the tests' one remembers: the steps must not cost what is measured."""

    entered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(step, VM name) to how often."""
    points_of: dict[str, deque[RecoveryPointRecord]] = field(default_factory=dict)
    """Replication id to its last recovery points."""
    batches: deque[tuple[ReplicateVmInput, ...]] = field(default_factory=deque)
    """Commit records that are to be adopted, by one adoption each."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, transfers of all VMs but the probes go on for ever."""

    async def enter(self, step: str, vm: str, request: object) -> None:
        """Count a call."""
        self.entered[step, vm] += 1
        while step == "transfer" and not vm.startswith(PROBE) and not self.gate.is_set():
            activity.heartbeat()
            try:
                async with asyncio.timeout(_BEAT.total_seconds()):
                    await self.gate.wait()
            except TimeoutError:
                continue

    def committed(self, vm: str) -> int:
        """Return how many cycles of a VM have committed."""
        return self.entered["settle_cycle", vm]


class _SiteStandIns(StandIns):
    """Stand-ins whose VMs are spread over hosts and datastores."""

    @activity.defn
    async def begin_cycle(self, request: BeginCycleInput) -> BegunCycle:
        """Begin a cycle where the VM is."""
        begun = await StandIns.begin_cycle(self, request)
        return dataclasses.replace(begun, placement=placement_of(request.replication.vm_name))

    @activity.defn
    async def settle_cycle(self, request: SettleInput) -> SettledCycle:
        """Settle a cycle; a replication is told of its own points, where the tests' one world is that of a single VM."""
        world = await self._on("settle_cycle", request.replication, request)
        assert isinstance(world, SiteWorld)
        point = request.state.point
        if request.record_only or point is None:
            return SettledCycle()
        known = world.points_of.setdefault(request.replication.ref.replication_id, deque(maxlen=_KEPT_POINTS))
        known.append(point)
        return SettledCycle(listed(list(known)))

    @activity.defn
    async def read_commit_records(self, request: CommitRecordsInput) -> CommitRecords:
        """Return the next batch."""
        world = self.worlds[request.profile.site]
        assert isinstance(world, SiteWorld)
        return CommitRecords(world.batches.popleft(), ())


def site_profile(count: int) -> SiteProfile:
    """Return the profile of a site that has room for so many replications."""
    return dataclasses.replace(
        new_profile(SITE, min_interval=_QUICK),
        max_interval=_NEVER,
        appliances=(ApplianceProfile(_SECOND),),
        replications_per_appliance=max(300, count),
        replications_per_site=max(500, count),
    )


def placement_of(vm: str) -> Placement:
    """Return where a VM is: probes on a host and a datastore of their own."""
    kind, _, number = vm.partition("-")
    if kind == PROBE:
        return Placement("esx-of-probes", (("datastore-of-probes", len(DISKS)),))
    return Placement(f"esx-{int(number) % HOSTS:02}", ((f"datastore-{int(number) % _DATASTORES:02}", len(DISKS)),))


def record_of(profile: SiteProfile, vm: str, due: datetime) -> ReplicateVmInput:
    """Return a replication after its initial replication and one delta cycle."""
    ref = ReplicationRef(profile.installation, profile.site, profile.target, f"uuid-of-{vm}", f"replication-{vm}")
    now = datetime.now(UTC)
    state = EntityState(
        replication_state=ReplicationState.DELTA_SYNC,
        migration_state=MigrationState.TEST_PENDING,
        prepared=True,
        cbt_enabled_by_us=True,
        fence=7,
        cycles_minted=2,
        jobs_minted=1,
        bases=tuple(DiskBase(disk.key, f"52-{disk.key}/0", disk.capacity_bytes) for disk in DISKS),
        point=point_record(
            RecoveryPoint("2-committed", now, 7, tuple((disk.key, "blob-snapshot-7") for disk in DISKS)), DISKS, now
        ),
        cycles_committed=1,
        next_due=due,
        next_reason="as the bench says",
        profile=profile,
        placement=placement_of(vm),
    )
    return ReplicateVmInput(Replication(ref, vm, profile, DISKS, 2, "Linux"), state)


@asynccontextmanager
async def serving_steps(client: Client, world: SiteWorld) -> AsyncIterator[None]:
    """Serve every queue's activities in this process."""
    stand_ins = _SiteStandIns()
    stand_ins.worlds[SITE] = world
    queues = (
        names.CONTROL_QUEUE,
        names.vsphere_queue(SITE),
        names.transfer_queue(APPLIANCE),
        names.transfer_queue(_SECOND),
        names.apply_queue(TARGET),
        names.azure_queue(TARGET),
    )
    activities: list[Callable[..., Any]] = stand_ins.all()
    async with AsyncExitStack() as stack:
        for queue in queues:
            worker = Worker(
                client,
                task_queue=queue,
                activities=activities,
                max_heartbeat_throttle_interval=_BEAT,
                default_heartbeat_throttle_interval=_BEAT,
                graceful_shutdown_timeout=timedelta(0),
            )
            await stack.enter_async_context(worker)
        try:
            yield
        finally:
            world.gate.set()
