"""What is cut short or changed while it runs: scenarios of `scenarios.SCENARIOS`."""

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import MigrationState
from deltaferry.planning.dr_states import DrState
from tests.workflows.group_bench import attempt_of, start_group, two_members, until_group
from tests.workflows.site_bench import Bench, Running


async def _failed_over(running: Running) -> None:
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)


async def failed_over_at_once(bench: Bench) -> None:
    """Unplanned failovers that cut a reading, a resync that has not let go yet, a cycle, and a rollback."""
    reading = bench.world.hold("read_disks", deaf=True)
    running = await bench.replicated()
    await running.update("resync")
    await reading.reached()
    await _failed_over(running)
    reading.release()
    comparing, releasing = bench.world.hold("compare_source"), bench.world.hold("release_snapshot", deaf=True)
    await running.update("cancel_failover")
    await comparing.reached()
    await _failed_over(running)
    comparing.release()
    releasing.release()
    await running.update("cancel_failover")
    await running.until(lambda view: view.failover is None and len(view.resyncs) == 1, "resynchronised")
    beginning = bench.world.hold("begin_cycle", deaf=True)
    await running.update("pause")
    await running.until(lambda view: view.replication_state == "Paused", "paused")
    await running.update("resume")
    await beginning.reached()
    await _failed_over(running)
    beginning.release()
    await running.update("cancel_failover")
    bench.world.fail("import_disks", ErrorKind.AZURE_QUOTA)
    await running.until(lambda view: "migrate_now" in view.allowed, "replicating again")
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    powering = bench.world.hold("unguard_source")
    await running.update("rollback")
    await powering.reached()
    await _failed_over(running)
    powering.release()
    await running.update("commit")
    await running.until(lambda view: view.failover is not None and view.failover.committed_at is not None, "committed")


async def changed_group(bench: Bench) -> None:
    """A group that is changed while it waits, by an update and by signals of which one is refused."""
    group = await start_group(bench, *await two_members(bench))
    await attempt_of(group)
    await group.execute_update("change_group", {"interval": "PT1S", "reason": "one more"})
    await attempt_of(group, 2)
    await group.signal("change_group", {"site_interval": True, "wait": "PT20M"})
    await until_group(group, lambda view: view.wait.total_seconds() == 1200, "the other wait")
    await group.signal("change_group", {"wait": "PT2H"})
    await until_group(group, lambda view: view.last_refused is not None, "the refusal")
    await group.execute_update("dissolve")
    await group.result()
