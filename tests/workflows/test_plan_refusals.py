"""What a recovery plan is refused, by whom, and what it makes of replications that do not answer."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from deltaferry.model.states import JobOutcome
from tests.workflows.plan_bench import Behaviour, PlanBench, manual, plan_bench
from tests.workflows.servers import start_dev_server
from workflows import names
from workflows.plans.asking import SILENCE


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    """A server of these tests' own: they stop and start the worker of its queue `control`."""
    async with await start_dev_server() as environment:
        yield environment


@pytest_asyncio.fixture(loop_scope="session")
async def bench(server: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[PlanBench]:
    async with plan_bench(server.client, tmp_path) as made:
        yield made


async def test_every_reason_why_a_plan_cannot_be_run_is_told_at_once(bench: PlanBench) -> None:
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
    bench: PlanBench, options: dict[str, Any], expected: str
) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": ["vm/lon1/a"]}], **{"run": "planned", **options})
        with pytest.raises(WorkflowFailureError) as caught:
            await run.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "BadInput"
    assert expected in caught.value.cause.message


async def test_an_unknown_field_of_a_step_is_refused_with_the_fields_that_a_step_has(bench: PlanBench) -> None:
    groups = [{"name": "web", "before": [{**manual(), "tiem_limit": "PT5M"}]}]
    async with bench.control():
        run = await bench.start(groups)
        with pytest.raises(WorkflowFailureError) as caught:
            await run.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert "'plan.groups.0.before.0.tiem_limit' (the fields are name, kind, target, time_limit" in caught.value.cause.message


async def test_a_refusal_is_a_failed_item_with_the_tables_sentence_and_can_be_skipped(bench: PlanBench) -> None:
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


async def test_a_replication_that_does_not_run_is_a_failed_item_until_it_does(bench: PlanBench) -> None:
    vm = names.replication_id(bench.site, "late")
    async with bench.control():
        run = await bench.start([{"name": "web", "vms": [vm]}])
        view = await run.until_item(f"web/vm/{vm}", "failed")
        assert f"No replication {vm} runs" in view.items[0].note
        await bench.vm("late")
        await run.send("retry_step", item=f"web/vm/{vm}", by="ann")
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED


async def test_a_signal_that_is_refused_or_cannot_be_read_is_shown_and_changes_nothing(bench: PlanBench) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "before": [manual()]}])
        await run.until_item("web/before/check", "running")
        await run.handle.signal("confirm", {"itm": "web/before/check"})
        view = await run.until(lambda view: view.last_refused is not None, "refused")
        assert view.last_refused is not None and "there is no field 'itm'" in view.last_refused.sentence
        await run.handle.signal("confirm", {"item": "web/before/check", "reason": "seen", "by": "bob"})
        assert (await run.result()).outcome is JobOutcome.SUCCEEDED


async def test_a_script_that_its_worker_may_not_run_is_a_failed_step(bench: PlanBench) -> None:
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
    bench = PlanBench(time_skipping.client, tmp_path)
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
    bench = PlanBench(time_skipping.client, tmp_path)
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
