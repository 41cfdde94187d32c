"""`deltaferry demo`: one VM, end to end, on the lab's real parts, with a proof that nothing was lost."""

import asyncio
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from rich.table import Table

from console.demo_lab import VM, Course, DemoFailed, Handle, Outcome, Scenario, health_of, run_in_lab
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.phrases import size_text
from lab.guest_journal import lost_writes, read_journal
from lab.oracle import first_difference, target_disks
from lab.settings import LabSettings
from lab.virtual_machines import build_vm, start_guest
from workflows import names
from workflows.messages.views import StatusView

_MIB = 1024 * 1024
_DELTAS = 3
_INTERVAL = timedelta(seconds=2)
_CHUNK_BYTES = 128 * _MIB


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

    def __init__(self, course: Course) -> None:
        self._course = course
        self._world = course.world
        self._journal = course.world.directory / f"{VM}.journal"

    async def run(self) -> DemoResult:
        """Replicate, keep in sync, migrate, compare, complete, look for leftovers."""
        course = self._course
        client = await course.connected()
        start_guest(self._world, course.vm, self._journal)
        enabled = await course.enable(client)
        handle = client.get_workflow_handle(enabled.workflow_id)
        await course.initial(handle)
        synced = await self._deltas(handle)
        await handle.signal("migrate_now", {"reason": "the demo asks for it"})
        migrated = await course.until(
            handle,
            "the migration",
            lambda s: s.migration_state in (MigrationState.MIGRATED.value, MigrationState.MIGRATION_FAILED.value),
        )
        result = migrated.migration
        if result is None or result.target_vm_id is None:
            raise DemoFailed(f"The migration failed: {result.error.message if result and result.error else 'without a reason'}")
        course.phase(f"migrated: {result.target_vm_id.rpartition('/')[2]} runs in Azure")
        identical = await asyncio.to_thread(self._compare, result.target_vm_id)
        course.phase("compared every byte of every disk")
        await handle.execute_update("complete")
        await handle.result()
        left = tuple(await course.left(client))
        course.phase("completed the migration, looked for leftovers")
        return DemoResult(
            vm=VM,
            replication_id=enabled.replication_id,
            disks=self._disks(synced),
            delta_cycles=migrated.cycles_committed,
            delta_bytes_sent=migrated.delta_bytes_sent,
            byte_identical=identical,
            verified_blocks=migrated.verified_blocks,
            downtime_s=round(result.downtime_s, 2) if result.downtime_s is not None else None,
            target_vm_id=result.target_vm_id,
            leftovers=left,
            seconds=round(time.monotonic() - course.began, 1),
        )

    async def _deltas(self, handle: Handle) -> StatusView:
        status = await self._course.until(
            handle,
            "the delta cycles",
            lambda s: s.cycles_committed >= _DELTAS or s.replication_state == ReplicationState.REPAIR_PENDING.value,
        )
        if status.cycles_committed < _DELTAS:
            raise DemoFailed(f"A delta cycle failed: {health_of(status)}")
        self._course.phase(f"{status.cycles_committed} delta cycles, {size_text(status.delta_bytes_sent)} sent")
        return status

    def _compare(self, vm_id: str) -> bool:
        """Read both sides; and hold the target against the guest's own journal."""
        source = self._world.vcenter_control.vm(VM)
        targets = target_disks(self._world, vm_id)
        journal = read_journal(self._journal)
        out = self._course.out
        identical = len(targets) == len(source.disks)
        for disk, (disk_id, file, _) in zip(source.disks, targets, strict=True):
            dump = self._world.directory / f"source-{disk.key}.raw"
            self._world.vcenter_control.dump(source.moref, disk.key, dump)
            difference = first_difference(dump, file, disk.capacity_bytes)
            lost = lost_writes(journal, disk.key, file)
            if difference is not None:
                out.print(f"[red]✗ {disk_id} differs from {disk.label} at byte {difference.offset_bytes}[/]")
            if lost:
                out.print(f"[red]✗ {len(lost)} writes of the guest's journal are not in {disk_id}[/]")
            identical = identical and difference is None and not lost
            dump.unlink()
        return identical

    def _disks(self, status: StatusView) -> tuple[DemoDisk, ...]:
        summaries = sorted(status.initial, key=lambda summary: summary.disk_key)
        disks = sorted(self._world.vcenter_control.vm(VM).disks, key=lambda disk: disk.key)
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
        for name, seconds in self._course.phases:
            table.add_row(name, f"{seconds:.1f} s")
        table.add_row("total", f"{result.seconds:.1f} s")
        return table


async def _migrate(course: Course) -> Outcome:
    demo = Demo(course)
    result = await demo.run()
    return Outcome(result.byte_identical and not result.leftovers, demo.table(result), asdict(result))


def run_demo(disks: list[Path], keep: bool, as_json: bool, directory: Path) -> int:
    """Run the demo in a lab of its own under `directory`; return the exit code: 0 only if nothing was lost or left behind."""
    scenario = Scenario(
        starting="Starting the lab: a VM with real disks, Temporal, Azurite, vCenter, Azure Resource Manager …",
        build=lambda images: build_vm(images, VM, disks),
        settings=lambda vms: LabSettings(
            vms=vms, search_attributes=names.SEARCH_ATTRIBUTES, min_interval=_INTERVAL, chunk_max_bytes=_CHUNK_BYTES
        ),
        run=_migrate,
    )
    return run_in_lab(scenario, keep, as_json, directory)
