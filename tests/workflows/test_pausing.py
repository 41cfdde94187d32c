from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import QUICK, Bench


async def test_pause_during_a_sleep_takes_effect_at_once_and_no_cycle_runs_until_resume(bench: Bench) -> None:
    running = await bench.replicated()
    await running.until_idle()
    await running.update("pause", {"reason": "maintenance"})
    view = await running.until_state(ReplicationState.PAUSED)
    assert view.cycles_committed == 1
    begun = bench.world.count("begin_cycle")

    await running.update("resume")
    await running.until_committed(2)
    assert bench.world.count("begin_cycle") == begun + 1
    await running.until_state(ReplicationState.DELTA_SYNC)


async def test_pause_during_a_cycle_waits_for_its_end(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    running = await bench.replicated()
    hold = bench.world.hold("apply")
    await hold.reached()
    before = (await running.status()).cycles_committed
    await running.update("pause")
    assert (await running.status()).replication_state == ReplicationState.PAUSE_IN_PROGRESS
    hold.release()
    view = await running.until_state(ReplicationState.PAUSED)
    assert view.cycles_committed == before + 1
    assert bench.world.snapshots == {}
