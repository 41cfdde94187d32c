"""A whole site: many replications of two disks each, through the real arbiter on a real server, whose database is in memory.

The steps are stand-ins that do nothing; what is measured is orchestration alone. All workflows run in a process of their own, the
steps in this one. Every replication runs the same number of delta cycles, one after the other, all of them due at once at first.
"""

import asyncio
import dataclasses
import itertools
import os
import statistics
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from deltaferry.model.replication import DiskBase, RecoveryPoint, ReplicationRef
from deltaferry.model.states import MigrationState, ReplicationState
from lab.processes import ManagedProcess, ProcessSpec, Readiness, python_command
from tests.bench import site_histories as histories
from tests.bench.machine import children, cpu_s, resident_bytes
from tests.bench.report import Bench, Measure
from tests.bench.site_histories import Window
from tests.workflows.servers import start_dev_server
from tests.workflows.stand_ins import APPLIANCE, DISKS, TARGET, StandIns, World, new_profile
from workflows import names
from workflows.replication_state import EntityState, ReplicateVmInput, Replication
from workflows.site_messages import ApplianceProfile, Placement, SiteProfile
from workflows.slot_messages import SlotsState
from workflows.step_messages import AdoptResult, BeginCycleInput, BegunCycle, CommitRecords

_SITE = "bench"
_SECOND = "second-appliance"
_HOSTS = 20
_DATASTORES = 12
_PROBES = 2
_PROBE = "probe"
_NEVER = timedelta(hours=12)
_QUICK = timedelta(seconds=1)
_POLL_S = 0.2
_STALLED_S = 120.0
_BATCH = 50
"""Of replications that one adoption starts."""
_LEAD_S = 2.0
_LEAD_EACH_S = 0.03
"""How long the start of one replication may take; they are due when all of them have started."""
_BEAT = timedelta(seconds=5)
_NOISE = 1.1
"""By how much two runs of the same work may differ."""
_CORES = 2
_LEASES_BAR = 5.0
_EVENTS_BAR = 60
_MEMORY_BAR_KB = 150
_ARBITER_EVENTS_BAR = 4096
_DELAY_BAR_S = 2.0
"""Of ours: a small part of the shortest interval that replications have."""


@dataclass(slots=True)
class _SiteWorld(World):
    """A world that counts where the tests' one remembers: the steps must not cost what is measured."""

    entered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(step, VM name) to how often."""
    batches: deque[tuple[ReplicateVmInput, ...]] = field(default_factory=deque)
    """Commit records that are to be adopted, by one adoption each."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, transfers of all VMs but the probes go on for ever."""

    async def enter(self, step: str, vm: str, request: object) -> None:
        """Count a call."""
        self.entered[step, vm] += 1
        while step == "transfer" and not vm.startswith(_PROBE) and not self.gate.is_set():
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
        return dataclasses.replace(begun, placement=_placement(request.replication.vm_name))

    @activity.defn
    async def read_commit_records(self, profile: SiteProfile) -> CommitRecords:
        """Return the next batch."""
        world = self.worlds[profile.site]
        assert isinstance(world, _SiteWorld)
        return CommitRecords(world.batches.popleft(), ())


@dataclass(frozen=True, slots=True)
class _Run:
    """What one number of replications took."""

    replications: int
    seconds: float
    leases: int
    workflow_tasks: int
    worker_cpu_s: float
    cpu_s: float
    """Of all: the server, the workflow worker, and this process, which does the steps."""
    worker_bytes: int
    """Its resident set with all of them cached, less what it was before any."""
    cycle_events: tuple[int, ...]
    arbiter_events: tuple[int, ...]
    """Of each run of the arbiter."""
    delays_s: tuple[float, ...]
    waiting: int
    """How many requests waited while the delays were measured."""

    @property
    def leases_per_s(self) -> float:
        return self.leases / self.seconds

    @property
    def tasks_per_s(self) -> float:
        return self.workflow_tasks / self.seconds

    @property
    def kb_each(self) -> float:
        return self.worker_bytes / self.replications / 1000


