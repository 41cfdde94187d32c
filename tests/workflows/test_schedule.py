"""What takes hours: on a server whose clock jumps. A step takes the server's time by failing once and being tried again after it."""

import functools
from datetime import datetime, timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.testing import WorkflowEnvironment

from deltaferry.model.replication import CycleKind
from tests.workflows.site_bench import Running, eventually, shared_workers, site_bench
from tests.workflows.stand_ins import StandIns
from workflows.messages.replication_state import CycleRecord
from workflows.messages.step import ApplyInput, BeginCycleInput, SealInput, TransferInput

_HOUR = timedelta(hours=1)
_MONTH = timedelta(days=30)
_STEP = timedelta(hours=6)
_SLOTS_TIMER = timedelta(minutes=5)
_DURATIONS_H = (0.1, 0.5, 1, 1.9, 2, 2.5, 4, 7, 0.2, 3, 12, 0.3, 25, 24)
_CYCLES_PER_RUN = 24
_MOST_PER_CALL_H = (("apply", 2, 7.0), ("begin_cycle", 1, 5.0), ("seal_cycle", 1, 3.5), ("transfer", 2, 1.5))
"""Step, calls of it in a cycle of two segments, and the hours that one may take within its time limits."""


def _spec(previous: timedelta) -> timedelta:
    """Spec §2.3, written down a second time."""
    return min(max(_HOUR, previous / 2), 12 * _HOUR)


def _delay(step: str, request: Any) -> timedelta:
    """Return what a call contributes to its cycle's duration; nothing for the initial replication, which is cycle 1."""
    assert isinstance(request, BeginCycleInput | TransferInput | ApplyInput | SealInput)
    number = int(request.cycle_key.partition("-")[0])
    if number == 1:
        return timedelta(milliseconds=1)
    left = float(_DURATIONS_H[(number - 2) % len(_DURATIONS_H)])
    for name, calls, most in _MOST_PER_CALL_H:
        share = min(left, calls * most)
        if name == step:
            return max(timedelta(hours=share / calls), timedelta(milliseconds=1))
        left -= share
    raise AssertionError(step)


async def _runs(running: Running) -> list[list[HistoryEvent]]:
    """Return the histories of all runs of a replication, the first one first."""
    current = await running.events()
    run_id = current[0].workflow_execution_started_event_attributes.first_execution_run_id
    runs = []
    while run_id:
        handle = running.client.get_workflow_handle(running.workflow_id, run_id=run_id)
        events = [event async for event in handle.fetch_history_events()]
        runs.append(events)
        run_id = events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return runs


def _sleeps(events: list[HistoryEvent]) -> list[timedelta]:
    timers = [
        e.timer_started_event_attributes.start_to_fire_timeout
        for e in events
        if e.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    ]
    return [sleep for timer in timers if (sleep := timer.ToTimedelta()) != _SLOTS_TIMER]


async def test_for_a_month_every_delta_sleeps_min_of_max_of_an_hour_and_half_the_last_duration_and_twelve_hours(
    time_skipping: WorkflowEnvironment,
) -> None:
    stand_ins = StandIns()
    async with shared_workers(time_skipping.client, stand_ins), site_bench(time_skipping.client, stand_ins, "month") as bench:
        bench.world.segments[CycleKind.DELTA] = 2
        for step, _, _ in _MOST_PER_CALL_H:
            bench.world.delays[step] = functools.partial(_delay, step)
        running = await bench.enable()
        begun = await time_skipping.get_current_time()
        records: dict[str, CycleRecord] = {}
        now: datetime = begun
        while now < begun + _MONTH:
            await time_skipping.sleep(_STEP)
            now = await time_skipping.get_current_time()
            records |= {record.cycle_key: record for record in await running.cycles() if record.kind is CycleKind.DELTA}
        runs = await _runs(running)

    cycles = list(records.values())
    assert len(cycles) > 3 * _CYCLES_PER_RUN
    assert [int(cycle.cycle_key.partition("-")[0]) for cycle in cycles] == list(range(2, len(cycles) + 2)), "none was missed"
    for index, cycle in enumerate(cycles):
        scripted = timedelta(hours=_DURATIONS_H[index % len(_DURATIONS_H)])
        assert scripted <= cycle.duration < scripted + timedelta(minutes=1)

    assert len(runs) == len(cycles) // _CYCLES_PER_RUN + 1
    slept = [sleep for events in runs for sleep in _sleeps(events)][: len(cycles)]
    expected = [_spec(cycle.duration) for cycle in cycles][: len(slept)]
    assert len(slept) >= len(cycles) - 1
    for index, (sleep, rule) in enumerate(zip(slept, expected, strict=True)):
        if (index + 1) % _CYCLES_PER_RUN:
            assert sleep == rule, f"cycle {index + 1}"
        else:  # the deadline was carried over continue-as-new: what archiving the run took is part of the wait
            assert rule - timedelta(minutes=1) < sleep <= rule, f"cycle {index + 1}, the last of its run"
    assert {timedelta(hours=1), timedelta(hours=12)} < set(expected), "both ends of the rule were reached"
    assert len(bench.world.archived) == len(runs) - 1


async def test_a_replication_whose_arbiter_dies_while_it_waits_for_slots_goes_on(time_skipping: WorkflowEnvironment) -> None:
    stand_ins = StandIns()
    async with shared_workers(time_skipping.client, stand_ins), site_bench(time_skipping.client, stand_ins, "arbiter") as bench:
        bench.profile(disks_per_appliance=0)
        running = await bench.replicated(due=True)

        async def waits() -> bool:
            return len((await bench.slots()).waiting) == 1

        await eventually(waits, "a request at the arbiter")
        await bench.arbiter.terminate("by mistake")
        await bench.start_arbiter(disks_per_appliance=52)
        await time_skipping.sleep(_SLOTS_TIMER + timedelta(minutes=1))
        view = await running.until_committed(2)
        assert view.health == ()
