"""`RecoveryPlan` on a real server: groups in order, what stops a plan and how it goes on, refusals, restarts, clean-up."""

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
import pytest_asyncio
from temporalio import workflow
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.plan_steps import PlanScripts
from deltaferry.model.states import JobOutcome
from tests.workflows.servers import start_dev_server
from tests.workflows.site_bench import eventually
from workflows import names
from workflows.messages.plan import PlanResult, PlanView
from workflows.messages.service import OperationAnswer, OperationWanted
from workflows.plans.asking import SILENCE
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
class Run:
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
class Bench:
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

    async def start(self, groups: list[dict[str, Any]], run: str = "planned", **options: object) -> Run:
        request = {"plan": {"name": "shop", "groups": groups}, "run": run, **options}
        workflow_id = names.recovery_plan_id("shop", self.site)
        handle: WorkflowHandle[Any, Any] = await self.client.start_workflow(
            names.RECOVERY_PLAN, request, id=workflow_id, task_queue=names.CONTROL_QUEUE
        )
        self.started.append(workflow_id)
        return Run(handle)

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


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    """A server of these tests' own: they stop and start the worker of its queue `control`."""
    async with await start_dev_server() as environment:
        yield environment


@pytest_asyncio.fixture(loop_scope="session")
async def bench(server: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(server.client, tmp_path)
    yield made
    for workflow_id in made.started:
        handle = server.client.get_workflow_handle(workflow_id)
        if (await handle.describe()).close_time is None:
            await handle.terminate("the test is over")


async def test_three_groups_and_six_vms_with_a_failing_script_a_manual_action_and_a_restarted_worker(bench: Bench) -> None:
    db1, db2 = await bench.vm("db1", Behaviour(held=True)), await bench.vm("db2")
    app1, app2 = await bench.vm("app1"), await bench.vm("app2", Behaviour(failures=1))
    web1, web2 = await bench.vm("web1"), await bench.vm("web2")
    check = bench.script("check", f'echo "attempt $DELTAFERRY_ATTEMPT of $DELTAFERRY_ITEM"; test -e {bench.folder}/ready')
    groups = [
        {
            "name": "database",
            "vms": [db1, db2],
            "after": [{"name": "check", "kind": "script", "target": check, "worker": bench.site, "time_limit": "PT20S"}],
        },
        {
            "name": "application",
            "vms": [app1, app2],
            "before": [{"name": "look", "kind": "manual", "target": "Look at the data."}],
        },
        {"name": "web", "vms": [web1, web2]},
    ]
    check_id, look_id = "database/after/check", "application/before/look"
    async with bench.scripts(check):
        async with bench.control():
            run = await bench.start(groups)
            view = await run.until(
                lambda view: (states(view)[f"database/vm/{db1}"], states(view)[f"database/vm/{db2}"]) == ("running", "succeeded"),
                "one VM of the group runs on while the other is done",
            )
            assert states(view)[check_id] == "waiting"
            await bench.client.get_workflow_handle(db1).signal("let_go")
            view = await run.until_item(check_id, "failed")
            assert "Exit code 1. attempt 1 of database/after/check" in next(i.note for i in view.items if i.item_id == check_id)
            assert states(view)[look_id] == "waiting"
            assert "stopped by database/after/check" in view.activity
            (bench.folder / "ready").touch()
            assert await run.send("retry_step", item=check_id, by="ann") == f"{check_id} is tried again."
            await run.until_item(look_id, "running")
            assert (await run.handle.query("output", check_id)) == f"attempt 2 of {check_id}\n"
        # the control worker is gone; what was asked, answered and decided is not
        async with bench.control():
            refused = await run.refusal("confirm", item=look_id)
            assert refused == "Say who decides this and why: both are kept with the run."
            page = await run.details()
            assert "Look at the data." in page
            assert f"`confirm` of `{look_id}`" in page
            await run.send("confirm", item=look_id, reason="complete", by="bob")
            view = await run.until_item(f"application/vm/{app2}", "failed")
            assert next(item.note for item in view.items if item.target == app2) == "The import failed."
            assert states(view)[f"web/vm/{web1}"] == "waiting"
            await run.send("retry_step", item=f"application/vm/{app2}", by="ann")
            result = await run.result()
        assert (result.outcome, result.succeeded, result.skipped, result.not_done) == (JobOutcome.SUCCEEDED, 8, (), ())
        async with bench.control():
            assert await bench.begun(app2) == [("planned_failover", {})] * 2
            assert await bench.begun(db1) == [("planned_failover", {})]


def manual(name: str = "check") -> dict[str, Any]:
    return {"name": name, "kind": "manual", "target": "Look."}


async def test_every_reason_why_a_plan_cannot_be_run_is_told_at_once(bench: Bench) -> None:
    groups = [
        {"name": "web", "vms": ["web-01"], "before": [{"name": "stop", "kind": "script", "target": "stop.sh"}]},
        {"name": "web", "vms": []},
    ]
    async with bench.control():
        run = await bench.start(groups, "planned", network="drill", point="latest")
        with pytest.raises(WorkflowFailureError) as caught:
            await run.result()
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError) and cause.type == "BadInput"
    for expected in (
        "Two groups are called 'web'",
        "names 'web-01': write the replication's workflow id",
        "needs a time limit",
        "absolute path",
        "needs the worker that runs the script",
        "is empty",
        "The field 'network' belongs to a test",
        "takes no recovery point",
    ):
        assert expected in cause.message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"run": "test"}, "A test needs an isolated network"),
        ({"run": "unplanned", "point": "yesterday"}, "'yesterday' names no recovery point"),
        ({"run": "unplanned", "pont": "latest"}, "there is no field 'pont' (the fields are plan, run"),
        ({"run": "sideways"}, "the field 'run': input should be 'test', 'planned', 'unplanned' or 'failback'"),
        ({"carried": {}}, "The field 'carried' is the run's own"),
    ],
)
async def test_an_input_that_cannot_be_used_fails_the_run_with_a_sentence(
    bench: Bench, options: dict[str, Any], expected: str
) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": ["vm/lon1/a"]}], **{"run": "planned", **options})
        with pytest.raises(WorkflowFailureError) as caught:
            await run.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "BadInput"
    assert expected in caught.value.cause.message