def measure_site(bench: Bench) -> Iterator[Measure]:
    """Measure sites of all sizes, each on a server and a worker of its own."""
    runs = {count: asyncio.run(_run(bench, count)) for count in bench.site_replications}
    smallest, largest = runs[min(runs)], runs[max(runs)]
    shown = f"{', '.join(map(str, runs))} replications"
    slowest = min(runs.values(), key=lambda run: run.leases_per_s)
    yield Measure(
        *("site_leases", slowest.leases_per_s, "1/s", _LEASES_BAR, True, smallest.leases_per_s),
        f"sustained, the least of {shown}: {_each(runs, lambda run: run.leases_per_s)}; baseline: the smallest site's",
    )
    per_lease = largest.workflow_tasks / largest.leases
    yield Measure(
        *("site_workflow_tasks", largest.tasks_per_s, "1/s", _LEASES_BAR * per_lease, True, smallest.tasks_per_s),
        f"{shown}: {_each(runs, lambda run: run.tasks_per_s)}; {per_lease:.1f} for each lease, the arbiter's included; the bar is that of the leases",
    )
    yield Measure(
        *(
            "site_cpu_per_lease",
            largest.cpu_s / largest.leases,
            "s",
            _CORES / _LEASES_BAR,
            False,
            smallest.cpu_s / smallest.leases,
        ),
        f"CPU time of server, workflow worker and steps; {shown}: {_each(runs, lambda run: 1000 * run.cpu_s / run.leases)} ms, of which "
        f"the worker {_each(runs, lambda run: 1000 * run.worker_cpu_s / run.leases)} ms; the bar: what {_CORES} cores have for each "
        f"of {_LEASES_BAR:.0f} leases a second; baseline: the smallest site's",
    )
    delay_s, baseline_s = (statistics.median(run.delays_s) for run in (largest, smallest))
    yield Measure(
        *("site_arbiter_delay", delay_s, "s", _DELAY_BAR_S, False, baseline_s),
        f"from request to grant of what fits, {largest.waiting} others waiting: median of {len(largest.delays_s)}, at most "
        f"{max(largest.delays_s):.2f} s; baseline: {smallest.waiting} waiting",
    )
    events = [events for run in runs.values() for events in run.cycle_events]
    yield Measure(
        *("site_cycle_events", statistics.median(events), "", _EVENTS_BAR, False, min(events)),
        f"events of a delta cycle of {len(DISKS)} disks, with its wait: median of {len(events)}, of which 95 % took at most "
        f"{statistics.quantiles(events, n=20)[-1]:.0f}, all at most {max(events)}; baseline: the fewest",
    )
    arbiter = [events for run in runs.values() for events in run.arbiter_events]
    yield Measure(
        *("site_arbiter_events", max(arbiter), "", _ARBITER_EVENTS_BAR, False, max(smallest.arbiter_events)),
        f"the longest of the arbiter's {len(arbiter)} runs at {shown}; baseline: the smallest site's longest",
    )
    yield Measure(
        *("site_memory", largest.kb_each, "KB", _MEMORY_BAR_KB, False, smallest.kb_each),
        f"of the worker for each cached workflow; {shown}: {_each(runs, lambda run: run.kb_each)}; baseline: the smallest site's",
    )
    yield _growth("site_growth_time", runs, "s", lambda run: run.seconds)
    yield _growth("site_growth_memory", runs, "MB", lambda run: run.worker_bytes / 1e6)


def _each(runs: Mapping[int, _Run], value: Callable[[_Run], float]) -> str:
    return ", ".join(f"{value(run):.1f}" for run in runs.values())


