"""Recovery plans on a server of their own: stand-ins for the replications that they ask, and runs as an operator sees them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from activities.plan_steps import PlanScripts
from deltaferry.model.states import JobOutcome
from tests.workflows.site_bench import eventually
from workflows import names
from workflows.messages.plan import PlanResult, PlanView
from workflows.messages.service import OperationAnswer, OperationWanted
from workflows.recovery_plan import RecoveryPlan

_numbers = itertools.count(1)
_BEAT = timedelta(milliseconds=100)


@dataclass
class Behaviour:
    """What a stand-in replication does with what it is asked."""

    refusal: str = ""
    failures: int = 0
    """So many of its first operations fail."""
    held: bool = False
    """An operation ends only after the signal `let_go`."""
    deaf: int = 0
    """So many requests are lost, as those sent to a replication that is adopted later."""


@workflow.defn(name="StandInReplication", sandboxed=False)
class StandInReplication:
    """Answers as the contract says: what was begun under an id is not begun twice, and its answer comes again."""

    def __init__(self) -> None:
        self._new: list[OperationWanted] = []
        self._answers: dict[str, OperationAnswer] = {}
        self._begun: list[tuple[str, dict[str, Any]]] = []
        self._held = False
        self._request_ids: list[str] = []

    @workflow.signal(name=names.OPERATION_WANTED)
    def operation_wanted(self, wanted: OperationWanted) -> None:
        self._request_ids.append(wanted.request_id)
        self._new.append(wanted)

    @workflow.query
    def request_ids(self) -> list[str]:
        return self._request_ids

    @workflow.signal
    def let_go(self) -> None:
        self._held = False

    @workflow.query
    def begun(self) -> list[tuple[str, dict[str, Any]]]:
        return self._begun

    @workflow.run
    async def run(self, behaviour: Behaviour) -> None:
        self._held = behaviour.held
        while True:
            await workflow.wait_condition(lambda: bool(self._new))
            wanted = self._new.pop(0)
            if len(self._request_ids) <= behaviour.deaf:
                continue
            if wanted.request_id in self._answers:
                await self._answer(wanted, self._answers[wanted.request_id])
            elif behaviour.refusal:
                await self._answer(wanted, self._say(wanted, accepted=False, ended=True, sentence=behaviour.refusal))
            else:
                await self._carry_out(wanted, behaviour)

    async def _carry_out(self, wanted: OperationWanted, behaviour: Behaviour) -> None:
        self._begun.append((wanted.operation, wanted.options))
        await self._answer(wanted, self._say(wanted, accepted=True, ended=False, sentence="It begins."))
        await workflow.wait_condition(lambda: not self._held)
        failed = len(self._begun) <= behaviour.failures
        outcome = JobOutcome.FAILED if failed else JobOutcome.SUCCEEDED
        sentence = "The import failed." if failed else "The VM runs."
        await self._answer(wanted, self._say(wanted, accepted=True, ended=True, sentence=sentence, outcome=outcome))

    def _say(
        self, wanted: OperationWanted, *, accepted: bool, ended: bool, sentence: str, outcome: JobOutcome | None = None
    ) -> OperationAnswer:
        answer = OperationAnswer(workflow.info().workflow_id, wanted.request_id, accepted, ended, outcome, sentence)
        self._answers[wanted.request_id] = answer
        return answer

    async def _answer(self, wanted: OperationWanted, answer: OperationAnswer) -> None:
        await workflow.get_external_workflow_handle(wanted.requester).signal(names.OPERATION_ANSWERED, answer)


@dataclass
class PlanRun:
    """A run of a plan, as an operator sees it."""

    handle: WorkflowHandle[Any, Any]

    async def progress(self) -> PlanView:
        view: PlanView = await self.handle.query("progress", result_type=PlanView)
        return view

    async def until(self, condition: Callable[[PlanView], bool], what: str) -> PlanView:
        last: list[PlanView] = []

        async def holds() -> bool:
            last[:] = [await self.progress()]
            return condition(last[0])

        try:
            await eventually(holds, what, patience_s=60)
        except AssertionError as error:
            raise AssertionError(f"{error}; the last progress was {last}") from None
        return last[0]

    async def until_item(self, item_id: str, state: str) -> PlanView:
        return await self.until(lambda view: states(view)[item_id] == state, f"{item_id} {state}")

    async def send(self, verb: str, **request: object) -> str:
        sentence: str = await self.handle.execute_update(verb, request, result_type=str)
        return sentence

    async def refusal(self, verb: str, **request: object) -> str:
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await self.send(verb, **request)
        assert isinstance(caught.value.cause, ApplicationError)
        return caught.value.cause.message

    async def result(self) -> PlanResult:
        result: PlanResult = await asyncio.wait_for(
            self.handle._client.get_workflow_handle(self.handle.id, result_type=PlanResult).result(), 60
        )
        return result

    async def details(self) -> str:
        answer: WorkflowMetadata = await self.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        return answer.current_details


def states(view: PlanView) -> dict[str, str]:
    return {item.item_id: item.state for item in view.items}


@dataclass
class PlanBench:
    """A place for one test: its replications, scripts, and the workers that serve them."""

    client: Client
    folder: Path
    site: str = field(default_factory=lambda: f"site{next(_numbers)}")
    started: list[str] = field(default_factory=list)

    async def vm(self, name: str, behaviour: Behaviour | None = None) -> str:
        workflow_id = names.replication_id(self.site, name)
        await self.client.start_workflow(
            "StandInReplication", behaviour or Behaviour(), id=workflow_id, task_queue=names.CONTROL_QUEUE
        )
        self.started.append(workflow_id)
        return workflow_id

    def script(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    async def start(self, groups: list[dict[str, Any]], run: str = "planned", **options: object) -> PlanRun:
        request = {"plan": {"name": "shop", "groups": groups}, "run": run, **options}
        workflow_id = names.recovery_plan_id("shop", self.site)
        handle: WorkflowHandle[Any, Any] = await self.client.start_workflow(
            names.RECOVERY_PLAN, request, id=workflow_id, task_queue=names.CONTROL_QUEUE
        )
        self.started.append(workflow_id)
        return PlanRun(handle)

    async def begun(self, vm: str) -> list[tuple[str, dict[str, Any]]]:
        begun: list[tuple[str, dict[str, Any]]] = await self.client.get_workflow_handle(vm).query(
            "begun", result_type=list[tuple[str, dict[str, Any]]]
        )
        return begun

    @asynccontextmanager
    async def control(self) -> AsyncIterator[None]:
        async with Worker(
            self.client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[RecoveryPlan, StandInReplication],
            graceful_shutdown_timeout=timedelta(0),
        ):
            yield

    @asynccontextmanager
    async def scripts(self, *allowed: str) -> AsyncIterator[None]:
        """Serve the queue of this test's plan worker, whose name is the site's."""
        with ThreadPoolExecutor(4) as threads:
            async with Worker(
                self.client,
                task_queue=names.plan_queue(self.site),
                activities=[PlanScripts(self.site, allowed).run_script],
                activity_executor=threads,
                max_heartbeat_throttle_interval=_BEAT,
                default_heartbeat_throttle_interval=_BEAT,
                graceful_shutdown_timeout=timedelta(0),
            ):
                yield


@asynccontextmanager
async def plan_bench(client: Client, folder: Path) -> AsyncIterator[PlanBench]:
    """Yield a bench, and terminate what is left of its workflows."""
    made = PlanBench(client, folder)
    yield made
    for workflow_id in made.started:
        handle = client.get_workflow_handle(workflow_id)
        if (await handle.describe()).close_time is None:
            await handle.terminate("the test is over")


def manual(name: str = "check") -> dict[str, Any]:
    """Return a step in which a person looks at something."""
    return {"name": name, "kind": "manual", "target": "Look."}
