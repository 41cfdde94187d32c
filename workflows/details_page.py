"""Details pages that are made when somebody reads them: a replication wakes up ten times a cycle, and is looked at now and then."""

from typing import Any, Protocol, runtime_checkable

from temporalio import workflow
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.worker import HandleQueryInput, Interceptor, WorkflowInboundInterceptor, WorkflowInterceptorClassInput


@runtime_checkable
class ShowsDetails(Protocol):
    """A workflow whose details page follows from its state alone."""

    def details_page(self) -> str:
        """Return the page, as Markdown, without changing anything."""


class _MakesDetails(WorkflowInboundInterceptor):
    async def handle_query(self, input: HandleQueryInput) -> Any:
        answer = await super().handle_query(input)
        shown = workflow.instance()
        if isinstance(answer, WorkflowMetadata) and isinstance(shown, ShowsDetails):
            answer.current_details = shown.details_page()
        return answer


class DetailsOnDemand(Interceptor):
    """Puts the page of a workflow that shows one so into the answer of the SDK's query for a workflow's description."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return what is put around each run."""
        return _MakesDetails
