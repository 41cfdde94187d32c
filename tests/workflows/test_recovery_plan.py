"""`RecoveryPlan` on a real server: groups in order, what stops a plan and how it goes on, restarts, clean-up."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment

from deltaferry.model.states import JobOutcome
from tests.workflows.plan_bench import Behaviour, PlanBench, manual, plan_bench, states
from tests.workflows.servers import start_dev_server
from tests.workflows.site_bench import eventually


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    """A server of these tests' own: they stop and start the worker of its queue `control`."""
    async with await start_dev_server() as environment:
        yield environment


@pytest_asyncio.fixture(loop_scope="session")
async def bench(server: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[PlanBench]:
    async with plan_bench(server.client, tmp_path) as made:
        yield made


async def test_three_groups_and_six_vms_with_a_failing_script_a_manual_action_and_a_restarted_worker(bench: PlanBench) -> None:
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


async def test_who_decided_what_and_why_is_kept_though_the_item_is_tried_again(bench: PlanBench) -> None:
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


async def test_an_aborted_run_waits_for_what_runs_and_begins_nothing_more(bench: PlanBench) -> None:
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


async def test_a_rejected_manual_action_stops_the_plan(bench: PlanBench) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "before": [manual()], "after": [manual("later")]}])
        await run.until_item("web/before/check", "running")
        await run.send("reject", item="web/before/check", reason="the data is old", by="bob")
        view = await run.until_item("web/before/check", "failed")
        assert (view.items[0].note, view.items[0].by, states(view)["web/after/later"]) == ("the data is old", "bob", "waiting")
        await run.send("retry_step", item="web/before/check", by="ann")
        await run.until_item("web/before/check", "running")


async def test_a_manual_action_has_failed_when_its_time_is_over(bench: PlanBench) -> None:
    async with bench.control():
        run = await bench.start([{"name": "web", "before": [{**manual(), "time_limit": "PT1S"}]}])
        view = await run.until_item("web/before/check", "failed")
    assert view.items[0].note == "Nobody confirmed or rejected it within 1 s."


async def test_a_long_history_continues_as_new_with_all_that_was_done(bench: PlanBench) -> None:
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


async def test_a_test_stays_open_until_its_vms_are_deleted_or_left(bench: PlanBench) -> None:
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


async def test_a_cancelled_run_ends_its_script(bench: PlanBench) -> None:
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
