from dataclasses import replace

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import Bench, eventually
from tests.workflows.world import APPLIANCE
from workflows import names
from workflows.messages.site import Placement
from workflows.messages.slot import SlotsAnnounced, SlotsReleased, SlotsWanted
from workflows.messages.step import BeginCycleInput


async def _has_lease(bench: Bench, holder: str) -> None:
    async def granted() -> bool:
        return any(held.wanted.holder == holder for held in (await bench.slots()).leases)

    await eventually(granted, f"a lease of {holder}")


async def test_vms_that_do_not_fit_beside_each_other_run_one_after_the_other(bench: Bench) -> None:
    bench.profile(disks_per_appliance=2)
    hold = bench.world.hold("transfer", bench.name_of("web-01"))
    first = await bench.replicated("web-01", due=True)
    await hold.reached()
    second = await bench.replicated("web-02", due=True)

    async def queued() -> bool:
        return [waiting.wanted.holder for waiting in (await bench.slots()).waiting] == [second.workflow_id]

    await eventually(queued, "the second VM's request is in the queue")
    assert [held.wanted.holder for held in (await bench.slots()).leases] == [first.workflow_id]
    hold.release()
    await first.until_committed(2)
    await second.until_committed(2)
    assert bench.world.most_snapshots == 1
    assert [call.vm for call in bench.world.calls if isinstance(call.request, BeginCycleInput)] == [first.vm, second.vm]
    for running in (first, second):
        await bench.until_no_leases(running.workflow_id)


async def test_vms_that_fit_beside_each_other_run_together(bench: Bench) -> None:
    hold = bench.world.hold("transfer")
    for vm in ("web-01", "web-02"):
        running = await bench.replicated(vm, due=True)
        await _has_lease(bench, running.workflow_id)

    async def both() -> bool:
        return bench.world.count("transfer") == 2

    await eventually(both, "two transfers at a time")
    assert bench.world.most_snapshots == 2
    hold.release()


async def test_a_snapshot_that_could_not_be_removed_keeps_its_slots_until_the_next_cycle_has_removed_it(bench: Bench) -> None:
    bench.world.profile = replace(bench.world.profile, snapshots_per_datastore=2)
    bench.world.elsewhere = Placement("esx-01", (("datastore-01", 2),))
    bench.world.fail("release_snapshot", ErrorKind.CONSOLIDATION_STUCK)
    first = await bench.replicated("web-01", due=True)
    view = await first.until_committed(2)
    assert [error.kind for error in view.health] == [ErrorKind.CONSOLIDATION_STUCK]
    (left,) = (await bench.slots()).leases
    assert (left.wanted.holder, left.gave_way, left.holder_gone) == (first.workflow_id, True, True)

    second = await bench.replicated("web-02", due=True)
    await second.until(lambda view: view.activity.startswith("waiting for slots"), "queued behind the snapshot that is left")
    assert bench.world.most_snapshots == 1
    await first.update("pause")
    await first.update("resume")
    await first.until_committed(3)
    await second.until_committed(2)
    assert bench.world.most_snapshots == 1
    for running in (first, second):
        await bench.until_no_leases(running.workflow_id)


async def test_a_limit_of_zero_lets_nothing_start(bench: Bench) -> None:
    bench.profile(disks_per_appliance=0)
    running = await bench.replicated(due=True)
    await running.until(lambda view: view.activity == "waiting for slots", "queued")

    async def waits() -> bool:
        return len((await bench.slots()).waiting) == 1

    await eventually(waits, "a waiting request")
    assert bench.world.count("begin_cycle") == 0


async def test_a_grant_that_nobody_waits_for_is_given_back(bench: Bench) -> None:
    running = await bench.replicated()
    wanted = SlotsWanted(running.workflow_id, "given up long ago", CycleKind.DELTA, APPLIANCE, 2)
    await bench.arbiter.signal(names.SLOTS_REQUESTED, wanted)

    async def was_granted() -> bool:
        state = await bench.slots()
        return state.tickets == 1 and not state.waiting and not state.leases

    await eventually(was_granted, "the late grant was given back")


async def test_a_replication_that_is_being_deleted_gives_a_late_grant_back(bench: Bench) -> None:
    hold = bench.world.hold("clean_source")
    running = await bench.replicated()
    await running.update("stop")
    await hold.reached()
    wanted = SlotsWanted(running.workflow_id, "given up long ago", CycleKind.DELTA, APPLIANCE, 2)
    await bench.arbiter.signal(names.SLOTS_REQUESTED, wanted)

    async def was_granted() -> bool:
        state = await bench.slots()
        return state.tickets == 1 and not state.waiting and not state.leases

    await eventually(was_granted, "the late grant was given back")
    hold.release()
    await running.ended()


async def test_a_lease_whose_holder_does_not_run_is_free_at_once(bench: Bench) -> None:
    await bench.replicated()
    wanted = SlotsWanted("vm/nowhere/at-all", "of a dead one", CycleKind.DELTA, APPLIANCE, 2)
    await bench.arbiter.signal(names.SLOTS_REQUESTED, wanted)
    await bench.until_no_leases("vm/nowhere/at-all")
    assert (await bench.slots()).tickets == 1


async def test_what_is_announced_behind_its_release_is_neither_queued_nor_granted(bench: Bench) -> None:
    await bench.replicated()
    holder = "vm/nowhere/at-all"
    wanted = SlotsWanted(holder, "given up", CycleKind.DELTA, APPLIANCE, 2, replication=holder)
    await bench.arbiter.signal(names.SLOTS_RELEASED, SlotsReleased(holder, wanted.request_id))
    await bench.arbiter.signal(names.SLOTS_ANNOUNCED, SlotsAnnounced(holder, holder, APPLIANCE, wanted, waits=True))
    state = await bench.slots()
    assert holder in state.assigned
    assert (state.tickets, state.waiting, state.leases) == (0, (), ())


async def test_the_arbiter_is_started_again_by_the_next_cycle_that_needs_it(bench: Bench) -> None:
    running = await bench.replicated()
    await bench.arbiter.terminate("by mistake")
    await running.update("pause")
    await running.update("resume")
    await running.until_committed(2)
    assert (await bench.slots()).tickets == 1
    await running.until_state(ReplicationState.DELTA_SYNC)


async def test_a_replication_whose_arbiter_dies_during_a_cycle_finishes_it(bench: Bench) -> None:
    hold = bench.world.hold("apply")
    running = await bench.replicated(due=True)
    await hold.reached()
    await bench.arbiter.terminate("by mistake")
    hold.release()
    view = await running.until_committed(2)
    assert view.health == ()
