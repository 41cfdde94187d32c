"""What every scenario of `deltaferry demo` shares: a lab around it, its guest, its progress on screen, its exit code."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from deltaferry.model.states import ReplicationState
from lab.oracle import leftovers
from lab.settings import SITE, LabSettings
from lab.vcenter.inventory_file import VmSpec
from lab.virtual_machines import BuiltVm
from lab.world import World
from workers.serving import connect
from workers.settings import load_settings
from workflows import names
from workflows.messages.operator_input import EnableInput
from workflows.messages.site import EnableResult
from workflows.messages.views import StatusView

VM = "web-01"
Handle = WorkflowHandle[object, object]

_POLL_S = 0.3
_STEP_LIMIT_S = 300.0


class DemoFailed(Exception):
    """The demo could not go on; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario ended with."""

    passed: bool
    table: RenderableType
    document: dict[str, object]
    """As `--json` prints it."""


class Course:
    """One run of a scenario in a running lab."""

    def __init__(self, world: World, vm: BuiltVm, out: Console, began: float) -> None:
        self.world = world
        self.vm = vm
        self.out = out
        self.began = began
        self.phases: list[tuple[str, float]] = []
        self._mark = began

    def phase(self, name: str) -> float:
        """End a phase, say so, and return how many seconds it took."""
        now = time.monotonic()
        took = now - self._mark
        self.phases.append((name, took))
        self.out.print(f"[green]✓[/] {name} [dim]({took:.1f} s)[/]")
        self._mark = now
        return took

    async def connected(self) -> Client:
        """Start the three workers, and return a client."""
        for role in ("control", "source", "target"):
            self.world.worker(role)
        return await connect(load_settings(self.world.config_file, self.world.environment))

    async def enable(self, client: Client) -> EnableResult:
        """Enable the VM's replication."""
        enabled: EnableResult = await client.execute_workflow(
            names.ENABLE_REPLICATION,
            EnableInput(vm=VM, site=SITE),
            id=f"enable-{VM}",
            task_queue=names.CONTROL_QUEUE,
            result_type=EnableResult,
        )
        self.phase(f"replication of {VM} enabled: {enabled.workflow_id}")
        return enabled

    async def initial(self, handle: Handle) -> None:
        """Show the initial replication until it is done."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        total = sum(image.size_bytes for image in self.vm.images)
        with Progress(*columns, console=self.out) as progress:
            bar: TaskID = progress.add_task("initial replication", total=total)
            done = (ReplicationState.DELTA_SYNC.value, ReplicationState.INITIAL_FAILED.value)

            def show(status: StatusView) -> bool:
                reached = total if status.replication_state in done else total * (status.percent or 0) / 100
                progress.update(bar, completed=reached)
                return status.replication_state in done

            status = await self.until(handle, "the initial replication", show)
        if status.replication_state == ReplicationState.INITIAL_FAILED.value:
            raise DemoFailed(f"The initial replication failed: {health_of(status)}")
        self.phase("initial replication")

    async def until(self, handle: Handle, what: str, reached: Callable[[StatusView], bool]) -> StatusView:
        """Wait until the status is as wanted. Raises DemoFailed when it takes too long."""
        deadline = time.monotonic() + _STEP_LIMIT_S
        while time.monotonic() < deadline:
            status: StatusView = await handle.query("status", result_type=StatusView)
            if reached(status):
                return status
            await asyncio.sleep(_POLL_S)
        raise DemoFailed(
            f"Gave up waiting for {what} after {_STEP_LIMIT_S:.0f} s; the lab's logs are in {self.world.directory / 'logs'}."
        )

    async def left(self, client: Client) -> list[str]:
        """Return a sentence for everything that should be gone after a completed migration or failover."""
        found = await asyncio.to_thread(lambda: list(leftovers(self.world, VM, migrated=True)))
        async for execution in client.list_workflows("ExecutionStatus = 'Running'"):
            if execution.id != names.slots_id(SITE) and execution.status is WorkflowExecutionStatus.RUNNING:
                found.append(f"the workflow {execution.id} still runs")
        return found


def health_of(status: StatusView) -> str:
    """Return what a replication's first health error says."""
    return status.health[0].message if status.health else "without a reason"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is demonstrated: the VM, and what is done with it."""

    starting: str
    """Said while the lab starts."""
    build: Callable[[Path], BuiltVm]
    """Builds the VM's disks in the folder given."""
    settings: Callable[[Callable[[Path], tuple[VmSpec, ...]]], LabSettings]
    run: Callable[[Course], Awaitable[Outcome]]


def run_in_lab(scenario: Scenario, keep: bool, as_json: bool, directory: Path) -> int:
    """Run a scenario in a lab of its own under `directory`; return the exit code: 0 only if it passed."""
    out = Console(stderr=as_json, highlight=False)
    built: list[BuiltVm] = []

    def one_vm(images: Path) -> tuple[VmSpec, ...]:
        built.append(scenario.build(images))
        return tuple(vm.spec for vm in built)

    began = time.monotonic()
    passed = False
    out.print(scenario.starting)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with World(directory, scenario.settings(one_vm)) as world:
            course = Course(world, built[0], out, began)
            try:
                outcome = asyncio.run(_run(scenario, course))
            except DemoFailed as failed:
                out.print(f"[red]{failed}[/]")
                return 1
            passed = outcome.passed
            out.print(outcome.table)
            out.print(f"Temporal UI: {world.temporal.ui_url}")
            if as_json:
                print(json.dumps(outcome.document))
            if keep:
                out.print("The lab stays up; press Ctrl-C to end it.")
                signal.pause()
    except KeyboardInterrupt:
        out.print("Stopped.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    if passed and not keep:
        shutil.rmtree(directory)
    else:
        out.print(f"The lab's folder stays: {directory}")
    return 0 if passed else 1


async def _run(scenario: Scenario, course: Course) -> Outcome:
    course.phase("lab started")
    try:
        return await scenario.run(course)
    except Exception as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Temporal's client tells of Ctrl-C by errors of its own
            raise asyncio.CancelledError from error
        raise


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
