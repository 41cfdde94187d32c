"""Who runs: what Temporal knows of a site's replications, their jobs, and the arbiter's leases.

Activities run in threads, the client in the worker's event loop; each call here waits for the loop.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from deltaferry.model.audit import KnownInAzure, RunningReplication, SeenLease
from deltaferry.model.states import MigrationState, ReplicationState
from workflows import names
from workflows.messages.in_azure import job_of
from workflows.messages.job import migration_job, planned_job, point_job, test_job
from workflows.messages.slot import SlotsReleased, SlotsState
from workflows.messages.views import StatusView

T = TypeVar("T")

_CALL_LIMIT_S = 25.0
"""Below the steps' heartbeat limit (`workflows/policies.py`): no beat runs meanwhile."""

_PARKED = frozenset(
    {ReplicationState.PAUSED, ReplicationState.REPAIR_PENDING, ReplicationState.INITIAL_FAILED, ReplicationState.NONE}
)
"""No cycle runs in these, and none begins by itself but a resync, which takes a snapshot of its own under a new key."""
_MAKES: Mapping[str, tuple[Callable[[int], str], ...]] = {
    "test": (test_job,),
    "failover": (point_job,),
    "migrate": (migration_job, planned_job),
}
"""By which tags is known what a job makes; its kind is that in its workflow id (`workflows/names.py`)."""
_GOING_BACK = frozenset({"reprotect", "failback"})
"""Kinds of jobs that take snapshots of managed disks."""
_MIGRATING = frozenset({MigrationState.MIGRATION_QUEUED, MigrationState.MIGRATION_IN_PROGRESS})


class Holders(Protocol):
    """Asks who runs. Nothing is cached."""

    def running(self, site: str) -> dict[str, bool]:
        """Return the instance UUIDs of the VMs for which anything runs, and whether a job does."""

    def ask(self, site: str, instance_uuid: str) -> RunningReplication | None:
        """Return what runs for a VM, from the replication itself; None if nothing does."""

    def runs(self, workflow_id: str) -> bool:
        """Return whether a workflow runs."""

    def leases(self, site: str) -> tuple[SeenLease, ...]:
        """Return the leases in a site's arbiter; none where it does not run."""

    def release(self, site: str, lease: SeenLease) -> None:
        """Have the arbiter free a lease; no-op for one that it does not know any more."""


class TemporalHolders:
    """`Holders` on a Temporal client."""

    def __init__(
        self, client: Client, loop: asyncio.AbstractEventLoop, *, answer_within: timedelta = timedelta(seconds=10)
    ) -> None:
        self._client = client
        self._loop = loop
        self._answer_within = answer_within

    def running(self, site: str) -> dict[str, bool]:
        """Return the instance UUIDs of the VMs for which anything runs, and whether a job does."""
        return self._wait(self._running(names.replication_id(site, "")))

    def ask(self, site: str, instance_uuid: str) -> RunningReplication | None:
        """Return what runs for a VM, from the replication itself; None if nothing does."""
        return self._wait(self._ask(names.replication_id(site, instance_uuid), instance_uuid))

    def runs(self, workflow_id: str) -> bool:
        """Return whether a workflow runs."""
        return self._wait(self._runs(workflow_id))

    def leases(self, site: str) -> tuple[SeenLease, ...]:
        """Return the leases in a site's arbiter; none where it does not run."""
        return self._wait(self._leases(names.slots_id(site)))

    def release(self, site: str, lease: SeenLease) -> None:
        """Have the arbiter free a lease; no-op for one that it does not know any more."""
        handle = self._client.get_workflow_handle(names.slots_id(site))
        self._wait(handle.signal(names.SLOTS_RELEASED, SlotsReleased(lease.holder, lease.request_id)))

    def _wait(self, asked: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(_CALL_LIMIT_S)

    async def _running(self, prefix: str) -> dict[str, bool]:
        found: dict[str, bool] = {}
        query = f"ExecutionStatus = 'Running' AND WorkflowId STARTS_WITH '{prefix}'"
        async for execution in self._client.list_workflows(query):
            uuid, _, job = execution.id.removeprefix(prefix).partition("/")
            found[uuid] = found.get(uuid, False) or bool(job)
        return found

    async def _ask(self, workflow_id: str, instance_uuid: str) -> RunningReplication | None:
        jobs = await self._jobs(workflow_id)
        if not await self._runs(workflow_id):
            return RunningReplication(instance_uuid, None) if jobs else None
        try:
            status = await self._client.get_workflow_handle(workflow_id).query(
                "status", result_type=StatusView, rpc_timeout=self._answer_within
            )
        except (RPCError, WorkflowQueryFailedError):
            return RunningReplication(instance_uuid, None)
        has_jobs = bool(jobs) or (status.job_id is not None and await self._runs(status.job_id))
        parked = status.replication_state in _PARKED and status.migration_state not in _MIGRATING and not has_jobs
        known = _with_jobs(status.in_azure, jobs) if status.in_azure is not None else None
        return RunningReplication(instance_uuid, status.replication_id, parked, has_jobs, known)

    async def _jobs(self, workflow_id: str) -> list[str]:
        """Return the ids of a replication's jobs that run, without the replication's own in front."""
        query = f"ExecutionStatus = 'Running' AND WorkflowId STARTS_WITH '{workflow_id}/'"
        found = [execution.id async for execution in self._client.list_workflows(query)]
        return [job.removeprefix(f"{workflow_id}/") for job in found]

    async def _runs(self, workflow_id: str) -> bool:
        try:
            described = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return described.status is WorkflowExecutionStatus.RUNNING

    async def _leases(self, arbiter: str) -> tuple[SeenLease, ...]:
        if not await self._runs(arbiter):
            return ()
        state = await self._client.get_workflow_handle(arbiter).query(
            "status", result_type=SlotsState, rpc_timeout=self._answer_within
        )
        return tuple(
            SeenLease(
                held.wanted.holder,
                _instance_uuid(held.wanted.replication or held.wanted.holder),
                held.wanted.request_id,
                held.granted_at,
            )
            for held in state.leases
        )


def _with_jobs(known: KnownInAzure, jobs: list[str]) -> KnownInAzure:
    """Return what a replication knows, and what jobs have in Azure that run without its knowledge: it was reset."""
    kinds = {job.partition("/")[0] for job in jobs}
    made = {tag(job_of(job)) for job in jobs for tag in _MAKES.get(job.partition("/")[0], ())}
    takes = known.takes_disk_snapshots or not kinds.isdisjoint(_GOING_BACK)
    return dataclasses.replace(known, jobs=tuple(sorted({*known.jobs, *made})), takes_disk_snapshots=takes)


def _instance_uuid(holder: str) -> str:
    """Return the instance UUID in the id of a replication or of a job of one; empty for another workflow's."""
    parts = holder.split("/")
    is_ours = len(parts) >= 3 and names.replication_id(parts[1], parts[2]) == "/".join(parts[:3])
    return parts[2] if is_ours else ""
