"""What people see of a replication: the status query, and the Markdown of its details page."""

from datetime import datetime, timedelta

from deltaferry.model.replication import CycleKind
from deltaferry.model.states import MigrationState
from deltaferry.planning.downtime import predict
from deltaferry.planning.dr_operations import allowed
from deltaferry.planning.dr_states import DrSituation
from deltaferry.planning.phrases import duration_text, size_text
from workflows.entity.recovery_presenting import recovery_facts, view_of_failover, view_of_test
from workflows.messages.in_azure import known_in_azure
from workflows.messages.replication_state import CycleRecord, EntityState, RepairState, Replication, shown_state
from workflows.messages.views import DiskView, RepairView, StatusView

_SHOWN_CYCLES = 8
KEPT_CYCLES = 20
"""How many cycles the state carries for the query `cycles`."""
_IMPORT_GUESS = timedelta(minutes=1)

GUEST_NOT_PREPARED = (
    "Deltaferry does not prepare the guest for Azure: Hyper-V drivers in the initramfs or registry, serial console, DHCP, fstab by "
    "UUID, SAN policy and the VM agent are to be in place before the migration."
)
"""Spec §11: a non-goal until it is built, which a migration's result names."""


def predicted_downtime(cycles: tuple[CycleRecord, ...], expected_import: timedelta = _IMPORT_GUESS) -> timedelta | None:
    """Return what a migration would take from shutdown to running, from the last committed cycles; None before there are two."""
    deltas = [cycle for cycle in cycles if cycle.committed and cycle.kind not in (CycleKind.INITIAL, CycleKind.RESYNC)]
    if len(deltas) < 2:
        return None
    before, last = deltas[-2], deltas[-1]
    span_s = max((last.started_at - before.started_at).total_seconds(), 1e-3)
    moving_s = max(last.duration.total_seconds(), 1e-3)
    rate = last.changed_bytes / moving_s if last.changed_bytes else 0.0
    return predict(last.changed_bytes / span_s, rate, last.duration, expected_import)


def status_view(
    replication: Replication, state: EntityState, situation: DrSituation, activity: str, percent: float | None
) -> StatusView:
    """Return the answer of the query `status`."""
    predicted = predicted_downtime(state.cycles)
    warnings = []
    if state.migration_state is MigrationState.MIGRATED:
        warnings.append("The seed disks still cost money: send complete when the migrated VM is in order.")
    if state.failover is not None:
        warnings.extend(state.failover.information)
    if state.migration is not None:
        warnings.extend(state.migration.information)
        if state.migration.note:
            warnings.append(state.migration.note)
    return StatusView(
        vm=replication.vm_name,
        site=replication.ref.site,
        instance_uuid=replication.ref.instance_uuid,
        replication_id=replication.ref.replication_id,
        replication_state=state.replication_state.value,
        migration_state=shown_state(state).value,
        activity=activity,
        percent=percent,
        last_recovery_point=state.point.taken_at if state.point else None,
        next_cycle_at=state.next_due,
        predicted_downtime_s=round(predicted.total_seconds(), 1) if predicted is not None else None,
        cycles_committed=state.cycles_committed,
        delta_bytes_sent=state.delta_bytes_sent,
        verified_blocks=state.verified_blocks,
        initial=state.initial,
        job_id=state.job_id,
        health=state.shown_health(),
        allowed=tuple(operation.value for operation in allowed(situation)),
        last_refused=state.last_refused,
        migration=state.migration,
        migrated_at=state.migrated_at,
        warnings=tuple(warnings),
        repair=_repair_view(state.repair),
        resyncs=state.resyncs,
        scrub_percent=state.scrub.percent({disk.key: disk.capacity_bytes for disk in replication.disks}) if state.scrub else None,
        last_scrub=state.last_scrub,
        next_scrub_at=state.next_scrub,
        policy=state.policy,
        points=state.points,
        tested_at=state.tested_at,
        tests=tuple(view_of_test(test) for test in state.tests),
        failover=view_of_failover(state.failover),
        group=state.group,
        in_azure=known_in_azure(state),
    )


def _repair_view(repair: RepairState | None) -> RepairView | None:
    if repair is None:
        return None
    cause = repair.cause.value if repair.cause is not None else "an operator's request"
    return RepairView(cause, repair.reason, repair.rung.value, repair.step, repair.since, repair.starts_at, repair.failures)


