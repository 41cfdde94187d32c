"""`deltaferry demo`: one VM, end to end, on the lab's real parts, with a proof that nothing was lost."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.phrases import size_text
from lab.guest_journal import lost_writes, read_journal
from lab.oracle import first_difference, leftovers, target_disks
from lab.settings import SITE, LabSettings
from lab.vcenter.inventory_file import VmSpec
from lab.virtual_machines import BuiltVm, build_vm, start_guest
from lab.world import World
from workers.serving import connect
from workers.settings import load_settings
from workflows import names
from workflows.operator_input import EnableInput
from workflows.site_messages import EnableResult
from workflows.views import StatusView

_MIB = 1024 * 1024
_VM = "web-01"
_DELTAS = 3
_POLL_S = 0.3
_STEP_LIMIT_S = 300.0
_INTERVAL = timedelta(seconds=2)
_CHUNK_BYTES = 128 * _MIB


class DemoFailed(Exception):
    """The demo could not go on; the message says where and why."""


@dataclass(frozen=True, slots=True)
class DemoDisk:
    """What the initial replication did for a disk."""

    label: str
    size_bytes: int
    initial_bytes_read: int
    initial_bytes_sent: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The demo's outcome, as `--json` prints it."""

    vm: str
    replication_id: str
    disks: tuple[DemoDisk, ...]
    delta_cycles: int
    delta_bytes_sent: int
    byte_identical: bool
    verified_blocks: int
    downtime_s: float | None
    target_vm_id: str
    leftovers: tuple[str, ...]
    seconds: float


