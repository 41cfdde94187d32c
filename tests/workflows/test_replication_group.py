"""Replication groups on a real server: what makes a point shared, what keeps it from being so, and that nobody is stuck."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from deltaferry.planning.dr_states import DrState
from tests.workflows.group_bench import attempt_of, start_group, two_members, until_group
from tests.workflows.site_bench import Bench, eventually
from workflows import names
from workflows.messages.group import GroupResult, GroupView, TogetherInput
from workflows.messages.slot import HeldLease
from workflows.messages.step import BeginCycleInput, OnReplication


async def _refused(group: WorkflowHandle[Any, Any]) -> str:
    with pytest.raises(WorkflowFailureError) as failed:
        await group.result()
    assert isinstance(failed.value.cause, ApplicationError)
    return failed.value.cause.message


async def test_a_point_that_every_member_commits_is_shared_and_offered_to_a_failover(bench: Bench) -> None:
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    view, attempt = await attempt_of(group)
    assert attempt.shared, attempt
    (point,) = view.points
    assert point.spread == bench.world.spread
    assert set(point.members) == {first.workflow_id, second.workflow_id}
    of_group = [one for one in bench.world.points if one.shared_key == point.key]
    assert len(of_group) == 2
    (together,) = bench.world.inputs("take_together", TogetherInput)
    begun = {request.cycle_key for request in bench.world.inputs("begin_cycle", BeginCycleInput)}
    assert begun == {member.cycle_key for member in together.members}, "each cycle went on from the snapshot taken together"
    assert (await first.status()).group == group.id
    await first.until_state(ReplicationState.DELTA_SYNC)
    await first.update("failover", {"point": f"shared:{point.key}"})
    view_of_first = await first.until_migration(DrState.FAILED_OVER)
    assert view_of_first.failover is not None
    assert view_of_first.failover.point_key in {one.cycle_key for one in of_group}
    await bench.until_no_leases(group.id)


async def test_the_group_asks_for_the_slots_of_all_members_at_once(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()
    held = (await bench.slots()).leases
    assert {lease.wanted.holder for lease in held} == {group.id}
    assert sorted(lease.wanted.replication for lease in held) == sorted([first.workflow_id, second.workflow_id])
    assert sum(count for lease in held for _, count in lease.wanted.placement.datastores) == 4
    hold.release()
    assert (await attempt_of(group))[1].shared


async def test_members_whose_disks_do_not_fit_beside_each_other_transfer_in_turns(bench: Bench) -> None:
    bench.profile(disks_per_appliance=2)
    hold = bench.world.hold("transfer")
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()

    def in_transfer(leases: tuple[HeldLease, ...]) -> int:
        return sum(lease.wanted.disks for lease in leases if not lease.gave_way)

    async def one_waits() -> bool:
        state = await bench.slots()
        assert in_transfer(state.leases) <= 2
        return len(state.leases) == 2 and len(state.waiting) == 1 and {lease.wanted.group for lease in state.leases} == {group.id}

    await eventually(one_waits, "the second member waits for its turn, holding its snapshot")
    assert bench.world.count("transfer") == 1
    assert bench.world.most_snapshots == 2
    hold.release()
    assert (await attempt_of(group))[1].shared
    for running in (first, second):
        await bench.until_no_leases(running.workflow_id)


async def test_a_snapshot_is_released_when_another_member_gets_none_and_all_go_alone(bench: Bench) -> None:
    bench.world.no_snapshot_of[bench.name_of("web-02")] = ErrorKind.SNAPSHOT_REFUSED
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    view, attempt = await attempt_of(group)
    assert not attempt.shared
    assert "SnapshotRefused" in attempt.sentence
    assert view.points == ()
    released = bench.world.inputs("release_snapshot", OnReplication)
    assert [request.replication.vm_name for request in released] == [first.vm]
    assert bench.world.snapshots == {}
    assert bench.world.count("begin_cycle") == 0
    await bench.until_no_leases(group.id)
    for running in (first, second):
        await running.update("pause")
        await running.update("resume")
        await running.until_committed(2)


async def test_a_member_that_fails_in_its_transfer_costs_the_others_only_the_shared_point(bench: Bench) -> None:
    first, second = await two_members(bench)
    hold = bench.world.hold("transfer", second.vm)
    group = await start_group(bench, first, second)
    await hold.reached()
    await first.until_committed(2)
    bench.world.fail("apply", ErrorKind.CHECKSUM_MISMATCH)
    hold.release()
    view, attempt = await attempt_of(group)
    assert not attempt.shared
    assert attempt.sentence.startswith(f"{second.vm} did not commit it: ChecksumMismatch")
    assert view.points == ()
    key = attempt.key
    refusal = await first.refusal("test_migrate", {"network": "drill", "point": f"shared:{key}"})
    assert refusal.startswith(f"The point {key} is not shared")
    for running in (first, second):
        await bench.until_no_leases(running.workflow_id)


async def test_snapshots_that_are_too_far_apart_make_points_that_are_not_shared(bench: Bench) -> None:
    bench.world.spread = timedelta(seconds=3)
    first, second = await two_members(bench)
    group = await start_group(bench, first, second, max_spread="PT1S")
    _, attempt = await attempt_of(group)
    assert not attempt.shared
    assert attempt.spread == timedelta(seconds=3)
    assert [(await running.status()).cycles_committed for running in (first, second)] == [2, 2]
    assert {point.shared_key for point in bench.world.points} == {""}


async def test_a_member_that_is_not_idle_in_time_lets_the_others_go_alone(bench: Bench) -> None:
    hold = bench.world.hold("transfer", bench.name_of("web-02"))
    first = await bench.replicated("web-01", placed=True)
    second = await bench.replicated("web-02", due=True, placed=True)
    await hold.reached()
    group = await start_group(bench, first, second, wait="PT2S")
    _, attempt = await attempt_of(group)
    assert attempt.sentence == f"{second.vm} did not become idle in time"
    await first.update("pause")
    await first.update("resume")
    await first.until_committed(2)
    hold.release()
    await second.until_committed(2)
    await group.execute_update("take_point")
    assert (await attempt_of(group, 2))[1].shared


async def test_a_group_without_slots_in_time_lets_its_members_go_alone(bench: Bench) -> None:
    bench.world.profile = replace(bench.world.profile, snapshots_per_datastore=4)
    hold = bench.world.hold("transfer", bench.name_of("web-03"))
    first, second = await two_members(bench)
    await bench.replicated("web-03", due=True, placed=True)
    await hold.reached()
    group = await start_group(bench, first, second, wait="PT2S")
    _, attempt = await attempt_of(group)
    assert attempt.sentence == "there were no slots for all members in time"
    assert bench.world.count("take_together") == 0
    await bench.until_no_leases(group.id)
    await first.update("pause")
    await first.update("resume")
    await first.until_committed(2)
    hold.release()


async def test_a_member_for_which_something_is_asked_meanwhile_takes_the_point_from_the_others(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()
    await first.update("pause")

    hold.release()
    _, attempt = await attempt_of(group)
    assert attempt.sentence.startswith(f"{first.vm} does not hold still")
    await first.until_state(ReplicationState.PAUSED)
    assert bench.world.snapshots == {}
    await group.execute_update("take_point")
    _, attempt = await attempt_of(group, 2)
    assert attempt.sentence == f"{first.vm} does not hold still: it is in Paused"


async def test_an_unplanned_failover_waits_for_no_group(bench: Bench) -> None:
    hold = bench.world.hold("take_together", deaf=True)
    first, second = await two_members(bench)
    await start_group(bench, first, second)
    await hold.reached()
    await first.update("failover", {"point": "latest"})
    await first.until_migration(DrState.FAILED_OVER)
    hold.release()


async def test_a_terminated_group_holds_nobody_who_has_something_to_do(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()
    await group.terminate("by mistake")
    await second.update("pause")
    await second.until_state(ReplicationState.PAUSED)
    hold.release()


@pytest.mark.chaos
async def test_members_of_a_terminated_group_go_alone_by_themselves(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()
    await group.terminate("by mistake")
    for running in (first, second):
        await running.until(lambda view: view.activity.startswith("idle"), "not held any more")
    await first.update("pause")
    await first.update("resume")
    await first.until_committed(2)
    hold.release()
    again = await start_group(bench, first, second)
    assert (await attempt_of(again))[1].shared


async def test_a_member_that_is_terminated_after_the_snapshots_costs_only_the_shared_point(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()
    await second.handle.terminate("by mistake")
    hold.release()
    _, attempt = await attempt_of(group)
    assert attempt.sentence == f"{second.vm} did not commit it: it does not run"
    await first.until_committed(2)
    assert second.vm not in bench.world.snapshots
    await bench.until_no_leases(group.id)
    adopted = await bench.adopt("web-02")
    assert adopted.adopted == (second.workflow_id,)
    await second.until_state(ReplicationState.DELTA_SYNC)
    await group.execute_update("take_point")
    assert (await attempt_of(group, 2))[1].shared


async def test_a_member_that_is_stopped_leaves_the_group(bench: Bench) -> None:
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await attempt_of(group)
    await second.until_state(ReplicationState.DELTA_SYNC)
    await second.update("stop")
    await second.ended()
    view = await until_group(group, lambda view: len(view.members) == 1, "one member")
    assert any(second.vm in warning for warning in view.warnings)
    with pytest.raises(WorkflowUpdateFailedError) as failed:
        await group.execute_update("take_point")
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.message.startswith("The group has fewer than two members")


async def test_members_come_and_go_and_the_group_is_dissolved(bench: Bench) -> None:
    first, second = await two_members(bench)
    third = await bench.replicated("web-03")
    group = await start_group(bench, first, second)
    await attempt_of(group)
    sentence: str = await group.execute_update("add_member", {"member": third.workflow_id}, result_type=str)
    assert "The whole group pays for its shared points" in sentence
    await group.execute_update("take_point")
    view, attempt = await attempt_of(group, 2)
    assert attempt.sentence == "shared by 3 VMs"
    assert len(view.points[0].members) == 3
    await group.execute_update("remove_member", {"member": first.workflow_id})
    assert (await first.until(lambda view: view.group == "", "no member any more")).group == ""
    await group.execute_update("dissolve")
    result = await group.result()
    assert sorted(result.members) == sorted([second.workflow_id, third.workflow_id])
    await third.until(lambda view: view.group == "", "no member any more")


async def test_a_vm_is_in_one_group_at_a_time(bench: Bench) -> None:
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await attempt_of(group)
    workflow_id = names.group_id(bench.site, "other")
    bench.started.append(workflow_id)
    request = {"name": "other", "site": bench.site, "members": [first.workflow_id, second.workflow_id]}
    other = await bench.client.start_workflow(
        names.REPLICATION_GROUP, request, id=workflow_id, task_queue=names.CONTROL_QUEUE, result_type=GroupResult
    )
    assert f"{first.vm} is a member of {group.id}" in await _refused(other)
    assert (await first.status()).group == group.id


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"members": ["vm/elsewhere/1", "vm/elsewhere/2"]}, "vm/elsewhere/1 is no replication of the site"),
        ({"wait": "PT2H"}, "The wait must be longer than nothing and at most 1 h"),
        ({"max_spread": "PT0S"}, "The spread must be longer than nothing"),
        ({"carried": {}}, "The field 'carried' is the group's own"),
        ({"members": ["a"]}, "A group has at least two members."),
        ({"members_of": []}, "there is no field 'members_of'"),
    ],
)
async def test_a_group_that_cannot_be_is_refused_with_a_sentence(bench: Bench, given: dict[str, Any], sentence: str) -> None:
    members = [names.replication_id(bench.site, one) for one in ("1", "2")]
    workflow_id = names.group_id(bench.site, "shop")
    request = {"name": "shop", "site": bench.site, "members": members, **given}
    group = await bench.client.start_workflow(
        names.REPLICATION_GROUP, request, id=workflow_id, task_queue=names.CONTROL_QUEUE, result_type=GroupResult
    )
    assert sentence in await _refused(group)


async def test_a_group_of_vms_that_do_not_replicate_is_refused(bench: Bench) -> None:
    first = await bench.replicated("web-01")
    workflow_id = names.group_id(bench.site, "shop")
    nobody = names.replication_id(bench.site, "nobody")
    request = {"name": "shop", "site": bench.site, "members": [first.workflow_id, nobody]}
    group = await bench.client.start_workflow(
        names.REPLICATION_GROUP, request, id=workflow_id, task_queue=names.CONTROL_QUEUE, result_type=GroupResult
    )
    assert await _refused(group) == f"There cannot be such a group. No replication {nobody} runs."
    await first.until(lambda view: view.group == "", "no member")


async def test_a_group_whose_snapshots_could_never_be_held_together_is_refused(bench: Bench) -> None:
    bench.world.profile = replace(bench.world.profile, snapshots_per_datastore=3)
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    assert "The group has 4 disks on the datastore datastore-01, where 3 disk snapshots may be held" in await _refused(group)


async def test_an_arbiter_that_starts_afresh_learns_what_a_group_holds(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    bench.world.segments[CycleKind.DELTA] = 2
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()
    await bench.arbiter.terminate("by mistake")
    bench.world.holders = (group.id, first.workflow_id, second.workflow_id)
    await bench.start_arbiter(disks_per_appliance=52)

    async def known() -> bool:
        return {held.wanted.holder for held in (await bench.slots()).leases} == {group.id}

    await eventually(known, "the group's leases")
    hold.release()
    assert (await attempt_of(group))[1].shared
    for holder in (group.id, first.workflow_id, second.workflow_id):
        await bench.until_no_leases(holder)


async def test_a_cancelled_group_leaves_neither_snapshots_nor_slots_nor_members(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    first, second = await two_members(bench)
    group = await start_group(bench, first, second)
    await hold.reached()
    await group.cancel()
    with pytest.raises(WorkflowFailureError):
        await group.result()
    for running in (first, second):
        await running.until(lambda view: view.group == "" and view.activity.startswith("idle"), "on its own")
        await running.update("pause")
        await running.update("resume")
        await running.until_committed(2)
    assert bench.world.snapshots == {}
    await bench.until_no_leases(group.id)


def _newest(view: GroupView) -> int:
    """Return the number of the newest attempt; 0 before the first."""
    return int(view.attempts[0].key.partition("-")[0]) if view.attempts else 0


async def _attempted(group: WorkflowHandle[Any, Any], number: int) -> GroupView:
    """Wait for the attempt of a number; return what the group shows."""
    return await until_group(group, lambda view: _newest(view) >= number, f"attempt {number}")


@pytest.mark.chaos
async def test_a_group_goes_on_in_a_new_run_with_its_members_and_points(bench: Bench) -> None:
    first, second = await two_members(bench)
    for running in (first, second):
        await running.update("update_policy", {"name": "gold", "rpo_threshold": "PT4H"})
    group = await start_group(bench, first, second)
    before = (await group.describe()).run_id
    number = 1
    while (await group.describe()).run_id == before:
        view = await _attempted(group, number)
        assert view.attempts[0].shared, view.attempts[0]
        await group.signal("take_point")
        number = _newest(view) + 1
    view = await until_group(group, lambda view: view.attempts[0].key.startswith(f"{number}-"), "a point of the new run")
    assert view.attempts[0].shared
    assert len(view.points) == number
    assert (view.interval, [member.vm for member in view.members]) == (timedelta(hours=10), [first.vm, second.vm])
    assert view.warnings == ()
