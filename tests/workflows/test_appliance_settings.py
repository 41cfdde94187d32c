"""What an appliance learns from its site's arbiter."""

import dataclasses

import pytest
from temporalio.client import Client

from tests.workflows.site_bench import Bench
from tests.workflows.world import new_profile
from workers.appliance_settings import ArbiterSettings
from workflows import names
from workflows.messages.slot import SlotsState

SITE = "throttled"


@pytest.fixture
def client(bench: Bench) -> Client:
    return bench.client


async def test_an_appliance_learns_the_settings_of_its_site_while_the_arbiter_runs(client: Client) -> None:
    profile = dataclasses.replace(new_profile(SITE), throttle="100 Mbit/s | Monday;7:00;10h;10 Mbit/s", pre_failover_weight=8)
    fetch = ArbiterSettings(client, SITE)
    assert await fetch() is None, "no arbiter runs"
    arbiter = await client.start_workflow(
        names.SITE_SLOTS, SlotsState(profile), id=names.slots_id(SITE), task_queue=names.CONTROL_QUEUE
    )
    learned = await fetch()
    assert learned is not None
    assert (learned.throttle, learned.pre_failover_weight) == (profile.throttle, 8)
    await arbiter.terminate()
    assert await fetch() is None, "a closed arbiter's settings are not those of now"
