"""One lab for the whole run: real Temporal, Azurite, vCenter and Azure processes, and the three workers as processes of their own."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from deltaferry.model.units import MIB
from lab.processes import ManagedProcess
from lab.settings import LabSettings, LabTimes
from lab.world import World
from tests.e2e.replicated import Replicated
from workers.serving import connect
from workers.settings import load_settings
from workflows import names

_TIMES = LabTimes(stun_s=0.01, snapshot_s=0.05, consolidation_s=0.05, shutdown_s=0.2, power_s=0.05, reconfigure_s=0.02)

LAB_SETTINGS = LabSettings(
    times=_TIMES,
    search_attributes=names.SEARCH_ATTRIBUTES,
    with_ui=False,
    min_interval=timedelta(seconds=2),
    chunk_max_bytes=8 * MIB,
    threads_per_disk=2,
)
"""Of every lab of the end-to-end tests, unless a test needs another."""


@dataclass(frozen=True, slots=True)
class Lab:
    """The running lab and its workers."""

    world: World
    control: ManagedProcess
    source: ManagedProcess
    target: ManagedProcess

    @property
    def workers(self) -> tuple[ManagedProcess, ...]:
        return self.control, self.source, self.target


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory: Path = tmp_path_factory.mktemp("lab")
    with World(directory, LAB_SETTINGS) as world:
        yield Lab(world, world.worker("control"), world.worker("source"), world.worker("target"))


@pytest.fixture(autouse=True)
def whole_lab(lab: Lab) -> Iterator[None]:
    """Give every test a lab in order: workers running, no faults left over from the test before."""
    for worker in lab.workers:
        if not worker.running:
            worker.restart()
    yield
    lab.world.blob_control.clear_faults()
    lab.world.vcenter_control.clear_faults()
    lab.world.arm_control.clear_faults()


@pytest.fixture
async def client(lab: Lab) -> Client:
    return await connect(load_settings(lab.world.config_file, lab.world.environment))


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM of this test's own: 24 MiB + 37 sectors to boot from and 12 MiB of data, partly random, partly zero; not enabled yet."""
    replicated = Replicated.create(lab.world, client, request.node.name)
    yield replicated
    await replicated.discard()
