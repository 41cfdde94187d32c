from temporalio.api.enums.v1 import EventType

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import JobOutcome, MigrationState, ReplicationState
from tests.workflows.site_bench import Bench, Running
from workflows.messages.step import CleanSourceInput


async def _ends_clean(bench: Bench, running: Running) -> None:
    """Assert that a replication that was stopped ends with both sides clean, and that its VM can be enabled again."""
    result = await running.ended()
    assert result.outcome is JobOutcome.SUCCEEDED
    assert bench.world.order(["clean_source", "clean_target"]) == ["clean_source", "clean_target"]
    assert bench.world.snapshots == {}
    assert bench.world.records == {}
    for holder in (running.workflow_id, f"{running.workflow_id}/initial/1"):
        await bench.until_no_leases(holder)
    again = await bench.enable()
    assert again.workflow_id == running.workflow_id
    await again.until(lambda v: v.vm == running.vm and v.replication_state != ReplicationState.NONE, "a second replication")


async def test_stop_of_a_queued_initial_replication(bench: Bench) -> None:
    bench.profile(disks_per_appliance=0)
    running = await bench.enable()
    await running.until(lambda v: v.activity == "waiting for slots", "queued")
    assert (await running.status()).replication_state == ReplicationState.INITIAL_QUEUED
    await running.update("stop", {"reason": "not this one"})
    await _ends_clean(bench, running)


async def test_stop_of_a_running_initial_replication_cuts_it(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    running = await bench.enable()
    await hold.reached()
    await running.signal("stop")
    result = await running.ended()
    assert result.outcome is JobOutcome.SUCCEEDED
    assert bench.world.count("apply") == 0
    assert bench.world.order(["begin_cycle", "release_snapshot", "clean_source"]) == [
        "begin_cycle",
        "release_snapshot",
        "clean_source",
    ]
    hold.release()
    await _ends_clean(bench, running)


async def test_stop_cuts_an_initial_replication_although_its_present_step_ends_well(bench: Bench) -> None:
    hold = bench.world.hold("begin_cycle", deaf=True)
    running = await bench.enable()
    await hold.reached()
    await running.update("stop")
    await bench.until_event(f"{running.workflow_id}/initial/1", EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
    hold.release()
    result = await running.ended()
    assert result.outcome is JobOutcome.SUCCEEDED
    assert bench.world.count("transfer") == 0
    assert bench.world.snapshots == {}


async def test_stop_of_a_failed_initial_replication(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.VSPHERE_PERMISSION)
    running = await bench.enable()
    await running.until_state(ReplicationState.INITIAL_FAILED)
    await running.update("stop")
    await _ends_clean(bench, running)


async def test_stop_of_an_idle_replication(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("stop")
    await _ends_clean(bench, running)


async def test_stop_during_a_delta_waits_for_its_end(bench: Bench) -> None:
    hold = bench.world.hold("apply")
    running = await bench.replicated(due=True)
    await hold.reached()
    assert "when the running cycle has finished" in await running.update("stop")
    view = await running.until_state(ReplicationState.STOP_IN_PROGRESS)
    assert view.allowed == ()
    assert "being stopped" in await running.refusal("pause")
    hold.release()
    await _ends_clean(bench, running)
    assert bench.world.order(["seal_cycle", "clean_source"])[:2] == ["seal_cycle", "clean_source"]


async def test_stop_of_a_paused_replication(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("pause")
    await running.until_state(ReplicationState.PAUSED)
    await running.signal("stop")
    await _ends_clean(bench, running)


async def test_stop_of_a_replication_that_is_repair_pending(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET)
    running = await bench.replicated(due=True)
    await running.until_state(ReplicationState.REPAIR_PENDING)
    await running.update("stop")
    await _ends_clean(bench, running)


async def test_change_tracking_is_left_on_only_when_asked(bench: Bench) -> None:
    running = await bench.replicated("web-01")
    await running.update("stop", {"keep_change_tracking": True})
    await running.ended()
    running = await bench.replicated("web-02")
    await running.update("stop")
    await running.ended()
    turned_off = [request.disable_change_tracking for request in bench.world.inputs("clean_source", CleanSourceInput)]
    assert turned_off == [False, True]


async def test_a_stop_that_fails_half_way_is_finished_by_retry(bench: Bench) -> None:
    bench.world.fail("clean_target", ErrorKind.STORE_ACCESS_DENIED, message="the account refused the credential")
    running = await bench.replicated()
    await running.update("stop")
    view = await running.until_state(ReplicationState.STOP_FAILED)
    assert view.health[0].message == "the account refused the credential"
    assert view.allowed == ("retry", "stop")
    for operation in ("migrate_now", "failover"):
        assert "Stopping the replication failed half-way" in await running.refusal(operation)
    await running.update("retry")
    assert (await running.ended()).outcome is JobOutcome.SUCCEEDED
    assert bench.world.order(["clean_source", "clean_target"]) == ["clean_source", "clean_target"] * 2


async def test_complete_after_a_migration_keeps_the_target_vm_and_frees_the_id(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATED)
    await running.update("complete")
    result = await running.ended()
    assert result.target_vm_id == f"/virtualMachines/{running.vm}"
    assert bench.world.count("delete_target") == 0
    await _ends_clean(bench, running)
