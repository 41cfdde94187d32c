"""Stopping a cycle at one place, so that a test can change the world there: requests to the stores that wait until they are let go."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from deltaferry.model.states import ReplicationState
from lab.configuration import ACCOUNTS
from lab.control_client import BlobAction, BlobFault
from lab.world import World
from tests.e2e.replicated import Replicated, Unreached

LIMIT_S = 240.0
_POLL_S = 0.05
_MANY = 1000


async def reached(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until a condition holds that is asked of the lab, not of the replication."""
    await eventually(lambda: asyncio.to_thread(condition), what, limit_s)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until a condition holds that has to be awaited."""
    deadline = time.monotonic() + limit_s
    while not await condition():
        if time.monotonic() > deadline:
            raise Unreached(f"{what} was not reached within {limit_s:.0f} s")
        await asyncio.sleep(_POLL_S)


def hold(world: World, store: str, path: str, operation: str | None = None) -> None:
    """Let every request to a store whose path contains `path` wait from now on, until the faults are cleared."""
    world.blob_control.order(
        BlobFault(BlobAction.HOLD, operation=operation, account=ACCOUNTS[store], path_contains=path, count=_MANY)
    )


async def held(world: World, limit_s: float = LIMIT_S) -> None:
    """Wait until a request is being held."""
    await reached(lambda: world.blob_control.held() > 0, "a held request", limit_s)


@asynccontextmanager
async def stopped_at(world: World, store: str, path: str, operation: str | None = None) -> AsyncIterator[None]:
    """Order the hold, wait for the first request that it meets, and let go of all at the end of the block."""
    hold(world, store, path, operation)
    try:
        await held(world)
        yield
    finally:
        world.blob_control.clear_faults()


async def paused(vm: Replicated) -> None:
    """Pause replication, so that what a test does next is in one cycle as a whole."""
    await vm.handle.execute_update("pause")
    await vm.state(ReplicationState.PAUSED)


async def resumed(vm: Replicated) -> None:
    """Let cycles go on."""
    await vm.handle.execute_update("resume")
