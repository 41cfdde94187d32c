"""The demo's path and its accidents, as scenarios whose histories are kept and replayed."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio.client import WorkflowUpdateFailedError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.dr_states import DrState
from tests.replay.cut_scenarios import changed_group, failed_over_at_once
from tests.workflows.site_bench import QUICK, Bench, Running, eventually
from workflows import names
from workflows.messages.group import GroupResult, GroupView

Scenario = Callable[[Bench], Awaitable[None]]


async def demo(bench: Bench) -> None:
    """Enable, initial replication, deltas, pause and resume, migrate, complete."""
    bench.profile(min_interval=QUICK)
    bench.world.segments[CycleKind.INITIAL] = 2
    running = await bench.enable()
    await running.until_committed(2)
    await running.update("pause", {"reason": "maintenance"})
    await running.until_state(ReplicationState.PAUSED)
    await running.update("resume")
    await running.until_state(ReplicationState.DELTA_SYNC)
    await running.signal("pause", {"because": "a field that does not exist"})
    await running.signal("migrate_now", {"reason": "the window is open"})
    await running.until_migration(MigrationState.MIGRATED)
    await running.update("complete")
    await running.ended()


async def stop_during_initial_replication(bench: Bench) -> None:
    """Stop while the first full copy runs."""
    hold = bench.world.hold("transfer")
    running = await bench.enable()
    await hold.reached()
    await running.update("stop")
    await running.ended()


async def failed_cycle_and_repair_pending(bench: Bench) -> None:
    """A lost snapshot, a failed cycle that the next one repairs, a seed that is ahead, then two failures in a row, then stop."""
    bench.profile(min_interval=QUICK)
    bench.world.segments[CycleKind.INITIAL] = 3
    bench.world.fail("transfer", ErrorKind.SNAPSHOT_LOST, skip=2)
    bench.world.fail("seal_cycle", ErrorKind.COVERAGE_MISMATCH, skip=1)
    bench.world.fail("seal_cycle", ErrorKind.FENCED, number=1000, skip=1)
    bench.world.fail("seal_cycle", ErrorKind.CHECKSUM_MISMATCH, skip=1)
    bench.world.fail("seal_cycle", ErrorKind.CHECKSUM_MISMATCH)
    running = await bench.enable()
    await running.until_state(ReplicationState.REPAIR_PENDING)
    await running.update("stop")
    await running.ended()


async def failed_migration_and_rollback(bench: Bench) -> None:
    """A migration that fails behind the shutdown, rollback, and a second one that succeeds."""
    bench.world.fail("import_disks", ErrorKind.AZURE_QUOTA)
    running = await bench.replicated()
    await running.update("migrate_now", {"max_downtime": "PT10M", "expected_import": "PT1S"})
    view = await running.until_migration(MigrationState.MIGRATION_FAILED)
    await running.update("rollback")
    await running.until_committed(view.cycles_committed + 1)
    await running.update("migrate_now", {"keep_source_running": True})
    await running.until_migration(MigrationState.MIGRATED)


async def rollover(bench: Bench) -> None:
    """Enough cycles that the replication continues as new."""
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)

    async def rolled_over() -> bool:
        return bench.world.count("archive_history") == 1 and (await running.status()).cycles_committed > 26

    await eventually(rolled_over, "a second run", patience_s=300)
    await running.update("pause")
    await running.until_state(ReplicationState.PAUSED)


async def adopt(bench: Bench) -> None:
    """A terminated replication starts again from its commit record, and one that runs is skipped."""
    first = await bench.replicated("web-01", due=True)
    await first.until_committed(2)
    second = await bench.replicated("web-02")
    await first.handle.terminate("by mistake")
    result = await bench.adopt()
    assert result.adopted == (first.workflow_id,)
    assert (second.workflow_id, "it runs already") in result.skipped
    await first.update("pause")
    await first.update("resume")
    await first.until_committed(3)


async def resync_and_verify(bench: Bench) -> None:
    """Tracking is reset: a resync by itself that fails, one on the next rung, a verification that finds damage, and its resync."""
    bench.profile(min_interval=QUICK)
    bench.world.off_hours = timedelta(0)
    bench.world.differing = {2000: (0,)}
    bench.world.fail("begin_cycle", ErrorKind.CBT_RESET)
    bench.world.fail("apply", ErrorKind.CHECKSUM_MISMATCH)
    running = await bench.replicated(due=True)
    await running.until(lambda view: view.repair is not None and view.repair.failures == 1, "a failed resync")
    await running.update("repair")
    await running.until(lambda view: len(view.resyncs) == 1, "a resync")
    await running.update("verify")
    await running.until(lambda view: view.last_scrub is not None, "a verification")
    bench.world.damaged = {2001: (0,)}
    await running.update("verify")
    await running.until(lambda view: len(view.resyncs) == 2, "the resync of what was damaged")
    await running.update("pause")
    await running.until_state(ReplicationState.PAUSED)


async def inventory(bench: Bench) -> None:
    """A site's inventory, beside a replication."""
    await bench.replicated()
    handle = await bench.start(names.SITE_INVENTORY, {"site": bench.site}, suffix="1")
    await handle.result()


