from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import Bench


async def test_pause_during_a_sleep_takes_effect_at_once_and_no_cycle_runs_until_resume(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("pause", {"reason": "maintenance"})
    await running.until_state(ReplicationState.PAUSED)
    assert bench.world.count("begin_cycle") == 0

    await running.update("resume")
    await running.until_committed(2)
    await running.until_state(ReplicationState.DELTA_SYNC)
    assert bench.world.count("begin_cycle") == 1


async def test_pause_during_a_cycle_waits_for_its_end(bench: Bench) -> None:
    hold = bench.world.hold("apply")
    running = await bench.replicated(due=True)
    await hold.reached()
    await running.update("pause")
    assert (await running.status()).replication_state == ReplicationState.PAUSE_IN_PROGRESS
    hold.release()
    view = await running.until_state(ReplicationState.PAUSED)
    assert view.cycles_committed == 2
    assert bench.world.snapshots == {}


async def test_resume_before_the_running_cycle_has_ended_takes_the_pause_back(bench: Bench) -> None:
    hold = bench.world.hold("apply")
    running = await bench.replicated(due=True)
    await hold.reached()
    await running.signal("pause")
    await running.signal("resume", {"reason": "never mind"})
    hold.release()
    await running.until_committed(2)
    view = await running.until_state(ReplicationState.DELTA_SYNC)
    assert "migrate_now" in view.allowed
