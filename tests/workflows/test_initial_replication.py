import pytest

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import Bench
from tests.workflows.world import DISKS
from workflows.messages.step import BeginCycleInput, TransferInput


async def test_a_lost_snapshot_costs_only_what_was_not_yet_verified(bench: Bench) -> None:
    bench.world.segments[CycleKind.INITIAL] = 3
    bench.world.fail("transfer", ErrorKind.SNAPSHOT_LOST, skip=2)
    running = await bench.enable()
    await running.until_committed(1)

    first, second = (begun for begun in bench.world.inputs("begin_cycle", BeginCycleInput) if begun.kind is CycleKind.INITIAL)
    assert first.cycle_key != second.cycle_key
    assert [(base.change_id, base.copied_up_to_bytes) for base in first.bases] == [(None, 0), (None, 0)]
    for base, disk in zip(second.bases, DISKS, strict=True):
        assert base.change_id == f"52-{disk.key}/1"
        assert disk.capacity_bytes // 3 <= base.copied_up_to_bytes < disk.capacity_bytes
    assert second.dirty == ()
    under = {request.cycle_key for request in bench.world.inputs("transfer", TransferInput)}
    assert {first.cycle_key, second.cycle_key} <= under
    assert bench.world.order(["begin_cycle", "release_snapshot"])[:4] == ["begin_cycle", "release_snapshot"] * 2


async def test_the_first_delta_follows_the_initial_replication_at_once_from_its_change_ids(bench: Bench) -> None:
    running = await bench.enable()
    await running.until_committed(1)
    delta = bench.world.inputs("begin_cycle", BeginCycleInput)[1]
    assert delta.kind is CycleKind.DELTA
    assert [(b.disk_key, b.change_id, b.copied_up_to_bytes) for b in delta.bases] == [
        (disk.key, f"52-{disk.key}/1", disk.capacity_bytes) for disk in DISKS
    ]
    assert delta.dirty == ()


async def test_a_failed_initial_replication_waits_for_retry_and_goes_on_from_its_marks(bench: Bench) -> None:
    bench.world.segments[CycleKind.INITIAL] = 3
    bench.world.fail("transfer", ErrorKind.VSPHERE_PERMISSION, skip=2, message="System.Read is missing")
    running = await bench.enable()
    view = await running.until_state(ReplicationState.INITIAL_FAILED)
    assert view.health[0].kind is ErrorKind.VSPHERE_PERMISSION
    assert view.health[0].message == "System.Read is missing"
    assert not view.health[0].retried
    assert bench.world.snapshots == {}
    await bench.until_no_leases(f"{running.workflow_id}/initial/1")
    assert "initial replication failed" in await running.refusal("migrate_now")

    await running.update("retry")
    await running.until_committed(1)
    again = bench.world.inputs("begin_cycle", BeginCycleInput)[1]
    assert again.kind is CycleKind.INITIAL
    assert all(base.copied_up_to_bytes > 0 for base in again.bases)
    assert (await running.status()).health == ()


@pytest.mark.chaos
async def test_enabling_that_fails_half_way_waits_for_retry(bench: Bench) -> None:
    bench.world.fail("prepare_source", ErrorKind.ALREADY_PROTECTED, message="claimed by installation other")
    running = await bench.enable()
    view = await running.until_state(ReplicationState.INITIAL_FAILED)
    assert "claimed by installation other" in view.health[0].message
    await running.signal("retry", {"reason": "the claim was removed"})
    await running.until_committed(1)
    assert bench.world.count("prepare_target") == 2


async def test_an_initial_replication_terminated_by_an_operator_goes_on_after_retry(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    running = await bench.enable()
    await hold.reached()
    view = await running.until(lambda v: v.job_id is not None, "a job")
    await bench.client.get_workflow_handle(view.job_id or "").terminate("by mistake")
    view = await running.until_state(ReplicationState.INITIAL_FAILED)
    assert view.health[0].kind is ErrorKind.INTERRUPTED
    hold.release()
    await running.update("retry")
    await running.until_committed(1)


async def test_where_tracking_is_void_after_a_lost_snapshot_the_copy_starts_again(bench: Bench) -> None:
    bench.world.segments[CycleKind.INITIAL] = 3
    bench.world.fail("transfer", ErrorKind.SNAPSHOT_LOST, skip=2)
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET, skip=1)
    running = await bench.enable()
    await running.until_committed(1)
    first, second, third = bench.world.inputs("begin_cycle", BeginCycleInput)[:3]
    assert all(base.copied_up_to_bytes > 0 for base in second.bases)
    assert [(base.change_id, base.copied_up_to_bytes) for base in third.bases] == [(None, 0), (None, 0)]
    assert first.bases == third.bases
    assert bench.world.snapshots == {}
