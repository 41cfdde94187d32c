"""A failed-over VM comes home: what the replication has done by whom, and what it goes back to when that fails (spec §8)."""

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import ReplicationState
from deltaferry.planning.dr_states import DrState
from tests.workflows.site_bench import QUICK, Bench, Running
from workflows import names
from workflows.messages.step import DeleteTargetInput

_GOLD = {"name": "gold", "rpo_threshold": "PT4H"}


async def committed(bench: Bench) -> Running:
    """Return a replication whose VM runs in Azure for good."""
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(2)
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    await running.update("commit")
    await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    return running


async def test_a_vm_comes_home_and_is_replicated_again_from_checksums(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("reprotect")
    view = await running.until_migration(DrState.FAILBACK_READY)
    assert "failback" in view.allowed
    await running.update("failback")
    await running.until_migration(DrState.FAILED_BACK)
    assert bench.world.powered_on and bench.world.count("stop_target") == 1
    assert bench.world.count("delete_target") == 0  # until the failback is committed
    await running.update("commit_failback")
    view = await running.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    (deleted,) = bench.world.inputs("delete_target", DeleteTargetInput)
    assert deleted.job not in bench.world.vms and bench.world.vms == {}
    assert bench.world.order(("forget_site", "reset_tracking", "begin_resync")) == [
        "forget_site",
        "reset_tracking",
        "begin_resync",
    ]
    await running.until(lambda v: v.cycles_committed > view.cycles_committed, "a cycle after it")


async def test_a_changed_failback_policy_reaches_what_replicates_back(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("reprotect")
    view = await running.until_migration(DrState.FAILBACK_READY)
    assert view.failover is not None and view.job_id is not None
    await running.update("update_policy", {**_GOLD, "failback_interval": "PT7M"})
    await bench.until_signalled(view.job_id, names.FAILBACK_POLICY_CHANGED)


async def test_losses_are_shown_and_nothing_is_written_before_they_are_confirmed(bench: Bench) -> None:
    running = await committed(bench)
    bench.world.fail("find_losses", ErrorKind.VSPHERE_UNREACHABLE)
    await running.update("reprotect")
    view = await running.until(lambda v: bool(v.health) and "reprotect" in v.allowed, "not begun")
    assert view.health[0].kind is ErrorKind.VSPHERE_UNREACHABLE
    assert bench.world.count("write_back") == 0 and bench.world.count("release_failback") == 1
    await running.update("reprotect", {"confirm_losses": True})
    await running.until_migration(DrState.FAILBACK_READY)
    assert bench.world.count("find_losses") == 1


async def test_a_failback_that_failed_is_tried_again_or_given_up(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("reprotect")
    await running.until_migration(DrState.FAILBACK_READY)
    bench.world.fail("write_back", ErrorKind.MANIFEST_MISMATCH, times=2)
    for _ in range(2):
        await running.update("failback")
        view = await running.until_migration(DrState.FAILBACK_FAILED)
    assert view.health[0].kind is ErrorKind.MANIFEST_MISMATCH
    assert bench.world.count("unguard_source") == 0  # it stays off: it is behind the VM in Azure
    await running.update("cancel_failover")
    await running.until_migration(DrState.FAILBACK_READY)
    assert bench.world.count("start_target") == 1 and bench.world.count("hash_snapshots") == 1


async def test_completing_ends_replication_back_and_takes_its_mark_off(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("reprotect")
    await running.until_migration(DrState.FAILBACK_READY)
    await running.update("complete")
    await running.ended()
    assert bench.world.count("release_failback") == 1
    assert bench.world.count("delete_target") == 0


async def test_a_way_home_goes_on_over_a_terminated_replication(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("reprotect")
    await running.until_migration(DrState.FAILBACK_READY)
    await running.handle.terminate("by mistake")
    assert (await bench.adopt()).adopted == (running.workflow_id,)
    await running.until_migration(DrState.FAILBACK_READY)
    await running.update("failback")
    await running.until_migration(DrState.FAILED_BACK)
    assert bench.world.count("hash_snapshots") == 1
    assert (await running.status()).replication_state != ReplicationState.DELTA_SYNC.value
