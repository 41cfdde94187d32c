"""A data process is stopped at every passing of every kill point, and wakes after two later cycles: it changes nothing any more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from deltaferry.blocks.killpoints import STOP, VARIABLE, KillPoint
from deltaferry.model.units import MIB, SECTOR
from lab.processes import ManagedProcess
from tests.e2e.accidents import (
    ROLES,
    SLOW_S,
    assert_in_order,
    committed_beyond,
    data_processes,
    dot,
    known_cycles,
    overwrite,
    quiet,
    wake_data_process,
)
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated

pytestmark = pytest.mark.chaos

_BOOT, _DATA = 0, 1
_PER_DISK = 2
_SEGMENTS = 2 * _PER_DISK
_CASES = [
    (role, point, passing)
    for point, roles in ROLES.items()
    for role in roles
    for passing in range(1, 2 if point is KillPoint.BEFORE_OUTCOME else _SEGMENTS + 1)
]


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM that is quick to copy."""
    replicated = Replicated.create(lab.world, client, request.node.name, (_PER_DISK * 4 * MIB + 37 * SECTOR, _PER_DISK * 4 * MIB))
    yield replicated
    await replicated.discard()


def has_stopped(worker: ManagedProcess) -> bool:
    """Return whether a data process of the worker is stopped by a signal."""
    for process in data_processes(worker):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if state == "T":
            return True
    return False


@pytest.mark.parametrize(("role", "point", "passing"), _CASES)
async def test_a_process_that_stops_at_any_passing_and_wakes_late_changes_nothing(
    lab: Lab, vm: Replicated, role: str, point: KillPoint, passing: int
) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    for disk in (_BOOT, _DATA):
        overwrite(vm, disk, 0, _PER_DISK * 4 * MIB)
    regular = lab.source if role == "source" else lab.target
    variables = {VARIABLE: f"{point}:{passing}:{STOP}"}
    sleeper = await asyncio.to_thread(lab.world.worker, role, f"worker-{role}-{point}-{passing}-{STOP}", variables)
    try:
        await asyncio.to_thread(regular.stop)
        await resumed(vm)
        await reached(lambda: has_stopped(sleeper), "a data process that is stopped", SLOW_S)
        sleeper.freeze()
        await asyncio.to_thread(regular.start)
        await committed_beyond(vm, known)
        later = await quiet(vm)
        for disk in (_BOOT, _DATA):
            overwrite(vm, disk, 0, 4 * MIB)
        await resumed(vm)
        await committed_beyond(vm, later)
        await quiet(vm)
        seeds = vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)
        wake_data_process(sleeper)
        await reached(lambda: data_processes(sleeper) == [], "the end of the late data process", SLOW_S)
        assert (vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)) == seeds
    finally:
        sleeper.thaw()
        await asyncio.to_thread(sleeper.stop)
        await asyncio.to_thread(regular.start)
    dot(vm, _DATA, 2)
    last = await known_cycles(vm)
    await resumed(vm)
    await committed_beyond(vm, last)
    await assert_in_order(vm)
