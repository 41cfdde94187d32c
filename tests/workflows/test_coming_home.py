"""A failed-over VM comes home: what the replication has done by whom, and what it goes back to when that fails (spec §8)."""

from datetime import timedelta

import pytest
from temporalio import workflow

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import ReplicationState
from deltaferry.planning.dr_states import DrState
from deltaferry.planning.rpo import RpoChange
from tests.workflows.site_bench import QUICK, Bench, Running, eventually
from workflows import names
from workflows.messages.job import JobReport
from workflows.messages.notice import RpoNotice
from workflows.messages.step import DeleteTargetInput, UnguardInput
from workflows.reporting import ReportingJob

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


async def ready(bench: Bench) -> Running:
    """Return a replication whose VM can come home."""
    running = await committed(bench)
    await running.update("reprotect")
    await running.until_migration(DrState.FAILBACK_READY)
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


async def test_a_copy_at_the_site_older_than_the_failback_policy_allows_is_told_and_so_is_its_recovery(bench: Bench) -> None:
    running = await committed(bench)
    await running.update("update_policy", {**_GOLD, "failback_interval": "PT5M", "failback_rpo_threshold": "PT6M"})
    bench.world.azure_behind = timedelta(minutes=5, seconds=59)
    await running.update("reprotect")
    view = await running.until(lambda v: [error.kind for error in v.health] == [ErrorKind.RPO_EXCEEDED], "crossed")
    assert view.migration_state == DrState.FAILBACK_READY.value
    assert view.health[0].message.startswith("The latest copy at the site is 6 min")
    assert view.health[0].message.endswith("the policy allows 6 min.")
    assert view.job_id is not None
    bench.world.azure_behind = timedelta(0)
    await bench.client.get_workflow_handle(view.job_id).signal(names.REVERSE_NOW)
    await running.until(lambda v: v.health == (), "recovered")

    async def told() -> bool:
        return bench.world.count("announce_rpo") == 2

    await eventually(told, "the webhook told of both")
    assert [n.change for n in bench.world.inputs("announce_rpo", RpoNotice)] == [RpoChange.CROSSED, RpoChange.RECOVERED]


async def test_a_failback_that_is_sent_again_is_not_served_by_the_one_that_has_reported_and_is_closing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = ReportingJob.deliver

    async def deliver_and_linger(job: ReportingJob, entity_id: str, report: JobReport) -> None:
        await deliver(job, entity_id, report)
        if report.error is not None:
            await workflow.wait_condition(lambda: False)

    running = await ready(bench)
    monkeypatch.setattr(ReportingJob, "deliver", deliver_and_linger)
    bench.world.fail("write_back", ErrorKind.MANIFEST_MISMATCH)
    await running.update("failback")
    first = (await running.until_migration(DrState.FAILBACK_FAILED)).job_id
    await running.update("failback")
    assert (await running.until_migration(DrState.FAILED_BACK)).job_id != first


async def test_a_failback_that_was_terminated_behind_the_power_on_is_none_that_failed(bench: Bench) -> None:
    running = await ready(bench)
    written = bench.world.count("write_back")
    held = bench.world.hold("drop_snapshots")
    await running.update("failback")
    await held.reached()
    job_id = (await running.status()).job_id
    assert job_id is not None
    await bench.client.get_workflow_handle(job_id).terminate("by mistake")
    held.release()
    view = await running.until_migration(DrState.FAILED_BACK)
    assert view.health == () and view.failover is not None
    assert "The VM is on at the site." in view.failover.information
    assert bench.world.count("write_back") == written + 1
    again, last = bench.world.inputs("unguard_source", UnguardInput)
    assert (again.power_on, last.power_on) == (True, False)
    await running.update("commit_failback")
    await running.until(lambda v: v.failover is None, "committed")
    assert bench.world.ledger.faults == []


async def test_a_failback_that_was_terminated_before_the_power_on_has_failed_and_is_tried_again(bench: Bench) -> None:
    running = await ready(bench)
    held = bench.world.hold("write_back")
    await running.update("failback")
    await held.reached()
    job_id = (await running.status()).job_id
    assert job_id is not None
    await bench.client.get_workflow_handle(job_id).terminate("by mistake")
    held.release()
    view = await running.until_migration(DrState.FAILBACK_FAILED)
    assert "ended from outside" in view.health[0].message
    assert bench.world.count("find_homecoming") == 1
    await running.update("failback")
    await running.until_migration(DrState.FAILED_BACK)
    assert bench.world.ledger.faults == []


async def test_a_failback_whose_end_is_in_no_commit_record_is_found_at_home_by_whoever_adopts(bench: Bench) -> None:
    running = await ready(bench)
    held = bench.world.hold("drop_snapshots")
    await running.update("failback")
    await held.reached()
    bench.world.fail("settle_cycle", ErrorKind.STORE_UNREACHABLE)
    held.release()
    await running.until_migration(DrState.FAILED_BACK)
    written = bench.world.count("write_back")
    await running.handle.terminate("by mistake")
    assert (await bench.adopt()).adopted == (running.workflow_id,)
    view = await running.until_migration(DrState.FAILED_BACK)
    assert view.health == () and view.failover is not None
    assert "The VM is on at the site." in view.failover.information
    assert bench.world.count("write_back") == written
    assert bench.world.ledger.faults == []


async def test_a_vm_that_came_home_late_is_found_at_home_where_the_failback_is_given_up(bench: Bench) -> None:
    running = await ready(bench)
    bench.world.fail("unguard_source", ErrorKind.VSPHERE_UNREACHABLE)
    bench.world.fail("prepare_failback", ErrorKind.VSPHERE_UNREACHABLE, skip=1)
    await running.update("failback")
    await running.until_migration(DrState.FAILBACK_FAILED)
    bench.world.powered_on = True  # what nobody waited for any more has taken effect
    await running.update("cancel_failover")
    view = await running.until_migration(DrState.FAILED_BACK)
    assert bench.world.count("start_target") == 0
    assert view.failover is not None and "The VM is on at the site." in view.failover.information
