"""A source worker's appliance learns its site's settings while it runs, and holds its transfers to the throttle (spec §3)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import QueryRejectCondition
from temporalio.service import RPCError

from deltaferry.planning.throttle import Rate, next_change, parse_throttle, rate_at, rate_text
from workflows import names
from workflows.messages.site import SiteProfile

_LOG = logging.getLogger(__name__)

ASK_EVERY = timedelta(seconds=5)
_ANSWER_WITHIN = timedelta(seconds=4)

Fetch = Callable[[], Awaitable[SiteProfile | None]]
"""Returns the site's settings of now; None where nobody says, and what was known last goes on to hold."""


class Limited(Protocol):
    """What is held to the throttle: `deltaferry.blocks.throttle.Budget`."""

    def set_limit(self, bytes_per_s: float | None, pre_failover_weight: int) -> None:
        """Limit what all transfers send together from now on; None for no limit."""


class ArbiterSettings:
    """Asks a site's arbiter for its settings: they live there, and operators change them there."""

    def __init__(self, client: Client, site: str) -> None:
        self._handle = client.get_workflow_handle(names.slots_id(site))

    async def __call__(self) -> SiteProfile | None:
        """Return the settings; None if the arbiter does not run or does not answer soon."""
        try:
            answer: SiteProfile = await self._handle.query(
                names.SITE_SETTINGS,
                result_type=SiteProfile,
                reject_condition=QueryRejectCondition.NOT_OPEN,
                rpc_timeout=_ANSWER_WITHIN,
            )
        except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
            _LOG.debug("the arbiter said no settings", extra={"error": type(error).__name__})
            return None
        return answer


class ApplianceThrottle:
    """One site's throttle on one appliance: the schedule that was learned last, and the rate that it asks for now."""

    def __init__(self, initial: SiteProfile, budget: Limited, now: Callable[[], datetime]) -> None:
        """Take the settings that hold until others are learned. `now` returns the instant as an aware datetime."""
        self._profile = initial
        self._budget = budget
        self._now = now
        self._applied: tuple[Rate | None, int] = (None, 0)

    def learn(self, profile: SiteProfile | None) -> None:
        """Take over newer settings, if there are any, and apply what holds now.

        Raises ValueError for a schedule or time zone that cannot be read; the settings and the limit stay as they were.
        """
        wanted = profile or self._profile
        schedule, zone, now = parse_throttle(wanted.throttle), _zone(wanted.time_zone), self._now()
        self._profile = wanted
        rate, weight = rate_at(schedule, zone, now), wanted.pre_failover_weight
        self._budget.set_limit(rate.bytes_per_s if rate is not None else None, weight)
        if (rate, weight) != self._applied:
            was, self._applied = self._applied[0], (rate, weight)
            until = next_change(schedule, zone, now)
            _LOG.info(
                "throttle",
                extra={
                    "site": wanted.site,
                    "rate": rate_text(rate),
                    "was": rate_text(was),
                    "pre_failover_weight": weight,
                    "until": until.isoformat() if until is not None else "changed",
                },
            )

    def pause(self) -> timedelta:
        """Return how long to wait before `learn` is due again: at the latest when the schedule asks for another rate."""
        now = self._now()
        change = next_change(parse_throttle(self._profile.throttle), _zone(self._profile.time_zone), now)
        return ASK_EVERY if change is None else min(ASK_EVERY, change - now)

    async def follow(self, fetch: Fetch) -> None:
        """Learn and apply, for ever. What goes wrong is logged, and tried again: an appliance does not stop for it."""
        while True:
            try:
                self.learn(None)
                self.learn(await fetch())
            except Exception:
                _LOG.exception("the site's settings could not be applied", extra={"site": self._profile.site})
            await asyncio.sleep(self.pause().total_seconds())


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except ZoneInfoNotFoundError:
        raise ValueError("The site's time zone is not known here.") from None


@asynccontextmanager
async def throttled(
    profiles: Mapping[str, SiteProfile], budgets: Mapping[str, Limited], fetch_of: Callable[[str], Fetch]
) -> AsyncIterator[None]:
    """Hold each site's budget to its throttle for the length of the context, from the very begin on.

    `profiles` are the settings of the file: they hold until the arbiter says others.
    """
    throttles = {site: ApplianceThrottle(profiles[site], budget, _utc_now) for site, budget in budgets.items()}
    for throttle in throttles.values():
        throttle.learn(None)
    following = [asyncio.create_task(throttle.follow(fetch_of(site))) for site, throttle in throttles.items()]
    try:
        yield
    finally:
        for task in following:
            task.cancel()
        for task in following:
            with suppress(asyncio.CancelledError):
                await task


def _utc_now() -> datetime:
    return datetime.now(UTC)