async def test_an_unknown_field_of_a_step_is_refused_with_the_fields_that_a_step_has(bench: Bench) -> None:
    groups = [{"name": "web", "before": [{**manual(), "tiem_limit": "PT5M"}]}]
    async with bench.control():
        run = await bench.start(groups)
        with pytest.raises(WorkflowFailureError) as caught:
            await run.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert "'plan.groups.0.before.0.tiem_limit' (the fields are name, kind, target, time_limit" in caught.value.cause.message


async def test_a_refusal_is_a_failed_item_with_the_tables_sentence_and_can_be_skipped(bench: Bench) -> None:
    bad, good = await bench.vm("bad", Behaviour(refusal="The VM is paused: send resume first.")), await bench.vm("good")
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": [bad, good]}], "unplanned", point="latest-app-consistent")
        view = await run.until_item(f"web/vm/{bad}", "failed")
        assert next(item for item in view.items if item.target == bad).note == "The VM is paused: send resume first."
        assert await run.refusal("skip_step", item=f"web/vm/{bad}", reason="", by="ann") == (
            "Say who decides this and why: both are kept with the run."
        )
        await run.until_item(f"web/vm/{good}", "succeeded")
        await run.send("skip_step", item=f"web/vm/{bad}", reason="not needed today", by="ann")
        result = await run.result()
        assert await bench.begun(good) == [("failover", {"point": "latest-app-consistent"})]
    assert (result.outcome, result.skipped) == (JobOutcome.COMPLETED_WITH_INFORMATION, (f"web/vm/{bad}",))


async def test_a_replication_that_does_not_run_is_a_failed_item_until_it_does(bench: Bench) -> None:
    vm = names.replication_id(bench.site, "late")
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": [vm]}])
        view = await run.until_item(f"web/vm/{vm}", "failed")
        assert f"No replication {vm} runs" in view.items[0].note
        await bench.vm("late")
        await run.send("retry_step", item=f"web/vm/{vm}", by="ann")
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED


