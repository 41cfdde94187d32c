"""The Temporal Schedules that a control worker sets up: what is done at a site again and again without being asked for.

Setting up is idempotent, and any number of control workers may do it at once: the last one writes what the others wrote.
Of a schedule that exists, interval and action are brought up to the settings; whether people paused it, and their note, are
kept. A schedule of that id which Deltaferry has not made is left alone, whatever it does. One that this installation has made
for a site that the settings do not name any more is deleted.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from workers.settings import Settings
from workflows import names
from workflows.messages.operator_input import AuditInput, InventoryInput

_LOG = logging.getLogger(__name__)

_MADE_BY = "deltaferry-installation"
"""The memo by which an installation knows its own schedules."""

_JITTER_SHARE = 20
_LONGEST_JITTER = timedelta(minutes=1)
"""Starts are spread by a twentieth of the interval, at most so much: many sites do not all start at the full hour."""


_OF_SITES = (names.inventory_id(""), names.audit_id(""))
"""How the ids of sites' schedules begin."""


@dataclass(frozen=True, slots=True)
class SiteSchedule:
    """A workflow to start at regular intervals. A start is skipped while the one before still runs."""

    id: str
    """Of the schedule; the workflows' ids begin with it."""
    workflow: str
    request: object
    every: timedelta
    """Zero: no such schedule; one that this installation made is deleted."""
    note: str
    """Shown with the schedule in the Temporal UI until people write another."""


def site_schedules(settings: Settings) -> Iterator[SiteSchedule]:
    """Yield the schedules of all sites."""
    for name, site in settings.sites.items():
        yield SiteSchedule(
            id=names.inventory_id(name),
            workflow=names.SITE_INVENTORY,
            request=InventoryInput(name),
            every=site.inventory_every,
            note="Made by Deltaferry: inventory_every in the site's settings",
        )
        yield SiteSchedule(
            id=names.audit_id(name),
            workflow=names.SITE_AUDIT,
            request=AuditInput(name),
            every=site.audit_every,
            note="Made by Deltaferry: audit_every in the site's settings",
        )


async def set_up_schedules(client: Client, installation: str, schedules: Iterable[SiteSchedule]) -> None:
    """Create, update or delete this installation's schedules. What the server refuses is logged: work goes on without."""
    for schedule in schedules:
        try:
            await set_up_schedule(client, installation, schedule)
        except RPCError as error:
            _LOG.warning("a schedule cannot be set up", extra={"schedule": schedule.id, "status": error.status.name})


async def remove_others(client: Client, installation: str, wanted: Iterable[SiteSchedule]) -> None:
    """Delete what this installation has made and is not wanted any more: of sites that were taken out of the settings.

    What the server refuses is logged: work goes on without.
    """
    kept = {schedule.id for schedule in wanted}
    try:
        found = [schedule.id async for schedule in await client.list_schedules()]
        for schedule_id in found:
            if schedule_id not in kept and schedule_id.startswith(_OF_SITES):
                await _remove(client, installation, schedule_id)
    except RPCError as error:
        _LOG.warning("schedules of removed sites cannot be deleted", extra={"status": error.status.name})


async def set_up_schedule(client: Client, installation: str, wanted: SiteSchedule) -> None:
    """Bring one schedule up to what is wanted. Raises RPCError."""
    if not wanted.every:
        await _remove(client, installation, wanted.id)
        return
    try:
        await client.create_schedule(
            wanted.id, _schedule(wanted, ScheduleState(note=wanted.note)), trigger_immediately=True, memo={_MADE_BY: installation}
        )
        _LOG.info("schedule created", extra={"schedule": wanted.id})
    except ScheduleAlreadyRunningError:
        await _update(client, installation, wanted)


async def _update(client: Client, installation: str, wanted: SiteSchedule) -> None:
    async def changed(found: ScheduleUpdateInput) -> ScheduleUpdate | None:
        if not await _ours(found.description, installation):
            _LOG.warning("a schedule of this id is not ours and is left alone", extra={"schedule": wanted.id})
            return None
        return ScheduleUpdate(_schedule(wanted, found.description.schedule.state))

    try:
        await client.get_schedule_handle(wanted.id).update(changed)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # else people have deleted it this moment: so be it until the next start
            raise


async def _remove(client: Client, installation: str, schedule_id: str) -> None:
    handle = client.get_schedule_handle(schedule_id)
    try:
        if await _ours(await handle.describe(), installation):
            await handle.delete()
            _LOG.info("schedule deleted", extra={"schedule": schedule_id})
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


async def _ours(description: ScheduleDescription, installation: str) -> bool:
    return bool(await description.memo_value(_MADE_BY, None) == installation)


def _schedule(wanted: SiteSchedule, state: ScheduleState) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(wanted.workflow, wanted.request, id=wanted.id, task_queue=names.CONTROL_QUEUE),
        spec=ScheduleSpec(
            intervals=[ScheduleIntervalSpec(wanted.every)], jitter=min(wanted.every / _JITTER_SHARE, _LONGEST_JITTER)
        ),
        # One missed start is made up for, not a night's worth of them.
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=max(wanted.every, timedelta(seconds=10))),
        state=state,
    )
