"""Each row of docs/lost-server-state.md: the state the replication is in, and what happens to its entity there."""

import asyncio

import pytest

from deltaferry.model.naming import log_container
from deltaferry.model.states import JobOutcome, MigrationState, ReplicationState
from tests.e2e.conftest import Lab
from tests.e2e.interventions import held, hold, paused, reached
from tests.e2e.operators import (
    adopt,
    adopted,
    cancel,
    enable_and_hold,
    goes_on_with_deltas,
    history,
    hold_a_delta,
    is_running,
    leases,
    let_go,
    reset,
    runs_of,
    terminate,
)
from tests.e2e.replicated import LIMIT_S, Replicated
from workflows import names

# --- idle ---


@pytest.mark.chaos
async def test_idle_terminate(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    vm.scribble()
    await terminate(vm)
    assert (vm.our_snapshots(), await leases(vm)) == ([], [])
    await adopted(vm)
    await vm.state(ReplicationState.PAUSED)
    await vm.handle.execute_update("resume")
    await goes_on_with_deltas(vm)
    await vm.stop()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_idle_cancel(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await cancel(vm)
    vm.scribble()
    assert (vm.our_snapshots(), await leases(vm)) == ([], [])
    await adopted(vm)
    await goes_on_with_deltas(vm)


@pytest.mark.chaos
async def test_idle_reset(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    vm.scribble()
    await reset(vm, to_the_first_task=True)
    await goes_on_with_deltas(vm)


# --- initial replication ---


@pytest.mark.chaos
async def test_initial_replication_terminate(vm: Replicated) -> None:
    await enable_and_hold(vm)
    await terminate(vm)
    assert await is_running(vm.client, names.initial_id(vm.handle.id, 1))
    await adopted(vm)
    let_go(vm)
    await goes_on_with_deltas(vm)


@pytest.mark.chaos
async def test_initial_replication_that_ends_while_its_replication_is_terminated_keeps_its_result(vm: Replicated) -> None:
    await enable_and_hold(vm)
    await terminate(vm)
    let_go(vm)
    job_id = names.initial_id(vm.handle.id, 1)
    await _waits_for_adoption(vm, job_id)
    assert (vm.our_snapshots(), await leases(vm)) == ([], [])
    await adopted(vm)
    await goes_on_with_deltas(vm)


@pytest.mark.chaos
async def test_initial_replication_cancel(vm: Replicated) -> None:
    await enable_and_hold(vm)
    await cancel(vm)
    let_go(vm)
    assert not await is_running(vm.client, names.initial_id(vm.handle.id, 1))
    assert (vm.our_snapshots(), await leases(vm)) == ([], [])
    await adopted(vm)
    await goes_on_with_deltas(vm, copies=2)


@pytest.mark.chaos
async def test_initial_replication_reset(vm: Replicated) -> None:
    await enable_and_hold(vm)
    await reset(vm, to_the_first_task=True)
    let_go(vm)
    await goes_on_with_deltas(vm)


# --- delta ---


@pytest.mark.chaos
async def test_delta_terminate(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await hold_a_delta(vm)
    await terminate(vm)
    let_go(vm)
    assert len(vm.our_snapshots()) == 1
    assert await leases(vm) == [vm.handle.id]
    await adopted(vm)
    await goes_on_with_deltas(vm)


@pytest.mark.chaos
async def test_delta_cancel(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await hold_a_delta(vm)
    await cancel(vm)
    let_go(vm)
    assert (vm.our_snapshots(), await leases(vm)) == ([], [])
    await adopted(vm)
    await goes_on_with_deltas(vm)


@pytest.mark.chaos
async def test_delta_reset(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await hold_a_delta(vm)
    await reset(vm)
    let_go(vm)
    await goes_on_with_deltas(vm)


@pytest.mark.chaos
async def test_delta_reset_to_the_first_task_meets_seeds_whose_number_is_ahead(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await vm.committed(1)
    await hold_a_delta(vm)
    await reset(vm, to_the_first_task=True)
    let_go(vm)
    await goes_on_with_deltas(vm)


# --- migration ---


async def _hold_an_on_demand_delta(vm: Replicated) -> None:
    await vm.enable_and_sync()
    vm.world.vcenter_control.set_times(snapshot_s=2.0)
    try:
        await vm.handle.signal("migrate_now")
        await vm.until(lambda status: status.migration_state == MigrationState.MIGRATION_IN_PROGRESS.value, "a running migration")
        vm.scribble()
        hold(vm.world, "log", log_container(vm.reference), "PutBlob")
        await held(vm.world)
    finally:
        vm.world.vcenter_control.set_times(snapshot_s=0.05)


@pytest.mark.chaos
async def test_migration_terminate(vm: Replicated) -> None:
    await _hold_an_on_demand_delta(vm)
    await terminate(vm)
    let_go(vm)
    assert await is_running(vm.client, names.migration_id(vm.handle.id, 2))
    await adopted(vm)
    status = await vm.migration_ended()
    assert status.migration is not None
    assert status.migration.outcome is JobOutcome.SUCCEEDED
    vm.assert_target_identical(status)
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_migration_that_ends_while_its_replication_is_terminated_keeps_its_result(vm: Replicated) -> None:
    await vm.enable_and_sync()
    vm.world.arm_control.set_times(operation_s=1.0)
    try:
        await vm.handle.signal("migrate_now")
        await reached(lambda: bool(vm.world.arm_control.operations()[-1:]) and _imports(vm) > 0, "an import")
        await terminate(vm)
        await _waits_for_adoption(vm, names.migration_id(vm.handle.id, 2))
    finally:
        vm.world.arm_control.set_times(operation_s=0.0)
    await adopted(vm)
    status = await vm.migration_ended()
    assert status.migration_state == MigrationState.MIGRATED.value
    vm.assert_target_identical(status)
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_migration_cancel(vm: Replicated) -> None:
    await _hold_an_on_demand_delta(vm)
    await cancel(vm)
    let_go(vm)
    assert not await is_running(vm.client, names.migration_id(vm.handle.id, 2))
    assert (vm.our_snapshots(), await leases(vm)) == ([], [])
    await adopted(vm)
    status = await vm.committed(1)
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    status = await vm.migrate()
    assert status.migration_state == MigrationState.MIGRATED.value
    vm.assert_target_identical(status)


@pytest.mark.chaos
async def test_migration_reset(vm: Replicated) -> None:
    await _hold_an_on_demand_delta(vm)
    await reset(vm)
    let_go(vm)
    status = await vm.migration_ended()
    assert status.migration_state == MigrationState.MIGRATED.value
    vm.assert_target_identical(status)


@pytest.mark.chaos
async def test_migration_reset_to_the_first_task_takes_the_running_migration_up(vm: Replicated) -> None:
    await _hold_an_on_demand_delta(vm)
    await reset(vm, to_the_first_task=True)
    let_go(vm)
    status = await vm.migration_ended()
    assert status.migration_state == MigrationState.MIGRATED.value
    assert await runs_of(vm, names.MIGRATE_VM) == 1
    vm.assert_target_identical(status)


# --- stop ---


@pytest.mark.chaos
async def test_stop_terminate(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    hold(vm.world, "seed", f"df-seed-{vm.reference.replication_id}")
    await vm.handle.execute_update("stop")
    await held(vm.world)
    await terminate(vm)
    await adopted(vm)
    let_go(vm)
    await asyncio.wait_for(vm.handle.result(), LIMIT_S)
    vm.assert_nothing_left()


# --- the database ---


async def test_database_lost_idle(vm: Replicated, lab: Lab) -> None:
    await vm.enable_and_sync()
    lab.world.temporal.lose_everything()
    for worker in lab.workers:
        worker.restart()
    vm.scribble()
    await adopted(vm)
    await goes_on_with_deltas(vm, copies=0)


@pytest.mark.chaos
async def test_adopt_of_a_replication_that_runs_is_refused_with_its_reason(vm: Replicated) -> None:
    await vm.enable_and_sync()
    result = await adopt(vm)
    assert result.adopted == ()
    assert (vm.handle.id, "it runs already") in result.skipped


def _imports(vm: Replicated) -> int:
    return sum(o.action == "disks.import" and vm.name in o.resource for o in vm.world.arm_control.operations())


async def _waits_for_adoption(vm: Replicated, job_id: str) -> None:
    """Wait until a job has ended its work and could not report."""
    async for event in vm.client.get_workflow_handle(job_id).fetch_history_events(wait_new_event=True):
        initiated = event.signal_external_workflow_execution_initiated_event_attributes
        if initiated.signal_name == names.JOB_FINISHED:
            break
    assert await history(vm.client, job_id)