async def test_who_decided_what_and_why_is_kept_though_the_item_is_tried_again(bench: Bench) -> None:
    vm = await bench.vm("web", Behaviour(failures=1))
    item = f"web/vm/{vm}"
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": [vm], "before": [manual()]}], vm_names={vm: "web-01"})
        await run.until_item("web/before/check", "running")
        await run.send("reject", item="web/before/check", reason="the data is old", by="bob")
        await run.send("retry_step", item="web/before/check", by="ann")
        await run.until_item("web/before/check", "running")
        await run.send("confirm", item="web/before/check", reason="it is new", by="bob")
        view = await run.until_item(item, "failed")
        assert (view.items[1].name, view.activity) == (
            "web/vm/web-01",
            "stopped by web/vm/web-01: send retry_step, skip_step or abort",
        )
        assert await run.refusal("retry_step", item="web/vm/web-02") == (
            "The run has no item 'web/vm/web-02'; items that wait for an answer: web/vm/web-01."
        )
        await run.send("retry_step", item="web/vm/web-01", by="ann", reason="there is quota now")
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED
        decided = [(one.verb, one.item, one.by, one.reason) for one in (await run.progress()).decisions]
        page = await run.details()
    assert decided == [
        ("reject", "web/before/check", "bob", "the data is old"),
        ("retry_step", "web/before/check", "ann", ""),
        ("confirm", "web/before/check", "bob", "it is new"),
        ("retry_step", "web/vm/web-01", "ann", "there is quota now"),
    ]
    assert "`reject` of `web/before/check` by bob: the data is old" in page
    assert "done: VM `web/vm/web-01`, " in page


async def test_an_aborted_run_waits_for_what_runs_and_begins_nothing_more(bench: Bench) -> None:
    vm = await bench.vm("held", Behaviour(held=True))
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": [vm], "after": [manual()]}])
        await run.until(lambda view: view.items[0].note == "It begins.", "accepted")
        assert await run.send("abort", reason="wrong day", by="ann") == "Nothing more is started; what runs is waited for."
        view = await run.until_item("web/after/check", "not done")
        assert (view.aborted, states(view)[f"web/vm/{vm}"]) == (True, "running")
        assert await run.refusal("abort", reason="again", by="ann") == (
            "The run was aborted and takes nothing else: start the plan again."
        )
        await bench.client.get_workflow_handle(vm).signal("let_go")
        result = await run.result()
    assert (result.outcome, result.not_done) == (JobOutcome.CANCELLED, ("web/after/check",))
    assert "ann aborted the run: wrong day" in result.sentence


async def test_a_signal_that_is_refused_or_cannot_be_read_is_shown_and_changes_nothing(bench: Bench) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "before": [manual()]}])
        await run.until_item("web/before/check", "running")
        await run.handle.signal("confirm", {"itm": "web/before/check"})
        view = await run.until(lambda view: view.last_refused is not None, "refused")
        assert view.last_refused is not None and "there is no field 'itm'" in view.last_refused.sentence
        await run.handle.signal("confirm", {"item": "web/before/check", "reason": "seen", "by": "bob"})
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED


async def test_a_rejected_manual_action_stops_the_plan(bench: Bench) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "before": [manual()], "after": [manual("later")]}])
        await run.until_item("web/before/check", "running")
        await run.send("reject", item="web/before/check", reason="the data is old", by="bob")
        view = await run.until_item("web/before/check", "failed")
        assert (view.items[0].note, view.items[0].by, states(view)["web/after/later"]) == ("the data is old", "bob", "waiting")
        await run.send("retry_step", item="web/before/check", by="ann")
        await run.until_item("web/before/check", "running")


async def test_a_manual_action_has_failed_when_its_time_is_over(bench: Bench) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "before": [{**manual(), "time_limit": "PT1S"}]}])
        view = await run.until_item("web/before/check", "failed")
    assert view.items[0].note == "Nobody confirmed or rejected it within 1 s."


async def test_a_long_history_continues_as_new_with_all_that_was_done(bench: Bench) -> None:
    first, held = await bench.vm("first"), await bench.vm("held", Behaviour(held=True))
    groups = [{"name": "one", "vms": [first]}, {"name": "two", "vms": [held], "after": [manual()]}]
    async with bench.control():
        run = await bench.start(groups)
        await run.until(lambda view: view.items[1].note == "It begins.", "the second group was accepted")
        before = (await run.handle.describe()).run_id

        async def rolled_over() -> bool:
            await asyncio.gather(*(run.handle.signal("confirm", {"item": "two/after/check"}) for _ in range(25)))
            await run.progress()
            return (await run.handle.describe()).run_id != before

        await eventually(rolled_over, "a run of its own", patience_s=60)
        assert states(await run.progress()) == {
            f"one/vm/{first}": "succeeded",
            f"two/vm/{held}": "running",
            "two/after/check": "waiting",
        }
        await bench.client.get_workflow_handle(held).signal("let_go")
        await run.until_item("two/after/check", "running")
        await run.send("confirm", item="two/after/check", reason="seen", by="bob")
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED
        assert len(await bench.begun(held)) == 1


