"""Light activities of the control worker that ask Temporal itself: which workflows of a site run, which queues are served."""

from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from activities.failures import translated
from workflows import names
from workflows.messages.site import AppliancesInput, LiveAppliances, SiteHolders, SiteInput

_HOLDERS = (
    names.REPLICATE_VM,
    names.INITIAL_REPLICATION,
    names.RESYNC,
    names.REPROTECT_VM,
    names.FAILBACK_VM,
    names.REPLICATION_GROUP,
)
_ALIVE = timedelta(minutes=2)
"""A worker asks its queue at least once a minute."""


class SiteWorkflows:
    """Knows what the Temporal server knows of a site."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    @translated
    async def list_holders(self, request: SiteInput) -> SiteHolders:
        """Return the ids of the running workflows that may hold slots of a site."""
        types = ", ".join(f"'{name}'" for name in _HOLDERS)
        ids: list[str] = []
        for prefix in (names.replication_id(request.site, ""), names.group_id(request.site, "")):
            query = f"ExecutionStatus = 'Running' AND WorkflowType IN ({types}) AND WorkflowId STARTS_WITH '{prefix}'"
            ids += [found.id async for found in self._client.list_workflows(query)]
        return SiteHolders(tuple(sorted(ids)))

    @activity.defn
    @translated
    async def live_appliances(self, request: AppliancesInput) -> LiveAppliances:
        """Return the appliances of those asked for whose transfer queue somebody serves."""
        return LiveAppliances(tuple([name for name in request.appliances if await self._is_served(names.transfer_queue(name))]))

    async def _is_served(self, queue: str) -> bool:
        answer = await self._client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=self._client.namespace,
                task_queue=TaskQueue(name=queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            )
        )
        since = datetime.now(UTC) - _ALIVE
        return any(poller.last_access_time.ToDatetime(UTC) >= since for poller in answer.pollers)
