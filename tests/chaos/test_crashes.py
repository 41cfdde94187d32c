"""Crashes that take several processes at once, or leave something behind that a later cycle has to deal with."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from deltaferry.model.naming import log_container
from deltaferry.model.units import MIB, SECTOR
from tests.e2e.accidents import (
    SLOW_S,
    Traffic,
    asleep,
    assert_in_order,
    committed_beyond,
    data_processes,
    dot,
    held,
    hold_after,
    known_cycles,
    overwrite,
    put_off,
    quiet,
    synchronised,
)
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated

pytestmark = pytest.mark.chaos

_BOOT, _DATA = 0, 1


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM whose boot disk is full of data that does not compress."""
    replicated = Replicated.create(lab.world, client, request.node.name, (16 * MIB + 37 * SECTOR, 4 * MIB))
    overwrite(replicated, _BOOT, 0, 16 * MIB)
    yield replicated
    await replicated.discard()


@pytest.mark.parametrize("let_through", range(4))
async def test_everything_of_ours_and_the_temporal_server_may_be_killed_at_once(
    lab: Lab, vm: Replicated, let_through: int
) -> None:
    """During the initial replication, with one more segment stored in each case."""
    hold_after(lab.world, "log", "PutBlob", let_through)
    await vm.enable()
    traffic = Traffic.from_now(vm)
    await held(lab.world)
    stored = traffic.stored()
    for worker in lab.workers:
        worker.kill()
    lab.world.temporal.process.kill()
    lab.world.blob_control.clear_faults()
    await asyncio.to_thread(_start_all, lab)
    await synchronised(vm)
    assert {name: traffic.sendings()[name] for name in stored} == dict.fromkeys(stored, 1)
    await assert_in_order(vm)


@pytest.mark.parametrize("operation", ["PutPage", "SnapshotBlob"])
async def test_a_target_worker_killed_around_the_recovery_point_commits_once(lab: Lab, vm: Replicated, operation: str) -> None:
    """Killed in its second page, and with the first disk's recovery point taken but not the second's."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, _BOOT, 0, 8 * MIB)
    dot(vm, _DATA, 8)
    hold_after(lab.world, "seed", operation, 1, count=1)
    traffic = Traffic.from_now(vm)
    await resumed(vm)
    await held(lab.world)
    lab.target.kill()
    lab.world.blob_control.clear_faults()
    await asyncio.to_thread(lab.target.start)
    record = await committed_beyond(vm, known)
    assert set(traffic.sendings().values()) == {1}
    assert record.failure == ""
    point = (await vm.status()).last_recovery_point
    assert point is not None
    await assert_in_order(vm)


async def test_what_a_source_worker_stores_after_its_cycle_is_never_used_and_goes_with_the_next(lab: Lab, vm: Replicated) -> None:
    """An object whose name is free again is not refused: no manifest lists it, and the next commit deletes it.

    The sleeper may find its connection closed and give up, so a late segment is stored for it under a name of its cycle.
    """
    await vm.enable_and_sync()
    known = await quiet(vm)
    dot(vm, _BOOT, 128)
    dot(vm, _DATA, 8)
    traffic = Traffic.from_now(vm)
    await put_off(lab.world, traffic, 1)
    async with asleep(lab.source, lab.world, "source"):
        await committed_beyond(vm, known)
        await quiet(vm)
        assert vm.log_objects() == []
        seeds = vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)
        lab.source.thaw()
        await reached(lambda: data_processes(lab.source) == [], "the end of the late data process", SLOW_S)
        assert (vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)) == seeds
    late = min(traffic.stored())
    with vm.blobs("log").get_blob_client(log_container(vm.reference), late) as blob:
        blob.upload_blob(vm.random.randbytes(MIB), overwrite=True)
    assert late in vm.log_objects()
    dot(vm, _DATA, 4)
    known = await known_cycles(vm)
    await resumed(vm)
    await committed_beyond(vm, known)
    await assert_in_order(vm)


def _start_all(lab: Lab) -> None:
    lab.world.temporal.spawn()
    lab.world.temporal.await_ready()
    for worker in lab.workers:
        worker.start()
