"""When a replication is marked for resync, when the resync begins, and what follows from how it ended (spec §4)."""

from datetime import timedelta

import pytest
from temporalio.testing import WorkflowEnvironment

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.failure import CBT_CANNOT_REPAIR
from deltaferry.planning.ladder import Rung
from tests.workflows.site_bench import QUICK, Bench, Running, shared_workers, site_bench
from tests.workflows.stand_ins import StandIns
from workflows import names
from workflows.messages.step import BeginCycleInput, BeginResyncInput, CompareInput, SettleInput
from workflows.messages.views import StatusView

_PENDING, _SYNC = ReplicationState.REPAIR_PENDING, ReplicationState.DELTA_SYNC
_AT_ONCE = timedelta(0)
_LATER = timedelta(hours=3)


async def _pending(running: Running, saying: str) -> StatusView:
    """Wait until a replication is Repair pending and says what it waits for."""
    return await running.until(lambda v: v.replication_state == _PENDING and saying in v.activity, f"{_PENDING.value}: {saying}")


async def _resynced(running: Running, times: int = 1) -> StatusView:
    return await running.until(lambda v: v.replication_state == _SYNC and len(v.resyncs) == times, f"{times} resyncs")


async def _needs_repair(bench: Bench, kind: ErrorKind = ErrorKind.CBT_RESET, *, auto_repair: bool = True) -> Running:
    """Return a replication whose first cycle fails in a way that change tracking cannot repair."""
    bench.world.fail("begin_cycle", kind, message="disk 2001 is not what it was")
    return await bench.replicated(due=True, auto_repair=auto_repair)


@pytest.mark.parametrize("kind", sorted(CBT_CANNOT_REPAIR))
async def test_what_change_tracking_cannot_repair_leads_to_one_resync_and_no_delta_before_it(
    bench: Bench, kind: ErrorKind
) -> None:
    running = await _needs_repair(bench, kind)
    view = await _pending(running, "waits for repair")
    assert view.next_cycle_at is None
    assert view.health[0].kind is kind
    assert view.repair is not None
    begins_on = Rung.WHOLE if kind is ErrorKind.CBT_MISSED_CHANGES else Rung.ALLOCATED
    assert (view.repair.cause, view.repair.rung) == (kind.value, begins_on.value)
    assert kind.value in view.repair.step
    assert bench.world.count("begin_resync") == 0

    assert "as soon as there are slots" in await running.update("repair", {"reason": "now, please"})
    view = await _resynced(running)
    assert view.resyncs[0].cause is kind
    assert (view.health, view.repair) == ((), None)
    assert bench.world.count("begin_resync") == 1
    assert bench.world.count("begin_cycle") == 1
    assert bench.world.count("reset_tracking") == (kind is ErrorKind.CBT_CORRUPT)