async def test_a_test_stays_open_until_its_vms_are_deleted_or_left(bench: Bench) -> None:
    one, two = await bench.vm("one"), await bench.vm("two", Behaviour(failures=2))
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": [one, two]}], "test", network="drill", subnet="a", point="latest")
        assert "has not ended yet" in await run.refusal("clean_up")
        await run.until_item(f"web/vm/{two}", "failed")
        await run.send("abort", reason="one is enough", by="ann")
        view = await run.until(lambda view: view.phase == "clean-up pending", "pending")
        assert "2 VMs of the test exist in Azure and cost money" in view.activity
        assert view.allowed == ("clean_up",)
        assert await run.send("clean_up") == "What the test has made of 2 VMs is deleted."
        view = await run.until(lambda view: view.phase == "clean-up pending" and view.clean_up[1].attempts == 1, "one is left")
        assert [(item.done, item.note) for item in view.clean_up] == [(True, "The VM runs."), (False, "The import failed.")]
        assert "Say who" in await run.refusal("clean_up", leave=True)
        await run.send("clean_up", leave=True, reason="by hand", by="ann")
        result = await run.result()
        assert await bench.begun(one) == [
            ("test_migrate", {"network": "drill", "subnet": "a", "point": "latest"}),
            ("clean_up", {}),
        ]
    assert result.left == (two,)


async def test_a_cancelled_run_ends_its_script(bench: Bench) -> None:
    path = bench.script("long", f"echo $$ > {bench.folder}/pid; sleep 600")
    step = {"name": "long", "kind": "script", "target": path, "worker": bench.site, "time_limit": "PT10M"}
    async with bench.scripts(path), bench.control():
        run = await bench.start([{"name": "web", "before": [step], "after": [manual()]}])

        async def runs() -> bool:
            return (bench.folder / "pid").exists() and bool((bench.folder / "pid").read_text().strip())

        await eventually(runs, "the script runs")
        await run.handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await run.result()
        assert isinstance(caught.value.cause, CancelledError)
        view = await run.progress()
    assert states(view) == {"web/before/long": "failed", "web/after/check": "not done"}
    assert not Path(f"/proc/{(bench.folder / 'pid').read_text().strip()}").exists()


async def test_a_script_that_its_worker_may_not_run_is_a_failed_step(bench: Bench) -> None:
    path = bench.script("forbidden", f"touch {bench.folder}/was-run")
    step = {"name": "no", "kind": "script", "target": path, "worker": bench.site, "time_limit": "PT1M"}
    async with bench.scripts("/opt/another"), bench.control():
        run = await bench.start([{"name": "web", "before": [step]}])
        view = await run.until_item("web/before/no", "failed")
    assert f"may not run {path}: add it to scripts in the table [plan_worker]" in view.items[0].note
    assert not (bench.folder / "was-run").exists()


async def test_a_replication_that_missed_a_request_is_asked_again_under_the_same_id(
    time_skipping: WorkflowEnvironment, tmp_path: Path
) -> None:
    bench = Bench(time_skipping.client, tmp_path)
    async with bench.control():
        vm = await bench.vm("deaf", Behaviour(deaf=2))
        run = await bench.start([{"name": "web", "vms": [vm]}], "failback")
        await run.until_item(f"web/vm/{vm}", "running")
        await time_skipping.sleep(timedelta(minutes=11))
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED
        assert await bench.begun(vm) == [("failback", {})]
        ids = await bench.client.get_workflow_handle(vm).query("request_ids")
    assert (len(ids), len(set(ids))) == (3, 1)


async def test_a_replication_that_says_nothing_is_a_failed_item_and_a_retry_asks_under_the_same_id(
    time_skipping: WorkflowEnvironment, tmp_path: Path
) -> None:
    bench = Bench(time_skipping.client, tmp_path)
    async with bench.control():
        vm = await bench.vm("silent", Behaviour(deaf=4))
        run = await bench.start([{"name": "web", "vms": [vm]}])
        await time_skipping.sleep(SILENCE + timedelta(minutes=1))
        view = await run.until_item(f"web/vm/{vm}", "failed")
        assert "has not answered for 15 min, and may still take the request up" in view.items[0].note
        await run.handle.signal("retry_step", {"item": f"web/vm/{vm}", "by": "ann"})
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED
        ids = await bench.client.get_workflow_handle(vm).query("request_ids")
    assert (len(ids), len(set(ids))) == (5, 1)
