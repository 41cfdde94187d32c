from typing import Any

import pytest

from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import Bench


async def test_the_initial_replication_accepts_only_stop(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    running = await bench.enable()
    await hold.reached()
    view = await running.until_state(ReplicationState.INITIAL_IN_PROGRESS)
    assert view.allowed == ("stop", "update_target", "update_policy")
    for operation in ("pause", "migrate_now"):
        assert "initial replication is still running" in await running.refusal(operation)
    assert "initial replication is still running" in await running.refused_signal("migrate_now", {"reason": "now"})
    assert "not paused" in await running.refused_signal("resume")
    hold.release()
    view = await running.until_committed(1)
    assert view.migration_state == "Test migration pending"


@pytest.mark.parametrize(
    ("operation", "argument", "problem"),
    [
        ("pause", {"bad": 1}, "there is no field 'bad'"),
        ("stop", {"keep_change_traking": True}, "there is no field 'keep_change_traking'"),
        ("migrate_now", {"shutdown_timeout": "soon"}, "the field 'shutdown_timeout'"),
        ("migrate_now", "now", "it must be a JSON object"),
        ("update_target", ["Standard_D4s_v5"], "it must be a JSON object"),
    ],
)
async def test_a_signal_that_cannot_be_read_changes_nothing_and_shows_as_last_refused(
    bench: Bench, operation: str, argument: Any, problem: str
) -> None:
    running = await bench.replicated()
    before = await running.status()
    sentence = await running.refused_signal(operation, argument)
    assert problem in sentence
    assert "Write for example" in sentence
    after = await running.status()
    assert (after.replication_state, after.migration_state) == (before.replication_state, before.migration_state)
    assert after.next_cycle_at == before.next_cycle_at


async def test_an_accepted_command_clears_the_last_refused_request(bench: Bench) -> None:
    running = await bench.replicated()
    await running.refused_signal("complete")
    await running.update("pause")
    assert (await running.status()).last_refused is None


async def test_update_target_changes_the_given_properties_and_keeps_the_others(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("update_target", {"size": "Standard_D4s_v5", "tags": {"owner": "ops"}})
    await running.signal("update_target", {"subnet": "web"})
    await running.update("pause")
    await running.update("resume")
    await running.until_committed(2)
    target = bench.world.records.popitem()[1].state.target
    assert (target.size, target.subnet, target.tags, target.vm_name) == ("Standard_D4s_v5", "web", {"owner": "ops"}, None)


async def test_what_has_no_occasion_is_refused_with_its_reason(bench: Bench) -> None:
    running = await bench.replicated()
    assert "Nothing waits for a retry" in await running.refusal("retry")
    assert "nothing to repair" in await running.refusal("repair")
    assert "nothing to roll back" in await running.refusal("rollback")