async def test_the_second_integrity_failure_in_a_row_leads_to_a_resync(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.off_hours = _AT_ONCE
    bench.world.fail("seal_cycle", ErrorKind.COVERAGE_MISMATCH, times=2)
    running = await bench.replicated(due=True)
    view = await _resynced(running)
    assert view.resyncs[0].cause is ErrorKind.COVERAGE_MISMATCH
    records = await running.until_recorded(lambda r: r[-1].kind is CycleKind.DELTA and len(r) >= 4, "a delta after the resync")
    assert [(r.kind, r.committed) for r in records[:3]] == [
        (CycleKind.DELTA, False),
        (CycleKind.DELTA, False),
        (CycleKind.RESYNC, True),
    ]


async def test_an_operators_resync_in_delta_sync_runs_at_once_with_its_reason(bench: Bench) -> None:
    hold = bench.world.hold("begin_resync")
    running = await bench.replicated(auto_repair=False)
    assert "after a cycle that runs now" in await running.update("resync", {"reason": "I do not trust it"})
    await hold.reached()
    view = await running.status()
    assert view.repair is not None
    assert view.repair.cause == "an operator's request"
    assert view.repair.reason == "I do not trust it"
    hold.release()
    view = await _resynced(running)
    assert view.resyncs[0].cause is None
    assert bench.world.count("next_off_hours") == 0


async def test_a_resync_that_is_asked_for_during_a_cycle_waits_for_its_end(bench: Bench) -> None:
    hold = bench.world.hold("apply")
    running = await bench.replicated(due=True)
    await hold.reached()
    await running.signal("resync")
    assert (await running.status()).replication_state == ReplicationState.REPAIR_QUEUED
    hold.release()
    view = await _resynced(running)
    assert view.cycles_committed == 2
    assert bench.world.order(["seal_cycle", "begin_resync"])[:2] == ["seal_cycle", "begin_resync"]


async def test_inside_the_off_hours_window_a_resync_begins_by_itself(bench: Bench) -> None:
    bench.world.off_hours = _AT_ONCE
    await _resynced(await _needs_repair(bench))


async def test_before_the_off_hours_window_it_waits_shows_the_time_and_begins_then(time_skipping: WorkflowEnvironment) -> None:
    stand_ins = StandIns()
    async with shared_workers(time_skipping.client, stand_ins), site_bench(time_skipping.client, stand_ins, "window") as bench:
        bench.world.off_hours = _LATER
        running = await _needs_repair(bench)
        view = await _pending(running, "The resync begins at")
        assert view.repair is not None
        assert view.repair.starts_at is not None
        assert f"{view.repair.starts_at:%Y-%m-%d %H:%M} UTC, or on repair" in view.activity
        assert view.repair.starts_at - view.repair.since >= _LATER
        await time_skipping.sleep(_LATER - timedelta(minutes=1))
        assert bench.world.count("begin_resync") == 0
        await time_skipping.sleep(timedelta(minutes=2))
        await _resynced(running)


async def test_repair_does_not_wait_for_the_off_hours_window(bench: Bench) -> None:
    bench.world.off_hours = _LATER
    running = await _needs_repair(bench)
    await _pending(running, "The resync begins at")
    await running.signal("repair")
    await _resynced(running)


async def test_without_auto_repair_a_resync_never_begins_by_itself(bench: Bench) -> None:
    bench.world.off_hours = _AT_ONCE
    running = await _needs_repair(bench, auto_repair=False)
    view = await _pending(running, "waits for repair, since auto_repair is off")
    assert view.repair is not None
    assert view.repair.starts_at is None
    assert bench.world.count("next_off_hours") == 0
    await running.update("repair")
    await _resynced(running)


async def test_off_hours_that_cannot_be_read_are_shown_and_start_no_resync(time_skipping: WorkflowEnvironment) -> None:
    stand_ins = StandIns()
    async with shared_workers(time_skipping.client, stand_ins), site_bench(time_skipping.client, stand_ins, "unread") as bench:
        bench.world.off_hours = _LATER
        bench.world.fail("next_off_hours", ErrorKind.BAD_CONFIGURATION, message="off_hours cannot be read")
        running = await _needs_repair(bench)
        view = await _pending(running, "waits for repair")
        assert [error.kind for error in view.health] == [ErrorKind.CBT_RESET, ErrorKind.BAD_CONFIGURATION]
        await time_skipping.sleep(timedelta(hours=1, minutes=1))
        await _pending(running, "The resync begins at")
        assert bench.world.count("begin_resync") == 0


async def test_the_ladder_is_climbed_down_one_rung_at_a_time_and_only_on_request(bench: Bench) -> None:
    bench.world.off_hours = _AT_ONCE
    bench.world.fail("compare_source", ErrorKind.CHECKSUM_MISMATCH, times=2)
    bench.world.fail("seal_cycle", ErrorKind.COVERAGE_MISMATCH)
    running = await _needs_repair(bench)
    steps, reason = [], ""
    for failures in (1, 2, 3):
        view = await running.until(
            lambda v, n=failures: v.repair is not None and v.repair.failures == n and "waits for repair" in v.activity,  # type: ignore[misc]
            f"failure {failures}",
        )
        assert view.repair is not None
        assert view.replication_state == _PENDING
        assert not view.health[0].retried
        assert ("Stop the replication, reset change tracking" in view.health[0].remedy) == (failures > 1)
        steps.append((view.repair.rung, view.repair.step))
        reason = view.repair.reason
        await running.update("repair")
    await _resynced(running)

    allocated, whole, full = (rung.value for rung in Rung)
    assert steps == [
        (whole, f"the resync by {allocated} failed, so the next is by {whole}"),
        (full, f"the resync by {whole} failed, so the next is by {full}"),
        (full, f"{reason}: {full}, again"),
    ]
    assert [request.rung for request in bench.world.inputs("compare_source", CompareInput)] == [Rung.ALLOCATED, Rung.WHOLE]
    after = bench.world.inputs("begin_cycle", BeginCycleInput)[1:]
    assert [request.kind for request in after] == [CycleKind.RESYNC] * 2, "after a failed resync no delta runs"
    assert all(base.copied_up_to_bytes == 0 for request in after for base in request.bases)
    assert (await running.status()).resyncs[0].rung is Rung.FULL


async def test_a_full_copy_can_be_asked_for(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("resync", {"full_copy": True})
    view = await _resynced(running)
    assert view.resyncs[0].rung is Rung.FULL
    assert bench.world.count("compare_source") == 0
    (begun,) = bench.world.inputs("begin_cycle", BeginCycleInput)
    assert begun.kind is CycleKind.RESYNC


async def test_tracking_is_reset_on_request_with_no_snapshot_of_ours_left(bench: Bench) -> None:
    running = await _needs_repair(bench)
    await _pending(running, "waits for repair")
    before = len(bench.world.calls)
    await running.update("repair", {"reset_tracking": True})
    await _resynced(running)
    steps = ("release_snapshot", "reset_tracking", "prepare_source", "begin_resync")
    assert [call.activity for call in bench.world.calls[before:] if call.activity in steps][:4] == list(steps)


async def test_tracking_that_cannot_be_reset_waits_for_an_operator_on_the_same_rung(bench: Bench) -> None:
    bench.world.off_hours = _AT_ONCE
    bench.world.fail("reset_tracking", ErrorKind.TRACKING_RESET_REFUSED, message="Remove these first: 'before-upgrade'.")
    running = await _needs_repair(bench, ErrorKind.CBT_CORRUPT)
    view = await _pending(running, "The resync failed, and waits for repair")
    assert view.health[0].kind is ErrorKind.TRACKING_RESET_REFUSED
    assert view.repair is not None
    assert (view.repair.rung, view.repair.failures) == (Rung.ALLOCATED.value, 0)
    await running.update("repair")
    await _resynced(running)
    assert bench.world.count("reset_tracking") == 2


async def test_a_resync_that_an_outage_cut_is_tried_again_by_itself_on_its_rung_from_where_it_was(
    time_skipping: WorkflowEnvironment,
) -> None:
    stand_ins = StandIns()
    async with shared_workers(time_skipping.client, stand_ins), site_bench(time_skipping.client, stand_ins, "outage") as bench:
        bench.world.off_hours = _AT_ONCE
        # Two chunks: the second compares the rest while no seed is being checked, since the time-skipping server, unlike
        # the real one, refuses a task that cancels an activity which ended meanwhile.
        bench.world.check_bytes = 640 << 20
        bench.world.fail("compare_source", ErrorKind.STORE_UNREACHABLE, skip=1)
        running = await _needs_repair(bench)
        view = await running.until(lambda v: bool(v.health) and v.health[0].kind is ErrorKind.STORE_UNREACHABLE, "an outage")
        assert view.replication_state == _PENDING
        assert view.health[0].retried
        assert view.repair is not None
        assert (view.repair.rung, view.repair.failures) == (Rung.ALLOCATED.value, 0)
        await time_skipping.sleep(timedelta(minutes=16))
        await _resynced(running)
        first, second = bench.world.inputs("begin_resync", BeginResyncInput)
        assert [base.copied_up_to_bytes for base in first.bases] == [0, 0]
        assert [base.copied_up_to_bytes for base in second.bases] == [640 << 20, bench.world.disks[1].capacity_bytes]
        assert bench.world.count("begin_cycle") == 1


async def test_a_resync_that_was_terminated_goes_on_from_where_it_was_on_repair(bench: Bench) -> None:
    bench.world.check_bytes = 512 << 20
    hold = bench.world.hold("compare_source", skip=1)
    running = await _needs_repair(bench)
    await _pending(running, "waits for repair")
    await running.update("repair")
    await hold.reached()
    view = await running.until(lambda v: bool(v.percent), "progress")
    await bench.client.get_workflow_handle(view.job_id or "").terminate("by mistake")
    view = await running.until_state(_PENDING)
    assert "ended from outside" in view.health[0].message
    hold.release()
    await running.update("repair")
    await _resynced(running)
    assert [b.copied_up_to_bytes for b in bench.world.inputs("begin_resync", BeginResyncInput)[1].bases] == [512 << 20] * 2


async def test_repeated_resyncs_for_one_cause_stay_a_health_error_when_cycles_commit_again(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.off_hours = _AT_ONCE
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET, times=3)
    running = await bench.replicated(due=True)
    view = await _resynced(running, 3)
    assert view.health[0].kind is ErrorKind.RESYNC_REPEATS
    assert "3 resyncs" in view.health[0].message
    assert ErrorKind.CBT_RESET.value in view.health[0].message
    view = await running.until_committed(view.cycles_committed + 1)
    assert [error.kind for error in view.health] == [ErrorKind.RESYNC_REPEATS]


async def test_resyncs_that_operators_ask_for_are_no_repetition(bench: Bench) -> None:
    running = await bench.replicated()
    for times in (1, 2, 3):
        await running.update("resync")
        view = await _resynced(running, times)
    assert view.health == ()


async def test_what_a_replication_that_needs_a_repair_refuses(bench: Bench) -> None:
    running = await _needs_repair(bench)
    view = await _pending(running, "waits for repair")
    assert view.allowed == ("repair", "resync", "stop", "update_target", "test_migrate", "failover", "update_policy")
    assert "send repair, or wait for the off-hours window" in await running.refusal("pause")
    assert "cannot be migrated from" in await running.refusal("migrate_now")
    assert "send repair" in await running.refusal("verify")
    assert "send repair" in await running.refusal("retry")

    hold = bench.world.hold("compare_source")
    await running.update("repair")
    await hold.reached()
    view = await running.until_state(ReplicationState.RESYNC_IN_PROGRESS)
    assert view.allowed == ("stop", "update_target", "test_migrate", "failover", "update_policy")
    assert "under way already" in await running.refusal("repair")
    assert "under way already" in await running.refused_signal("resync")
    assert "wait for the resync's end" in await running.refusal("pause")
    assert "accepted again in Delta sync" in await running.refusal("migrate_now")
    hold.release()
    view = await _resynced(running)
    assert "migrate_now" in view.allowed


async def test_a_migration_whose_cycle_needs_a_repair_fails_and_can_be_asked_for_after_the_resync(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET)
    running = await bench.replicated()
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert view.replication_state == _PENDING
    await running.update("repair")
    await _resynced(running)
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATED)
    assert view.job_id != names.resync_id(running.workflow_id, 2)


async def test_rollback_does_not_wait_for_the_end_of_a_resync(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET, skip=1)
    running = await bench.replicated()
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert view.replication_state == _PENDING
    assert not bench.world.powered_on
    hold = bench.world.hold("compare_source")
    await running.update("repair")
    await hold.reached()
    await running.update("rollback")
    await running.until_migration(MigrationState.TEST_PENDING)
    assert bench.world.powered_on
    hold.release()
    await _resynced(running)


async def test_a_migration_that_failed_deletes_no_plan_that_the_next_one_needs(bench: Bench) -> None:
    bench.world.fail("seal_cycle", ErrorKind.COVERAGE_MISMATCH)
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    await running.until(lambda v: "migrate_now" in v.allowed and bench.world.count("settle_cycle") >= 2, "settled")
    settled = bench.world.inputs("settle_cycle", SettleInput)[-1]
    assert settled.state.dirty
    assert settled.record_only
