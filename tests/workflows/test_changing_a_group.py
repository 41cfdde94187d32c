"""What is changed of a replication group while it runs holds from its next point on, and is refused where it cannot be."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from tests.workflows.group_bench import NEVER, attempt_of, start_group, two_members, until_group
from tests.workflows.site_bench import Bench


async def _refusal(group: WorkflowHandle[Any, Any], change: dict[str, object]) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as failed:
        await group.execute_update("change_group", change)
    assert isinstance(failed.value.cause, ApplicationError)
    return failed.value.cause.message


async def test_a_shorter_interval_brings_the_next_point_at_once(bench: Bench) -> None:
    group = await start_group(bench, *await two_members(bench))
    view, _ = await attempt_of(group)
    assert view.next_at is not None and view.next_at > datetime.now(UTC) + timedelta(hours=9)
    sentence = await group.execute_update("change_group", {"interval": "PT1S", "reason": "one more"}, result_type=str)
    assert sentence.startswith("A point is taken every 1 s, its snapshots within 10 s of each other")
    view, _ = await attempt_of(group, 2)
    assert (view.interval, view.wait, view.max_spread) == (timedelta(seconds=1), timedelta(minutes=15), timedelta(seconds=10))
    await group.execute_update("change_group", {"interval": NEVER})
    later = await until_group(group, lambda view: "waiting" in view.activity, "a group that waits")
    assert later.next_at is not None and later.next_at > datetime.now(UTC) + timedelta(hours=9)


async def test_the_sites_interval_can_be_gone_back_to(bench: Bench) -> None:
    bench.profile(min_interval=timedelta(hours=3))
    group = await start_group(bench, *await two_members(bench))
    await attempt_of(group)
    await group.execute_update("change_group", {"site_interval": True})
    view = await until_group(group, lambda view: view.interval == timedelta(hours=3), "the site's interval")
    assert view.next_at is not None and view.next_at < datetime.now(UTC) + timedelta(hours=3)


async def test_a_point_that_is_being_taken_keeps_to_the_spread_that_it_began_with(bench: Bench) -> None:
    hold = bench.world.hold("take_together")
    group = await start_group(bench, *await two_members(bench))
    await hold.reached()
    await group.execute_update("change_group", {"max_spread": "PT0.01S", "wait": "PT20M"})
    hold.release()
    view, attempt = await attempt_of(group)
    assert attempt.shared, attempt
    assert (view.max_spread, view.wait) == (timedelta(milliseconds=10), timedelta(minutes=20))
    await group.execute_update("take_point")
    _, attempt = await attempt_of(group, 2)
    assert not attempt.shared
    assert attempt.sentence.startswith("the snapshots were taken")


async def test_a_change_that_cannot_be_is_refused_with_a_sentence(bench: Bench) -> None:
    group = await start_group(bench, *await two_members(bench))
    before, _ = await attempt_of(group)
    for change, sentence in (
        ({}, "Nothing is to be changed: give interval, site_interval, wait or max_spread."),
        ({"interval": "PT1H", "site_interval": True}, "Either interval or site_interval can be given, not both."),
        ({"interval": "PT0S"}, "The interval between shared points must be longer than nothing"),
        ({"wait": "PT2H"}, "at most 1 h"),
        ({"max_spread": "PT6M"}, "The spread must be longer than nothing and at most 5 min"),
    ):
        assert sentence in await _refusal(group, change)
    await group.signal("change_group", {"wait": "PT2H"})
    view = await until_group(group, lambda view: view.last_refused is not None, "a refused signal that is shown")
    assert view.last_refused is not None and "at most 1 h" in view.last_refused.sentence
    await group.signal("change_group", {"intervall": "PT1H"})
    view = await until_group(
        group,
        lambda view: view.last_refused is not None and "no field 'intervall'" in view.last_refused.sentence,
        "the other one",
    )
    assert (view.interval, view.wait, view.next_at) == (before.interval, before.wait, before.next_at)
    await group.signal("change_group", {"wait": "PT30M"})
    view = await until_group(group, lambda view: view.last_refused is None, "an accepted signal")
    assert view.wait == timedelta(minutes=30)
