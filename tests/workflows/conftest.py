import itertools
from collections.abc import AsyncIterator

import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from tests.workflows.servers import start_dev_server, start_time_skipping_server
from tests.workflows.site_bench import Bench, shared_workers, site_bench
from tests.workflows.stand_ins import StandIns

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def dev_server() -> AsyncIterator[WorkflowEnvironment]:
    """The one server of the run; tests keep apart by their sites."""
    async with await start_dev_server() as environment:
        yield environment


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stand_ins(dev_server: WorkflowEnvironment) -> AsyncIterator[StandIns]:
    """The activities of all tests, with the workers that serve them."""
    served = StandIns()
    async with shared_workers(dev_server.client, served):
        yield served


@pytest_asyncio.fixture(loop_scope="session")
async def bench(dev_server: WorkflowEnvironment, stand_ins: StandIns) -> AsyncIterator[Bench]:
    """A site of its own."""
    async with site_bench(dev_server.client, stand_ins, f"site{next(_numbers)}") as ready:
        yield ready


@pytest_asyncio.fixture(loop_scope="session")
async def time_skipping() -> AsyncIterator[WorkflowEnvironment]:
    """A server whose clock jumps over what nobody works in."""
    async with await start_time_skipping_server() as environment:
        yield environment
