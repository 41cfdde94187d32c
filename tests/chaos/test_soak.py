"""A soak: several disks under random churn, one random fault after the other. `--soak-minutes 120` is the long run.

What must hold at its end: every replica is byte-identical, histories are bounded, nothing that a fault left behind stays,
and no worker that lived through all of it has taken more files, or (in a long run) memory.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from deltaferry.model.units import MIB, SECTOR
from lab.chaos_proxy_control import ARM, BLOBS, NBD, TEMPORAL, VCENTER
from lab.chaos_proxy_faults import ProxyAction, ProxyFault
from lab.processes import ManagedProcess
from tests.chaos.proxied import MANY, disturb, proxied_lab
from tests.e2e.accidents import assert_in_order, committed_beyond, data_processes, quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import resumed
from tests.e2e.replicated import Replicated

pytestmark = pytest.mark.chaos

_FAULT_EVERY_S = 20.0
_VMS, _DISKS = 2, (5 * MIB + 37 * SECTOR, 4 * MIB, 2 * MIB + SECTOR, 3 * MIB)
_MOST_EVENTS = 10_000
_MORE_FILES = 40
_LONG = timedelta(minutes=30)
"""From here on memory is compared: before, what is loaded late counts for more than what leaks."""
_MORE_MEMORY = 1.05


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, chaos_seed: int) -> Iterator[Lab]:
    with proxied_lab(tmp_path_factory.mktemp("soak"), chaos_seed) as running:
        yield running


@pytest.fixture
async def vms(lab: Lab, client: Client) -> AsyncIterator[list[Replicated]]:
    made = [Replicated.create(lab.world, client, f"soak-{number}", _DISKS) for number in range(_VMS)]
    yield made
    lab.world.chaos_control.clear()
    for vm in made:
        await vm.discard()


def files(worker: ManagedProcess) -> int:
    return len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))


def memory_kib(worker: ManagedProcess) -> int:
    [line] = [line for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def kill_a_data_process(lab: Lab, source: random.Random) -> None:
    """Kill one that runs now, if one does."""
    running = [process for worker in (lab.source, lab.target) for process in data_processes(worker)]
    if running:
        with suppress(ProcessLookupError):
            os.kill(source.choice(running), signal.SIGKILL)


def faults(lab: Lab, source: random.Random) -> list[Callable[[], None]]:
    """Return what can happen; what is not calmed by the proxy's clearing ends by itself."""
    chaos = lab.world.chaos_control
    routes = (BLOBS, VCENTER, ARM, NBD)
    return [
        lambda: disturb(lab, ProxyAction.DROP, BLOBS, 0.1),
        lambda: disturb(lab, ProxyAction.UNAVAILABLE, BLOBS, source.choice((0.05, 0.3, 0.8))),
        lambda: disturb(lab, ProxyAction.TIMED_OUT, BLOBS, 0.3),
        lambda: disturb(lab, ProxyAction.DUPLICATE, BLOBS, 0.2, method="PUT"),
        lambda: chaos.order(ProxyFault(ProxyAction.FLIP, route=BLOBS, method="GET", path_contains="/cycles/", share=0.05)),
        lambda: chaos.order(
            ProxyFault(ProxyAction.CUT, route=source.choice(routes), after_bytes=source.randrange(20_000), count=3)
        ),
        lambda: chaos.order(ProxyFault(ProxyAction.DELAY, route=source.choice(routes), delay_s=0.1, count=MANY)),
        lambda: chaos.order(ProxyFault(ProxyAction.LATE, route=BLOBS, method="PUT", count=3, share=0.2)),
        lambda: kill_a_data_process(lab, source),
        lambda: chaos.take_down(source.choice((BLOBS, VCENTER, NBD, TEMPORAL))),
    ]


async def test_a_soak_under_random_faults_loses_nothing(
    lab: Lab, vms: list[Replicated], soak_for: timedelta, chaos_random: random.Random
) -> None:
    chaos = lab.world.chaos_control
    for vm in vms:
        await vm.enable_and_sync()
    before = {worker: (files(worker), memory_kib(worker)) for worker in lab.workers}
    ends = time.monotonic() + soak_for.total_seconds()
    every_s = min(_FAULT_EVERY_S, soak_for.total_seconds() / 6)
    met = 0
    while time.monotonic() < ends:
        chaos_random.choice(faults(lab, chaos_random))()
        until = min(time.monotonic() + every_s * chaos_random.uniform(0.2, 0.8), ends)
        while time.monotonic() < until:
            for vm in vms:
                await asyncio.to_thread(vm.scribble, 3)
        chaos.clear()
        met += 1
        calm = min(time.monotonic() + every_s * 0.3, ends)
        while time.monotonic() < calm:
            for vm in vms:
                await asyncio.to_thread(vm.scribble, 3)
    assert met >= 3
    chaos.clear()
    for vm in vms:
        known = await quiet(vm)
        vm.scribble()
        await resumed(vm)
        await committed_beyond(vm, known)
        await assert_in_order(vm)
        assert (await vm.handle.describe()).history_length < _MOST_EVENTS
    for worker, (opened, resident) in before.items():
        assert files(worker) <= opened + _MORE_FILES, worker
        assert soak_for < _LONG or memory_kib(worker) <= resident * _MORE_MEMORY, worker
