"""A Temporal development server with the real workflows, and the command line beside it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from typer.testing import CliRunner, Result

from activities.site_workflows import SiteWorkflows
from console import client as replicating
from console.main import app
from lab.tools import temporal_executable
from workers.settings import Installation, Settings, TemporalSettings
from workers.settings_types import HostPort
from workflows import names
from workflows.messages.operator_input import EnableInput
from workflows.messages.views import StatusView
from workflows.register import WORKFLOWS

from .stand_ins import SITES, TARGET, StandIns


@dataclass
class Running:
    """A server, workers for two sites, and how to call the command line against them."""

    client: Client
    address: str
    activities: StandIns
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    async def call(self, *arguments: str) -> Result:
        """Run a command in a thread: it has an event loop of its own."""
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=self.environment)

    async def json(self, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        """Run a command with --json and return the object on the last line of its standard output."""
        result = await self.call(*arguments, "--json")
        assert result.exit_code == exit_code, result.output
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answer

    async def delta_sync(self, vm: str, site: str = "lab", *, cycles: int = 0) -> str:
        """Enable a VM, wait for its initial replication and some cycles, and return its workflow id."""
        enabled = await replicating.enable(self.client, EnableInput(vm, site))
        await self.until(
            enabled.workflow_id, lambda view: view.replication_state == "Delta sync" and view.cycles_committed >= cycles
        )
        return enabled.workflow_id

    async def until(self, workflow_id: str, wanted: Callable[[StatusView], bool]) -> StatusView:
        """Wait until a replication's status is as wanted, and return it."""
        handle = self.client.get_workflow_handle(workflow_id)
        async with asyncio.timeout(120):
            while not wanted(view := await replicating.status(handle)):
                await asyncio.sleep(0.05)
        return view


@pytest_asyncio.fixture(scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    attributes = (
        names.SITE,
        names.VM_NAME,
        names.REPLICATION_STATE,
        names.MIGRATION_STATE,
        names.HEALTH,
        names.LAST_RECOVERY_POINT,
    )
    async with await WorkflowEnvironment.start_local(
        search_attributes=attributes, dev_server_existing_path=temporal_executable(), dev_server_log_level="error"
    ) as environment:
        address = environment.client.service_client.config.target_host
        host, _, port = address.partition(":")
        settings = Settings(Installation("tests"), TemporalSettings(address=HostPort(host, int(port))))
        client = await replicating.connect(settings)
        activities = StandIns()
        steps = [
            getattr(activities, name)
            for name in vars(StandIns)
            if hasattr(getattr(StandIns, name), "__temporal_activity_definition")
        ]
        of_site = SiteWorkflows(client)
        steps += [of_site.list_holders, of_site.live_appliances]
        queues = [names.apply_queue(TARGET), names.azure_queue(TARGET)]
        for site in SITES:
            queues += [names.vsphere_queue(site), names.transfer_queue(f"appliance-{site}")]
        async with AsyncExitStack() as workers:
            await workers.enter_async_context(
                Worker(client, task_queue=names.CONTROL_QUEUE, workflows=WORKFLOWS, activities=steps)
            )
            for queue in queues:
                await workers.enter_async_context(Worker(client, task_queue=queue, activities=steps))
            nowhere = str(tmp_path_factory.mktemp("no-configuration") / "temporal.toml")
            yield Running(client, address, activities, {"TEMPORAL_ADDRESS": address, "TEMPORAL_CONFIG_FILE": nowhere})


@dataclass(frozen=True)
class Synced:
    """A replication in Delta sync after its first cycle, which sleeps for an hour: for tests that leave it as it is."""

    vm: str
    workflow_id: str


@pytest_asyncio.fixture(scope="session")
async def synced(running: Running) -> Synced:
    vm = f"sync-{uuid4().hex[:8]}"
    workflow_id = await running.delta_sync(vm, cycles=1)
    await running.until(workflow_id, lambda view: "idle until" in view.activity)
    return Synced(vm, workflow_id)


@pytest.fixture(autouse=True)
def no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no settings file of the person who runs the tests be found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DELTAFERRY_CONFIG", raising=False)
    yield


@pytest.fixture
def vm() -> str:
    """A VM name that no other test uses."""
    return f"web-{uuid4().hex[:8]}"
