"""How replications look in a terminal: tables, bars, and the sentences between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from console.client import ReplicationRow
from console.live_progress import LiveProgress, LiveStep
from console.output import local_time
from deltaferry.model.states import ReplicationState
from deltaferry.planning.phrases import count_text, duration_text, size_text
from workflows.entity.presenting import quiesced_text
from workflows.entity.recovery_presenting import recovery_facts
from workflows.messages.replication_state import CycleRecord, MigrationResult, ResyncRecord, ScrubRecord
from workflows.messages.views import DiskView, StatusView

_BAR_COLUMNS = 32
_SHOWN_CYCLES = 6


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is shown of a replication at one moment."""

    workflow_id: str
    status: StatusView
    disks: tuple[DiskView, ...]
    cycles: tuple[CycleRecord, ...]
    progress: LiveProgress


def replications_table(rows: Sequence[ReplicationRow]) -> RenderableType:
    """Return the list of replications."""
    if not rows:
        return Text("No replications. `deltaferry enable VM --site SITE` starts one.")
    table = Table(
        "VM", "site", "replication", "migration", "health", "last recovery point", "workflow id", box=None, pad_edge=False
    )
    for row in rows:
        state = row.replication_state if row.running else "ended"
        healthy = row.health in ("", "Healthy")
        cells = (row.vm, row.site, state, row.migration_state)
        point, health = local_time(row.last_recovery_point), Text(row.health, style="green" if healthy else "bold red")
        table.add_row(*map(Text, cells), health, Text(point), Text(row.workflow_id))
    return table


def replication_view(shown: Snapshot) -> RenderableType:
    """Return one replication: states, progress, disks, cycles, and what can be sent."""
    parts: list[RenderableType] = [_facts(shown), *_bars(shown), *_health(shown.status), Text(), _disks(shown.disks)]
    if shown.cycles:
        parts += [Text(), _cycles(shown.cycles)]
    if shown.status.migration is not None:
        parts += [Text(), migration_view(shown.status.migration)]
    return Group(*parts)


def migration_view(result: MigrationResult) -> RenderableType:
    """Return how a migration went, phase by phase."""
    downtime = f", downtime {duration_text(timedelta(seconds=result.downtime_s))}" if result.downtime_s is not None else ""
    lines: list[RenderableType] = [Text(f"Migration: {result.outcome.value}{downtime}", style="bold")]
    if result.target_vm_id is not None:
        lines.append(Text(f"Target VM: {result.target_vm_id}"))
    if result.error is not None:
        lines.append(Text(f"{result.error.message} {result.error.remedy}", style="red"))
    lines += [Text(f"Note: {information}", style="yellow") for information in result.information]
    table = Table("phase", "took", box=None, pad_edge=False)
    for name, seconds in result.phases:
        table.add_row(Text(name), duration_text(timedelta(seconds=seconds)))
    return Group(*lines, table)


def _facts(shown: Snapshot) -> RenderableType:
    view = shown.status
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    predicted = (
        duration_text(timedelta(seconds=view.predicted_downtime_s)) if view.predicted_downtime_s is not None else "not known yet"
    )
    rows = [
        ("VM", f"{view.vm} at {view.site}"),
        ("Workflow", shown.workflow_id),
        ("Replication", view.replication_state),
        ("Migration", view.migration_state + (f" at {local_time(view.migrated_at)}" if view.migrated_at else "")),
        ("Now", view.activity),
        ("Last recovery point", local_time(view.last_recovery_point, "none yet")),
        ("Next cycle", local_time(view.next_cycle_at)),
        (
            "Committed",
            f"{count_text(view.cycles_committed, 'cycle')}, {size_text(view.delta_bytes_sent)} sent, {count_text(view.verified_blocks, 'block')} verified",
        ),
        ("Predicted downtime", predicted),
        *_integrity(view),
        *recovery_facts(view),
        ("Job", view.job_id or "–"),  # noqa: RUF001 - the sign for nothing
        ("You can send", ", ".join(view.allowed) or "nothing at present"),
    ]
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _integrity(view: StatusView) -> Iterable[tuple[str, str]]:
    """Yield what is known of resyncs and scrubs: the one that is due and why, the last ones and what they found."""
    if view.repair is not None:
        yield "Resync", f"{view.repair.step}; {_begins(view)}"
    if view.resyncs:
        yield "Last resync", resync_text(view.resyncs[-1])
    if view.last_scrub is not None:
        yield "Last verified", scrub_text(view.last_scrub)
    if view.next_scrub_at is not None:
        yield "Next verified", local_time(view.next_scrub_at)


def _begins(view: StatusView) -> str:
    if view.replication_state != ReplicationState.REPAIR_PENDING or view.repair is None:
        return "asked for or under way"
    return f"begins at {local_time(view.repair.starts_at)}" if view.repair.starts_at is not None else "waits for repair"


