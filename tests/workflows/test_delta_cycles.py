import itertools

import pytest
from temporalio.api.enums.v1 import EventType

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import QUICK, Bench
from workflows.messages.step import ApplyInput, BeginCycleInput, SealInput

_MOST_EVENTS = 60


async def test_the_first_failed_cycle_keeps_delta_sync_and_the_next_covers_its_range_again(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.fail("seal_cycle", ErrorKind.COVERAGE_MISMATCH, message="sectors 8-15 of disk 2001 are missing")
    hold = bench.world.hold("transfer")
    running = await bench.replicated(due=True)
    await hold.reached()
    hold.release()
    view = await running.until(lambda v: bool(v.health), "a health error")
    assert view.replication_state == ReplicationState.DELTA_SYNC
    assert view.health[0].kind is ErrorKind.COVERAGE_MISMATCH
    assert view.health[0].retried

    records = await running.until_recorded(lambda r: any(record.committed for record in r), "a committed cycle")
    failed, repairing = records[:2]
    assert not failed.committed
    assert repairing.committed
    first, second, *_ = bench.world.inputs("begin_cycle", BeginCycleInput)
    assert first.cycle_key != second.cycle_key
    assert first.bases == second.bases
    assert first.dirty == ()
    assert [(key, plan.ref.name.partition("/")[0]) for key, plan in second.dirty] == [
        (2000, first.cycle_key),
        (2001, first.cycle_key),
    ]
    assert bench.world.count("discard_logs") == 1
    await running.until(lambda v: v.health == (), "healthy")
    await running.until_recorded(lambda r: len(r) >= 3, "a third cycle")
    assert bench.world.inputs("begin_cycle", BeginCycleInput)[2].dirty == ()


async def test_a_cycle_that_failed_before_its_apply_leaves_nothing_dirty(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.fail("transfer", ErrorKind.DISK_READ_FAILED)
    running = await bench.replicated(due=True)
    await running.until_recorded(lambda r: any(record.committed for record in r), "a committed cycle")
    _, second, *_ = bench.world.inputs("begin_cycle", BeginCycleInput)
    assert second.dirty == ()


async def test_a_commit_makes_the_new_change_ids_the_base_of_the_next_cycle(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(4)
    begun = bench.world.inputs("begin_cycle", BeginCycleInput)[:3]
    ids = [[base.change_id for base in request.bases] for request in begun]
    assert ids == [[f"52-{key}/{epoch}" for key in (2000, 2001)] for epoch in (0, 1, 2)]


async def test_the_second_integrity_failure_in_a_row_is_repair_pending(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.fail("apply", ErrorKind.CHECKSUM_MISMATCH, times=2)
    running = await bench.replicated(due=True)
    view = await running.until_state(ReplicationState.REPAIR_PENDING)
    assert bench.world.count("begin_cycle") == 2
    assert view.next_cycle_at is None
    assert not view.health[0].retried
    records = await running.until_recorded(lambda r: len(r) == 2, "two failed cycles")
    assert "second failed cycle in a row" in records[-1].decision
    assert "cannot be migrated from" in await running.refusal("migrate_now")
    assert bench.world.snapshots == {}


async def test_two_integrity_failures_with_a_commit_between_them_are_not_in_a_row(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.fail("seal_cycle", ErrorKind.MANIFEST_MISMATCH)
    bench.world.fail("seal_cycle", ErrorKind.MANIFEST_MISMATCH, skip=1)
    running = await bench.replicated(due=True)
    records = await running.until_recorded(lambda r: len(r) >= 4, "four cycles")
    assert [record.committed for record in records[:4]] == [False, True, False, True]
    assert (await running.status()).replication_state == ReplicationState.DELTA_SYNC


@pytest.mark.parametrize("kind", [ErrorKind.CBT_RESET, ErrorKind.DISKS_CHANGED, ErrorKind.SEED_MISSING, ErrorKind.CLAIM_LOST])
async def test_what_change_tracking_cannot_repair_is_repair_pending_at_once_with_the_reason(
    bench: Bench, kind: ErrorKind
) -> None:
    bench.world.fail("begin_cycle", kind, message="disk 2001 is not what it was")
    running = await bench.replicated(due=True)
    view = await running.until_state(ReplicationState.REPAIR_PENDING)
    assert bench.world.count("begin_cycle") == 1
    assert view.health[0].kind is kind
    assert view.health[0].message == "disk 2001 is not what it was"
    assert view.next_cycle_at is None


async def test_an_outage_never_leads_to_repair_pending(bench: Bench) -> None:
    outages = (ErrorKind.VSPHERE_UNREACHABLE, ErrorKind.STORE_UNREACHABLE, ErrorKind.DATASTORE_FULL, ErrorKind.INTERRUPTED)
    bench.profile(min_interval=QUICK)
    for kind in outages:
        bench.world.fail("begin_cycle", kind)
    running = await bench.replicated(due=True)
    records = await running.until_recorded(lambda r: any(record.committed for record in r), "a committed cycle")
    assert [record.committed for record in records[:5]] == [False] * 4 + [True]
    assert [record.failure.partition(":")[0] for record in records[:4]] == [kind.value for kind in outages]
    assert (await running.status()).replication_state == ReplicationState.DELTA_SYNC


async def test_after_a_failed_cycle_the_next_starts_after_a_minute(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.VSPHERE_UNREACHABLE)
    running = await bench.replicated(due=True)
    (record,) = await running.until_recorded(lambda r: len(r) == 1, "a failed cycle")
    assert "1 min after the first failed cycle in a row" in record.decision
    view = await running.status()
    assert view.next_cycle_at is not None
    assert 59 < (view.next_cycle_at - record.ended_at).total_seconds() < 75


@pytest.mark.parametrize("step", ["apply", "seal_cycle"])
async def test_a_seed_that_is_ahead_makes_the_cycle_go_on_with_the_number_after_it(bench: Bench, step: str) -> None:
    bench.world.fail(step, ErrorKind.FENCED, number=100)
    running = await bench.replicated(due=True)
    view = await running.until_committed(2)
    assert view.health == ()
    numbers = {
        "apply": [request.fence for request in bench.world.inputs("apply", ApplyInput)],
        "seal_cycle": [request.seal for request in bench.world.inputs("seal_cycle", SealInput)],
    }
    assert numbers[step][1] == 101
    assert bench.world.count("begin_cycle") == 1


async def test_a_writer_that_the_seed_left_behind_without_a_number_fails_the_cycle(bench: Bench) -> None:
    bench.world.fail("apply", ErrorKind.FENCED)
    running = await bench.replicated(due=True)
    (record,) = await running.until_recorded(lambda r: len(r) == 1, "a failed cycle")
    assert record.failure.startswith("Fenced")
    assert bench.world.count("apply") == 1


async def test_every_apply_and_every_seal_of_a_life_has_a_higher_number_than_all_before_it(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.segments[CycleKind.INITIAL] = 3
    bench.world.segments[CycleKind.DELTA] = 2
    bench.world.fail("transfer", ErrorKind.SNAPSHOT_LOST, skip=2)
    bench.world.fail("seal_cycle", ErrorKind.COVERAGE_MISMATCH, skip=2)
    running = await bench.enable()
    await running.until_committed(2)
    await running.update("migrate_now")
    await running.until(lambda v: v.migration_state == "Migrated", "migrated")
    numbers = [
        call.request.fence if isinstance(call.request, ApplyInput) else call.request.seal
        for call in bench.world.calls
        if isinstance(call.request, ApplyInput | SealInput)
    ]
    assert len(numbers) > 12
    assert all(before < after for before, after in itertools.pairwise(numbers))


async def test_a_delta_cycle_of_two_disks_takes_at_most_sixty_events(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(5)
    fired = [index for index, event in enumerate(await running.events()) if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED]
    assert len(fired) >= 3
    spans = [after - before for before, after in itertools.pairwise(fired)]
    assert max(spans) <= _MOST_EVENTS
    assert min(spans) > 20, "a span without a cycle in it proves nothing"
