"""How a resync is carried out: two comparisons chunk by chunk, then the ordinary way; and what may happen in the middle."""

from datetime import timedelta
from itertools import pairwise

from temporalio.api.enums.v1 import EventType

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import JobOutcome, ReplicationState
from deltaferry.model.units import GRANULE
from tests.workflows.site_bench import Bench, Running
from tests.workflows.world import DISKS
from workflows import names
from workflows.messages.step import (
    ApplyInput,
    BeginCycleInput,
    BeginResyncInput,
    CheckSeedInput,
    CompareInput,
    SealInput,
    TransferInput,
    VerifyChunksInput,
)
from workflows.messages.views import StatusView

_MIB = 1 << 20
_BOOT, _DATA = (disk.key for disk in DISKS)
_JOB = 2
"""The number of the first job that a replication of `Bench.replicated` starts."""


async def _asked(bench: Bench) -> Running:
    """Return a replication whose resync was asked for."""
    running = await bench.replicated()
    await running.update("resync")
    return running


async def _resynced(running: Running) -> StatusView:
    return await running.until(
        lambda v: v.replication_state == ReplicationState.DELTA_SYNC and len(v.resyncs) == 1, "resynchronised"
    )


def _job(running: Running) -> str:
    return names.resync_id(running.workflow_id, _JOB)


def _assert_compared_once(bench: Bench) -> None:
    """Assert that the comparisons of each disk adjoin, from its first byte to its last."""
    for disk in DISKS:
        parts = [
            (part.position_bytes, part.end_bytes)
            for request in bench.world.inputs("compare_source", CompareInput)
            for part in request.disks
            if part.disk_key == disk.key
        ]
        assert parts[0][0] == 0
        assert parts[-1][1] == disk.capacity_bytes
        assert all(before[1] == after[0] for before, after in pairwise(parts))


async def test_what_differs_on_either_side_is_sent_verified_and_sealed_and_nothing_else(bench: Bench) -> None:
    bench.world.differing = {_BOOT: (0, 5 * GRANULE)}
    bench.world.damaged = {_BOOT: (5 * GRANULE, 9 * GRANULE)}
    running = await _asked(bench)
    view = await _resynced(running)

    procedure = (
        "prepare_target", "prepare_source", "begin_resync", "check_seed", "compare_source", "plan_resync", "transfer", "apply",
        "verify_chunks", "seal_cycle",
    )  # fmt: skip
    assert bench.world.order(procedure) == list(procedure)
    (sent,) = bench.world.inputs("transfer", TransferInput)
    assert [(disk.disk_key, disk.plan.covered_bytes) for disk in sent.disks] == [(_BOOT, GRANULE)]
    (verified,) = bench.world.inputs("verify_chunks", VerifyChunksInput)
    assert [chunk.disk_key for chunk in verified.chunks] == [_BOOT]
    (applied,) = bench.world.inputs("apply", ApplyInput)
    assert not applied.initial, "a seed that was used has holes written"
    (record,) = view.resyncs
    assert record.compared_bytes == sum(disk.capacity_bytes for disk in DISKS)
    assert record.differing_bytes == 3 * GRANULE
    assert bench.world.snapshots == {}
    await bench.until_no_leases(_job(running))


async def test_the_seeds_are_sealed_before_they_are_checked_and_every_number_is_higher(bench: Bench) -> None:
    bench.world.differing = {_DATA: (0,)}
    await _resynced(await _asked(bench))
    (checked,) = bench.world.inputs("check_seed", CheckSeedInput)
    (applied,) = bench.world.inputs("apply", ApplyInput)
    (sealed,) = bench.world.inputs("seal_cycle", SealInput)
    assert checked.fence is not None
    assert 7 < checked.fence < applied.fence < sealed.seal


async def test_a_seed_that_is_ahead_is_checked_under_the_number_after_it(bench: Bench) -> None:
    bench.world.fail("check_seed", ErrorKind.FENCED, number=100)
    await _resynced(await _asked(bench))
    assert [request.fence for request in bench.world.inputs("check_seed", CheckSeedInput)][-1] == 101


async def test_a_resync_that_finds_nothing_sends_nothing_and_takes_a_recovery_point(bench: Bench) -> None:
    running = await bench.replicated()
    before = (await running.status()).last_recovery_point
    await running.update("resync")
    view = await _resynced(running)
    assert bench.world.count("transfer") == 0
    assert view.resyncs[0].differing_bytes == 0
    assert before is not None
    assert view.last_recovery_point is not None
    assert view.last_recovery_point > before


