"""A final delta without a snapshot, and a source that lost power: what the replication decides."""

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import MigrationState, ReplicationState
from tests.workflows.site_bench import QUICK, Bench
from workflows.messages.step import BeginCycleInput, TransferInput


def change_ids(request: BeginCycleInput) -> list[str | None]:
    return [base.change_id for base in request.bases]


async def test_a_final_delta_without_a_snapshot_migrates_and_waits_for_no_consolidation(bench: Bench) -> None:
    bench.world.without_snapshot = True
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATED)
    steps = bench.world.order(["begin_cycle", "transfer", "release_snapshot", "create_target_vm"])
    assert steps == ["begin_cycle", "transfer", "release_snapshot", "begin_cycle", "transfer", "create_target_vm"]
    assert [request.snapshot != "" for request in bench.world.inputs("transfer", TransferInput)] == [True, False]


async def test_change_ids_of_a_pass_without_a_snapshot_are_no_base_for_the_next_delta(bench: Bench) -> None:
    bench.world.without_snapshot = True
    bench.world.fail("import_disks", ErrorKind.AZURE_QUOTA)
    running = await bench.replicated()
    await running.update("migrate_now")
    failed = await running.until_migration(MigrationState.MIGRATION_FAILED)
    await running.update("rollback")
    await running.until_committed(failed.cycles_committed + 1)
    on_demand, final, delta = bench.world.inputs("begin_cycle", BeginCycleInput)[:3]
    assert [request.kind for request in (on_demand, final, delta)] == [CycleKind.ON_DEMAND, CycleKind.FINAL, CycleKind.DELTA]
    assert change_ids(final) != change_ids(on_demand), "the on-demand delta's ids are one"
    assert change_ids(delta) == change_ids(final), "its range is covered again"
    assert delta.dirty == ()


async def test_a_source_that_moved_on_under_a_final_delta_fails_the_migration_and_is_covered_again(bench: Bench) -> None:
    bench.world.without_snapshot = True
    bench.world.fail("transfer", ErrorKind.SOURCE_MOVED_ON, skip=1)
    running = await bench.replicated()
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert view.health[0].kind is ErrorKind.SOURCE_MOVED_ON
    assert view.replication_state == ReplicationState.DELTA_SYNC
    assert bench.world.count("release_snapshot") == 1, "there is none to release"
    assert bench.world.count("import_disks") == 0


async def test_each_cycle_is_told_when_the_last_committed_snapshot_was_taken(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(3)
    begun = bench.world.inputs("begin_cycle", BeginCycleInput)[:3]
    times = [request.since for request in begun]
    assert None not in times
    assert times == sorted(set(times), key=str), "each one later than the one before"


async def test_a_source_that_lost_power_is_marked_for_resync_at_once(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.SOURCE_LOST_POWER)
    running = await bench.replicated(due=True)
    view = await running.until_state(ReplicationState.REPAIR_PENDING)
    assert view.health[0].kind is ErrorKind.SOURCE_LOST_POWER
    assert bench.world.count("begin_cycle") == 1, "no cycles run until it is repaired"
    await running.update("repair")
    await running.until_state(ReplicationState.DELTA_SYNC)
