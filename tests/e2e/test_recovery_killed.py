"""Disaster recovery with a worker killed (kill -9) at each boundary of its stages: what was asked for still comes true, byte by byte.

Every step of a drill, a failover that is cancelled, and the way home is met by the death of the worker that carries it out,
and by that of the control worker, at the moment at which it is asked for. All of them are in the chaos run.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from temporalio.api.enums.v1 import EventType

from deltaferry.planning.dr_states import DrState
from lab.oracle import target_disks
from lab.processes import ManagedProcess
from lab.settings import ISOLATED_NETWORK
from tests.e2e.accidents import SLOW_S
from tests.e2e.conftest import Lab
from tests.e2e.failing_over import POLICY, assert_holds, in_azure, on_site, until_committed, until_dr
from tests.e2e.replicated import Replicated
from workflows import names

_POLL_S = 0.05


async def _drill(vm: Replicated) -> None:
    held = on_site(vm)
    await vm.committed(2)
    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK})
    view = await until_dr(vm, DrState.CLEAN_UP_PENDING)
    assert_holds(vm, view.tests[0].vm_id, held)
    await vm.handle.execute_update("clean_up")
    await until_dr(vm, DrState.READY)


async def _failover_and_cancel(vm: Replicated) -> None:
    held = on_site(vm)
    await vm.committed(2)
    await vm.handle.execute_update("failover")
    view = await until_dr(vm, DrState.FAILED_OVER)
    assert view.failover is not None
    assert_holds(vm, view.failover.vm_id, held)
    await vm.handle.execute_update("cancel_failover")
    await vm.until(lambda v: v.failover is None, "cancelled", SLOW_S)
    assert vm.world.vcenter_control.vm(vm.name).power == "poweredOn"


async def _way_home(vm: Replicated) -> None:
    await vm.handle.execute_update("failover")
    view = await until_dr(vm, DrState.FAILED_OVER)
    await vm.handle.execute_update("commit")
    view = await until_committed(vm)
    assert view.failover is not None and view.failover.vm_id is not None
    vm.world.arm_control.set_limits(snapshots_per_window=100)
    for disk_id, _, _ in target_disks(vm.world, view.failover.vm_id):
        vm.world.arm_control.write(disk_id, 0, vm.random.randbytes(4096))
    written = in_azure(vm, view.failover.vm_id)
    await vm.handle.execute_update("reprotect", {"confirm_losses": True})
    await until_dr(vm, DrState.FAILBACK_READY)
    await vm.handle.execute_update("failback")
    await until_dr(vm, DrState.FAILED_BACK)
    assert on_site(vm) == written
    await vm.handle.execute_update("commit_failback")
    await vm.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised", SLOW_S)


Course = Callable[[Replicated], Awaitable[None]]
_BOUNDARIES: dict[Course, tuple[str, ...]] = {
    _drill: ("pin_point", "copy_point", "import_copies", "delete_copies", "create_target_vm", "delete_target"),
    _failover_and_cancel: ("shut_down_source", "copy_point", "import_copies", "create_target_vm", "delete_target", "unguard_source"),
    _way_home: (
        "prune_points", "prepare_failback", "survey_failed_over", "snapshot_target", "hash_snapshots", "compare_site",
        "plan_resync", "send_back", "write_back", "verify_back", "drop_snapshots", "stop_target", "release_failback",
        "delete_target", "forget_site", "reset_tracking",
    ),
}  # fmt: skip


async def _asked(vm: Replicated, step: str) -> list[str]:
    """Return the task queues on which a step was asked for, by the replication or by one of its jobs, in any run."""
    entity = names.replication_id(vm.reference.site, vm.source.instance_uuid)
    queues = []
    async for run in vm.client.list_workflows(f'WorkflowId STARTS_WITH "{entity}"'):
        history = vm.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history_events()
        async for event in history:
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                scheduled = event.activity_task_scheduled_event_attributes
                if scheduled.activity_type.name == step:
                    queues.append(scheduled.task_queue.name)
    return queues


def _serves(lab: Lab, queue: str) -> ManagedProcess:
    return lab.source if queue.startswith(("vsphere", "transfer")) else lab.target


async def _kill_at(lab: Lab, vm: Replicated, step: str, who: str) -> None:
    """Kill a worker as soon as a step is asked for, and start it again."""
    before = len(await _asked(vm, step))
    asked: list[str] = []

    async def is_asked() -> bool:
        asked[:] = (await _asked(vm, step))[before:]
        return bool(asked)

    while not await is_asked():
        await asyncio.sleep(_POLL_S)
    worker = lab.control if who == "control" else _serves(lab, asked[0])
    worker.kill()
    await asyncio.to_thread(worker.restart)


_ALL = [(course, step, who) for course, steps in _BOUNDARIES.items() for step in steps for who in ("its own", "control")]
_SAMPLE = (_failover_and_cancel, "create_target_vm", "its own")


@pytest.mark.parametrize(
    ("course", "step", "who"),
    [
        pytest.param(
            *one,
            id=f"{one[0].__name__.strip('_')}-{one[1]}-{one[2]}",
            marks=() if one == _SAMPLE else pytest.mark.chaos,
        )
        for one in _ALL
    ],
)
async def test_a_worker_killed_at_a_boundary_changes_nothing_of_what_comes_out(
    lab: Lab, vm: Replicated, course: Course, step: str, who: str
) -> None:
    await vm.enable_and_sync()
    await vm.handle.execute_update("update_policy", POLICY)
    killing = asyncio.create_task(_kill_at(lab, vm, step, who))
    vm.scribble()
    await course(vm)
    await asyncio.wait_for(killing, timeout=SLOW_S)
    await vm.committed(1)
    await vm.stop()
    vm.assert_nothing_left()