async def audit(bench: Bench) -> None:
    """An audit that only looks, and one that repairs."""
    await bench.replicated()
    for suffix, dry_run in (("dry", True), ("real", False)):
        handle = await bench.start(names.SITE_AUDIT, {"site": bench.site, "dry_run": dry_run}, suffix=suffix)
        await handle.result()


async def a_whole_site(bench: Bench) -> None:
    """Limits that bind, a migration that others give way to, a blackout window, new settings, and an arbiter that starts afresh."""
    bench.profile(disks_per_appliance=2)
    bench.world.segments = {CycleKind.DELTA: 2}
    hold = bench.world.hold("transfer", bench.name_of("web-01"))
    first = await bench.replicated("web-01", due=True)
    await hold.reached()
    second = await bench.replicated("web-02")
    await second.update("migrate_now")
    await second.until(lambda view: view.activity == "waiting for slots", "a migration that waits for slots")
    hold.release()
    await second.until(lambda view: view.migrated_at is not None, "migrated")
    await first.until_committed(2)
    await bench.arbiter.execute_update("change_settings", {"blackout": "Monday;0:00;6d23h59m", "time_zone": "Europe/London"})
    await bench.arbiter.execute_update("change_settings", {"appliances": {"edge-2": ""}, "blackout": "", "min_interval": "PT1S"})
    await first.until_committed(3)
    await bench.arbiter.terminate("by mistake")
    bench.world.holders = (first.workflow_id,)
    await first.until_committed(5)
    await first.update("pause")
    await first.until_state(ReplicationState.PAUSED)


async def disaster_recovery(bench: Bench) -> None:
    """A policy, a test and its clean-up, a failover, another point, a cancel, a failover again, commit, complete."""
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.update("update_policy", {"name": "gold", "rpo_threshold": "PT4H"})
    await running.update("test_migrate", {"network": "drill"})
    await running.until_migration(DrState.CLEAN_UP_PENDING)
    await running.update("clean_up")
    await running.until_migration(DrState.READY)
    await running.until_committed(3)
    older = bench.world.points[1]
    await running.update("failover", {"reason": "a drill that is none"})
    await running.until_migration(DrState.FAILED_OVER)
    await running.update("change_recovery_point", {"point": older.cycle_key})
    view = await running.until(lambda v: v.failover is not None and v.failover.point_key == older.cycle_key, "the other point")
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None and v.cycles_committed > view.cycles_committed, "replicating again")
    await running.update("planned_failover")
    await running.until_migration(DrState.FAILED_OVER)
    await running.update("commit")
    await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    await running.update("complete")
    await running.ended()


async def recovery_plan(bench: Bench) -> None:
    """A plan's drill of two replications with a manual action between them, and its clean-up."""
    first, second = await bench.replicated("web-01"), await bench.replicated("web-02")
    groups = [
        {
            "name": "first",
            "vms": [first.workflow_id],
            "after": [{"name": "look", "kind": "manual", "target": "look at it"}],
        },
        {"name": "second", "vms": [second.workflow_id]},
    ]
    given = {"plan": {"name": f"shop-{bench.site}", "groups": groups}, "run": "test", "network": "drill"}
    handle = await bench.start(names.RECOVERY_PLAN, given, suffix="1")
    await first.until_migration(DrState.CLEAN_UP_PENDING)

    async def confirmed() -> bool:
        try:
            await handle.execute_update("confirm", {"item": "first/after/look", "reason": "it came up", "by": "an operator"})
        except WorkflowUpdateFailedError:
            return False  # the plan has not heard of the VM's end yet
        return True

    await eventually(confirmed, "the manual action")
    await second.until_migration(DrState.CLEAN_UP_PENDING)

    async def cleaned() -> bool:
        try:
            await handle.execute_update("clean_up", {"reason": "the drill is over", "by": "an operator"})
        except WorkflowUpdateFailedError:
            return False
        return True

    await eventually(cleaned, "the clean-up")
    await handle.result()
    await first.until_migration(DrState.READY)


