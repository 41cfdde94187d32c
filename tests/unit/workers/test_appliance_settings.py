"""How an appliance learns its site's throttle, and applies it to its budget."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from deltaferry.blocks.throttle import Budget
from workers.appliance_settings import ASK_EVERY, ApplianceThrottle, throttled
from workflows.messages.site import SiteProfile

MBIT = 125_000


def profile(throttle: str, *, weight: int = 4, time_zone: str = "UTC") -> SiteProfile:
    return SiteProfile(
        installation="lab",
        site="london",
        appliance="london-1",
        target="lab",
        min_interval=timedelta(hours=1),
        max_interval=timedelta(hours=12),
        disks_per_appliance=52,
        disks_per_host=8,
        snapshots_per_datastore=15,
        time_zone=time_zone,
        throttle=throttle,
        pre_failover_weight=weight,
    )


class Limited:
    """Notes what it is limited to."""

    def __init__(self) -> None:
        self.limits: list[tuple[float | None, int]] = []

    def set_limit(self, bytes_per_s: float | None, pre_failover_weight: int) -> None:
        self.limits.append((bytes_per_s, pre_failover_weight))


class Clock:
    def __init__(self, text: str) -> None:
        self.instant = datetime.fromisoformat(text).replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.instant


def test_the_settings_of_the_file_hold_until_the_arbiter_says_others() -> None:
    budget = Limited()
    throttle = ApplianceThrottle(profile("10 Mbit/s"), budget, Clock("2026-03-02T08:00"))
    throttle.learn(None)
    throttle.learn(profile("20 Mbit/s", weight=8))
    throttle.learn(None)
    throttle.learn(profile(""))
    assert budget.limits == [(10 * MBIT, 4), (20 * MBIT, 8), (20 * MBIT, 8), (None, 4)]


def test_the_rate_is_that_of_the_sites_time_zone_and_the_next_change_is_not_slept_through() -> None:
    budget, clock = Limited(), Clock("2026-07-06T05:59:58")
    schedule = profile("100 Mbit/s | Monday;7:00;10h;10 Mbit/s", time_zone="Europe/London")
    throttle = ApplianceThrottle(schedule, budget, clock)
    throttle.learn(None)
    assert throttle.pause() == timedelta(seconds=2)
    clock.instant += throttle.pause()
    throttle.learn(None)
    assert throttle.pause() == ASK_EVERY
    assert [limit for limit, _ in budget.limits] == [100 * MBIT, 10 * MBIT]


def test_a_change_is_logged_once_with_what_was_and_until_when_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    throttle = ApplianceThrottle(profile("Monday;7:00;10h;10 Mbit/s"), Limited(), Clock("2026-03-02T08:00"))
    with caplog.at_level(logging.INFO):
        throttle.learn(None)
        throttle.learn(None)
        throttle.learn(profile("20 Mbit/s"))
    lines = [(vars(record)["was"], vars(record)["rate"], vars(record)["until"]) for record in caplog.records]
    assert lines == [
        ("unlimited", "10 Mbit/s", "2026-03-02T17:00:00+00:00"),
        ("10 Mbit/s", "20 Mbit/s", "changed"),
    ]


@pytest.mark.parametrize("wrong", [profile("fast"), profile("10 Mbit/s", time_zone="Europe/Londn")])
def test_settings_that_cannot_be_read_leave_the_limit_as_it_was(wrong: SiteProfile) -> None:
    budget = Limited()
    throttle = ApplianceThrottle(profile("20 Mbit/s"), budget, Clock("2026-03-02T08:00"))
    throttle.learn(None)
    with pytest.raises(ValueError):
        throttle.learn(wrong)
    throttle.learn(None)
    assert budget.limits == [(20 * MBIT, 4)] * 2


async def test_a_failure_to_learn_does_not_end_the_following(caplog: pytest.LogCaptureFixture) -> None:
    answered = asyncio.Event()
    asked: list[str] = []

    def fetch_of(site: str) -> Callable[[], Awaitable[SiteProfile | None]]:
        async def fetch() -> SiteProfile | None:
            asked.append(site)
            if len(asked) == 1:
                raise RuntimeError("the answer cannot be decoded")
            answered.set()
            return profile("20 Mbit/s")

        return fetch

    class Soon(ApplianceThrottle):
        def pause(self) -> timedelta:
            return timedelta(0)

    budget = Limited()
    throttle = Soon(profile("10 Mbit/s"), budget, Clock("2026-03-02T08:00"))
    following = asyncio.create_task(throttle.follow(fetch_of("london")))
    async with asyncio.timeout(20):
        await answered.wait()
        while budget.limits[-1] != (20 * MBIT, 4):
            await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert budget.limits[0] == (10 * MBIT, 4)
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


async def test_a_budget_is_limited_before_anything_can_be_sent_and_nobody_is_asked_afterwards() -> None:
    asking: set[asyncio.Task[object] | None] = set()

    async def silent() -> SiteProfile | None:
        asking.add(asyncio.current_task())
        await asyncio.Event().wait()
        return None

    budget = Budget(granting=False)
    async with throttled({"london": profile("10 Mbit/s")}, {"london": budget}, lambda _: silent):
        assert budget.bytes_per_s == 10 * MBIT
    assert not asking & asyncio.all_tasks()
    budget.close()