async def test_the_commit_makes_the_new_change_ids_the_base_and_the_next_delta_follows_the_formula(bench: Bench) -> None:
    bench.world.differing = {_BOOT: (0,)}
    running = await _asked(bench)
    view = await _resynced(running)
    assert view.next_cycle_at is not None
    waits = view.next_cycle_at - view.resyncs[0].ended_at
    assert timedelta(minutes=59) < waits <= timedelta(minutes=61), "min(max(1 h, last duration / 2), 12 h)"
    await running.update("pause")
    await running.until_state(ReplicationState.PAUSED)
    await running.update("resume")
    await running.until_committed(2)
    (delta,) = bench.world.inputs("begin_cycle", BeginCycleInput)
    assert delta.kind is CycleKind.DELTA
    assert [(b.disk_key, b.change_id, b.copied_up_to_bytes) for b in delta.bases] == [
        (disk.key, f"52-{disk.key}/1", disk.capacity_bytes) for disk in DISKS
    ]
    assert delta.dirty == ()


async def test_while_a_chunk_is_compared_the_next_is_already_checked(bench: Bench) -> None:
    bench.world.check_bytes = 256 * _MIB
    bench.world.compare_bytes = 100 * _MIB
    hold = bench.world.hold("compare_source")
    following = bench.world.hold("check_seed", skip=1)
    running = await _asked(bench)
    await hold.reached()
    await following.reached()
    following.release()
    hold.release()
    await _resynced(running)
    checks = bench.world.inputs("check_seed", CheckSeedInput)
    assert [check.fence is None for check in checks] == [False, True, True, True]
    assert [[part.position_bytes for part in check.disks] for check in checks] == [
        [0, 0],
        [256 * _MIB] * 2,
        [512 * _MIB] * 2,
        [768 * _MIB],
    ]
    compared = bench.world.inputs("compare_source", CompareInput)
    boot = [(p.position_bytes, p.end_bytes) for request in compared for p in request.disks if p.disk_key == _BOOT]
    assert [position // _MIB for position, _ in boot] == [0, 100, 200, 256, 356, 456, 512, 612, 712, 768, 868, 968]
    assert {end // _MIB for _, end in boot} == {256, 512, 768, 1024}, "never beyond what the seed's check has reached"


async def test_a_resync_shows_its_percentage_and_the_share_that_differed(bench: Bench) -> None:
    bench.world.check_bytes = 512 * _MIB
    bench.world.differing = {_BOOT: tuple(range(0, 256 * _MIB, GRANULE))}
    hold = bench.world.hold("compare_source", skip=1)
    running = await _asked(bench)
    await hold.reached()
    view = await running.until(lambda v: bool(v.percent), "progress")
    assert view.replication_state == ReplicationState.RESYNC_IN_PROGRESS
    assert view.percent == 66.7
    assert "256 MiB differed, 25.0 % of what was compared" in view.activity
    hold.release()
    view = await _resynced(running)
    assert view.percent is None


async def test_a_snapshot_lost_in_the_middle_of_comparing_costs_only_what_was_not_compared(bench: Bench) -> None:
    bench.world.check_bytes = 256 * _MIB
    bench.world.differing = {_DATA: (0,), _BOOT: (700 * _MIB,)}
    bench.world.fail("compare_source", ErrorKind.SNAPSHOT_LOST, skip=1)
    running = await _asked(bench)
    view = await _resynced(running)

    first, second = bench.world.inputs("begin_resync", BeginResyncInput)
    assert first.cycle_key != second.cycle_key
    assert [(b.change_id, b.copied_up_to_bytes) for b in first.bases] == [(None, 0)] * 2
    assert [(b.disk_key, b.change_id, b.copied_up_to_bytes) for b in second.bases] == [
        (_BOOT, f"52-{_BOOT}/1", 256 * _MIB),
        (_DATA, f"52-{_DATA}/1", 256 * _MIB),
    ]
    assert [(key, plan.ref.name) for key, plan in second.dirty] == [(_DATA, f"{first.cycle_key}/{_DATA}/differs-0")]
    again = [request for request in bench.world.inputs("compare_source", CompareInput) if request.cycle_key == second.cycle_key]
    assert [part.position_bytes for part in again[0].disks] == [256 * _MIB] * 2
    (sent,) = bench.world.inputs("transfer", TransferInput)
    assert {disk.disk_key for disk in sent.disks} == {_BOOT, _DATA}
    assert view.resyncs[0].compared_bytes == sum(disk.capacity_bytes for disk in DISKS)
    assert bench.world.order(["begin_resync", "release_snapshot"])[:4] == ["begin_resync", "release_snapshot"] * 2


async def test_a_snapshot_lost_while_sending_compares_nothing_again(bench: Bench) -> None:
    bench.world.differing = {_BOOT: (0,)}
    bench.world.fail("transfer", ErrorKind.SNAPSHOT_LOST)
    await _resynced(await _asked(bench))
    assert bench.world.count("compare_source") == 1
    _, second = bench.world.inputs("begin_resync", BeginResyncInput)
    assert [base.copied_up_to_bytes for base in second.bases] == [disk.capacity_bytes for disk in DISKS]
    assert _BOOT in {key for key, _ in second.dirty}
    sent = bench.world.inputs("transfer", TransferInput)[-1]
    assert _BOOT in {disk.disk_key for disk in sent.disks}


async def test_where_tracking_is_void_too_after_a_lost_snapshot_the_comparison_starts_again(bench: Bench) -> None:
    bench.world.check_bytes = 256 * _MIB
    bench.world.fail("compare_source", ErrorKind.SNAPSHOT_LOST, skip=1)
    bench.world.fail("begin_resync", ErrorKind.CBT_RESET, skip=1)
    running = await _asked(bench)
    await _resynced(running)
    positions = [[b.copied_up_to_bytes for b in r.bases] for r in bench.world.inputs("begin_resync", BeginResyncInput)]
    assert positions == [[0, 0], [256 * _MIB] * 2, [0, 0]]
    assert bench.world.count("prepare_source") == 2, "tracking may be off: it is looked after again"
    assert bench.world.snapshots == {}


async def test_stop_cuts_a_resync_at_once_and_leaves_no_snapshot_and_no_slots(bench: Bench) -> None:
    hold = bench.world.hold("compare_source")
    running = await _asked(bench)
    await hold.reached()
    assert bench.world.snapshots
    await running.update("stop")
    assert (await running.ended()).outcome is JobOutcome.SUCCEEDED
    assert bench.world.snapshots == {}
    assert bench.world.count("plan_resync") == 0
    assert bench.world.order(["compare_source", "release_snapshot", "clean_source"]) == [
        "compare_source",
        "release_snapshot",
        "clean_source",
    ]
    await bench.until_no_leases(_job(running))


async def test_stop_cuts_a_resync_although_its_present_check_ends_well(bench: Bench) -> None:
    hold = bench.world.hold("check_seed", deaf=True)
    running = await _asked(bench)
    await hold.reached()
    await running.update("stop")
    await bench.until_event(_job(running), EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
    hold.release()
    assert (await running.ended()).outcome is JobOutcome.SUCCEEDED
    assert bench.world.count("compare_source") == 0
    assert bench.world.snapshots == {}


async def test_stop_of_a_queued_resync(bench: Bench) -> None:
    bench.profile(disks_per_appliance=0)
    running = await _asked(bench)
    await running.until(lambda v: v.activity == "waiting for slots", "queued")
    assert (await running.status()).replication_state == ReplicationState.REPAIR_QUEUED
    await running.update("stop")
    assert (await running.ended()).outcome is JobOutcome.SUCCEEDED
    assert bench.world.count("begin_resync") == 0
    await bench.until_no_leases(_job(running))


async def test_a_history_that_grew_long_is_continued_with_the_snapshot_held(bench: Bench) -> None:
    bench.world.check_bytes = 64 * _MIB
    bench.world.ballast = "x" * 250_000
    running = await _asked(bench)
    view = await _resynced(running)
    assert bench.world.count("begin_resync") == 1
    assert bench.world.count("prepare_source") == 1
    _assert_compared_once(bench)
    assert view.resyncs[0].compared_bytes == sum(disk.capacity_bytes for disk in DISKS)
    first, *_ = [event async for event in bench.client.get_workflow_handle(_job(running)).fetch_history_events()]
    assert first.workflow_execution_started_event_attributes.continued_execution_run_id, "it was continued as new"


async def test_a_replication_that_is_adopted_in_the_middle_takes_the_running_resync_up(bench: Bench) -> None:
    bench.world.check_bytes = 512 * _MIB
    hold = bench.world.hold("compare_source", skip=1)
    running = await _asked(bench)
    await hold.reached()
    await running.handle.terminate("by mistake")
    assert (await bench.adopt()).adopted == (running.workflow_id,)
    view = await running.until_state(ReplicationState.REPAIR_QUEUED)
    assert view.job_id == _job(running)
    hold.release()
    view = await _resynced(running)
    assert view.job_id == _job(running)
    assert bench.world.count("begin_resync") == 1
    _assert_compared_once(bench)


async def test_a_replication_that_is_adopted_without_its_resync_starts_another(bench: Bench) -> None:
    hold = bench.world.hold("compare_source")
    running = await _asked(bench)
    await hold.reached()
    await running.handle.terminate("by mistake")
    await bench.client.get_workflow_handle(_job(running)).terminate("by mistake")
    hold.release()
    await bench.adopt()
    view = await _resynced(running)
    assert view.job_id == names.resync_id(running.workflow_id, _JOB + 1)
    assert view.health == ()
