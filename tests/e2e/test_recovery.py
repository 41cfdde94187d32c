"""Recovery points on real bytes: a test beside running cycles, an unplanned failover, another point, commit (spec §7, §8)."""

from dataclasses import dataclass
from pathlib import Path

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
from tests.e2e.replicated import Replicated
from workflows.messages.views import StatusView

_POLICY = {"name": "gold", "rpo_threshold": "PT1H", "retention": "PT1H"}


@dataclass(frozen=True)
class Known:
    """A recovery point, and what each disk held when it was taken."""

    cycle_key: str
    disks: tuple[bytes, ...]


async def _point(vm: Replicated) -> Known:
    """Write, and return the next point whose snapshot has all of it."""
    vm.scribble()
    disks = tuple(vm.source_bytes(index) for index, _ in enumerate(vm.source.disks))
    await vm.committed(2)  # one may have had its snapshot before the writes
    return Known((await vm.cycles())[-1].cycle_key, disks)


def _assert_holds(vm: Replicated, vm_id: str | None, disks: tuple[bytes, ...]) -> None:
    assert vm_id is not None
    made = target_disks(vm.world, vm_id)
    assert len(made) == len(disks)
    for (_, file, _), disk in zip(made, disks, strict=True):
        assert Path(file).read_bytes()[: len(disk)] == disk


def _in_azure(vm: Replicated) -> set[str]:
    """Return the resources of this VM's name in the lab's Azure."""
    return {resource.id for resource in vm.world.arm_control.resources() if vm.name in resource.id}


def _copies(vm: Replicated) -> list[str]:
    with vm.blobs("seed").get_container_client(seed_container(vm.reference)) as container:
        return [blob.name for blob in container.list_blobs() if blob.name.startswith("copies/")]


async def _refused(vm: Replicated, operation: str, argument: object) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await vm.handle.execute_update(operation, argument)
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.message


async def _until(vm: Replicated, state: DrState) -> StatusView:
    return await vm.until(lambda view: view.migration_state == state.value, state.value)


