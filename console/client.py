"""The command line's way to talk to replications: small asynchronous functions, used by the demo and by tests as well.

All raise CommandError for what a person can do something about, or the errors that `outcomes.command_error` knows.
"""

import asyncio
import functools
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_fixed

from console.live_progress import LiveProgress, read_progress
from console.outcomes import CommandError, ExitCode
from deltaferry.model.errors import ErrorKind
from deltaferry.planning.dr_states import AnyOperation
from workers.settings import Settings, TemporalSettings
from workflows import names
from workflows.messages.operator_input import AdoptInput, EnableInput
from workflows.messages.replication_state import CycleRecord
from workflows.messages.site import EnableResult
from workflows.messages.step import AdoptResult
from workflows.messages.views import DiskView, StatusView
from workflows.plugin import plugin

Handle = WorkflowHandle[Any, Any]

_CONNECT_WITHIN_S = 20.0
_ANSWER_WITHIN = timedelta(seconds=20)
_ACCEPT_WITHIN = timedelta(seconds=40)

_ENTITY_TYPES = (names.REPLICATE_VM, names.STOP_REPLICATION, names.COMPLETE_MIGRATION)
"""What lives under the id of a replication, one after the other."""
_PREFIX = names.replication_id("", "").partition("/")[0] + "/"
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class ReplicationRow:
    """A replication as visibility knows it; attributes are missing for a moment after its start."""

    workflow_id: str
    vm: str
    site: str
    replication_state: str
    migration_state: str
    health: str
    last_recovery_point: datetime | None
    running: bool
    started_at: datetime


async def connect(settings: Settings | None) -> Client:
    """Connect to Temporal as the settings say; without settings, as the Temporal CLI's own configuration says."""
    config = (settings.temporal if settings is not None else TemporalSettings()).connect_config()
    try:
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            return await Client.connect(**config, plugins=[plugin()], runtime=quiet_runtime())
    except (RuntimeError, RPCError, TimeoutError) as error:
        raise CommandError(
            ExitCode.UNREACHABLE,
            f"Temporal does not answer at {config.get('target_host')}.",
            "Start it, or correct the table [temporal] of the settings file or the Temporal CLI's own configuration.",
        ) from error


async def start_enable(client: Client, request: EnableInput) -> Handle:
    """Start `EnableReplication`, and return its handle: the result says which replication it started."""
    workflow_id = f"enable/{request.site}/{request.vm}/{uuid.uuid4().hex[:8]}"
    return await client.start_workflow(
        names.ENABLE_REPLICATION, request, id=workflow_id, task_queue=names.CONTROL_QUEUE, result_type=EnableResult
    )


async def enable(client: Client, request: EnableInput) -> EnableResult:
    """Enable replication of one VM and wait until it is accepted. Raises WorkflowFailureError with all findings."""
    result: EnableResult = await (await start_enable(client, request)).result()
    return result


async def adopt(client: Client, request: AdoptInput) -> AdoptResult:
    """Start a site's replications again from their commit records."""
    result: AdoptResult = await client.execute_workflow(
        names.ADOPT_REPLICATIONS,
        request,
        id=f"adopt/{request.site}/{uuid.uuid4().hex[:8]}",
        task_queue=names.CONTROL_QUEUE,
        result_type=AdoptResult,
    )
    return result


async def replications(
    client: Client, *, site: str | None = None, vm: str | None = None, ended_too: bool = False
) -> AsyncIterator[ReplicationRow]:
    """Yield the replications that visibility knows, of one site or with one VM name where asked for."""
    kinds = ", ".join(_quoted(kind) for kind in _ENTITY_TYPES)
    terms = [f"WorkflowType IN ({kinds})"]
    terms += [f"{names.SITE.name} = {_quoted(site)}"] if site is not None else []
    terms += [f"{names.VM_NAME.name} = {_quoted(vm)}"] if vm is not None else []
    running = ["ExecutionStatus = 'Running'"]
    async for execution in client.list_workflows(" AND ".join(terms + ([] if ended_too else running))):
        if execution.status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
            yield _row(execution)


async def find(client: Client, reference: str, site: str | None = None) -> Handle:
    """Return the handle of the replication that a VM's name, an instance UUID or a full workflow id stands for.

    Raises CommandError: NOT_FOUND, or USAGE with the ids where several replications match.
    """
    if reference.startswith(_PREFIX):
        return await _existing(client, reference)
    if _UUID.fullmatch(reference):
        if site is not None:
            return await _existing(client, names.replication_id(site, reference))
        ids = [row.workflow_id async for row in replications(client) if row.workflow_id.endswith(f"/{reference}")]
    else:
        ids = [row.workflow_id async for row in replications(client, site=site, vm=reference)]
    if not ids:
        where = f" at the site {site}" if site is not None else ""
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"No replication of {reference} runs{where}.",
            "`deltaferry list` shows what runs; `deltaferry enable` starts a replication.",
            ErrorKind.VM_NOT_FOUND,
        )
    if len(ids) > 1:
        raise CommandError(
            ExitCode.USAGE,
            f"{len(ids)} replications match {reference}: {', '.join(sorted(ids))}.",
            "Name one of them by its workflow id, or give --site.",
            ErrorKind.VM_AMBIGUOUS,
        )
    return client.get_workflow_handle(ids[0])


