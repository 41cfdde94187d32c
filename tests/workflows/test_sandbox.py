"""The sandbox is on, whatever its runs share."""

import uuid

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tests.workflows.clock_reader import ReadsTheClock


async def test_a_workflow_that_reads_the_clock_is_stopped(dev_server: WorkflowEnvironment) -> None:
    queue = f"clock-{uuid.uuid4()}"
    async with Worker(
        dev_server.client, task_queue=queue, workflows=[ReadsTheClock], workflow_failure_exception_types=[Exception]
    ):
        with pytest.raises(WorkflowFailureError) as caught:
            await dev_server.client.execute_workflow(ReadsTheClock.run, id=queue, task_queue=queue)
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "RestrictedWorkflowAccessError"