@pytest.mark.chaos
async def test_a_vm_is_tried_out_beside_its_deltas_and_the_clean_up_leaves_nothing(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await vm.handle.execute_update("update_policy", _POLICY)
    point = await _point(vm)
    vm.scribble()
    await vm.committed(2)
    assert "names no recovery point" in await _refused(vm, "test_migrate", {"network": ISOLATED_NETWORK, "point": "the best"})
    await vm.handle.execute_update("test_migrate", {"network": NETWORK})
    view = await _until(vm, DrState.TEST_FAILED)
    assert view.tests[0].error is not None and "name an isolated one" in view.tests[0].error.message
    await vm.handle.execute_update("clean_up")
    await vm.until(lambda v: v.tests == (), "cleaned up")

    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK, "point": point.cycle_key})
    view = await _until(vm, DrState.CLEAN_UP_PENDING)
    _assert_holds(vm, view.tests[0].vm_id, point.disks)
    assert _copies(vm) == []
    await vm.committed(1)
    await vm.handle.execute_update("clean_up")
    await _until(vm, DrState.READY)
    assert _in_azure(vm) == set()
    await vm.stop()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_an_unplanned_failover_another_point_a_cancel_and_a_commit(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await vm.handle.execute_update("update_policy", _POLICY)
    first = await _point(vm)
    second = await _point(vm)
    await vm.handle.execute_update("failover", {"point": second.cycle_key})
    view = await _until(vm, DrState.FAILED_OVER)
    assert view.failover is not None and view.failover.point_key == second.cycle_key
    _assert_holds(vm, view.failover.vm_id, second.disks)
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOff"
    await vm.handle.execute_update("change_recovery_point", {"point": first.cycle_key})
    view = await vm.until(
        lambda v: v.migration_state == DrState.FAILED_OVER and v.failover is not None and v.failover.point_key == first.cycle_key,
        "the other point",
    )
    assert view.failover is not None
    _assert_holds(vm, view.failover.vm_id, first.disks)

    await vm.handle.execute_update("cancel_failover")
    await vm.until(lambda v: v.failover is None, "cancelled")
    assert _in_azure(vm) == set()
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOn"
    third = await _point(vm)

    await vm.handle.execute_update("failover")
    view = await _until(vm, DrState.FAILED_OVER)
    assert view.failover is not None
    _assert_holds(vm, view.failover.vm_id, third.disks)
    await vm.handle.execute_update("commit")
    view = await vm.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    assert view.points is not None and view.points.total == 1
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_with_vcenter_away_a_failover_needs_nothing_of_it(vm: Replicated) -> None:
    await vm.enable_and_sync()
    point = await _point(vm)
    control = vm.world.vcenter_control
    control.be_unreachable()
    try:
        await vm.handle.execute_update("failover")
        view = await _until(vm, DrState.FAILED_OVER)
        assert view.failover is not None
        _assert_holds(vm, view.failover.vm_id, point.disks)
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
    held = []
    for index, ((disk_id, file, _), disk) in enumerate(zip(target_disks(vm.world, vm_id), vm.source.disks, strict=True)):
        for turn in range(3):
            offset = (index + turn * 700) * SECTOR
            vm.world.arm_control.write(disk_id, offset, vm.random.randbytes(5 * SECTOR))
        held.append(Path(file).read_bytes()[: disk.capacity_bytes])
    return tuple(held)


@pytest.mark.chaos
async def test_the_whole_round_from_a_drill_to_a_second_failover_loses_what_it_says_and_nothing_else(
    vm: Replicated, lab: Lab
) -> None:
    await vm.enable_and_sync()
    await vm.handle.execute_update("update_policy", _POLICY)
    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK})
    older = await _point(vm)
    await _until(vm, DrState.CLEAN_UP_PENDING)
    newer = await _point(vm)
    await vm.handle.execute_update("clean_up")
    await _until(vm, DrState.READY)

    await vm.handle.execute_update("failover", {"point": newer.cycle_key})
    await _until(vm, DrState.FAILED_OVER)
    await vm.handle.execute_update("change_recovery_point", {"point": older.cycle_key})
    view = await vm.until(
        lambda v: v.migration_state == DrState.FAILED_OVER and v.failover is not None and v.failover.point_key == older.cycle_key,
        "the older point",
    )
    assert view.failover is not None
    _assert_holds(vm, view.failover.vm_id, older.disks)
    await vm.handle.execute_update("commit")
    await vm.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    in_azure = _write_in_azure(vm, view.failover.vm_id)
    lab.world.arm_control.set_limits(snapshots_per_window=100)

    await vm.handle.execute_update("reprotect")
    refused = await vm.until(lambda v: v.health != (), "the losses that are to be confirmed")
    assert refused.health[0].kind is ErrorKind.OPERATION_REFUSED
    await vm.handle.execute_update("reprotect", {"confirm_losses": True})
    await _until(vm, DrState.FAILBACK_READY)
    assert tuple(vm.source_bytes(index) for index, _ in enumerate(vm.source.disks)) == in_azure
    in_azure = _write_in_azure(vm, view.failover.vm_id)
    await vm.handle.execute_update("failback")
    await _until(vm, DrState.FAILED_BACK)
    assert tuple(vm.source_bytes(index) for index, _ in enumerate(vm.source.disks)) == in_azure
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOn"
    await vm.handle.execute_update("commit_failback")
    await vm.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    assert _in_azure(vm) == set()

    at_home = await _point(vm)
    await vm.handle.execute_update("planned_failover")
    view = await _until(vm, DrState.FAILED_OVER)
    assert view.failover is not None
    _assert_holds(vm, view.failover.vm_id, at_home.disks)
    await vm.handle.execute_update("commit")
    await vm.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    await vm.complete()
    vm.assert_nothing_left()


async def test_an_app_consistent_point_is_what_the_guest_held_when_it_was_quiesced_and_is_tried_out(vm: Replicated) -> None:
    await vm.enable_and_sync()
    control, moref = vm.world.vcenter_control, vm.source.moref
    control.set_quiesce(moref, freeze_exit=0, marks=True)
    await vm.handle.execute_update("pause")
    await vm.state(ReplicationState.PAUSED)
    vm.scribble()
    held = tuple(vm.source_bytes(index) for index, _ in enumerate(vm.source.disks))
    await vm.handle.execute_update("update_policy", {**_POLICY, "retention": "PT3H", "app_consistent_every": "PT1H"})
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
    view = await _until(vm, DrState.CLEAN_UP_PENDING)
    assert view.tests[0].point_taken_at == point.taken_at
    _assert_holds(vm, view.tests[0].vm_id, held)
    await vm.handle.execute_update("clean_up")
    await _until(vm, DrState.READY)
    await vm.stop()
    vm.assert_nothing_left()
