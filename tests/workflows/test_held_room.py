"""A transfer that gave way waits for its slots with a snapshot held: the room for that is looked after all the same (spec §2.7)."""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.replication import CycleKind
    from tests.workflows.world import new_profile
    from workflows import names
    from workflows.messages.site import Placement, SiteProfile
    from workflows.messages.slot import SlotsGranted, SlotsReleased, SlotsWanted
    from workflows.slots.holding import SlotHolder

_QUEUE = "held-room"
_SITE = "held"


@workflow.defn(name="ArbiterThatNeverGivesBack")
class ArbiterThatNeverGivesBack:
    """Grants each first request at once, and no transfer slots to one that gave way."""

    def __init__(self) -> None:
        self._released: tuple[str, ...] | None = None

    @workflow.signal(name=names.SLOTS_REQUESTED)
    async def requested(self, wanted: SlotsWanted) -> None:
        if wanted.turn == 0:
            grant = SlotsGranted(wanted.request_id, "lease", new_profile(_SITE))
            await workflow.get_external_workflow_handle(wanted.holder).signal(names.SLOTS_GRANTED, grant)

    @workflow.signal(name=names.SLOTS_RELEASED)
    def released(self, released: SlotsReleased) -> None:
        self._released = released.short_of_space

    @workflow.run
    async def run(self) -> tuple[str, ...]:
        await workflow.wait_condition(lambda: self._released is not None)
        return self._released or ()


@workflow.defn(name="HolderThatGivesWay")
class HolderThatGivesWay:
    """Gives way with a snapshot held, and finds no room for that at its third look."""

    def __init__(self) -> None:
        self._looked_at: list[datetime] = []
        self._slots = SlotHolder("vm/held/1", look=self._look)

    async def _look(self) -> None:
        self._looked_at.append(workflow.now())
        if len(self._looked_at) == 3:
            raise ApplicationError("no room")

    @workflow.signal(name=names.SLOTS_GRANTED)
    async def slots_granted(self, grant: SlotsGranted) -> None:
        await self._slots.granted(grant)

    @workflow.run
    async def run(self, profile: SiteProfile) -> list[datetime]:
        profile = await self._slots.acquire(profile, CycleKind.INITIAL, 1, Placement())
        gave_way_at = workflow.now()
        try:
            await self._slots.give_way(profile, at_once=True)
        except ApplicationError:
            await self._slots.release(profile, ("ds1",))
        return [gave_way_at, *self._looked_at]


async def test_while_a_transfer_that_gave_way_waits_room_is_looked_for_every_five_minutes(
    time_skipping: WorkflowEnvironment,
) -> None:
    client = time_skipping.client
    async with Worker(client, task_queue=_QUEUE, workflows=[ArbiterThatNeverGivesBack, HolderThatGivesWay]):
        arbiter = await client.start_workflow(ArbiterThatNeverGivesBack.run, id=names.slots_id(_SITE), task_queue=_QUEUE)
        times = await client.execute_workflow(
            HolderThatGivesWay.run, new_profile(_SITE), id="vm/held/1", task_queue=_QUEUE, result_type=list[datetime]
        )
        async with asyncio.timeout(60):
            assert await arbiter.result() == ("ds1",)
    gave_way_at, *looked_at = times
    assert len(looked_at) == 3
    for before, at in zip(times, looked_at, strict=False):
        assert timedelta(minutes=5) <= at - before < timedelta(minutes=6)
    assert gave_way_at < looked_at[0]
