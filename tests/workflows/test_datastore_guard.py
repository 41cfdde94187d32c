"""What workflows make of a datastore without room (spec §2.7): release, keep what was reached, go on by themselves."""

from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import ReplicationState
from tests.workflows.site_bench import QUICK, Bench, eventually
from tests.workflows.world import DISKS
from workflows.messages.step import BeginCycleInput, BeginResyncInput, CompareInput
from workflows.messages.views import StatusView

_FULL = ErrorKind.DATASTORE_FULL
_SENTENCE = "Datastore ds1 has 1 GiB free of 20 GiB; a snapshot needs 2 GiB to be free."


def _is_short(view: StatusView) -> bool:
    return any(error.kind is _FULL for error in view.health)


async def test_an_initial_replication_releases_its_snapshot_keeps_its_marks_and_goes_on_by_itself(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.segments[CycleKind.INITIAL] = 3
    bench.world.fail("transfer", _FULL, skip=2, message=_SENTENCE, datastores=("ds1",))
    running = await bench.enable()
    await running.until_committed(1)
    first, second = (begun for begun in bench.world.inputs("begin_cycle", BeginCycleInput) if begun.kind is CycleKind.INITIAL)
    assert first.cycle_key != second.cycle_key
    for base, disk in zip(second.bases, DISKS, strict=True):
        assert base.copied_up_to_bytes >= 2 * (disk.capacity_bytes // 3), "both chunks that were sent count"
    order = bench.world.order(["begin_cycle", "release_snapshot"])
    assert order[:2] == ["begin_cycle", "release_snapshot"]
    assert order.count("begin_cycle") >= 3
    assert bench.world.most_snapshots == 1
    assert (await running.status()).health == ()


async def test_while_an_initial_replication_waits_for_room_it_shows_why_and_since_when_and_holds_nothing(bench: Bench) -> None:
    bench.world.fail("begin_cycle", _FULL, message=_SENTENCE, datastores=("ds1",))
    running = await bench.enable()
    view = await running.until(_is_short, "a health error")
    assert view.replication_state == ReplicationState.INITIAL_IN_PROGRESS
    (error,) = view.health
    assert (error.message, error.retried) == (_SENTENCE, True)
    assert "Enlarge the datastore" in error.remedy
    assert view.activity.startswith("waiting for room on ds1; the copy goes on at ")
    assert bench.world.snapshots == {}
    assert view.job_id is not None
    await bench.until_no_leases(view.job_id)
    job = bench.client.get_workflow_handle(view.job_id)
    timers = [event async for event in job.fetch_history_events() if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED]
    timer = timers[-1]
    assert timer.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta() == timedelta(minutes=10)
    assert b"no room for a snapshot on ds1" in timer.user_metadata.summary.data
    await running.update("stop")
    await running.ended()


@pytest.mark.chaos
async def test_however_often_there_is_no_room_a_copy_is_not_given_up(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.fail("begin_cycle", _FULL, times=25)
    running = await bench.enable()
    await running.until_committed(1)
    assert bench.world.count("begin_cycle") >= 26


async def test_a_resync_keeps_what_it_has_compared(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.compare_bytes = 1 << 28
    bench.world.fail("compare_source", _FULL, skip=1, datastores=("ds1",))
    running = await bench.replicated()
    await running.update("resync")
    await running.until(lambda v: v.replication_state == ReplicationState.DELTA_SYNC and len(v.resyncs) == 1, "resynchronised")
    first, second = bench.world.inputs("begin_resync", BeginResyncInput)
    assert all(base.copied_up_to_bytes == 0 for base in first.bases)
    assert all(base.copied_up_to_bytes > 0 for base in second.bases)
    starts = [part.position_bytes for request in bench.world.inputs("compare_source", CompareInput) for part in request.disks]
    assert starts.count(0) == len(DISKS)


@pytest.mark.chaos
async def test_a_history_that_grew_long_of_waiting_for_room_is_continued(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.fail("begin_resync", _FULL, times=16, datastores=("x" * 200_000,))
    running = await bench.replicated()
    await running.update("resync")
    view = await running.until(
        lambda v: v.replication_state == ReplicationState.DELTA_SYNC and len(v.resyncs) == 1, "resynchronised"
    )
    assert bench.world.count("begin_resync") == 17
    assert bench.world.count("prepare_source") == 1
    first, *_ = [event async for event in bench.client.get_workflow_handle(view.job_id or "").fetch_history_events()]
    assert first.workflow_execution_started_event_attributes.continued_execution_run_id, "it was continued as new"


async def test_the_arbiter_learns_which_datastores_are_short_and_that_they_no_longer_are(bench: Bench) -> None:
    bench.profile(min_interval=timedelta(seconds=3))
    bench.world.fail("begin_cycle", _FULL, skip=1, datastores=("datastore-01",))  # the first tells where the VM is
    next_one = bench.world.hold("begin_cycle", skip=2)
    running = await bench.replicated(due=True)
    await running.until(_is_short, "a health error")

    async def are_short(*datastores: str) -> bool:
        return (await bench.slots()).short_of_space == datastores

    await eventually(lambda: are_short("datastore-01"), "a datastore that is short")
    next_one.release()
    await eventually(are_short, "no datastore that is short")


async def test_a_cycle_says_by_how_much_its_snapshot_is_expected_to_grow(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    running = await bench.replicated(due=True)
    await running.until_committed(4)
    *_, last = bench.world.inputs("begin_cycle", BeginCycleInput)
    assert [key for key, _ in last.expected_growth] == [disk.key for disk in DISKS]
    assert all(growth > 0 for _, growth in last.expected_growth)
