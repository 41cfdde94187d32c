"""A recovery plan of three groups and six VMs on real bytes: a drill, and a failover in which scripts fail, people decide and a worker dies."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from deltaferry.model.states import JobOutcome, ReplicationState
from deltaferry.planning.dr_states import DrState
from lab.processes import ManagedProcess
from lab.settings import ISOLATED_NETWORK, SITE
from tests.e2e.conftest import Lab
from tests.e2e.failing_over import Known, assert_holds, on_site, resources_of, until_committed
from tests.e2e.interventions import eventually, reached
from tests.e2e.operators import audit, found_of, runs_of
from tests.e2e.replicated import Replicated
from tests.e2e.site_of_vms import SiteOfVms
from tests.e2e.test_command_line import _ROOT, _deltaferry, _done
from workflows import names
from workflows.messages.plan import ItemView, PlanResult, PlanView

_WORKER = "london-1"
_STOP, _CHECK, _WARM = "database/before/stop jobs", "database/after/check the data", "application/before/warm the caches"


@dataclass(frozen=True)
class Application:
    """Six VMs under replication, and the plan that fails them over."""

    world_file: Path
    name: str
    file: Path
    vms: tuple[Replicated, ...]
    points: tuple[Known, ...]
    ready: Path
    """The script that stops jobs succeeds once this file exists."""

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of each group's VMs."""
        return (0, 1), (2, 3), (4, 5)

    def item(self, number: int) -> str:
        """Return the item of a VM."""
        group = ("database", "application", "web")[number // 2]
        return f"{group}/vm/{self.vms[number].handle.id}"


@dataclass(frozen=True)
class Run:
    """A run of the plan."""

    handle: WorkflowHandle[Any, Any]

    async def until(self, condition: Callable[[PlanView], bool], what: str) -> PlanView:
        """Wait for a condition; while the control worker is dead, nobody answers."""
        last: list[PlanView] = []

        async def holds() -> bool:
            try:
                view = await asyncio.wait_for(self.handle.query("progress", result_type=PlanView), 10)
            except (RPCError, TimeoutError):
                return False
            last[:] = [view]
            return condition(view)

        try:
            await eventually(holds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the last progress was {last}") from None
        return last[0]

    async def until_item(self, item: str, state: str) -> ItemView:
        view = await self.until(lambda view: item_of(view, item).state == state, f"{item} {state}")
        return item_of(view, item)

    async def page(self) -> str:
        metadata: WorkflowMetadata = await self.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        return metadata.current_details

    async def result(self) -> PlanResult:
        handle = self.handle._client.get_workflow_handle(self.handle.id, result_type=PlanResult)
        result: PlanResult = await asyncio.wait_for(handle.result(), 60)
        return result


def item_of(view: PlanView, item: str) -> ItemView:
    return next(one for one in view.items if one.item_id == item)


async def shown(lab: Lab, *arguments: str) -> str:
    """Return what a person reads of a command."""
    command = [sys.executable, "-m", "console.main", *arguments, "--config", str(lab.world.config_file)]
    environment = {**os.environ, **lab.world.environment}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def _plan(name: str, vms: tuple[Replicated, ...], stop: Path, warm: Path) -> str:
    return f"""
name = "{name}"
site = "{SITE}"

[[groups]]
name = "database"
vms = ["{vms[0].name}", "{vms[1].name}"]

[[groups.before]]
name = "stop jobs"
kind = "script"
target = "{stop}"
worker = "{_WORKER}"
time_limit = "1m"
runs = ["unplanned"]

[[groups.after]]
name = "check the data"
kind = "manual"
target = "Compare the last order with the till's."
runs = ["unplanned"]

[[groups]]
name = "application"
vms = ["{vms[2].name}", "{vms[3].name}"]

[[groups.before]]
name = "warm the caches"
kind = "script"
target = "{warm}"
worker = "{_WORKER}"
time_limit = "1m"
runs = ["unplanned"]

[[groups]]
name = "web"
vms = ["{vms[4].name}", "{vms[5].name}"]
"""


async def _known(vm: Replicated) -> Known:
    """Return the VM's latest point, which has all that was written before; its guest writes more afterwards, which is lost."""
    await vm.committed(1)
    await vm.handle.execute_update("pause")
    await vm.state(ReplicationState.PAUSED)
    disks = await asyncio.to_thread(on_site, vm)
    await asyncio.to_thread(vm.scribble)
    return Known((await vm.cycles())[-1].cycle_key, disks)


@pytest.fixture
async def application(lab: Lab, client: Client, tmp_path: Path) -> AsyncIterator[Application]:
    """The VMs, paused with a point; and a worker of its own that runs the plan's scripts."""
    site = await asyncio.to_thread(
        SiteOfVms.create, lab.world, client, "plan", 6, [host.name for host in lab.world.settings.hosts]
    )
    ready = tmp_path / "ready"
    stop = _script(
        tmp_path / "stop-jobs",
        f'echo "$DELTAFERRY_RUN_KIND of $DELTAFERRY_PLAN, attempt $DELTAFERRY_ATTEMPT"\n'
        f'test -e {ready} || {{ echo "a job still runs"; exit 3; }}',
    )
    warm = _script(tmp_path / "warm-caches", 'echo "no cache answers" >&2; exit 1')
    settings = tmp_path / "deltaferry.toml"
    settings.write_text(
        lab.world.config_file.read_text() + f'\n[plan_worker]\nname = "{_WORKER}"\nscripts = ["{stop}", "{warm}"]\n'
    )
    name = f"shop-{random.SystemRandom().getrandbits(32):08x}"
    file = tmp_path / "shop.toml"
    file.write_text(_plan(name, site.vms, stop, warm))
    spec = replace(lab.target.spec, name=f"worker-{name}", command=(*lab.target.spec.command[:-1], str(settings)))
    with ManagedProcess(spec):
        await site.enable()
        for vm in site.vms:
            vm.scribble()
        points = await asyncio.gather(*(_known(vm) for vm in site.vms))
        yield Application(settings, name, file, site.vms, tuple(points), ready)
    async for execution in client.list_workflows(f"WorkflowType = '{names.RECOVERY_PLAN}' AND ExecutionStatus = 'Running'"):
        try:
            await client.get_workflow_handle(execution.id).terminate("the test is over")
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
    await asyncio.gather(*(vm.discard() for vm in site.vms))


async def test_a_plan_of_three_groups_and_six_vms_is_drilled_and_fails_over_with_scripts_people_and_a_killed_worker(
    lab: Lab, client: Client, application: Application
) -> None:
    await _drill(lab, client, application)
    run = await _begin(lab, client, application)
    await _database(lab, application, run)
    await _application_with_a_killed_worker(lab, application, run)
    await _web(lab, application, run)
    await _assert_in_order_and_identical(application)
    await _end(lab, client, application)


async def _drill(lab: Lab, client: Client, application: Application) -> None:
    """A test of the plan, whose steps are for an unplanned failover only; and its clean-up."""
    started = await _done(
        lab.world, "plan", "run", str(application.file), "--run", "test", "--network", ISOLATED_NETWORK, "--wait"
    )
    assert started["progress"]["phase"] == "clean-up pending"
    assert [item["item_id"] for item in started["progress"]["items"]] == [application.item(number) for number in range(6)]
    for vm, point in zip(application.vms, application.points, strict=True):
        view = await vm.status()
        assert_holds(vm, view.tests[0].vm_id, point.disks)
    await _done(lab.world, "plan", "clean-up", application.name)
    result = await Run(client.get_workflow_handle(started["workflow_id"])).result()
    assert (result.outcome, result.succeeded, result.left) == (JobOutcome.SUCCEEDED, 6, ())
    assert [resources_of(vm) for vm in application.vms] == [set()] * 6


async def _begin(lab: Lab, client: Client, application: Application) -> Run:
    """Start the failover: its first script fails, and nothing behind it begins."""
    answer = await _deltaferry(
        lab.world, "plan", "run", str(application.file), "--run", "unplanned", "--reason", "the site burns", "--wait"
    )
    assert answer.code == 1, answer
    failed = next(item for item in answer.json["progress"]["items"] if item["item_id"] == _STOP)
    assert (failed["state"], failed["note"]) == ("failed", "Exit code 3. a job still runs")
    assert failed["accepts"] == ["retry_step", "skip_step"]
    assert {item["state"] for item in answer.json["progress"]["items"]} == {"failed", "waiting"}
    kept = await _done(lab.world, "plan", "status", application.name, "--output", _STOP)
    assert kept["output"] == f"unplanned failover of {application.name}, attempt 1\na job still runs\n"
    return Run(client.get_workflow_handle(answer.json["workflow_id"]))


async def _database(lab: Lab, application: Application, run: Run) -> None:
    """The script succeeds when it is tried again; both VMs are failed over, and somebody has to look at them."""
    application.ready.touch()
    await _done(lab.world, "plan", "retry", application.name, _STOP, "--by", "ann", "--reason", "the job has ended")
    await run.until_item(_CHECK, "running")
    assert await run.handle.query("output", _STOP) == f"unplanned failover of {application.name}, attempt 2\n"
    await _done(lab.world, "plan", "confirm", application.name, _CHECK, "--by", "bob", "--reason", "order 4711 is there")
    await run.until_item(_WARM, "failed")


async def _application_with_a_killed_worker(lab: Lab, application: Application, run: Run) -> None:
    """A script fails for good and is skipped; while both VMs of the group are on their way, the control worker is killed."""
    lab.world.arm_control.set_times(operation_s=2)
    try:
        await _done(lab.world, "plan", "skip", application.name, _WARM, "--by", "ann", "--reason", "cold caches will do")
        both = (application.item(2), application.item(3))
        await run.until(lambda view: [item_of(view, item).state for item in both] == ["running"] * 2, "both on their way")
        await reached(lambda: _is_imported(lab), "a disk that is imported")
        lab.control.kill()
    finally:
        lab.world.arm_control.set_times(operation_s=0)
    await asyncio.to_thread(lab.control.start)
    await run.until(lambda view: {item_of(view, item).state for item in both} == {"succeeded"}, "both failed over")


def _is_imported(lab: Lab) -> bool:
    return any(one.action == "disks.import" and one.status == "InProgress" for one in lab.world.arm_control.operations())


async def _web(lab: Lab, application: Application, run: Run) -> None:
    """The last group needs nobody; who decided what and why is kept with the run, and shown."""
    result = await run.result()
    assert (result.outcome, result.succeeded) == (JobOutcome.COMPLETED_WITH_INFORMATION, 8)
    assert (result.skipped, result.not_done, result.left) == ((_WARM,), (), ())
    page = await run.page()
    table = await shown(lab, "plan", "status", run.handle.id)
    for told in (page, table):
        for vm in application.vms:
            assert vm.name in told, told
        for expected in (_STOP, _CHECK, _WARM, "bob", "order 4711 is there", "ann", "Exit code 0."):
            assert expected in told, told
    assert "cold caches will do; it had failed: Exit code 1. no cache answers" in page
    assert "the site burns" in page


async def _assert_in_order_and_identical(application: Application) -> None:
    """VMs of a group together, groups one after the other; every byte is that of the recovery point, and not the source's of now."""
    views = []
    for vm, point in zip(application.vms, application.points, strict=True):
        view = await vm.status()
        assert view.migration_state == DrState.FAILED_OVER and view.failover is not None
        assert view.failover.point_key == point.cycle_key
        await asyncio.to_thread(assert_holds, vm, view.failover.vm_id, point.disks)
        assert on_site(vm) != point.disks, "what the guest wrote after the point is lost"
        assert vm.world.vcenter_control.vm(vm.name).power == "poweredOff"
        assert await runs_of(vm, names.FAILOVER_VM) == 1
        views.append(view.failover)
    before = None
    for group in application.groups:
        asked = [views[number].requested_at for number in group]
        runs = [at for number in group if (at := views[number].running_at) is not None]
        assert max(asked) < min(runs), "the VMs of a group are failed over together"
        assert before is None or min(asked) > before, "a group begins when the one before it runs"
        before = max(runs)


async def _end(lab: Lab, client: Client, application: Application) -> None:
    """Two groups stay in Azure, the third goes back to its site; nothing is left over."""
    kept, back = application.vms[:4], application.vms[4:]
    await asyncio.gather(*(vm.handle.execute_update("commit") for vm in kept))
    await asyncio.gather(*(vm.handle.execute_update("cancel_failover") for vm in back))
    for vm in kept:
        await until_committed(vm)
    await asyncio.gather(*(vm.complete() for vm in kept))
    for vm in back:
        await vm.until(lambda v: v.failover is None, "cancelled")
        assert resources_of(vm) == set()
        assert vm.world.vcenter_control.vm(vm.name).power == "poweredOn"
    found = (await audit(client)).findings
    assert [found_of(vm, found) for vm in application.vms] == [{}] * 6
    await asyncio.gather(*(vm.stop() for vm in back))
    for vm in application.vms:
        await asyncio.to_thread(vm.assert_nothing_left)
