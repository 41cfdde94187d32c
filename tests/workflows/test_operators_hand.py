import dataclasses

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError

from deltaferry.model.states import MigrationState, ReplicationState
from tests.workflows.site_bench import Bench, Running, commit_record
from workflows.messages.site import SiteProfile
from workflows.messages.step import BeginCycleInput, CommitRecordsInput, DeleteTargetInput, ImportInput

_PAGES = 3


async def _cancelled(running: Running) -> None:
    await running.handle.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await running.ended()
    assert isinstance(failed.value.cause, CancelledError)


async def test_cancel_during_a_cycle_leaves_no_snapshot_and_no_slots(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    running = await bench.replicated(due=True)
    await hold.reached()
    assert bench.world.snapshots
    await _cancelled(running)
    assert bench.world.snapshots == {}
    assert bench.world.order(["transfer", "release_snapshot", "apply"]) == ["transfer", "release_snapshot"]
    await bench.until_no_leases(running.workflow_id)


async def test_cancel_is_not_forgotten_where_the_present_step_ends_well(bench: Bench) -> None:
    hold = bench.world.hold("begin_cycle", deaf=True)
    running = await bench.replicated(due=True)
    await hold.reached()
    await running.handle.cancel()
    await bench.until_event(running.workflow_id, EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
    hold.release()
    with pytest.raises(WorkflowFailureError):
        await running.ended()
    assert bench.world.count("transfer") == 0
    assert bench.world.snapshots == {}
    await bench.until_no_leases(running.workflow_id)


async def test_cancel_while_waiting_for_slots_takes_the_request_back(bench: Bench) -> None:
    bench.profile(disks_per_appliance=0)
    running = await bench.replicated(due=True)
    await running.until(lambda view: view.activity == "waiting for slots", "queued")
    await _cancelled(running)
    await bench.until_no_leases(running.workflow_id)
    assert bench.world.count("begin_cycle") == 0


async def test_cancel_of_the_initial_replication_leaves_no_snapshot_and_waits_for_retry(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    running = await bench.enable()
    await hold.reached()
    await bench.client.get_workflow_handle(f"{running.workflow_id}/initial/1").cancel()
    await running.until_state(ReplicationState.INITIAL_FAILED)
    assert bench.world.snapshots == {}
    await bench.until_no_leases(f"{running.workflow_id}/initial/1")
    hold.release()
    await running.update("retry")
    await running.until_committed(1)


@pytest.mark.parametrize("step", ["import_disks", "read_power"])
async def test_a_terminated_migration_shows_as_failed_and_can_be_rolled_back(bench: Bench, step: str) -> None:
    hold = bench.world.hold(step)
    running = await bench.replicated()
    await running.update("migrate_now")
    await hold.reached()
    view = await running.until_migration(MigrationState.MIGRATION_IN_PROGRESS)
    await bench.client.get_workflow_handle(view.job_id or "").terminate("by mistake")
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert "ended from outside" in view.health[0].message
    assert "rollback" in view.allowed
    hold.release()
    await running.update("rollback")
    await running.until_migration(MigrationState.TEST_PENDING)
    assert bench.world.powered_on
    assert bench.world.order(("delete_target", "unguard_source")) == ["delete_target", "unguard_source"], "never two of the VM"


async def test_a_migration_deletes_what_a_terminated_one_has_left_in_its_way(bench: Bench) -> None:
    hold = bench.world.hold("create_target_vm")
    running = await bench.replicated()
    await running.update("migrate_now")
    await hold.reached()
    view = await running.until_migration(MigrationState.MIGRATION_IN_PROGRESS)
    await bench.client.get_workflow_handle(view.job_id or "").terminate("by mistake")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    hold.release()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATED)
    first, second = (request.job for request in bench.world.inputs("import_disks", ImportInput))
    (deleted,) = bench.world.inputs("delete_target", DeleteTargetInput)
    assert deleted.job == first != second
    assert set(deleted.disk_keys) == {disk.key for disk in bench.world.disks}


async def test_a_cancelled_migration_deletes_what_it_made_in_azure_and_shows_as_failed(bench: Bench) -> None:
    hold = bench.world.hold("create_target_vm")
    running = await bench.replicated()
    await running.update("migrate_now")
    await hold.reached()
    view = await running.status()
    await bench.client.get_workflow_handle(view.job_id or "").cancel()
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    assert "cancelled by an operator" in view.health[0].message
    assert bench.world.count("delete_target") == 1


async def test_adopt_starts_a_terminated_replication_from_its_commit_record(bench: Bench) -> None:
    running = await bench.enable()
    committed = await running.until_committed(1)
    await running.handle.terminate("by mistake")
    result = await bench.adopt()
    assert result.adopted == (running.workflow_id,)
    assert result.skipped == (("container-9: nothing was committed yet", "its commit record cannot be used"),)
    await running.update("pause")
    await running.update("resume")
    view = await running.until_committed(committed.cycles_committed + 1)
    assert view.initial, "no new full copy"
    before, after = bench.world.inputs("begin_cycle", BeginCycleInput)[-2:]
    assert [base.change_id for base in before.bases] == ["52-2000/1", "52-2001/1"]
    assert [base.change_id for base in after.bases] == ["52-2000/2", "52-2001/2"]
    assert bench.world.count("prepare_target") == 1


async def test_adopt_reads_the_records_page_by_page_and_starts_the_arbiter_with_the_newest_settings_of_all(bench: Bench) -> None:
    bench.world.page_records = 1
    vms = [bench.name_of(f"web-{number:02}") for number in range(_PAGES)]
    for revision, vm in enumerate(vms, start=1):
        record = commit_record(bench, vm, due=False)
        record.state.profile = dataclasses.replace(bench.world.profile, disks_per_host=3, revision=revision)
        key = record.replication.ref.replication_id
        bench.world.records[key], bench.world.seed_number[key] = record, record.state.fence
    result = await bench.adopt()
    for workflow_id, vm in zip(sorted(result.adopted), vms, strict=True):
        bench.running(workflow_id, vm)
        assert workflow_id.endswith(vm)
    pages = bench.world.inputs("read_commit_records", CommitRecordsInput)
    assert [page.after for page in pages] == ["", *sorted(bench.world.records)[: _PAGES - 1]]
    assert (await bench.arbiter.query("settings", result_type=SiteProfile)).revision == _PAGES, "of whatever page"


async def test_adopt_skips_a_replication_that_runs(bench: Bench) -> None:
    running = await bench.replicated()
    result = await bench.adopt("web-01")
    assert result.adopted == ()
    assert (running.workflow_id, "it runs already") in result.skipped
    assert (await running.handle.describe()).status is WorkflowExecutionStatus.RUNNING
