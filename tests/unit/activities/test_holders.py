"""Who runs, asked of a real Temporal server: replications and jobs by their ids, and what a replication says of itself."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import pytest
import pytest_asyncio
from temporalio import workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.holders import TemporalHolders
from deltaferry.model.audit import RunningReplication
from deltaferry.model.states import MigrationState, ReplicationState
from lab.tools import temporal_executable
from workflows import names
from workflows.messages.views import StatusView
from workflows.plugin import plugin

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUE = "holders"
RID = "1" * 16
R, M = ReplicationState, MigrationState


@dataclass
class Says:
    """What a workflow of this test answers to `status`."""

    replication_state: str
    migration_state: str = M.TEST_PENDING.value
    job_id: str | None = None


@workflow.defn(name="Standing")
class Standing:
    """Runs until it is terminated, and answers as a replication does."""

    @workflow.init
    def __init__(self, says: Says) -> None:
        self._says = says

    @workflow.run
    async def run(self, says: Says) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.query
    def status(self) -> StatusView:
        says = self._says
        return StatusView(
            vm="web-01", site="london", instance_uuid="", replication_id=RID, replication_state=says.replication_state,
            migration_state=says.migration_state, activity="", percent=None, last_recovery_point=None, next_cycle_at=None,
            predicted_downtime_s=None, cycles_committed=0, delta_bytes_sent=0, verified_blocks=0, initial=(), job_id=says.job_id,
            health=(), allowed=(), last_refused=None, migration=None, migrated_at=None,
        )  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=temporal_executable(), dev_server_log_level="error", plugins=[plugin()]
        ) as environment,
        Worker(environment.client, task_queue=QUEUE, workflows=[Standing], workflow_runner=UnsandboxedWorkflowRunner()),
    ):
        yield environment.client


class OneSite:
    """A site of this test's own, and the calls that activities make from their threads."""

    def __init__(self, client: Client) -> None:
        self.name, self.uuid = f"site-{uuid4().hex[:8]}", str(uuid4())
        self.id = names.replication_id(self.name, self.uuid)
        self.client = client
        self.holders = TemporalHolders(client, asyncio.get_running_loop())

    async def start(self, workflow_id: str, says: Says | None = None, queue: str = QUEUE) -> None:
        await self.client.start_workflow(Standing.run, says or Says(R.DELTA_SYNC.value), id=workflow_id, task_queue=queue)

    async def terminate(self, workflow_id: str) -> None:
        await self.client.get_workflow_handle(workflow_id).terminate()

    async def ask(self) -> RunningReplication | None:
        return await asyncio.to_thread(self.holders.ask, self.name, self.uuid)

    async def running(self, wanted: dict[str, bool]) -> None:
        """Wait until the server's list, which is a moment late, is as wanted."""
        async with asyncio.timeout(20):
            while await asyncio.to_thread(self.holders.running, self.name) != wanted:
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="module")
async def site(client: Client) -> OneSite:
    return OneSite(client)


@pytest.mark.parametrize(
    ("says", "parked"),
    [
        (Says(R.PAUSED.value), True),
        (Says(R.REPAIR_PENDING.value), True),
        (Says(R.INITIAL_FAILED.value, M.NONE.value), True),
        (Says(R.NONE.value, M.MIGRATED.value), True),
        (Says(R.PAUSED.value, job_id="a/job/that/ended"), True),
        (Says(R.DELTA_SYNC.value), False),
        (Says(R.PAUSE_IN_PROGRESS.value), False),
        (Says(R.RESUME_QUEUED.value), False),
        (Says(R.REPAIR_QUEUED.value), False),
        (Says(R.INITIAL_IN_PROGRESS.value, M.NONE.value), False),
        (Says(R.STOP_FAILED.value), False),
        (Says(R.REPAIR_PENDING.value, M.MIGRATION_IN_PROGRESS.value), False),
        (Says(R.REPAIR_PENDING.value, M.MIGRATION_QUEUED.value), False),
    ],
)
async def test_a_replication_waits_for_a_person_only_in_states_in_which_no_cycle_runs(
    site: OneSite, says: Says, parked: bool
) -> None:
    await site.start(site.id, says)
    assert await site.ask() == RunningReplication(site.uuid, RID, parked, has_jobs=False)


async def test_a_replication_whose_job_runs_does_not_wait(site: OneSite) -> None:
    job = names.resync_id(site.id, 1)
    await site.start(job)
    await site.start(site.id, Says(R.PAUSED.value, job_id=job))
    assert await site.ask() == RunningReplication(site.uuid, RID, parked=False, has_jobs=True)


async def test_a_replication_that_does_not_answer_may_be_any(site: OneSite) -> None:
    await site.start(site.id, queue="nobody-serves-this")
    site.holders = TemporalHolders(site.client, asyncio.get_running_loop(), answer_within=timedelta(seconds=1))
    assert await site.ask() == RunningReplication(site.uuid, None)


async def test_a_job_whose_replication_was_terminated_still_runs(site: OneSite) -> None:
    job = names.initial_id(site.id, 1)
    await site.start(job)
    await site.running({site.uuid: True})
    assert await site.ask() == RunningReplication(site.uuid, None)
    await site.terminate(job)
    await site.running({})
    assert await site.ask() is None


async def test_what_runs_is_listed_by_vm_and_without_other_sites(site: OneSite) -> None:
    await site.start(site.id)
    await site.start(names.replication_id(f"{site.name}-2", site.uuid))
    await site.running({site.uuid: False})
    await site.start(names.migration_id(site.id, 1))
    await site.running({site.uuid: True})


async def test_a_workflow_that_was_terminated_or_never_was_does_not_run(site: OneSite) -> None:
    await site.start(site.id)
    assert await asyncio.to_thread(site.holders.runs, site.id)
    await site.terminate(site.id)
    assert not await asyncio.to_thread(site.holders.runs, site.id)
    assert not await asyncio.to_thread(site.holders.runs, f"{site.id}/never")


async def test_an_arbiter_that_does_not_run_has_no_leases(site: OneSite) -> None:
    assert await asyncio.to_thread(site.holders.leases, site.name) == ()
