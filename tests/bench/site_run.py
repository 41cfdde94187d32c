"""One run of a whole site of so many replications, on a server and a worker process of its own."""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio.client import Client

from lab.processes import ManagedProcess, ProcessSpec, Readiness, python_command
from tests.bench import site_histories as histories
from tests.bench.machine import children, cpu_s, resident_bytes
from tests.bench.report import Bench
from tests.bench.site_histories import Window
from tests.bench.site_world import HOSTS, PROBE, PROBES, SITE, SiteWorld, record_of, serving_steps, site_profile
from tests.workflows.servers import start_dev_server
from tests.workflows.world import DISKS
from workflows import names
from workflows.messages.slot import SlotsState
from workflows.messages.step import AdoptResult

_POLL_S = 0.2
_STALLED_S = 120.0
_BATCH = 50
"""Of replications that one adoption starts."""
_LEAD_S = 2.0
_LEAD_EACH_S = 0.03
"""How long the start of one replication may take; they are due when all of them have started."""


@dataclass(frozen=True, slots=True)
class Run:
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
    idle_bytes: int
    """The same before their first cycle: the SDK's core keeps something of each step until a run continues as new."""
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

    @property
    def idle_kb_each(self) -> float:
        return self.idle_bytes / self.replications / 1000


async def run_site(bench: Bench, count: int) -> Run:
    """Run a site of so many replications."""
    before = children()
    async with await start_dev_server() as environment:
        servers = tuple(children() - before)
        address = environment.client.service_client.config.target_host
        with _worker_process(bench.directory, address, count) as process:
            world = SiteWorld(site_profile(count + PROBES))
            world.gate.set()
            async with serving_steps(environment.client, world):
                return await _Site(environment.client, world, process, servers, count).run(bench.site_cycles, bench.site_probes)


class _Site:
    """A site's replications, while they run."""

    def __init__(self, client: Client, world: SiteWorld, process: ManagedProcess, servers: tuple[int, ...], count: int) -> None:
        self._client = client
        self._world = world
        self._process = process
        self._others = (*servers, os.getpid())
        self._vms = [f"vm-{number:03}" for number in range(count)]
        self._started: list[str] = []
        self._adoptions = itertools.count(1)

    async def run(self, cycles: int, probes: int) -> Run:
        """Let every replication run its cycles; then let all of them wait, and see how long one takes that fits."""
        bytes_before = resident_bytes(self._process.pid)
        due = datetime.now(UTC) + timedelta(seconds=_LEAD_S + _LEAD_EACH_S * len(self._vms))
        await self._start(self._vms, due)
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds())
        idle_bytes = resident_bytes(self._process.pid) - bytes_before
        begin, cpu_before = datetime.now(UTC), self._cpu_s()
        wanted = {vm: self._world.committed(vm) + cycles for vm in self._vms}  # some have begun where starting all took longer
        await self._until(lambda: all(self._world.committed(vm) >= count for vm, count in wanted.items()))
        window = Window(begin, datetime.now(UTC))
        worker_cpu_s, others_cpu_s = (after - before for before, after in zip(cpu_before, self._cpu_s(), strict=True))
        worker_bytes = resident_bytes(self._process.pid) - bytes_before
        probing, waiting, probed = await self._probe(probes)
        entities = await histories.all_runs(self._client, self._started)
        of_probes = await histories.all_runs(self._client, probed)
        of_arbiter = await histories.runs_of(self._client, names.slots_id(SITE))
        return Run(
            replications=len(self._vms),
            seconds=window.seconds,
            leases=histories.grants(entities, window),
            workflow_tasks=histories.workflow_tasks([*entities, *of_arbiter], window),
            worker_cpu_s=worker_cpu_s,
            cpu_s=worker_cpu_s + others_cpu_s,
            worker_bytes=worker_bytes,
            idle_bytes=idle_bytes,
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
        await self._change(disks_per_host=len(DISKS))
        await self._until_slots(_one_on_each_host, "what was granted before ends")
        self._world.gate.clear()
        expected = len(self._vms) - min(HOSTS, len(self._vms))
        waiting = await self._until_slots(lambda slots: len(slots.waiting) >= expected, f"{expected} replications wait")
        begin = datetime.now(UTC)
        before = len(self._started)
        vms = [f"{PROBE}-{number}" for number in range(PROBES)]
        await self._start(vms, begin)
        await self._until(lambda: all(self._world.committed(vm) >= probes for vm in vms))
        return Window(begin, datetime.now(UTC)), len(waiting.waiting), self._started[before:]

    async def _until_slots(self, holds: Callable[[SlotsState], bool], what: str) -> SlotsState:
        """Return the arbiter's first state that fulfils a condition. Raises RuntimeError when that takes too long."""
        handle, began = self._client.get_workflow_handle(names.slots_id(SITE)), time.monotonic()
        while True:
            state: SlotsState = await handle.query("status", result_type=SlotsState)
            if holds(state):
                return state
            if time.monotonic() - began > _STALLED_S:
                raise RuntimeError(f"never: {what}; {len(state.leases)} hold slots, {len(state.waiting)} wait")
            await asyncio.sleep(_POLL_S)

    async def _change(self, **change: object) -> None:
        await self._client.get_workflow_handle(names.slots_id(SITE)).execute_update("change_settings", change)

    async def _start(self, vms: list[str], due: datetime) -> None:
        """Adopt VMs whose first cycle is due at an instant, as after a loss of the server's state: the only start without a copy."""
        records = [record_of(self._world.profile, vm, due) for vm in vms]
        for record in records:
            self._world.seed_number[record.replication.ref.replication_id] = record.state.fence
        self._world.batches += (tuple(records[first : first + _BATCH]) for first in range(0, len(records), _BATCH))
        adopted = await asyncio.gather(*(self._adopt() for _ in range(len(self._world.batches))))
        self._started += [workflow_id for result in adopted for workflow_id in result.adopted]

    async def _adopt(self) -> AdoptResult:
        result: AdoptResult = await self._client.execute_workflow(
            names.ADOPT_REPLICATIONS,
            {"site": SITE},
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


def _one_on_each_host(slots: SlotsState) -> bool:
    on_host = Counter(held.wanted.placement.host for held in slots.leases)
    return max(on_host.values(), default=0) <= 1


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