def disk_views(replication: Replication, state: EntityState) -> tuple[DiskView, ...]:
    """Return the answer of the query `disks`."""
    bases = {base.disk_key: base for base in (state.bases or state.initial_bases)}
    views = []
    for disk in replication.disks:
        base = bases.get(disk.key)
        changed = tuple(dict(cycle.changed_by_disk).get(disk.key, 0) for cycle in state.cycles)
        views.append(
            DiskView(
                key=disk.key,
                label=disk.label,
                capacity_bytes=disk.capacity_bytes,
                is_boot=disk.is_boot,
                copied_bytes=base.copied_up_to_bytes if base else 0,
                change_id=base.change_id if base else None,
                changed_bytes_of_last_cycles=changed,
            )
        )
    return tuple(views)


def details(view: StatusView, disks: tuple[DiskView, ...], cycles: tuple[CycleRecord, ...]) -> str:
    """Return the details page: states, last recovery point, what it waits for, what the operator can do next.

    Lists, no tables: the Temporal UI's panel is narrow, and its tables have no space between columns.
    """
    lines = [
        f"### {view.vm}: {view.replication_state}",
        "",
        f"- **Migration:** {view.migration_state}",
        f"- **Now:** {view.activity}",
        f"- **Last recovery point:** {_time(view.last_recovery_point)}",
        *(f"- **{name}:** {said}" for name, said in recovery_facts(view)),
        f"- **Predicted downtime:** {_seconds(view.predicted_downtime_s)}",
        f"- **You can send:** {', '.join(f'`{name}`' for name in view.allowed) or 'nothing at present'}",
        "",
    ]
    for error in view.health:
        retried = "It is tried again by itself." if error.retried else "It waits for you."
        lines += [
            f"> **{error.kind.value}** at {_time(error.at)}: {error.message}",
            ">",
            f"> {error.cause} {error.remedy} {retried}",
            "",
        ]
    lines += [f"> {warning}\n" for warning in view.warnings]
    if view.last_refused:
        refused = view.last_refused
        lines += [f"> *Last refused request:* `{refused.operation}` at {_time(refused.at)}: {refused.sentence}", ""]
    if view.repair:
        begins = f"begins at {_time(view.repair.starts_at)}" if view.repair.starts_at else "waits for `repair`"
        lines += [f"> **Resync:** {view.repair.step}. It {begins} unless it runs already.", ""]
    if view.resyncs:
        last = view.resyncs[-1]
        share = 100 * last.differing_bytes / max(last.compared_bytes, 1)
        lines += [
            f"- **Last resync:** {_time(last.ended_at)}, {last.rung.value}: "
            f"{size_text(last.differing_bytes)} differed, {share:.2f} % of {size_text(last.compared_bytes)} compared",
        ]
    if view.last_scrub:
        scrub = view.last_scrub
        found = scrub.failure or (f"{size_text(scrub.differing_bytes)} differed" if scrub.differing_bytes else "nothing differed")
        lines += [f"- **Last verified:** {_time(scrub.ended_at)}: {size_text(scrub.read_bytes)} read, {found}"]
    if view.resyncs or view.last_scrub:
        lines += [""]
    lines += ["**Disks**", "", *(_disk_line(disk) for disk in disks)]
    if cycles:
        lines += ["", "**Last cycles**", "", *(_cycle_line(cycle) for cycle in reversed(cycles[-_SHOWN_CYCLES:]))]
    return "\n".join(lines)


def _disk_line(disk: DiskView) -> str:
    boot = " (boot)" if disk.is_boot else ""
    share = 100 * disk.copied_bytes / disk.capacity_bytes
    changed = disk.changed_bytes_of_last_cycles
    last = f", {size_text(changed[-1])} changed in the last cycle" if changed else ""
    return f"- {disk.label}{boot}: {size_text(disk.capacity_bytes)}, {share:.0f} % copied{last}"


def quiesced_text(cycle: CycleRecord) -> str:
    """Return what was obtained where a cycle was to have the guest quiesced, and how; empty for another cycle."""
    return f"{cycle.consistency.value}. {cycle.quiesced}" if cycle.quiesced else ""


def _cycle_line(cycle: CycleRecord) -> str:
    number = cycle.cycle_key.partition("-")[0]
    result = f"committed; {cycle.decision}" if cycle.committed else f"**failed**: {cycle.failure} Then: {cycle.decision}"
    quiesced = f" Quiescing: {quiesced_text(cycle)}" if cycle.quiesced else ""
    return (
        f"- **{number}** {cycle.kind.value}, {_time(cycle.started_at)}, took {duration_text(cycle.duration)}:"
        f" {size_text(cycle.changed_bytes)} changed, {size_text(cycle.bytes_sent)} sent; {result}{quiesced}"
    )


def _time(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at else "none yet"


def _seconds(value: float | None) -> str:
    return duration_text(timedelta(seconds=value)) if value is not None else "not known yet"
