"""Recovery points on real bytes: a test beside running cycles, an unplanned failover, another point, commit (spec §7, §8)."""

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import seed_container
from deltaferry.model.recovery_points import PointKind
from deltaferry.model.states import ReplicationState
from deltaferry.model.units import SECTOR
from deltaferry.planning.dr_states import DrState
from lab.oracle import target_disks
from lab.settings import ISOLATED_NETWORK, NETWORK
from lab.vcenter.quiescing import QuiesceOutcome
from tests.e2e.conftest import Lab
from tests.e2e.failing_over import (
    POLICY,
    assert_holds,
    in_azure,
    known_point,
    on_site,
    resources_of,
    until_committed,
    until_dr,
    until_point,
)
from tests.e2e.replicated import Replicated


def _copies(vm: Replicated) -> list[str]:
    with vm.blobs("seed").get_container_client(seed_container(vm.reference)) as container:
        return [blob.name for blob in container.list_blobs() if blob.name.startswith("copies/")]


async def _refused(vm: Replicated, operation: str, argument: object) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await vm.handle.execute_update(operation, argument)
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.message


@pytest.mark.chaos
async def test_a_vm_is_tried_out_beside_its_deltas_and_the_clean_up_leaves_nothing(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await vm.handle.execute_update("update_policy", POLICY)
    point = await known_point(vm)
    vm.scribble()
    await vm.committed(2)
    assert "names no recovery point" in await _refused(vm, "test_migrate", {"network": ISOLATED_NETWORK, "point": "the best"})
    await vm.handle.execute_update("test_migrate", {"network": NETWORK})
    view = await until_dr(vm, DrState.TEST_FAILED)
    assert view.tests[0].error is not None and "name an isolated one" in view.tests[0].error.message
    await vm.handle.execute_update("clean_up")
    await vm.until(lambda v: v.tests == (), "cleaned up")

    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK, "point": point.cycle_key})
    view = await until_dr(vm, DrState.CLEAN_UP_PENDING)
    assert_holds(vm, view.tests[0].vm_id, point.disks)
    assert _copies(vm) == []
    await vm.committed(1)
    await vm.handle.execute_update("clean_up")
    await until_dr(vm, DrState.READY)
    assert resources_of(vm) == set()
    await vm.stop()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_an_unplanned_failover_another_point_a_cancel_and_a_commit(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await vm.handle.execute_update("update_policy", POLICY)
    first = await known_point(vm)
    second = await known_point(vm)
    await vm.handle.execute_update("failover", {"point": second.cycle_key})
    view = await until_dr(vm, DrState.FAILED_OVER)
    assert view.failover is not None and view.failover.point_key == second.cycle_key
    assert_holds(vm, view.failover.vm_id, second.disks)
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOff"
    await vm.handle.execute_update("change_recovery_point", {"point": first.cycle_key})
    view = await until_point(vm, first)
    assert view.failover is not None
    assert_holds(vm, view.failover.vm_id, first.disks)

    await vm.handle.execute_update("cancel_failover")
    await vm.until(lambda v: v.failover is None, "cancelled")
    assert resources_of(vm) == set()
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOn"
    third = await known_point(vm)

    await vm.handle.execute_update("failover")
    view = await until_dr(vm, DrState.FAILED_OVER)
    assert view.failover is not None
    assert_holds(vm, view.failover.vm_id, third.disks)
    await vm.handle.execute_update("commit")
    view = await until_committed(vm)
    assert view.points is not None and view.points.total == 1
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_with_vcenter_away_a_failover_needs_nothing_of_it(vm: Replicated) -> None:
    await vm.enable_and_sync()
    point = await known_point(vm)
    control = vm.world.vcenter_control
    control.be_unreachable()
    try:
        await vm.handle.execute_update("failover")
        view = await until_dr(vm, DrState.FAILED_OVER)
        assert view.failover is not None
        assert_holds(vm, view.failover.vm_id, point.disks)
        assert any("may still run" in sentence for sentence in view.failover.information)
    finally:
        control.be_reachable()
    await vm.handle.execute_update("cancel_failover")
    await vm.until(lambda v: v.failover is None, "cancelled")
    await vm.committed(1)
    await vm.stop()
    vm.assert_nothing_left()


def _write_in_azure(vm: Replicated, vm_id: str | None) -> tuple[bytes, ...]:
    """Write to the disks of the VM in Azure; return what they hold then."""
    assert vm_id is not None
    for index, (disk_id, _, _) in enumerate(target_disks(vm.world, vm_id)):
        for turn in range(3):
            offset = (index + turn * 700) * SECTOR
            vm.world.arm_control.write(disk_id, offset, vm.random.randbytes(5 * SECTOR))
    return in_azure(vm, vm_id)


@pytest.mark.chaos
async def test_the_whole_round_from_a_drill_to_a_second_failover_loses_what_it_says_and_nothing_else(
    vm: Replicated, lab: Lab
) -> None:
    await vm.enable_and_sync()
    await vm.handle.execute_update("update_policy", POLICY)
    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK})
    older = await known_point(vm)
    await until_dr(vm, DrState.CLEAN_UP_PENDING)
    newer = await known_point(vm)
    await vm.handle.execute_update("clean_up")
    await until_dr(vm, DrState.READY)

    await vm.handle.execute_update("failover", {"point": newer.cycle_key})
    await until_dr(vm, DrState.FAILED_OVER)
    await vm.handle.execute_update("change_recovery_point", {"point": older.cycle_key})
    view = await until_point(vm, older)
    assert view.failover is not None
    assert_holds(vm, view.failover.vm_id, older.disks)
    await vm.handle.execute_update("commit")
    await until_committed(vm)
    held = _write_in_azure(vm, view.failover.vm_id)
    lab.world.arm_control.set_limits(snapshots_per_window=100)

    await vm.handle.execute_update("reprotect")
    refused = await vm.until(lambda v: v.health != (), "the losses that are to be confirmed")
    assert refused.health[0].kind is ErrorKind.OPERATION_REFUSED
    await vm.handle.execute_update("reprotect", {"confirm_losses": True})
    await until_dr(vm, DrState.FAILBACK_READY)
    assert on_site(vm) == held
    held = _write_in_azure(vm, view.failover.vm_id)
    await vm.handle.execute_update("failback")
    await until_dr(vm, DrState.FAILED_BACK)
    assert on_site(vm) == held
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOn"
    await vm.handle.execute_update("commit_failback")
    await vm.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    assert resources_of(vm) == set()

    at_home = await known_point(vm)
    await vm.handle.execute_update("planned_failover")
    view = await until_dr(vm, DrState.FAILED_OVER)
    assert view.failover is not None
    assert_holds(vm, view.failover.vm_id, at_home.disks)
    await vm.handle.execute_update("commit")
    await until_committed(vm)
    await vm.complete()
    vm.assert_nothing_left()


