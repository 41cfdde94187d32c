"""Schedules that a control worker sets up, on a real Temporal server: made once, kept up to date, people's own left alone."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
import pytest_asyncio
from temporalio.client import Client, ScheduleDescription, ScheduleOverlapPolicy
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from lab.tools import temporal_executable
from tests.workflows.site_bench import eventually
from workers.schedules import SiteSchedule, remove_others, set_up_schedule, set_up_schedules, site_schedules
from workers.settings import load_settings
from workflows import names
from workflows.messages.operator_input import AuditInput, InventoryInput
from workflows.plugin import plugin

from .test_settings import EXAMPLE

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_executable(), dev_server_log_level="error", plugins=[plugin()]
    ) as environment:
        yield environment.client


@pytest.fixture
def wanted() -> SiteSchedule:
    site = f"site-{uuid4().hex[:8]}"
    return SiteSchedule(
        names.inventory_id(site), names.SITE_INVENTORY, InventoryInput(site), timedelta(minutes=15), "made by a test"
    )


async def found(client: Client, wanted: SiteSchedule) -> ScheduleDescription:
    return await client.get_schedule_handle(wanted.id).describe()


async def exists(client: Client, wanted: SiteSchedule) -> bool:
    try:
        await found(client, wanted)
    except RPCError as error:
        assert error.status is RPCStatusCode.NOT_FOUND, error
        return False
    return True


async def test_a_schedule_starts_its_workflow_at_once_and_skips_a_start_while_one_runs(
    client: Client, wanted: SiteSchedule
) -> None:
    await set_up_schedule(client, "tests", wanted)
    schedule = (await found(client, wanted)).schedule
    assert [interval.every for interval in schedule.spec.intervals] == [timedelta(minutes=15)]
    assert schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert schedule.spec.jitter == timedelta(seconds=45)
    assert schedule.state.note == "made by a test"
    started = [execution.id async for execution in client.list_workflows(f"WorkflowId STARTS_WITH '{wanted.id}'")]
    actions = (await found(client, wanted)).info
    assert actions.running_actions or actions.recent_actions or started


async def test_setting_up_again_brings_the_interval_up_to_date_and_keeps_a_pause(client: Client, wanted: SiteSchedule) -> None:
    await set_up_schedule(client, "tests", wanted)
    await client.get_schedule_handle(wanted.id).pause(note="the array is being replaced")
    await set_up_schedule(client, "tests", replace(wanted, every=timedelta(hours=1)))
    schedule = (await found(client, wanted)).schedule
    assert [interval.every for interval in schedule.spec.intervals] == [timedelta(hours=1)]
    assert (schedule.state.paused, schedule.state.note) == (True, "the array is being replaced")


async def test_a_schedule_that_is_not_wanted_any_more_is_deleted(client: Client, wanted: SiteSchedule) -> None:
    never = replace(wanted, every=timedelta(0))
    await set_up_schedule(client, "tests", never)
    await set_up_schedule(client, "tests", wanted)
    assert await exists(client, wanted)
    await set_up_schedule(client, "tests", never)
    assert not await exists(client, wanted)


async def test_a_schedule_that_somebody_else_made_is_left_alone(client: Client, wanted: SiteSchedule) -> None:
    await set_up_schedule(client, "others", wanted)
    await set_up_schedule(client, "tests", replace(wanted, every=timedelta(hours=2)))
    await set_up_schedule(client, "tests", replace(wanted, every=timedelta(0)))
    schedule = (await found(client, wanted)).schedule
    assert [interval.every for interval in schedule.spec.intervals] == [timedelta(minutes=15)]


async def test_schedules_of_sites_that_are_not_in_the_settings_any_more_are_deleted_and_no_others(
    client: Client, wanted: SiteSchedule
) -> None:
    key = uuid4().hex[:8]
    installation = f"tests-{key}"
    removed = [replace(wanted, id=names.inventory_id(f"gone-{key}")), replace(wanted, id=names.audit_id(f"gone-{key}"))]
    by_hand = replace(wanted, id=f"a-script-of-ours-{key}")
    of_others = replace(wanted, id=names.audit_id(f"others-{key}"))
    await set_up_schedules(client, installation, [wanted, *removed, by_hand])
    await set_up_schedules(client, "others", [of_others])

    async def listed() -> bool:
        ids = {schedule.id async for schedule in await client.list_schedules()}
        return ids >= {schedule.id for schedule in (wanted, *removed, by_hand, of_others)}

    await eventually(listed, "the server lists all of them")
    await remove_others(client, installation, [wanted])
    assert [await exists(client, schedule) for schedule in removed] == [False, False]
    assert [await exists(client, schedule) for schedule in (wanted, by_hand, of_others)] == [True, True, True]


async def test_what_the_server_refuses_keeps_no_other_schedule_from_being_set_up(client: Client, wanted: SiteSchedule) -> None:
    refused = replace(wanted, id="x" * 2000)
    await set_up_schedules(client, "tests", [refused, wanted])
    assert await exists(client, wanted)


async def test_every_site_of_the_settings_has_its_inventory_on_a_schedule() -> None:
    schedules = {schedule.id: schedule for schedule in site_schedules(load_settings(EXAMPLE))}
    inventory = schedules[names.inventory_id("london")]
    assert (inventory.workflow, inventory.request) == ("SiteInventory", InventoryInput("london"))
    assert inventory.every == timedelta(minutes=15)


async def test_every_site_of_the_settings_has_its_audit_on_a_schedule() -> None:
    schedules = {schedule.id: schedule for schedule in site_schedules(load_settings(EXAMPLE))}
    audit = schedules[names.audit_id("london")]
    assert (audit.workflow, audit.request, audit.every) == ("SiteAudit", AuditInput("london"), timedelta(hours=24))