class Demo:
    """One run of the demo."""

    def __init__(self, world: World, vm: BuiltVm, out: Console, began: float) -> None:
        self._world = world
        self._vm = vm
        self._out = out
        self._began = began
        self._phases: list[tuple[str, float]] = []
        self._mark = self._began
        self._journal = world.directory / f"{_VM}.journal"

    def phase(self, name: str) -> None:
        """End a phase and note how long it took."""
        now = time.monotonic()
        self._phases.append((name, now - self._mark))
        self._out.print(f"[green]✓[/] {name} [dim]({now - self._mark:.1f} s)[/]")
        self._mark = now

    async def run(self) -> DemoResult:
        """Replicate, keep in sync, migrate, compare, complete, look for leftovers."""
        self.phase("lab started")
        for role in ("control", "source", "target"):
            self._world.worker(role)
        client = await connect(load_settings(self._world.config_file, self._world.environment))
        start_guest(self._world, self._vm, self._journal)
        enabled = await self._enable(client)
        handle = client.get_workflow_handle(enabled.workflow_id)
        await self._initial(handle)
        synced = await self._deltas(handle)
        await handle.signal("migrate_now", {"reason": "the demo asks for it"})
        migrated = await self._until(
            handle,
            "the migration",
            lambda s: s.migration_state in (MigrationState.MIGRATED.value, MigrationState.MIGRATION_FAILED.value),
        )
        result = migrated.migration
        if result is None or result.target_vm_id is None:
            raise DemoFailed(f"The migration failed: {result.error.message if result and result.error else 'without a reason'}")
        self.phase(f"migrated: {result.target_vm_id.rpartition('/')[2]} runs in Azure")
        identical = await asyncio.to_thread(self._compare, result.target_vm_id)
        self.phase("compared every byte of every disk")
        await handle.execute_update("complete")
        await handle.result()
        left = tuple(await self._left(client))
        self.phase("completed the migration, looked for leftovers")
        return DemoResult(
            vm=_VM,
            replication_id=enabled.replication_id,
            disks=self._disks(synced),
            delta_cycles=migrated.cycles_committed,
            delta_bytes_sent=migrated.delta_bytes_sent,
            byte_identical=identical,
            verified_blocks=migrated.verified_blocks,
            downtime_s=round(result.downtime_s, 2) if result.downtime_s is not None else None,
            target_vm_id=result.target_vm_id,
            leftovers=left,
            seconds=round(time.monotonic() - self._began, 1),
        )

    async def _enable(self, client: Client) -> EnableResult:
        enabled: EnableResult = await client.execute_workflow(
            names.ENABLE_REPLICATION,
            EnableInput(vm=_VM, site=SITE),
            id=f"enable-{_VM}",
            task_queue=names.CONTROL_QUEUE,
            result_type=EnableResult,
        )
        self.phase(f"replication of {_VM} enabled: {enabled.workflow_id}")
        return enabled

    async def _initial(self, handle: WorkflowHandle[object, object]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        total = sum(image.size_bytes for image in self._vm.images)
        with Progress(*columns, console=self._out) as progress:
            bar: TaskID = progress.add_task("initial replication", total=total)
            done = (ReplicationState.DELTA_SYNC.value, ReplicationState.INITIAL_FAILED.value)

            def show(status: StatusView) -> bool:
                reached = total if status.replication_state in done else total * (status.percent or 0) / 100
                progress.update(bar, completed=reached)
                return status.replication_state in done

            status = await self._until(handle, "the initial replication", show)
        if status.replication_state == ReplicationState.INITIAL_FAILED.value:
            raise DemoFailed(
                f"The initial replication failed: {status.health[0].message if status.health else 'without a reason'}"
            )
        self.phase("initial replication")

    async def _deltas(self, handle: WorkflowHandle[object, object]) -> StatusView:
        status = await self._until(
            handle,
            "the delta cycles",
            lambda s: s.cycles_committed >= _DELTAS or s.replication_state == ReplicationState.REPAIR_PENDING.value,
        )
        if status.cycles_committed < _DELTAS:
            raise DemoFailed(f"A delta cycle failed: {status.health[0].message if status.health else 'without a reason'}")
        self.phase(f"{status.cycles_committed} delta cycles, {size_text(status.delta_bytes_sent)} sent")
        return status

    async def _until(
        self, handle: WorkflowHandle[object, object], what: str, reached: Callable[[StatusView], bool]
    ) -> StatusView:
        deadline = time.monotonic() + _STEP_LIMIT_S
        while time.monotonic() < deadline:
            status: StatusView = await handle.query("status", result_type=StatusView)
            if reached(status):
                return status
            await asyncio.sleep(_POLL_S)
        raise DemoFailed(
            f"Gave up waiting for {what} after {_STEP_LIMIT_S:.0f} s; the lab's logs are in {self._world.directory / 'logs'}."
        )

    def _compare(self, vm_id: str) -> bool:
        """Read both sides; and hold the target against the guest's own journal."""
        source = self._world.vcenter_control.vm(_VM)
        targets = target_disks(self._world, vm_id)
        journal = read_journal(self._journal)
        identical = len(targets) == len(source.disks)
        for disk, (disk_id, file, _) in zip(source.disks, targets, strict=True):
            dump = self._world.directory / f"source-{disk.key}.raw"
            self._world.vcenter_control.dump(source.moref, disk.key, dump)
            difference = first_difference(dump, file, disk.capacity_bytes)
            lost = lost_writes(journal, disk.key, file)
            if difference is not None:
                self._out.print(f"[red]✗ {disk_id} differs from {disk.label} at byte {difference.offset_bytes}[/]")
            if lost:
                self._out.print(f"[red]✗ {len(lost)} writes of the guest's journal are not in {disk_id}[/]")
            identical = identical and difference is None and not lost
            dump.unlink()
        return identical

    async def _left(self, client: Client) -> list[str]:
        found = await asyncio.to_thread(lambda: list(leftovers(self._world, _VM, migrated=True)))
        async for execution in client.list_workflows("ExecutionStatus = 'Running'"):
            if execution.id != names.slots_id(SITE) and execution.status is WorkflowExecutionStatus.RUNNING:
                found.append(f"the workflow {execution.id} still runs")
        return found

    def _disks(self, status: StatusView) -> tuple[DemoDisk, ...]:
        summaries = sorted(status.initial, key=lambda summary: summary.disk_key)
        disks = sorted(self._world.vcenter_control.vm(_VM).disks, key=lambda disk: disk.key)
        return tuple(
            DemoDisk(disk.label, disk.capacity_bytes, summary.bytes_read, summary.bytes_sent)
            for disk, summary in zip(disks, summaries, strict=True)
        )

    def table(self, result: DemoResult) -> Table:
        """Return the summary."""
        table = Table(title=f"{result.vm} → {result.target_vm_id.rpartition('/')[2]}", title_justify="left")
        table.add_column("what")
        table.add_column("result", justify="right")
        for disk in result.disks:
            table.add_row(
                f"{disk.label}, {size_text(disk.size_bytes)}",
                f"{size_text(disk.initial_bytes_read)} read, {size_text(disk.initial_bytes_sent)} sent",
            )
        table.add_row("delta cycles", f"{result.delta_cycles}, {size_text(result.delta_bytes_sent)} sent")
        table.add_row("blocks verified", f"{result.verified_blocks:,}")
        table.add_row("every byte identical", "[green]yes[/]" if result.byte_identical else "[red]NO[/]")
        table.add_row("downtime", f"{result.downtime_s} s")
        table.add_row("left behind", "[green]nothing[/]" if not result.leftovers else f"[red]{'; '.join(result.leftovers)}[/]")
        table.add_section()
        for name, seconds in self._phases:
            table.add_row(name, f"{seconds:.1f} s")
        table.add_row("total", f"{result.seconds:.1f} s")
        return table


def run_demo(disks: list[Path], keep: bool, as_json: bool, directory: Path) -> int:
    """Run the demo in a lab of its own under `directory`; return the exit code: 0 only if nothing was lost or left behind."""
    out = Console(stderr=as_json, highlight=False)
    built: list[BuiltVm] = []

    def one_vm(images: Path) -> tuple[VmSpec, ...]:
        built.append(build_vm(images, _VM, disks))
        return tuple(vm.spec for vm in built)

    settings = LabSettings(
        vms=one_vm, search_attributes=names.SEARCH_ATTRIBUTES, min_interval=_INTERVAL, chunk_max_bytes=_CHUNK_BYTES
    )
    began = time.monotonic()
    passed = False
    out.print("Starting the lab: a VM with real disks, Temporal, Azurite, vCenter, Azure Resource Manager …")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with World(directory, settings) as world:
            demo = Demo(world, built[0], out, began)
            try:
                result = asyncio.run(demo.run())
            except DemoFailed as failed:
                out.print(f"[red]{failed}[/]")
                return 1
            passed = result.byte_identical and not result.leftovers
            out.print(demo.table(result))
            out.print(f"Temporal UI: {world.temporal.ui_url}")
            if as_json:
                print(json.dumps(asdict(result)))
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


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