async def status(handle: Handle) -> StatusView:
    """Return a replication's status."""
    view: StatusView = await handle.query("status", result_type=StatusView, rpc_timeout=_ANSWER_WITHIN)
    return view


async def disks(handle: Handle) -> tuple[DiskView, ...]:
    """Return a replication's disks."""
    views: tuple[DiskView, ...] = await handle.query("disks", result_type=tuple[DiskView, ...], rpc_timeout=_ANSWER_WITHIN)
    return views


async def cycles(handle: Handle) -> tuple[CycleRecord, ...]:
    """Return a replication's last cycles, newest last; none of one that is being stopped or completed."""
    try:
        records: tuple[CycleRecord, ...] = await handle.query(
            "cycles", result_type=tuple[CycleRecord, ...], rpc_timeout=_ANSWER_WITHIN
        )
    except WorkflowQueryFailedError:
        return ()  # the workflows that end a replication have no such query
    return records


def _run_was_ending(error: BaseException) -> bool:
    return isinstance(error, RPCError) and error.status is RPCStatusCode.FAILED_PRECONDITION


def between_two_runs() -> AsyncRetrying:
    """Return what tries again where the server refuses an update that meets a run just as it continues as new: the next run takes it.

    One for each update: of one that is shared, a second user would have the first one's update sent again, although it was taken.
    """
    return AsyncRetrying(
        retry=retry_if_exception(_run_was_ending), wait=wait_fixed(0.5), stop=stop_after_attempt(10), reraise=True
    )


async def update(handle: WorkflowHandle[Any, Any], name: str, *arguments: object, within: timedelta) -> str:
    """Send an update to any workflow and return its sentence, again where it meets a run that continues as new.

    Raises WorkflowUpdateFailedError where it is refused, RPCError.
    """
    async for attempt in between_two_runs():
        with attempt:
            sentence: str = await handle.execute_update(name, args=list(arguments), result_type=str, rpc_timeout=within)
    return sentence


async def send(handle: Handle, operation: AnyOperation, argument: object | None = None) -> str:
    """Send an operation and return the sentence that says what happens now.

    Raises WorkflowUpdateFailedError where the replication's state refuses it.
    """
    arguments = [] if argument is None else [argument]
    try:
        return await update(handle, operation.value, *arguments, within=_ACCEPT_WITHIN)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"The replication {handle.id} does not run any more.",
            "`deltaferry enable` starts a new one.",
            ErrorKind.VM_NOT_FOUND,
        ) from error


async def live_progress(client: Client, handle: Handle) -> LiveProgress:
    """Return how far the running steps of a replication and of its job are, from their heartbeats."""
    return await read_progress(client, handle.id, await status(handle))


async def running(handle: Handle) -> bool:
    """Return whether a workflow is still open."""
    return (await handle.describe()).status is WorkflowExecutionStatus.RUNNING


@functools.cache
def quiet_runtime() -> Runtime:
    """Return the process's runtime for commands: the SDK's own logs would go to standard output, beside the result."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


async def _existing(client: Client, workflow_id: str) -> Handle:
    handle: Handle = client.get_workflow_handle(workflow_id)
    try:
        await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"There is no replication {workflow_id}.",
            "`deltaferry list` shows what runs.",
            ErrorKind.VM_NOT_FOUND,
        ) from error
    return handle


def _row(execution: WorkflowExecution) -> ReplicationRow:
    attributes = execution.typed_search_attributes
    site = execution.id.removeprefix(_PREFIX).partition("/")[0]
    return ReplicationRow(
        workflow_id=execution.id,
        vm=attributes.get(names.VM_NAME) or execution.id.rpartition("/")[2],
        site=attributes.get(names.SITE) or site,
        replication_state=attributes.get(names.REPLICATION_STATE) or "starting",
        migration_state=attributes.get(names.MIGRATION_STATE) or "",
        health=attributes.get(names.HEALTH) or "",
        last_recovery_point=attributes.get(names.LAST_RECOVERY_POINT),
        running=execution.status is WorkflowExecutionStatus.RUNNING,
        started_at=execution.start_time,
    )


def _quoted(value: str) -> str:
    """Return a value as a string of Temporal's list filter."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
