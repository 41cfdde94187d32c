"""What somebody ends from outside in the middle of a failover, or of the way back: nothing is forgotten, nothing is stuck (spec §8)."""

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.dr_states import DrState
from tests.workflows.site_bench import Bench, Running
from tests.workflows.test_coming_home import committed


async def _terminate_job(bench: Bench, running: Running) -> None:
    view = await running.status()
    await bench.client.get_workflow_handle(view.job_id or "").terminate("by mistake")


async def _cancelled(running: Running) -> None:
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None, "cancelled")


async def test_copies_that_a_terminated_failover_has_left_are_deleted_with_it(bench: Bench) -> None:
    held = bench.world.hold("import_copies")
    running = await bench.replicated()
    await running.update("failover", {"shut_down_source": False})
    await held.reached()
    await _terminate_job(bench, running)
    await running.until_migration(DrState.FAILOVER_FAILED)
    held.release()
    assert bench.world.copies != {}
    await _cancelled(running)
    assert (bench.world.copies, bench.world.pins, bench.world.vms) == ({}, {}, {})


async def test_a_planned_failover_is_not_hindered_by_what_a_terminated_one_has_left(bench: Bench) -> None:
    held = bench.world.hold("create_target_vm")
    running = await bench.replicated()
    await running.update("failover", {"shut_down_source": False})
    await held.reached()
    await _terminate_job(bench, running)
    await running.until_migration(DrState.FAILOVER_FAILED)
    held.release()
    bench.world.fail("delete_target", ErrorKind.AZURE_CONFLICT, message="The disk is locked.")
    await running.update("planned_failover")
    view = await running.until(lambda v: v.health != () and v.health[0].message == "The disk is locked.", "not deleted")
    assert view.migration_state == DrState.FAILOVER_FAILED
    await running.update("planned_failover")
    await running.until_migration(DrState.FAILED_OVER)
    assert len(bench.world.vms) == 1
    await _cancelled(running)
    assert bench.world.vms == {}


async def test_a_failover_that_ended_while_nobody_listened_is_not_made_again_over_its_vm(bench: Bench) -> None:
    held = bench.world.hold("create_target_vm")
    running = await bench.replicated()
    await running.update("failover")
    await held.reached()
    view = await running.status()
    await running.handle.terminate("by mistake")
    await bench.client.get_workflow_handle(view.job_id or "").terminate("by mistake")
    held.release()
    await bench.adopt()
    view = await running.until_migration(DrState.FAILOVER_FAILED)
    assert "ended from outside" in view.health[0].message
    assert bench.world.count("pin_point") == 1
    await _cancelled(running)
    assert (bench.world.vms, bench.world.pins) == ({}, {})
    assert bench.world.powered_on


async def test_a_cancel_and_a_commit_go_on_over_a_terminated_replication(bench: Bench) -> None:
    running = await bench.replicated()
    for operation, step in (("cancel_failover", "delete_target"), ("commit", "prune_points")):
        await running.update("failover")
        await running.until_migration(DrState.FAILED_OVER)
        held = bench.world.hold(step)
        await running.update(operation)
        await held.reached()
        await running.handle.terminate("by mistake")
        held.release()
        await bench.adopt()
        await running.until(lambda v: v.failover is None or v.failover.committed_at is not None, f"{operation} again")
    assert len(bench.world.vms) == 1


async def test_a_resumed_replication_that_is_adopted_removes_its_snapshot_with_another_cycle(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("pause")
    before = await running.until(lambda v: v.replication_state == "Paused", "paused")
    held = bench.world.hold("transfer")
    await running.update("resume")
    await held.reached()
    await running.handle.terminate("by mistake")
    held.release()
    await bench.adopt()
    await running.until(lambda v: v.cycles_committed > before.cycles_committed, "a cycle")
    assert bench.world.snapshots == {}


async def test_a_commit_that_failed_is_tried_again_by_reprotect(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    bench.world.fail("prune_points", ErrorKind.STORE_ACCESS_DENIED, message="The account refuses the identity.")
    await running.update("commit")
    await running.until(lambda v: v.health != (), "a health error")
    await running.update("reprotect")
    view = await running.until_migration(DrState.FAILBACK_READY)
    assert view.failover is not None and view.failover.committed_at is not None


async def test_replication_back_that_was_terminated_is_missed_and_undone_at_the_end(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("reprotect")
    await running.until_migration(DrState.FAILBACK_READY)
    await _terminate_job(bench, running)
    view = await running.until(lambda v: "reprotect" in v.allowed, "that it has ended")
    assert "ended from outside" in view.health[0].message
    assert bench.world.ledger.marked and bench.world.ledger.disk_snapshots
    await running.update("complete")
    await running.ended()
    assert (bench.world.ledger.marked, bench.world.ledger.disk_snapshots) == (False, {})


async def test_a_failback_does_not_wait_for_a_replication_back_that_was_terminated(bench: Bench) -> None:
    running = await committed(bench)
    held = bench.world.hold("snapshot_target", skip=1)
    await running.update("reprotect")
    view = await running.until_migration(DrState.FAILBACK_READY)
    await bench.client.get_workflow_handle(view.job_id or "").signal("reverse_now")
    await held.reached()
    await running.update("failback")
    await running.until(lambda v: v.activity.startswith("finishing the pass"), "it waits for the pass")
    await bench.client.get_workflow_handle(view.job_id or "").terminate("by mistake")
    held.release()
    view = await running.until(lambda v: "reprotect" in v.allowed, "that it has ended")
    assert "reprotect again" in view.health[0].message


async def test_a_vm_that_a_failback_had_stopped_is_started_by_the_next_reprotect_where_cancelling_could_not(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("reprotect")
    await running.until_migration(DrState.FAILBACK_READY)
    bench.world.fail("write_back", ErrorKind.MANIFEST_MISMATCH)
    await running.update("failback")
    await running.until_migration(DrState.FAILBACK_FAILED)
    bench.world.fail("start_target", ErrorKind.AZURE_QUOTA, message="No cores are left in the region.")
    await running.update("cancel_failover")
    view = await running.until(lambda v: "reprotect" in v.allowed, "not started")
    assert view.health[0].message == "No cores are left in the region."
    assert [made.running for made in bench.world.ledger.cloud.values()] == [False]
    await running.update("reprotect", {"confirm_losses": True})
    await running.until_migration(DrState.FAILBACK_READY)
    assert [made.running for made in bench.world.ledger.cloud.values()] == [True]
