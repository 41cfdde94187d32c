from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import JobOutcome, MigrationState, ReplicationState
from tests.workflows.site_bench import Bench
from tests.workflows.world import NICS
from workflows.messages.step import BeginCycleInput, DeleteTargetInput, GuardInput, ImportInput, ShutDownInput, UnguardInput


async def test_migrate_is_an_on_demand_delta_then_shutdown_then_a_final_delta_then_the_target_vm(bench: Bench) -> None:
    running = await bench.replicated()
    await running.signal("migrate_now", {"reason": "window", "target": {"vm_name": "web-01-azure"}})
    view = await running.until_migration(MigrationState.MIGRATED)
    assert view.migration is not None
    assert view.migration.outcome is JobOutcome.SUCCEEDED
    assert view.migration.target_vm_id == "/virtualMachines/web-01-azure"
    assert view.migration.downtime_s is not None
    assert [name for name, _ in view.migration.phases] == [
        "on-demand delta 1",
        "shut down source",
        "final delta",
        "import disks",
        "create VM",
        "guard source",
    ]
    assert view.replication_state == ReplicationState.NONE
    assert any("seed disks still cost money" in warning for warning in view.warnings)
    procedure = ["begin_cycle", "shut_down_source", "seal_cycle", "import_disks", "create_target_vm", "guard_source"]
    assert bench.world.order(procedure) == [
        "begin_cycle",
        "seal_cycle",
        "shut_down_source",
        "begin_cycle",
        "seal_cycle",
        "import_disks",
        "create_target_vm",
        "guard_source",
    ]
    kinds = [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)]
    assert kinds == [CycleKind.ON_DEMAND, CycleKind.FINAL]
    (imported,) = bench.world.inputs("import_disks", ImportInput)
    assert imported.seal == max(bench.world.seed_number.values())
    (guarded,) = bench.world.inputs("guard_source", GuardInput)
    assert guarded.disconnect_nics == NICS


async def test_a_source_that_is_off_needs_one_delta(bench: Bench) -> None:
    bench.world.powered_on = False
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATED)
    assert [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)] == [CycleKind.FINAL]
    assert bench.world.count("shut_down_source") == 0


async def test_migrate_during_a_delta_is_queued_behind_it(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    running = await bench.replicated(due=True)
    await hold.reached()
    assert "behind a cycle that runs now" in await running.update("migrate_now")
    view = await running.status()
    assert view.migration_state == MigrationState.MIGRATION_QUEUED
    assert "queued" in await running.refusal("pause")
    assert bench.world.count("read_power") == 0
    hold.release()
    await running.until_migration(MigrationState.MIGRATED)
    kinds = [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)]
    assert kinds == [CycleKind.DELTA, CycleKind.ON_DEMAND, CycleKind.FINAL]
    assert bench.world.order(["seal_cycle", "read_power"])[:2] == ["seal_cycle", "read_power"]


async def test_a_migration_queued_behind_a_cycle_that_calls_for_a_repair_does_not_run(bench: Bench) -> None:
    hold = bench.world.hold("begin_cycle")
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET)
    running = await bench.replicated(due=True)
    await hold.reached()
    await running.update("migrate_now")
    hold.release()
    view = await running.until_state(ReplicationState.REPAIR_PENDING)
    assert view.migration_state == MigrationState.MIGRATION_FAILED
    assert view.health[0].kind is ErrorKind.CBT_RESET
    assert bench.world.count("read_power") == 0
    assert view.allowed == ("repair", "resync", "stop", "update_target", "test_migrate", "failover", "update_policy")


async def test_complete_is_refused_before_and_stop_after_a_migration(bench: Bench) -> None:
    running = await bench.replicated()
    assert "only after a successful migration" in await running.refusal("complete")
    assert "only after a successful migration" in await running.refused_signal("complete")
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATED)
    assert "send complete" in await running.refusal("stop")
    assert "send complete" in await running.refused_signal("stop")
    assert bench.world.count("clean_source") == 0


async def test_resume_after_a_migration_goes_back_to_delta_cycles(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("migrate_now")
    migrated = await running.until_migration(MigrationState.MIGRATED)
    await running.update("resume")
    view = await running.until_committed(migrated.cycles_committed + 1)
    assert (view.replication_state, view.migration_state) == ("Delta sync", "Test migration pending")
    assert view.migration is None
    assert [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)][-1] is CycleKind.DELTA
    (unguarded,) = bench.world.inputs("unguard_source", UnguardInput)
    assert unguarded.reconnect_nics == NICS
    assert not unguarded.power_on