def resync_text(record: ResyncRecord) -> str:
    """Return how a resync ended: when, how, and the share that differed."""
    share = 100 * record.differing_bytes / record.compared_bytes if record.compared_bytes else 0
    found = f"{size_text(record.differing_bytes)} differed, {share:.2f} % of {size_text(record.compared_bytes)} compared"
    return f"{local_time(record.ended_at)}, by {record.rung.value}: {found if record.compared_bytes else 'nothing was compared'}"


def scrub_text(record: ScrubRecord) -> str:
    """Return how a scrub ended: when, how much it read, and what differed."""
    differed = f"{size_text(record.differing_bytes)} differed" if record.differing_bytes else "nothing differed"
    return f"{local_time(record.ended_at)}: {size_text(record.read_bytes)} read, {record.failure or differed}"


def _bars(shown: Snapshot) -> list[RenderableType]:
    progress = shown.progress
    table = Table.grid(padding=(0, 2))
    if progress.percent is not None:
        table.add_row(
            Text("all disks"),
            _bar(progress.percent),
            Text(f"{progress.percent:.1f} %"),
            Text(_rest(progress.bytes_per_s, progress.eta_s)),
        )
    verified = shown.status.scrub_percent
    if verified is not None:
        table.add_row(Text("seed disks verified"), _bar(verified), Text(f"{verified:.1f} %"))
    for step in progress.steps:
        table.add_row(Text(step.step), _bar(step.percent), Text(_amount(step)), Text(_step_note(step)))
    return [Text(), table] if table.row_count else []


def _bar(percent: float | None) -> ProgressBar:
    return ProgressBar(total=100, completed=percent or 0, width=_BAR_COLUMNS, pulse=percent is None)


def _amount(step: LiveStep) -> str:
    if not step.bytes_total:
        return ""
    sent = f", {size_text(step.bytes_sent)} sent" if step.bytes_sent else ""
    return f"{size_text(step.bytes_done)} of {size_text(step.bytes_total)}{sent}"


def _step_note(step: LiveStep) -> str:
    attempt = f"attempt {step.attempt}" if step.attempt > 1 else ""
    waits = "" if step.working else "waits for a worker"
    return ", ".join(filter(None, (waits, _rest(step.bytes_per_s, step.eta_s), attempt, step.last_failure)))


def _rest(bytes_per_s: float | None, eta_s: float | None) -> str:
    rate = f"{bytes_per_s / 2**20:,.1f} MiB/s" if bytes_per_s is not None else ""
    left = f"{duration_text(timedelta(seconds=eta_s))} left" if eta_s is not None else ""
    return ", ".join(filter(None, (rate, left)))


def _health(view: StatusView) -> Iterable[RenderableType]:
    for error in view.health:
        retried = "It is tried again by itself." if error.retried else "It waits for you."
        yield Text(f"\n{error.kind.value} at {local_time(error.at)}: {error.message}", style="bold red")
        yield Text(f"{error.cause} {error.remedy} {retried}", style="red")
    for warning in view.warnings:
        yield Text(f"\n{warning}", style="yellow")
    if view.last_refused is not None:
        yield Text(
            f"\nLast refused request: {view.last_refused.operation} at {local_time(view.last_refused.at)}: {view.last_refused.sentence}"
        )


def _disks(disks: Iterable[DiskView]) -> RenderableType:
    table = Table("disk", "size", "copied", "changed in the last cycles", box=None, pad_edge=False)
    for disk in disks:
        share = 100 * disk.copied_bytes / disk.capacity_bytes if disk.capacity_bytes else 100
        changed = ", ".join(size_text(size) for size in disk.changed_bytes_of_last_cycles[-_SHOWN_CYCLES:])
        label = f"{disk.label} (boot)" if disk.is_boot else disk.label
        table.add_row(Text(label), size_text(disk.capacity_bytes), f"{share:.0f} %", changed)
    return table


def _cycles(cycles: Sequence[CycleRecord]) -> RenderableType:
    table = Table("cycle", "kind", "began", "took", "changed", "sent", "decided", box=None, pad_edge=False)
    for cycle in reversed(cycles[-_SHOWN_CYCLES:]):
        decided = cycle.decision if cycle.committed else f"failed: {cycle.failure}. {cycle.decision}"
        quiesced = f" Quiescing: {quiesced_text(cycle)}" if cycle.quiesced else ""
        number, began = cycle.cycle_key.partition("-")[0], local_time(cycle.started_at)
        sizes = (size_text(cycle.changed_bytes), size_text(cycle.bytes_sent))
        table.add_row(number, cycle.kind.value, began, duration_text(cycle.duration), *sizes, Text(f"{decided}{quiesced}"))
    return table
