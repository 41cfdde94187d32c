"""Failovers (spec §8): unplanned and planned, another point, commit, cancel; whatever of the site does not answer."""

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.planning.dr_states import DrState
from tests.workflows.site_bench import QUICK, Bench, eventually
from tests.workflows.world import NICS
from workflows.messages.dr import PinPointInput, PrunePointsInput
from workflows.messages.step import BeginCycleInput, CreateVmInput, DeleteTargetInput, GuardInput, UnguardInput


async def test_an_unplanned_failover_shuts_the_source_down_and_makes_the_vm_from_the_latest_point(bench: Bench) -> None:
    running = await bench.replicated()
    before = await running.status()
    assert "started in Azure" in await running.update("failover", {"reason": "the site burns"})
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None
    assert view.failover.vm_id == f"/virtualMachines/{view.vm}"
    assert view.failover.point_taken_at == before.last_recovery_point
    assert next(name for name, _ in view.failover.phases) == "shut down source"
    assert view.replication_state == "–"  # noqa: RUF001 - the spec's own sign
    assert set(view.allowed) == {"change_recovery_point", "commit", "cancel_failover", "update_policy"}
    (guarded,) = bench.world.inputs("guard_source", GuardInput)
    assert guarded.disconnect_nics == NICS
    assert bench.world.count("begin_cycle") == 0
    assert list(bench.world.pins.values()) == [view.failover.point_key]


async def test_a_failover_does_not_wait_for_a_site_that_does_not_answer(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    stuck = bench.world.hold("begin_cycle", deaf=True)
    bench.world.fail("read_power", ErrorKind.VSPHERE_UNREACHABLE, message="vCenter does not answer.")
    running = await bench.replicated(due=True)
    await stuck.reached()
    await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    assert any("could not be shut down and may still run: vCenter does not answer." in warning for warning in view.warnings)
    assert bench.world.count("shut_down_source") == 0
    stuck.release()
    await running.update("cancel_failover")
    view = await running.until(lambda v: v.failover is None, "cancelled")
    await running.until(lambda v: v.cycles_committed > view.cycles_committed, "a cycle after it")
    assert bench.world.snapshots == {}


async def test_commit_deletes_the_other_points_and_complete_keeps_the_vm(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(3)
    await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None
    await running.update("commit", {"reason": "all is well"})
    view = await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    assert view.failover is not None
    (pruned,) = bench.world.inputs("prune_points", PrunePointsInput)
    assert pruned.keep_only == view.failover.point_key
    assert [point.cycle_key for point in bench.world.points] == [view.failover.point_key]
    assert bench.world.pins == {}
    assert "stop" not in view.allowed and "complete" in view.allowed
    await running.update("complete")
    result = await running.ended()
    assert result.target_vm_id == view.failover.vm_id
    assert bench.world.count("delete_target") == 0


async def test_another_point_replaces_the_vm_and_cancel_goes_back_to_deltas(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(3)
    older = bench.world.points[1]
    await running.update("failover")
    first = await running.until_migration(DrState.FAILED_OVER)
    assert first.failover is not None
    await running.update("change_recovery_point", {"point": older.cycle_key})
    view = await running.until(
        lambda v: v.failover is not None and v.failover.point_key == older.cycle_key, "the other point's VM"
    )
    assert view.migration_state == DrState.FAILED_OVER
    assert [request.choice.cycle_key for request in bench.world.inputs("pin_point", PinPointInput)] == ["", older.cycle_key]
    (deleted,) = bench.world.inputs("delete_target", DeleteTargetInput)
    assert len(bench.world.vms) == 1 and deleted.job not in bench.world.vms
    assert bench.world.count("shut_down_source") == 1
    await running.update("cancel_failover")
    view = await running.until(lambda v: v.failover is None, "cancelled")
    assert (view.migration_state, bench.world.vms, bench.world.pins) == ("Test migration pending", {}, {})
    assert bench.world.inputs("unguard_source", UnguardInput)[-1] == UnguardInput(
        bench.world.inputs("unguard_source", UnguardInput)[-1].replication, NICS, True
    )
    await running.until(lambda v: v.cycles_committed > first.cycles_committed, "a cycle after it")


async def test_a_planned_failover_loses_nothing_and_can_be_committed(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("planned_failover", {"reason": "maintenance"})
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None and view.failover.planned
    kinds = [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)]
    assert kinds == [CycleKind.ON_DEMAND, CycleKind.FINAL]
    assert view.failover.point_taken_at == view.last_recovery_point
    await running.update("commit")
    await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")


async def test_a_planned_failover_can_be_cancelled_and_the_source_runs_again(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("planned_failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    (created,) = bench.world.inputs("create_target_vm", CreateVmInput)
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None and v.cycles_committed > view.cycles_committed, "replicating again")
    (deleted,) = bench.world.inputs("delete_target", DeleteTargetInput)
    assert deleted.job == created.job
    assert bench.world.inputs("unguard_source", UnguardInput)[-1].power_on


async def test_a_failed_failover_is_tried_again_from_another_point_or_cancelled(bench: Bench) -> None:
    bench.world.fail("create_target_vm", ErrorKind.AZURE_QUOTA, message="No cores are left in the region.")
    running = await bench.replicated()
    await running.update("failover", {"shut_down_source": False})
    view = await running.until_migration(DrState.FAILOVER_FAILED)
    assert view.health[0].message == "No cores are left in the region."
    assert bench.world.vms == {}
    await running.update("failover", {"shut_down_source": False})
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.health == () and len(bench.world.vms) == 1
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None, "cancelled")
    assert bench.world.vms == {}


async def test_a_commit_that_fails_waits_for_retry_and_the_vm_runs_on(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    bench.world.fail("prune_points", ErrorKind.STORE_ACCESS_DENIED, message="The account refuses the identity.")
    await running.update("commit")
    view = await running.until(lambda v: v.health != (), "a health error")
    assert view.migration_state == DrState.COMMITTED
    await running.update("retry")
    await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")


async def test_a_paused_replication_is_paused_again_after_a_cancelled_failover(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("pause")
    await running.until(lambda v: v.replication_state == "Paused", "paused")
    assert "send resume first" in await running.refusal("planned_failover")
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None and v.replication_state == "Paused", "paused again")


async def test_a_failover_goes_on_over_a_terminated_replication(bench: Bench) -> None:
    held = bench.world.hold("copy_point")
    running = await bench.replicated()
    await running.update("failover")
    await held.reached()
    await running.handle.terminate("by mistake")
    held.release()

    async def made() -> bool:
        return bool(bench.world.vms)

    await eventually(made, "the VM")
    await bench.adopt()
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None and view.failover.vm_id is not None
    assert bench.world.count("pin_point") == 1


async def test_a_failover_cuts_a_resync_and_cancelling_it_resynchronises(bench: Bench) -> None:
    held = bench.world.hold("compare_source")
    running = await bench.replicated()
    await running.update("resync")
    await held.reached()
    await running.update("failover")
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.repair is not None
    held.release()
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")


async def test_a_failover_is_from_the_point_of_a_cycle_that_is_committed_and_still_writes_it(bench: Bench) -> None:
    hold = bench.world.hold("settle_cycle")
    running = await bench.replicated(due=True)
    await hold.reached()
    committed = await running.status()
    assert committed.cycles_committed == 2
    await running.update("failover")
    hold.release()
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None
    assert (view.failover.point_taken_at, len(bench.world.points)) == (committed.last_recovery_point, 2)