def _growth(name: str, runs: Mapping[int, _Run], unit: str, cost: Callable[[_Run], float]) -> Measure:
    smallest, largest = runs[min(runs)], runs[max(runs)]
    share = (cost(largest) / largest.replications) / (cost(smallest) / smallest.replications)
    return Measure(
        *(name, share, "", _NOISE, False, cost(smallest)),
        f"{', '.join(map(str, runs))} replications: {_each(runs, cost)} {unit}; for each replication, the largest site's against the "
        f"smallest's; baseline: the smallest site in {unit}",
    )


async def _run(bench: Bench, count: int) -> _Run:
    """Run a site of so many replications."""
    before = children()
    async with await start_dev_server() as environment:
        servers = tuple(children() - before)
        address = environment.client.service_client.config.target_host
        with _worker_process(bench.directory, address, count) as process:
            world = _SiteWorld(_profile(count))
            world.gate.set()
            async with _steps(environment.client, world):
                return await _Site(environment.client, world, process, servers, count).run(bench.site_cycles, bench.site_probes)


class _Site:
    """A site's replications, while they run."""

    def __init__(self, client: Client, world: _SiteWorld, process: ManagedProcess, servers: tuple[int, ...], count: int) -> None:
        self._client = client
        self._world = world
        self._process = process
        self._others = (*servers, os.getpid())
        self._vms = [f"vm-{number:03}" for number in range(count)]
        self._started: list[str] = []
        self._adoptions = itertools.count(1)

    async def run(self, cycles: int, probes: int) -> _Run:
        """Let every replication run its cycles; then let all of them wait, and see how long one takes that fits."""
        bytes_before = resident_bytes(self._process.pid)
        due = datetime.now(UTC) + timedelta(seconds=_LEAD_S + _LEAD_EACH_S * len(self._vms))
        await self._start(self._vms, due)
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds())
        begin, cpu_before = datetime.now(UTC), self._cpu_s()
        await self._until(lambda: all(self._world.committed(vm) >= cycles for vm in self._vms))
        window = Window(begin, datetime.now(UTC))
        worker_cpu_s, others_cpu_s = (after - before for before, after in zip(cpu_before, self._cpu_s(), strict=True))
        worker_bytes = resident_bytes(self._process.pid) - bytes_before
        probing, waiting, probed = await self._probe(probes)
        entities = await histories.all_runs(self._client, self._started)
        of_probes = await histories.all_runs(self._client, probed)
        of_arbiter = await histories.runs_of(self._client, names.slots_id(_SITE))
        return _Run(
            replications=len(self._vms),
            seconds=window.seconds,
            leases=histories.grants(entities, window),
            workflow_tasks=histories.workflow_tasks([*entities, *of_arbiter], window),
            worker_cpu_s=worker_cpu_s,
            cpu_s=worker_cpu_s + others_cpu_s,
            worker_bytes=worker_bytes,
            cycle_events=tuple(histories.events_per_cycle(entities, window)),
            arbiter_events=tuple(run[-1].event_id for run in of_arbiter),
            delays_s=tuple(delay.total_seconds() for delay in histories.delays(of_probes, probing)),
            waiting=waiting,
        )

    def _cpu_s(self) -> tuple[float, float]:
        """Return the CPU time so far of the worker, and of all others together."""
        return cpu_s(self._process.pid), sum(map(cpu_s, self._others))

    async def _probe(self, probes: int) -> tuple[Window, int, list[str]]:
        """Let each host hold one transfer for ever and all others wait; run replications on a host of their own beside them."""
        self._world.gate.clear()
        await self._change(disks_per_host=len(DISKS))
        handle, waiting = self._client.get_workflow_handle(names.slots_id(_SITE)), 0
        expected = len(self._vms) - min(_HOSTS, len(self._vms))
        began = time.monotonic()
        while waiting < expected:
            if time.monotonic() - began > _STALLED_S:
                raise RuntimeError(f"only {waiting} of {expected} replications wait")
            await asyncio.sleep(_POLL_S)
            waiting = len((await handle.query("status", result_type=SlotsState)).waiting)
        begin = datetime.now(UTC)
        before = len(self._started)
        vms = [f"{_PROBE}-{number}" for number in range(_PROBES)]
        await self._start(vms, begin)
        await self._until(lambda: all(self._world.committed(vm) >= probes for vm in vms))
        return Window(begin, datetime.now(UTC)), waiting, self._started[before:]

    async def _change(self, **change: object) -> None:
        await self._client.get_workflow_handle(names.slots_id(_SITE)).execute_update("change_settings", change)

    async def _start(self, vms: list[str], due: datetime) -> None:
        """Adopt VMs whose first cycle is due at an instant, as after a loss of the server's state: the only start without a copy."""
        records = [_record(self._world.profile, vm, due) for vm in vms]
        for record in records:
            self._world.seed_number[record.replication.ref.replication_id] = record.state.fence
        self._world.batches += (tuple(records[first : first + _BATCH]) for first in range(0, len(records), _BATCH))
        adopted = await asyncio.gather(*(self._adopt() for _ in range(len(self._world.batches))))
        self._started += [workflow_id for result in adopted for workflow_id in result.adopted]

    async def _adopt(self) -> AdoptResult:
        result: AdoptResult = await self._client.execute_workflow(
            names.ADOPT_REPLICATIONS,
            {"site": _SITE},
            id=f"adopt-{next(self._adoptions)}",
            task_queue=names.CONTROL_QUEUE,
            result_type=AdoptResult,
        )
        return result

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait until something holds. Raises RuntimeError when no step was entered for long meanwhile."""
        seen, at = -1, time.monotonic()
        while not done():
            entered = self._world.entered.total()
            if entered != seen:
                seen, at = entered, time.monotonic()
            elif time.monotonic() - at > _STALLED_S:
                raise RuntimeError(f"the site stands still after {entered} steps")
            await asyncio.sleep(_POLL_S)


def _profile(count: int) -> SiteProfile:
    return dataclasses.replace(
        new_profile(_SITE, min_interval=_QUICK),
        max_interval=_NEVER,
        appliances=(ApplianceProfile(_SECOND),),
        replications_per_appliance=max(300, count),
    )


def _placement(vm: str) -> Placement:
    """Return where a VM is: probes on a host and a datastore of their own."""
    kind, _, number = vm.partition("-")
    if kind == _PROBE:
        return Placement("esx-of-probes", (("datastore-of-probes", len(DISKS)),))
    return Placement(f"esx-{int(number) % _HOSTS:02}", ((f"datastore-{int(number) % _DATASTORES:02}", len(DISKS)),))


def _record(profile: SiteProfile, vm: str, due: datetime) -> ReplicateVmInput:
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
        point=RecoveryPoint("2-committed", now, 7, tuple((disk.key, "blob-snapshot-7") for disk in DISKS)),
        cycles_committed=1,
        next_due=due,
        next_reason="as the bench says",
        profile=profile,
        placement=_placement(vm),
    )
    return ReplicateVmInput(Replication(ref, vm, profile, DISKS, 2, "Linux"), state)


@asynccontextmanager
async def _steps(client: Client, world: _SiteWorld) -> AsyncIterator[None]:
    """Serve every queue's activities in this process."""
    stand_ins = _SiteStandIns()
    stand_ins.worlds[_SITE] = world
    queues = (
        names.CONTROL_QUEUE,
        names.vsphere_queue(_SITE),
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


def _worker_process(directory: Path, address: str, count: int) -> ManagedProcess:
    return ManagedProcess(
        ProcessSpec(
            f"site-worker-{count}",
            python_command("-m", "tests.bench.site_worker", "--address", address),
            directory,
            {},
            Readiness.JSON_LINE,
            working_directory=Path(__file__).resolve().parents[2],
        )
    )
