"""What an operator does beside the commands: adopt, and the buttons of the Temporal UI; and what is left of it."""

import uuid
from collections.abc import Collection
from datetime import timedelta

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from deltaferry.model.audit import Finding, FindingCode
from deltaferry.model.naming import log_container
from deltaferry.model.replication import CycleKind
from lab.settings import SITE
from tests.e2e.interventions import held, hold, paused
from tests.e2e.replicated import Replicated
from workflows import names
from workflows.messages.audit import AuditResult
from workflows.messages.operator_input import AdoptInput, AuditInput
from workflows.messages.slot import SlotsState
from workflows.messages.step import AdoptResult
from workflows.messages.views import StatusView

NO_GRACE = timedelta(0)


async def audit(client: Client, *, dry_run: bool = False, grace: timedelta | None = NO_GRACE) -> AuditResult:
    """Audit the lab's site; what is a moment old counts, unless something else is said."""
    result: AuditResult = await client.execute_workflow(
        names.SITE_AUDIT,
        AuditInput(SITE, dry_run, grace),
        id=f"{names.audit_id(SITE)}/{uuid.uuid4()}",
        task_queue=names.CONTROL_QUEUE,
        result_type=AuditResult,
    )
    return result


def found_of(vm: Replicated, findings: Collection[Finding]) -> dict[FindingCode, Finding]:
    """Return what was found of a VM; other tests' VMs may have left something."""
    return {finding.code: finding for finding in findings if finding.instance_uuid == vm.source.instance_uuid}


async def adopt(vm: Replicated) -> AdoptResult:
    """Adopt the VM's replication."""
    return await vm.client.execute_workflow(
        names.ADOPT_REPLICATIONS,
        AdoptInput(SITE, vm.name),
        id=f"adopt-{uuid.uuid4()}",
        task_queue=names.CONTROL_QUEUE,
        result_type=AdoptResult,
    )


async def adopted(vm: Replicated) -> None:
    """Adopt the VM's replication, which must be one that can be."""
    result = await adopt(vm)
    assert result.adopted == (vm.handle.id,), result


async def terminate(vm: Replicated) -> None:
    """Click Terminate on the replication."""
    await vm.handle.terminate("by mistake")


async def cancel(vm: Replicated) -> None:
    """Click Cancel on the replication, and wait until its run has ended, as cancelled."""
    await vm.handle.cancel()
    try:
        await vm.handle.result()
    except WorkflowFailureError as error:
        assert isinstance(error.cause, CancelledError), error.cause
        return
    raise AssertionError("the run ended without being cancelled")


async def reset(vm: Replicated, *, to_the_first_task: bool = False) -> None:
    """Click Reset on the replication: to its last workflow task, or to its first."""
    description = await vm.handle.describe()
    tasks = [
        e.event_id for e in await history(vm.client, vm.handle.id) if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    ]
    await vm.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=vm.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=vm.handle.id, run_id=description.run_id),
            reason="by mistake",
            request_id=str(uuid.uuid4()),
            workflow_task_finish_event_id=tasks[0 if to_the_first_task else -1],
        )
    )
    assert (await vm.handle.describe()).run_id != description.run_id


async def history(client: Client, workflow_id: str) -> list[HistoryEvent]:
    """Return the events of a workflow's current run."""
    return [event async for event in client.get_workflow_handle(workflow_id).fetch_history_events()]


async def runs_of(vm: Replicated, workflow_type: str) -> int:
    """Return how many runs of a type there have been for this VM's replication."""
    found = [e async for e in vm.client.list_workflows(f"WorkflowType = '{workflow_type}'") if e.id.startswith(vm.handle.id)]
    return len(found)


async def is_running(client: Client, workflow_id: str) -> bool:
    """Return whether a workflow runs."""
    return (await client.get_workflow_handle(workflow_id).describe()).status is WorkflowExecutionStatus.RUNNING


async def leases(vm: Replicated) -> list[str]:
    """Return the ids of the workflows of this replication that hold slots or wait for them."""
    state = await vm.client.get_workflow_handle(names.slots_id(SITE)).query("status", result_type=SlotsState)
    holders = [held.wanted.holder for held in (*state.leases, *state.waiting)]
    return [holder for holder in holders if holder.startswith(vm.handle.id)]


async def hold_a_delta(vm: Replicated) -> None:
    """Have the guest write, and stop the next cycle while it sends: its snapshot is held, its slots are in use."""
    hold(vm.world, "log", log_container(vm.reference), "PutBlob")
    vm.scribble()
    await held(vm.world)


async def enable_and_hold(vm: Replicated) -> None:
    """Enable replication, and stop the initial replication while it sends."""
    hold(vm.world, "log", "df-log-", "PutBlob")
    await vm.enable()
    await held(vm.world)


def let_go(vm: Replicated) -> None:
    """Let held requests go on."""
    vm.world.blob_control.clear_faults()


async def goes_on_with_deltas(vm: Replicated, copies: int = 1) -> StatusView:
    """Assert that replication goes on from its commit: deltas commit, the replica is right, nothing was copied as a whole again."""
    await vm.committed(1)
    await paused(vm)
    vm.assert_seeds_equal_source()
    capacity = sum(disk.capacity_bytes for disk in vm.source.disks)
    deltas = [cycle for cycle in await vm.cycles() if cycle.kind is not CycleKind.INITIAL]
    assert deltas
    assert sum(cycle.bytes_read for cycle in deltas) < capacity / 2, "no full copy again"
    assert await runs_of(vm, names.INITIAL_REPLICATION) <= copies
    assert vm.our_snapshots() == []
    assert await leases(vm) == []
    return await vm.status()


def refusal_of(error: BaseException) -> ApplicationError:
    """Return the refusal inside what a client raises for a workflow or an update."""
    cause = getattr(error, "cause", None)
    assert isinstance(cause, ApplicationError), error
    return cause
