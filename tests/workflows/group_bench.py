"""A replication group on the bench: started, waited for, and what became of its points."""

from collections.abc import Callable
from typing import Any

from temporalio.client import WorkflowHandle

from tests.workflows.site_bench import Bench, Running, eventually
from workflows import names
from workflows.messages.group import GroupResult, GroupView, PointAttempt

NEVER = "PT10H"


async def start_group(bench: Bench, *members: Running, **given: Any) -> WorkflowHandle[Any, Any]:
    """Start a group, as a person does, that takes its first point at once and the next one in ten hours."""
    workflow_id = names.group_id(bench.site, "shop")
    bench.started.append(workflow_id)
    ids = [member.workflow_id for member in members]
    request = {"name": "shop", "site": bench.site, "members": ids, "interval": NEVER, **given}
    return await bench.client.start_workflow(
        names.REPLICATION_GROUP, request, id=workflow_id, task_queue=names.CONTROL_QUEUE, result_type=GroupResult
    )


async def until_group(group: WorkflowHandle[Any, Any], condition: Callable[[GroupView], bool], what: str) -> GroupView:
    """Wait until a group's status is as wanted; return it."""
    last: list[GroupView] = []

    async def holds() -> bool:
        last[:] = [await group.query("status", result_type=GroupView)]
        return condition(last[0])

    await eventually(holds, what)
    return last[0]


async def attempt_of(group: WorkflowHandle[Any, Any], number: int = 1) -> tuple[GroupView, PointAttempt]:
    """Wait until so many points were tried for; return what the group shows, and the last of them."""
    view = await until_group(group, lambda view: len(view.attempts) >= number, f"{number} tried points")
    return view, view.attempts[0]


async def two_members(bench: Bench) -> tuple[Running, Running]:
    """Return two replications that a group can have."""
    return await bench.replicated("web-01", placed=True), await bench.replicated("web-02", placed=True)
