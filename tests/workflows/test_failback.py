"""Reprotect and failback as procedures: which step follows which, what a failure leads to, and what is told (spec §8)."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from deltaferry.model.errors import ErrorKind
from deltaferry.model.policy import FailbackPolicy
from deltaferry.model.replication import CycleKind, DiskBase
from deltaferry.model.states import JobOutcome
from tests.workflows.failback_stand_ins import DISK, DISK_ID, Bench, Steps
from tests.workflows.world import PLACEMENT
from workflows import names
from workflows.failback import FailbackVm
from workflows.messages.failback import (
    LostDisk,
)
from workflows.messages.operator_input import AlternateLocation, TargetProperties
from workflows.messages.reverse import FailbackInput, FinishReverse, ReprotectInput, ReverseProgress
from workflows.messages.reverse_records import ReverseBase
from workflows.messages.slot import SlotsWanted
from workflows.reprotect import ReprotectVm

_numbers = itertools.count(1)
_HOUR = timedelta(hours=1)
_FULL = [
    "survey_failed_over",
    "snapshot_target",
    "hash_snapshots",
    "compare_site",
    "plan_resync",
    "send_back",
    "write_back",
    "verify_back",
]
_DELTA = ["survey_failed_over", "snapshot_target", "plan_changes", "send_back", "write_back", "verify_back"]
_TIDY = ["drop_snapshots", "discard_back"]
_BASE = ReverseBase(7, datetime(2026, 11, 22, tzinfo=UTC), ((DISK.key, "base"),), ((DISK.key, DISK_ID),))


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest_asyncio.fixture(loop_scope="session")
async def bench(dev_server: WorkflowEnvironment, steps: Steps) -> AsyncIterator[Bench]:
    async with Bench(dev_server.client, steps, f"back{next(_numbers)}") as ready:
        yield ready


async def reprotect(bench: Bench, **options: object) -> WorkflowHandle[object, object]:
    request = ReprotectInput(
        entity_id=bench.entity_id,
        replication=bench.replication,
        target=TargetProperties(),
        profile=bench.replication.profile,
        bases=(DiskBase(DISK.key, "uuid/1", DISK.capacity_bytes),),
        **options,  # type: ignore[arg-type]
    )
    return await bench.client.start_workflow(
        ReprotectVm.run, request, id=names.reprotect_id(bench.entity_id, 1), task_queue=bench.queue
    )


async def fail_back(bench: Bench) -> None:
    request = FailbackInput(
        bench.entity_id, bench.replication, TargetProperties(), bench.replication.profile, _BASE, reconnect_nics=(4000,)
    )
    await bench.client.start_workflow(FailbackVm.run, request, id=names.failback_id(bench.entity_id, 1), task_queue=bench.queue)


async def told(bench: Bench) -> list[ReverseProgress]:
    return await bench.entity.query("told", result_type=list[ReverseProgress])


async def test_everything_is_compared_once_and_then_deltas_follow_until_a_failback_takes_over(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench)
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    report = await bench.report()
    assert steps.done[:2] == ["prepare_failback", "find_losses"]
    assert steps.done[2:] == [*_FULL, *_TIDY, *_DELTA, *_TIDY]
    assert report.error is None
    assert report.reverse is not None and report.reverse.base is not None
    kept = steps.of("drop_snapshots")[-1].keep
    assert kept == tuple(name for _, name in report.reverse.base.snapshots)
    assert steps.of("plan_changes")[0].base == ((DISK.key, steps.of("drop_snapshots")[0].keep[0]),)
    assert report.reverse.base.number == 2
    assert report.reverse.nics_at_power_on == (4000,)


async def test_slots_are_those_of_appliance_and_host_and_are_given_back_after_each_pass(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench)
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    await bench.report()
    wanted = await bench.arbiter.query("wanted", result_type=list[SlotsWanted])
    assert [one.kind for one in wanted] == [CycleKind.RESYNC, CycleKind.DELTA]
    assert {(one.placement.host, one.placement.datastores, one.disks) for one in wanted} == {(PLACEMENT.host, (), 1)}
    assert await bench.arbiter.query("held") == 0


async def test_the_entity_learns_that_failback_is_ready_and_when_the_next_delta_comes(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench, policy=FailbackPolicy(3 * _HOUR))
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    await bench.report()
    progress = await told(bench)
    assert progress[0].base is None
    ready = next(one for one in progress if one.base is not None)
    assert ready.last is not None and ready.last.full and ready.last.committed
    assert ready.last.compared_bytes == DISK.capacity_bytes
    assert ready.next_due is not None and ready.next_due - ready.last.ended_at == 3 * _HOUR
    percents = [one.percent for one in progress[: progress.index(ready)]]
    assert percents == sorted(percents)


async def test_ending_reprotect_undoes_all_of_it(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench)
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=False))
    report = await bench.report()
    assert steps.done[-3:] == ["drop_snapshots", "forget_site", "release_failback"]
    assert steps.of("drop_snapshots")[-1].keep == ()
    assert report.reverse is not None and report.reverse.base is None


@pytest.mark.parametrize("written", [512, None])
async def test_losses_that_nobody_confirmed_end_it_before_anything_is_written(
    bench: Bench, steps: Steps, written: int | None
) -> None:
    steps.losses = (LostDisk(DISK.key, DISK.label, written, ((0, 512),), "" if written else "Tracking was off."),)
    await reprotect(bench)
    report = await bench.report()
    assert "snapshot_target" not in steps.done
    assert steps.done[-1] == "release_failback"
    assert report.error is not None and report.error.kind is ErrorKind.OPERATION_REFUSED
    assert report.reverse is not None and report.reverse.losses is not None
    assert report.reverse.losses.disks == steps.losses


async def test_confirmed_losses_are_not_asked_about(bench: Bench, steps: Steps) -> None:
    steps.losses = (LostDisk(DISK.key, DISK.label, 512),)
    job = await reprotect(bench, confirm_losses=True)
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    assert (await bench.report()).error is None
    assert "find_losses" not in steps.done


async def test_a_vm_that_runs_at_the_site_is_a_refusal_that_ends_it(bench: Bench, steps: Steps) -> None:
    steps.fails["prepare_failback"] = [ErrorKind.OPERATION_REFUSED]
    await reprotect(bench)
    report = await bench.report()
    assert report.error is not None and report.error.kind is ErrorKind.OPERATION_REFUSED
    assert "snapshot_target" not in steps.done


async def test_a_failed_delta_keeps_the_base_and_the_next_one_covers_its_range(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench)
    await steps.until(lambda: "discard_back" in steps.done)
    steps.fails["verify_back"] = [ErrorKind.COVERAGE_MISMATCH]
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 3)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    await bench.report()
    first, second = steps.of("plan_changes")[:2]
    assert first.base == second.base
    assert first.cycle_key != second.cycle_key
    assert steps.of("drop_snapshots")[1].keep == tuple(name for _, name in first.base)
    failed = next(one for one in await told(bench) if one.error is not None)
    assert failed.error is not None and failed.error.kind is ErrorKind.COVERAGE_MISMATCH
    assert failed.base is not None and failed.last is not None and not failed.last.committed
    assert failed.next_due is not None and failed.next_due - failed.last.ended_at == timedelta(minutes=1)


async def test_a_failback_begins_behind_the_number_of_a_pass_that_failed(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench)
    await steps.until(lambda: "discard_back" in steps.done)
    steps.fails["verify_back"] = [ErrorKind.COVERAGE_MISMATCH]
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    reverse = (await bench.report()).reverse
    assert reverse is not None and reverse.base is not None and reverse.last is not None
    assert (reverse.base.number, reverse.last.committed) == (2, False)
    assert reverse.base.snapshots == steps.of("plan_changes")[0].base


async def test_where_somebody_wrote_to_the_sites_disks_everything_is_compared_again_at_once(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench)
    await steps.until(lambda: "discard_back" in steps.done)
    steps.fails["write_back"] = [ErrorKind.SOURCE_MOVED_ON]
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 3)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    await bench.report()
    assert steps.done.count("hash_snapshots") == 2
    failed = next(one for one in await told(bench) if one.error is not None)
    assert failed.base is None  # failback is not ready any more
    assert failed.next_due is not None and failed.last is not None and failed.next_due == failed.last.ended_at


async def test_after_many_passes_a_new_run_goes_on_from_the_same_base(
    bench: Bench, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.policies.CYCLES_PER_RUN", 2)
    job = await reprotect(bench, policy=FailbackPolicy(timedelta(milliseconds=1)))
    await steps.until(lambda: steps.done.count("discard_back") == 3)
    await bench.client.get_workflow_handle(job.id).signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    report = await bench.report()
    assert steps.done.count("prepare_failback") == steps.done.count("hash_snapshots") == 1
    assert report.reverse is not None and report.reverse.base is not None and report.reverse.base.number >= 3
    assert (await bench.client.get_workflow_handle(job.id).describe()).run_id != job.first_execution_run_id


async def test_a_pass_without_a_change_still_looks_whether_the_sites_disks_are_as_we_left_them(
    bench: Bench, steps: Steps
) -> None:
    steps.segments = 0
    job = await reprotect(bench)
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    await bench.report()
    assert "send_back" not in steps.done
    assert steps.of("write_back")[0].chunks == ()


async def test_a_shorter_interval_counts_for_the_delta_that_is_waited_for(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench, policy=FailbackPolicy(timedelta(days=3650)))
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FAILBACK_POLICY_CHANGED, FailbackPolicy(timedelta(milliseconds=1)))
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    assert (await bench.report()).error is None


async def test_a_failback_that_was_given_up_goes_on_from_its_base_with_the_vm_in_azure_started(
    bench: Bench, steps: Steps
) -> None:
    job = await reprotect(bench, base=_BASE, start_target=True)
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    report = await bench.report()
    assert steps.done[:2] == ["prepare_failback", "start_target"]
    assert "hash_snapshots" not in steps.done and "find_losses" not in steps.done
    assert report.reverse is not None and report.reverse.base is not None and report.reverse.base.number == 8


async def test_a_failback_stops_the_vm_writes_the_rest_and_powers_on_at_the_site(bench: Bench, steps: Steps) -> None:
    steps.segments = 2
    await fail_back(bench)
    report = await bench.report()
    chunk = ["send_back", "write_back", "verify_back"]
    last = ["release_failback", "unguard_source"]
    assert steps.done == ["prepare_failback", "stop_target", *_DELTA[:3], *chunk, *chunk, *last, *_TIDY]
    assert steps.of("unguard_source")[0].reconnect_nics == (4000,)
    assert steps.of("unguard_source")[0].power_on
    result = report.failback
    assert result is not None and report.error is None
    assert (result.outcome, result.source_on, result.base.number) == (JobOutcome.SUCCEEDED, True, 8)
    assert result.downtime_s is not None
    assert [name for name, _ in result.phases] == [
        "prepare the VM at the site",
        "stop the VM in Azure",
        "final pass",
        "power on at the site",
        "delete what the final pass left",
    ]


async def test_a_disk_added_in_azure_is_information_of_the_failback(bench: Bench, steps: Steps) -> None:
    steps.not_replicated = ("Disk vm-extra was added in Azure.",)
    await fail_back(bench)
    result = (await bench.report()).failback
    assert result is not None
    assert (result.outcome, result.information) == (JobOutcome.COMPLETED_WITH_INFORMATION, steps.not_replicated)


async def test_a_final_pass_that_fails_leaves_the_site_off_and_names_the_base_to_go_on_from(bench: Bench, steps: Steps) -> None:
    steps.fails["write_back"] = [ErrorKind.MANIFEST_MISMATCH]
    await fail_back(bench)
    report = await bench.report()
    result = report.failback
    assert result is not None and report.error is not None
    assert (result.outcome, result.source_on, result.target_stopped) == (JobOutcome.FAILED, False, True)
    assert result.base.snapshots == _BASE.snapshots and result.base.number == 8
    assert "unguard_source" not in steps.done and "release_failback" not in steps.done
    assert steps.of("drop_snapshots")[-1].keep == ("base",)


async def test_a_final_pass_without_its_base_compares_everything(bench: Bench, steps: Steps) -> None:
    steps.fails["write_back"] = [ErrorKind.SOURCE_MOVED_ON]
    await fail_back(bench)
    result = (await bench.report()).failback
    assert result is not None and result.source_on
    assert steps.done.count("hash_snapshots") == 1
    assert result.base.number == 9


async def test_a_vm_that_cannot_be_powered_on_at_the_site_is_marked_again(bench: Bench, steps: Steps) -> None:
    steps.fails["unguard_source"] = [ErrorKind.OPERATION_REFUSED]
    await fail_back(bench)
    report = await bench.report()
    assert report.error is not None
    assert steps.done[-1] == "prepare_failback"
    assert report.failback is not None and not report.failback.source_on


_ELSEWHERE: dict[str, object] = {"location": AlternateLocation("ds2", host="esx-2"), "instance_uuid": "uuid-of-the-new-vm"}
_FIRST_COPY = ["survey_failed_over", "snapshot_target", "plan_changes", "send_back", "write_back", "verify_back"]


async def test_to_another_place_all_that_azure_holds_is_copied_once_and_then_deltas_follow(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench, **_ELSEWHERE, reconnect_nics=(4000,))
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    report = await bench.report()
    assert steps.done == ["make_vm", "prepare_failback", *_FIRST_COPY, *_TIDY, *_DELTA, *_TIDY]
    assert (steps.of("make_vm")[0].instance_uuid, steps.of("make_vm")[0].reconnect_nics) == ("uuid-of-the-new-vm", (4000,))
    assert [bool(request.base) for request in steps.of("plan_changes")] == [False, True]
    at_site = [steps.of(step)[0].replication for step in ("prepare_failback", "write_back")]
    assert {one.ref.instance_uuid for one in at_site} == {"uuid-of-the-new-vm"}
    assert {disk.uuid for one in at_site for disk in one.disks} == {f"{DISK.uuid}-new"}
    assert report.reverse is not None and report.reverse.made is not None and report.reverse.base is not None


async def test_a_first_copy_that_was_begun_and_failed_is_compared(bench: Bench, steps: Steps) -> None:
    steps.fails["verify_back"] = [ErrorKind.COVERAGE_MISMATCH]
    job = await reprotect(bench, **_ELSEWHERE)
    await steps.until(lambda: steps.done.count("discard_back") == 1)
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    assert (await bench.report()).error is None
    assert steps.done.count("plan_changes") == 1 and "compare_site" in steps.done


async def test_a_first_copy_that_has_planned_nothing_yet_is_still_one(bench: Bench, steps: Steps) -> None:
    steps.fails["snapshot_target"] = [ErrorKind.AZURE_QUOTA]
    job = await reprotect(bench, **_ELSEWHERE)
    await steps.until(lambda: steps.done.count("discard_back") == 1)
    await job.signal(names.REVERSE_NOW)
    await steps.until(lambda: steps.done.count("discard_back") == 2)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    await bench.report()
    assert "compare_site" not in steps.done and not steps.of("plan_changes")[0].base


async def test_disks_that_somebody_may_have_written_to_are_compared_though_they_are_new(bench: Bench, steps: Steps) -> None:
    steps.pristine = False
    job = await reprotect(bench, **_ELSEWHERE)
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    await bench.report()
    assert steps.done == ["make_vm", "prepare_failback", *_FULL, *_TIDY]


async def test_undoing_deletes_the_vm_that_was_made_and_those_that_were_left(bench: Bench, steps: Steps) -> None:
    job = await reprotect(bench, **_ELSEWHERE, delete_first=("left",))
    await steps.until(lambda: "discard_back" in steps.done)
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=False))
    report = await bench.report()
    assert steps.done[:3] == ["delete_made_vm", "make_vm", "prepare_failback"]
    assert steps.done[-5:] == ["drop_snapshots", "forget_site", "delete_made_vm", "delete_made_vm", "release_failback"]
    assert [request.instance_uuid for request in steps.of("delete_made_vm")] == ["left", "left", "uuid-of-the-new-vm"]
    assert report.reverse is not None and report.reverse.undone


async def test_a_vm_that_was_to_be_made_is_deleted_although_nobody_told_that_it_was(bench: Bench, steps: Steps) -> None:
    steps.fails["make_vm"] = [ErrorKind.OPERATION_REFUSED]
    await reprotect(bench, **_ELSEWHERE)
    report = await bench.report()
    assert report.error is not None and report.error.kind is ErrorKind.OPERATION_REFUSED
    assert [request.instance_uuid for request in steps.of("delete_made_vm")] == ["uuid-of-the-new-vm"]


async def test_a_power_on_that_failed_and_took_effect_all_the_same_brought_the_vm_home(bench: Bench, steps: Steps) -> None:
    steps.fails["unguard_source"] = [ErrorKind.OPERATION_REFUSED]
    steps.home_after = "unguard_source"
    await fail_back(bench)
    report = await bench.report()
    assert steps.done[-3:] == ["release_failback", "unguard_source", "prepare_failback"]
    assert report.error is None and report.failback is not None
    assert (report.failback.outcome, report.failback.source_on) == (JobOutcome.COMPLETED_WITH_INFORMATION, True)
    assert "was not waited for" in report.failback.information[-1]


async def test_a_failback_of_a_vm_that_is_home_already_writes_nothing_and_leaves_one_vm_running(
    bench: Bench, steps: Steps
) -> None:
    steps.home_after = "prepare_failback"
    await fail_back(bench)
    report = await bench.report()
    assert steps.done == ["prepare_failback", "stop_target", "unguard_source"]
    assert not steps.of("unguard_source")[0].power_on
    assert report.failback is not None and report.failback.source_on
    assert report.failback.base == _BASE


async def test_reprotect_of_a_vm_that_is_home_starts_nothing_and_says_so(bench: Bench, steps: Steps) -> None:
    steps.home_after = "prepare_failback"
    await reprotect(bench, base=_BASE, start_target=True)
    report = await bench.report()
    assert steps.done == ["prepare_failback"]
    assert report.reverse is not None and report.reverse.home == "The VM is on at the site."