async def test_a_migration_that_fails_before_the_shutdown_leaves_replication_and_source_as_they_were(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.VSPHERE_PERMISSION)
    running = await bench.replicated()
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert view.health[0].kind is ErrorKind.VSPHERE_PERMISSION
    assert view.replication_state == ReplicationState.DELTA_SYNC
    assert view.next_cycle_at is not None
    assert "before it shut the source VM down" in await running.refusal("rollback")
    assert "send migrate_now to migrate again" in await running.refusal("retry")
    assert bench.world.count("shut_down_source") == bench.world.count("delete_target") == 0


async def test_after_a_failure_behind_the_shutdown_rollback_powers_the_source_on_and_migrate_is_accepted_again(
    bench: Bench,
) -> None:
    bench.world.fail("import_disks", ErrorKind.AZURE_QUOTA, message="StandardSSD quota is used up")
    running = await bench.replicated()
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert "StandardSSD quota is used up" in view.health[0].message
    assert {"rollback", "migrate_now"} <= set(view.allowed)
    assert len(bench.world.inputs("delete_target", DeleteTargetInput)) == 1
    assert not bench.world.powered_on

    await running.update("rollback")
    view = await running.until_migration(MigrationState.TEST_PENDING)
    (unguarded,) = bench.world.inputs("unguard_source", UnguardInput)
    assert unguarded.power_on
    assert bench.world.powered_on
    await running.until_committed(view.cycles_committed + 1)
    assert "nothing to roll back" in await running.refusal("rollback")

    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATED)
    assert bench.world.count("prepare_target") == 0, "no new full copy"


async def test_a_migration_asked_for_again_with_the_source_off_goes_straight_to_the_final_delta(bench: Bench) -> None:
    bench.world.fail("create_target_vm", ErrorKind.AZURE_NOT_FOUND)
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATED)
    kinds = [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)]
    assert kinds == [CycleKind.ON_DEMAND, CycleKind.FINAL, CycleKind.FINAL]
    assert bench.world.count("shut_down_source") == 1
    assert view.migration is not None
    assert view.migration.source_shut_down


async def test_a_guest_that_does_not_shut_down_fails_the_migration_before_the_final_delta(bench: Bench) -> None:
    bench.world.fail("shut_down_source", ErrorKind.GUEST_SHUTDOWN_TIMED_OUT)
    running = await bench.replicated()
    await running.update("migrate_now", {"shutdown_timeout": "PT3M", "allow_power_off": False})
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert view.health[0].kind is ErrorKind.GUEST_SHUTDOWN_TIMED_OUT
    (asked,) = bench.world.inputs("shut_down_source", ShutDownInput)
    assert asked.timeout.total_seconds() == 180
    assert [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)] == [CycleKind.ON_DEMAND]


async def test_keep_the_source_running_completes_with_information(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("migrate_now", {"keep_source_running": True})
    view = await running.until_migration(MigrationState.MIGRATED)
    assert view.migration is not None
    assert view.migration.outcome is JobOutcome.COMPLETED_WITH_INFORMATION
    assert "not in the target VM" in view.migration.information[0]
    assert view.migration.downtime_s is None
    assert bench.world.powered_on
    assert bench.world.count("shut_down_source") == bench.world.count("guard_source") == 0


async def test_a_max_downtime_that_cannot_be_reached_ends_the_migration_before_the_shutdown(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("migrate_now", {"max_downtime": "PT1S", "expected_import": "PT1M"})
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert "predicted downtime" in view.health[0].message
    assert "was not shut down" in view.health[0].remedy
    assert [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)] == [CycleKind.ON_DEMAND] * 5
    assert bench.world.count("shut_down_source") == 0


async def test_a_max_downtime_that_fits_goes_on_to_the_shutdown(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("migrate_now", {"max_downtime": "PT10M", "expected_import": "PT1S"})
    await running.until_migration(MigrationState.MIGRATED)
    kinds = [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)]
    assert kinds == [CycleKind.ON_DEMAND, CycleKind.ON_DEMAND, CycleKind.FINAL], "a prediction needs two cycles"