async def test_an_app_consistent_point_is_what_the_guest_held_when_it_was_quiesced_and_is_tried_out(vm: Replicated) -> None:
    await vm.enable_and_sync()
    control, moref = vm.world.vcenter_control, vm.source.moref
    control.set_quiesce(moref, freeze_exit=0, marks=True)
    await vm.handle.execute_update("pause")
    await vm.state(ReplicationState.PAUSED)
    vm.scribble()
    held = on_site(vm)
    await vm.handle.execute_update("update_policy", {**POLICY, "retention": "PT3H", "app_consistent_every": "PT1H"})
    await vm.handle.execute_update("resume")
    view = await vm.until(lambda v: v.points is not None and v.points.app_consistent == 1, "an app-consistent point")
    assert view.points is not None and view.points.latest_app_consistent is not None
    point = view.points.latest_app_consistent
    vm.scribble()
    later = [(PointKind.CRASH_CONSISTENT, "")] * 2
    await vm.until(
        lambda v: v.points is not None and [(one.kind, one.note) for one in v.points.newest[:2]] == later, "two later points"
    )
    assert [record.outcome for record in control.quiesces(moref)] == [QuiesceOutcome.OBTAINED], "by the frequency"
    told = next(cycle for cycle in await vm.cycles() if cycle.cycle_key == point.cycle_key)
    assert "a freeze script of the guest told that it ran" in told.quiesced

    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK, "point": "latest-app-consistent"})
    view = await until_dr(vm, DrState.CLEAN_UP_PENDING)
    assert view.tests[0].point_taken_at == point.taken_at
    assert_holds(vm, view.tests[0].vm_id, held)
    await vm.handle.execute_update("clean_up")
    await until_dr(vm, DrState.READY)
    await vm.stop()
    vm.assert_nothing_left()