async def replication_group(bench: Bench) -> None:
    """A shared point, one that a member fails, one without a snapshot, a member that does not hold still, and the end."""
    first, second = [await bench.replicated(vm, placed=True) for vm in ("web-01", "web-02")]
    workflow_id = names.group_id(bench.site, "shop")
    bench.started.append(workflow_id)
    members = [first.workflow_id, second.workflow_id]
    request = {"name": "shop", "site": bench.site, "members": members, "interval": "PT10H", "wait": "PT2M"}
    group = await bench.client.start_workflow(
        names.REPLICATION_GROUP, request, id=workflow_id, task_queue=names.CONTROL_QUEUE, result_type=GroupResult
    )

    async def tried(points: int) -> None:
        async def enough() -> bool:
            return len((await group.query("status", result_type=GroupView)).attempts) == points

        await eventually(enough, f"{points} points that were tried for")

    await tried(1)
    bench.world.fail("apply", ErrorKind.CHECKSUM_MISMATCH)
    await group.execute_update("take_point")
    await tried(2)
    bench.world.no_snapshot_of[second.vm] = ErrorKind.SNAPSHOT_REFUSED
    await group.execute_update("take_point")
    await tried(3)
    await second.update("pause")
    await second.until_state(ReplicationState.PAUSED)
    await group.signal("take_point")
    await tried(4)
    third = await bench.replicated("web-03", placed=True)
    await group.execute_update("add_member", {"member": third.workflow_id})
    await group.execute_update("remove_member", {"member": second.workflow_id})
    await third.update("stop")
    await third.ended()
    await group.execute_update("dissolve")
    await group.result()


async def the_way_home(bench: Bench) -> None:
    """A named policy, a failover that is committed, reprotect, another failback policy, failback, and replication to Azure again."""
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    book = await bench.policy_book()
    await book.execute_update("create_policy", {"name": f"gold-{bench.site}", "rpo_threshold": "PT4H"})
    await running.until_committed(2)
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    await running.update("commit")
    await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    await running.update("reprotect", {"confirm_losses": True})
    await running.until_migration(DrState.FAILBACK_READY)
    await running.update("update_policy", {"name": "gold", "rpo_threshold": "PT4H", "failback_interval": "PT7M"})
    bench.world.fail("write_back", ErrorKind.MANIFEST_MISMATCH)
    await running.update("failback")
    await running.until_migration(DrState.FAILBACK_FAILED)
    await running.update("failback")
    await running.until_migration(DrState.FAILED_BACK)
    await running.update("commit_failback")
    await running.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    await running.update("pause")
    await running.until_state(ReplicationState.PAUSED)


async def another_place(bench: Bench) -> None:
    """A committed failover comes home to another place, at the second try: the replication goes on under the new VM's id."""
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(2)
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    await running.update("commit")
    await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    place = {"datastore": "ds2", "host": "esx-2", "name": "web-home", "networks": {"VM Network": "prod"}}
    await running.update("reprotect", {"location": place})
    view = await running.until_migration(DrState.FAILBACK_READY)
    assert view.job_id is not None
    await running.client.get_workflow_handle(view.job_id).cancel()
    await running.until(lambda v: "reprotect" in v.allowed, "undone")
    await running.update("reprotect", {"location": place})
    await running.until_migration(DrState.FAILBACK_READY)
    (made,) = bench.world.made_at_site
    await running.update("failback")
    await running.until_migration(DrState.FAILED_BACK)
    await running.update("commit_failback")
    await running.handle.result()
    workflow_id = names.replication_id(bench.site, made)
    there = Running(running.client, workflow_id, "web-home", running.client.get_workflow_handle(workflow_id))
    await there.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    await there.update("pause")
    await there.until_state(ReplicationState.PAUSED)


SCENARIOS: dict[str, Scenario] = {
    "demo": demo,
    "stop-during-initial-replication": stop_during_initial_replication,
    "failed-cycle-and-repair-pending": failed_cycle_and_repair_pending,
    "failed-migration-and-rollback": failed_migration_and_rollback,
    "rollover": rollover,
    "adopt": adopt,
    "resync-and-verify": resync_and_verify,
    "inventory": inventory,
    "audit": audit,
    "a-whole-site": a_whole_site,
    "another-place": another_place,
    "disaster-recovery": disaster_recovery,
    "recovery-plan": recovery_plan,
    "replication-group": replication_group,
    "the-way-home": the_way_home,
    "failed-over-at-once": failed_over_at_once,
    "changed-group": changed_group,
}
