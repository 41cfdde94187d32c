"""Settings that operators change while everything runs, blackout windows, and appliances (spec §3)."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import Bench, Running, appliance_worker, eventually
from tests.workflows.world import APPLIANCE
from workflows import names
from workflows.messages.site import ApplianceProfile, Placement
from workflows.messages.slot import ApplianceSilent, SlotsState, SlotsWanted
from workflows.messages.step import BeginCycleInput, TransferInput

_EDGE = "edge-of-the-tests"


def _window_around(now: datetime, *, hours: int = 2) -> str:
    """Return a weekly window that is open now and for so many hours, in UTC."""
    begin = (now - timedelta(hours=1)).replace(minute=0)
    return f"{begin:%A};{begin.hour}:00;{hours + 2}h"


async def _change(bench: Bench, **change: object) -> str:
    answer: str = await bench.arbiter.execute_update("change_settings", change, result_type=str)
    return answer


async def _refused(bench: Bench, update: str, argument: object) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await bench.arbiter.execute_update(update, argument)
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.message


async def _queued(bench: Bench, running: Running) -> None:
    async def waits() -> bool:
        return any(waiting.wanted.holder == running.workflow_id for waiting in (await bench.slots()).waiting)

    await eventually(waits, f"a request of {running.workflow_id}")


async def test_a_changed_limit_reaches_what_waits_at_once(bench: Bench) -> None:
    bench.profile(disks_per_appliance=2)
    hold = bench.world.hold("transfer", bench.name_of("web-01"))
    await bench.replicated("web-01", due=True)
    await hold.reached()
    second = await bench.replicated("web-02", due=True)
    await _queued(bench, second)
    assert "revision 1" in await _change(bench, disks_per_appliance=4, reason="a bigger appliance")
    await second.until_committed(2)
    hold.release()


async def test_a_changed_interval_moves_the_next_cycle_of_what_sleeps(bench: Bench) -> None:
    running = await bench.replicated(due=True)
    before = await running.until_committed(2)
    assert before.next_cycle_at is not None
    assert before.next_cycle_at - datetime.now(UTC) > timedelta(minutes=30)
    await _change(bench, min_interval="PT1S", max_interval="PT2S")
    await running.until_committed(3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "Nothing is to be changed"),
        ({"disks_per_hosts": 4}, "no field 'disks_per_hosts'"),
        ({"disks_per_host": -1}, "disks_per_host"),
        ({"blackout": "Mondy;7:00;7h"}, "a day that is not a day of the week"),
        ({"throttle": "quickly"}, "throttle cannot be read"),
        ({"time_zone": "Europe/Atlantis"}, "not an IANA time zone"),
        ({"min_interval": "PT13H"}, "min_interval must be above zero and not above max_interval"),
        ({"appliances": {APPLIANCE: ""}}, "is the site's primary appliance"),
        ({"appliances": {_EDGE: "Monday;25:00;1h"}}, "blackout of the appliance"),
    ],
)
async def test_a_change_that_contradicts_itself_is_refused_and_changes_nothing(
    bench: Bench, change: dict[str, object], sentence: str
) -> None:
    await bench.start_arbiter(disks_per_appliance=52)
    assert sentence in await _refused(bench, "change_settings", change)
    assert (await bench.slots()).profile.revision == 0


async def test_no_cycle_starts_in_a_blackout_window_and_it_says_until_when(bench: Bench) -> None:
    running = await bench.replicated(due=True)
    await running.until_committed(2)
    await _change(bench, blackout=_window_around(datetime.now(UTC)))
    await running.until(lambda v: "migrate_now" not in v.allowed, "the window has reached the replication")
    await running.update("pause")
    await running.update("resume")
    view = await running.until(lambda v: "blackout window" in v.activity, "waits for the window's end")
    assert bench.world.count("begin_cycle") == 1
    assert view.replication_state == ReplicationState.RESUME_QUEUED.value
    await _change(bench, blackout="")
    await running.until_committed(3)


async def test_a_running_cycle_finishes_inside_a_window(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    running = await bench.replicated(due=True)
    await hold.reached()
    await _change(bench, blackout=_window_around(datetime.now(UTC)))
    hold.release()
    await running.until_committed(2)


async def test_a_migration_in_a_window_is_refused_with_its_end_unless_it_is_overridden(bench: Bench) -> None:
    running = await bench.replicated(due=True)
    await running.until_committed(2)
    await _change(bench, blackout=_window_around(datetime.now(UTC)))
    await running.until(lambda v: "migrate_now" not in v.allowed, "the window has reached the replication")
    sentence = await running.refusal("migrate_now")
    assert "A blackout window is open until" in sentence
    assert "override_blackout" in sentence
    assert bench.world.count("begin_cycle") == 1
    await running.update("migrate_now", {"override_blackout": True})
    await running.until(lambda v: v.migrated_at is not None, "migrated")


async def test_a_transfer_gives_way_to_a_migration_at_its_chunks_end_and_keeps_its_snapshot(bench: Bench) -> None:
    bench.profile(disks_per_appliance=2)
    bench.world.segments = {CycleKind.DELTA: 2}
    hold = bench.world.hold("transfer", bench.name_of("web-01"))
    first = await bench.replicated("web-01", due=True)
    await hold.reached()
    urgent = await bench.replicated("web-02")
    on_target = bench.world.hold("shut_down_source")
    await urgent.update("migrate_now")
    await _queued(bench, urgent)
    await bench.until_signalled(first.workflow_id, names.SLOTS_ASKED_BACK)
    sending = bench.world.hold("transfer", urgent.vm)
    hold.release()
    await sending.reached()
    waits = await first.until(lambda v: v.activity.startswith("gave way"), "it says that it waits")
    assert f"{urgent.workflow_id} (pre-failover delta) goes first" in waits.activity
    assert bench.world.snapshots[first.vm].startswith("snapshot-"), "held while it waits"
    sending.release()
    await on_target.reached()
    on_target.release()
    await urgent.until(lambda v: v.migrated_at is not None, "migrated")
    await first.until_committed(2)
    begun = [call.vm for call in bench.world.calls if isinstance(call.request, BeginCycleInput)]
    assert begun.count(first.vm) == 1, "one snapshot, before and after it gave way"
    sent = [call.vm for call in bench.world.calls if isinstance(call.request, TransferInput)]
    assert sent.index(urgent.vm) < len(sent) - 1 - sent[::-1].index(first.vm), "its second chunk went behind the migration's"


async def test_an_arbiter_that_starts_afresh_learns_who_holds_what_before_it_grants(bench: Bench) -> None:
    bench.profile(disks_per_appliance=2)
    hold = bench.world.hold("transfer", bench.name_of("web-01"))
    first = await bench.replicated("web-01", due=True)
    await hold.reached()
    await bench.arbiter.terminate("by mistake")
    bench.world.holders = (first.workflow_id,)
    second = await bench.replicated("web-02", due=True)
    await _queued(bench, second)

    async def learnt() -> bool:
        return [held.wanted.holder for held in (await bench.slots()).leases] == [first.workflow_id]

    await eventually(learnt, "it knows who holds slots")
    assert bench.world.count("begin_cycle") == 1
    hold.release()
    await first.until_committed(2)
    await second.until_committed(2)
    assert bench.world.most_snapshots == 1


async def test_a_dead_holders_snapshot_slots_count_until_its_snapshot_is_gone(bench: Bench) -> None:
    bench.world.snapshots_left = 1
    await bench.start_arbiter(disks_per_appliance=52)
    dead = names.replication_id(bench.site, "5021-dead")
    wanted = SlotsWanted(dead, "of a dead one", CycleKind.DELTA, APPLIANCE, 2, Placement("esx1", (("ds1", 2),)), replication=dead)
    await bench.arbiter.signal(names.SLOTS_REQUESTED, wanted)

    async def only_its_snapshots() -> bool:
        leases = (await bench.slots()).leases
        return [(held.gave_way, held.holder_gone) for held in leases] == [(True, True)]

    await eventually(only_its_snapshots, "its transfer slots are free, its snapshots are not")
    assert "of a dead one" in str((await bench.slots()).leases)
    assert "neither holds slots nor waits" in await _refused(bench, "force_release", {"holder": "vm/nowhere/at-all"})
    await bench.arbiter.execute_update("force_release", {"holder": dead, "reason": "its VM is gone"})
    assert (await bench.slots()).leases == ()


async def test_a_vm_that_moved_waits_for_slots_of_where_it_is(bench: Bench) -> None:
    bench.world.elsewhere = Placement("esx9", (("ds9", 2),))
    running = await bench.replicated(due=True)
    await running.until_committed(2)
    granted = [request.granted for request in bench.world.inputs("begin_cycle", BeginCycleInput)]
    assert granted == [Placement(), bench.world.elsewhere]
    assert len({request.cycle_key for request in bench.world.inputs("begin_cycle", BeginCycleInput)}) == 1


async def test_replications_over_the_limit_wait_and_say_that_an_appliance_is_needed(bench: Bench) -> None:
    await bench.start_arbiter(disks_per_appliance=52)
    await _change(bench, replications_per_appliance=1)
    await (await bench.replicated("web-01", due=True)).until_committed(2)
    second = await bench.replicated("web-02", due=True)
    view = await second.until(lambda v: "waiting for an appliance" in v.activity, "over the limit")
    assert "scale-out appliance is needed" in view.activity
    await _change(bench, appliances={_EDGE: ""})

    async def assigned() -> bool:
        return (await bench.slots()).assigned.get(second.workflow_id) == _EDGE

    await eventually(assigned, "it is assigned to the new appliance")


async def test_reassign_moves_a_replication_and_unknown_ones_are_refused(bench: Bench) -> None:
    running = await bench.replicated(due=True)
    await running.until_committed(2)
    assert "no such appliance" in await _refused(bench, "reassign", {"vm": running.workflow_id, "appliance": "nowhere"})
    await _change(bench, appliances={_EDGE: ""})
    assert "No replication of this site" in await _refused(bench, "reassign", {"vm": "no-such", "appliance": _EDGE})
    await bench.arbiter.execute_update("reassign", {"vm": running.workflow_id, "appliance": _EDGE})
    state: SlotsState = await bench.slots()
    assert state.assigned == {running.workflow_id: _EDGE}


async def test_a_replication_that_ended_no_longer_counts(bench: Bench) -> None:
    running = await bench.replicated(due=True)
    await running.until_committed(2)
    assert running.workflow_id in (await bench.slots()).assigned
    await running.update("stop")
    await running.ended()

    async def forgotten() -> bool:
        return running.workflow_id not in (await bench.slots()).assigned

    await eventually(forgotten, "the arbiter has forgotten it")


async def test_a_silent_appliances_replications_go_to_another_at_their_chunks_end(bench: Bench) -> None:
    bench.world.profile = dataclasses.replace(bench.world.profile, appliance=APPLIANCE, appliances=(ApplianceProfile("z-edge"),))
    bench.world.segments = {CycleKind.DELTA: 2}
    hold = bench.world.hold("transfer")
    running = await bench.replicated(due=True)
    await hold.reached()
    async with appliance_worker(bench, "z-edge"):
        await bench.arbiter.signal(names.APPLIANCE_SILENT, ApplianceSilent(APPLIANCE))

        async def moved() -> bool:
            return (await bench.slots()).assigned == {running.workflow_id: "z-edge"}

        await eventually(moved, "it is the other's")
        hold.release()
        await running.until_committed(2)
    assert bench.world.count("begin_cycle") == 1, "it keeps its snapshot"
    assert (await bench.slots()).silent == (APPLIANCE,)


@pytest.mark.chaos
async def test_an_appliance_that_takes_nothing_up_for_ten_minutes_is_silent(bench: Bench) -> None:
    """In real time: the time-skipping server does not skip while a task waits in a queue."""
    bench.world.profile = dataclasses.replace(
        bench.world.profile, appliance="a-dead-one", appliances=(ApplianceProfile(APPLIANCE),)
    )
    running = await bench.replicated(due=True)
    await running.until(lambda view: view.activity == "sending changed blocks", "its transfer waits for the dead appliance")
    assert (await bench.slots()).assigned == {running.workflow_id: "a-dead-one"}

    async def committed() -> bool:
        return (await running.status()).cycles_committed == 2

    await eventually(committed, "a cycle through the other appliance", patience_s=15 * 60)
    state = await bench.slots()
    assert (state.assigned, state.silent) == ({running.workflow_id: APPLIANCE}, ("a-dead-one",))
    assert bench.world.count("begin_cycle") == 1, "it keeps its snapshot"


async def test_a_migration_does_not_wait_behind_its_own_delta_that_waits_for_slots(bench: Bench) -> None:
    bench.profile(disks_per_appliance=2)
    hold = bench.world.hold("transfer", bench.name_of("web-01"))
    await bench.replicated("web-01", due=True)
    await hold.reached()
    second = await bench.replicated("web-02", due=True)
    await _queued(bench, second)
    await second.update("migrate_now")

    async def urgent() -> bool:
        return [waiting.wanted.kind for waiting in (await bench.slots()).waiting] == [CycleKind.ON_DEMAND]

    await eventually(urgent, "the migration's cycle has taken the delta's place in the queue")
    hold.release()
    await second.until(lambda view: view.migrated_at is not None, "migrated")
    assert [cycle.kind for cycle in await second.cycles()] == [CycleKind.ON_DEMAND, CycleKind.FINAL]


async def test_pause_and_stop_do_not_wait_for_slots(bench: Bench) -> None:
    bench.profile(disks_per_appliance=0)
    running = await bench.replicated(due=True)
    await _queued(bench, running)
    await running.update("pause")
    await running.until_state(ReplicationState.PAUSED)
    await running.update("resume")
    await _queued(bench, running)
    await running.update("stop")
    await running.ended()
    assert bench.world.count("begin_cycle") == 0
