"""An unplanned failover begins at once, whatever of the site somebody waits for at that moment."""

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import MigrationState
from deltaferry.planning.dr_states import DrState
from tests.workflows.site_bench import Bench, Running, eventually
from workflows.messages.dr import PinPointInput
from workflows.messages.step import UnguardInput


async def _failed_migration(bench: Bench) -> Running:
    """Return a replication whose migration failed with the source shut down."""
    bench.world.fail("import_disks", ErrorKind.AZURE_QUOTA)
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert not bench.world.powered_on
    return running


async def test_a_failover_does_not_wait_until_a_site_says_which_disks_the_vm_has(bench: Bench) -> None:
    held = bench.world.hold("read_disks", deaf=True)
    running = await bench.replicated()
    await running.update("resync")
    await held.reached()
    await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.repair is not None
    assert bench.world.count("begin_resync") == 0
    held.release()
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    assert bench.world.count("read_disks") == 2


async def test_stop_does_not_wait_until_a_site_says_which_disks_the_vm_has(bench: Bench) -> None:
    held = bench.world.hold("read_disks")
    running = await bench.replicated()
    await running.update("resync")
    await held.reached()
    await running.update("stop")
    assert (await running.ended()).replication_id
    assert bench.world.count("begin_resync") == 0


async def test_a_rollback_does_not_wait_until_a_site_says_which_disks_the_vm_has(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET, skip=1)  # of the final delta: the source is off
    reading = bench.world.hold("read_disks", deaf=True)
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    await running.update("repair")
    await reading.reached()
    await running.update("rollback")
    await running.until_migration(MigrationState.TEST_PENDING)
    assert bench.world.powered_on
    reading.release()
    await running.until(lambda v: len(v.resyncs) == 1, "resynchronised")


async def test_a_failover_does_not_wait_until_a_resync_has_let_go_of_its_snapshot(bench: Bench) -> None:
    comparing = bench.world.hold("compare_source")
    releasing = bench.world.hold("release_snapshot", deaf=True)
    running = await bench.replicated()
    await running.update("resync")
    await comparing.reached()
    await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    assert releasing.was_reached and bench.world.snapshots
    assert view.repair is not None

    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None, "cancelled")
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    assert bench.world.count("begin_resync") == 1, "the next resync waits until the one that was cut has let go"

    comparing.release()
    releasing.release()
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    assert bench.world.count("begin_resync") == 2
    assert bench.world.snapshots == {}
    await bench.until_no_leases(running.workflow_id)


async def test_a_failover_ends_a_rollback_with_the_step_that_runs_and_shuts_the_source_down_again(bench: Bench) -> None:
    running = await _failed_migration(bench)
    powering = bench.world.hold("unguard_source")
    assert "powered on again" in await running.update("rollback")
    await powering.reached()
    assert "when the rollback has ended" in await running.refusal("migrate_now")
    assert "failover takes a recovery point and ends the rollback" in await running.refusal("planned_failover")
    assert "being powered on already" in await running.refusal("rollback")
    reads = bench.world.count("read_power")
    bench.world.powered_on = True  # the step came through at the site before it heard that it was to end
    assert "The rollback ends with the step that runs" in await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    assert bench.world.count("read_power") == reads + 1
    assert not bench.world.powered_on, "two of the VM must not run"
    assert view.failover is not None and view.failover.vm_id is not None
    powering.release()
    await running.update("cancel_failover")
    view = await running.until(lambda v: v.failover is None, "cancelled")
    assert bench.world.inputs("unguard_source", UnguardInput)[-1].power_on
    await running.until(lambda v: v.cycles_committed > view.cycles_committed, "a cycle after it")


async def test_a_rollback_that_was_cut_at_a_site_that_does_not_answer_is_named_in_the_failovers_result(bench: Bench) -> None:
    running = await _failed_migration(bench)
    powering = bench.world.hold("unguard_source")
    await running.update("rollback")
    await powering.reached()
    bench.world.fail("read_power", ErrorKind.VSPHERE_UNREACHABLE, message="vCenter does not answer.")
    await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None
    assert "A rollback was cut that was powering the source VM on: look whether it runs." in view.failover.information
    powering.release()


async def test_a_failover_takes_over_what_a_rollback_was_deleting_in_azure(bench: Bench) -> None:
    bench.world.fail("delete_target", ErrorKind.AZURE_FAILED)
    running = await _failed_migration(bench)
    deleting = bench.world.hold("delete_target")
    await running.update("rollback")
    await deleting.reached()
    reads = bench.world.count("read_power")
    await running.update("failover")
    deleting.release()
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None
    assert len(bench.world.vms) == 1
    assert bench.world.count("unguard_source") == 0
    assert bench.world.count("read_power") == reads, "the migration had shut the source down, and nothing powered it on"
    assert len(bench.world.inputs("pin_point", PinPointInput)) == 1


async def test_a_cycle_that_was_cut_does_not_go_on_when_its_step_ends_well_all_the_same(bench: Bench) -> None:
    stuck = bench.world.hold("begin_cycle", deaf=True)
    running = await bench.replicated(due=True)
    await stuck.reached()
    await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    stuck.release()

    async def let_go() -> bool:
        return bench.world.count("release_snapshot") > 0 and not bench.world.snapshots

    await eventually(let_go, "the snapshot of the cycle that was cut is removed")
    await bench.until_no_leases(running.workflow_id)
    assert bench.world.count("transfer") == 0
    assert (await running.status()).cycles_committed == view.cycles_committed


async def test_a_rollback_that_was_cut_does_not_go_on_when_its_step_ends_well_all_the_same(bench: Bench) -> None:
    bench.world.fail("delete_target", ErrorKind.AZURE_FAILED)
    running = await _failed_migration(bench)
    deleting = bench.world.hold("delete_target", deaf=True)
    await running.update("rollback")
    await deleting.reached()
    await running.update("failover")
    deleting.release()
    await running.until_migration(DrState.FAILED_OVER)
    assert bench.world.count("unguard_source") == 0
