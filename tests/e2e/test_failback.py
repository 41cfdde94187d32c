"""Reprotect and failback as workflows, on real workers and real bytes; the source worker dies in the middle of a write."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.policy import FailbackPolicy
    from deltaferry.model.states import JobOutcome
    from deltaferry.model.units import MIB, SECTOR
    from tests.e2e.conftest import Lab
    from tests.e2e.replicated import Replicated
    from tests.e2e.reverse_by_hand import ReverseByHand
    from tests.workflows.failback_stand_ins import ListeningEntity
    from workflows import names
    from workflows.messages.job import JobReport
    from workflows.messages.reverse import (
        FailbackInput,
        FinishReverse,
        ReprotectInput,
        ReverseProgress,
    )

_LIMIT_S = 240.0
_CAPACITIES = (5 * MIB + 3 * SECTOR, 3 * MIB)


class Returning:
    """A VM that is failed over, and an entity that listens to what brings it home."""

    def __init__(self, lab: Lab, client: Client, hand: ReverseByHand) -> None:
        self.lab, self.client, self.hand = lab, client, hand
        self.queue = f"listening-{uuid.uuid4()}"

    async def start(self, kind: str, request: object, entity_id: str) -> WorkflowHandle[object, object]:
        self.entity = await self.client.start_workflow(ListeningEntity.run, id=entity_id, task_queue=self.queue)
        return await self.client.start_workflow(kind, request, id=f"{entity_id}/{kind}", task_queue=names.CONTROL_QUEUE)

    async def until(self, reached: Callable[[list[ReverseProgress]], bool]) -> list[ReverseProgress]:
        """Wait until what the entity was told is as wanted."""
        async with asyncio.timeout(_LIMIT_S):
            while not reached(told := await self.entity.query("told", result_type=list[ReverseProgress])):
                await asyncio.sleep(0.2)
        return told

    async def report(self) -> JobReport:
        async with asyncio.timeout(_LIMIT_S):
            return await self.entity.result()


@pytest.fixture
async def returning(
    lab: Lab, client: Client, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Returning]:
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)
    hand = ReverseByHand(Replicated.create(lab.world, client, request.node.name, _CAPACITIES))
    await asyncio.to_thread(hand.fail_over)
    lab.world.arm_control.set_limits(snapshots_per_window=100)
    came = Returning(lab, client, hand)
    async with Worker(client, task_queue=came.queue, workflows=[ListeningEntity]):
        yield came
    lab.world.arm_control.set_limits()
    hand.close()


@pytest.mark.chaos
async def test_a_vm_is_reprotected_and_comes_home_with_all_that_it_wrote_in_azure(returning: Returning) -> None:
    hand = returning.hand
    source = random.Random(1)
    replication, profile = hand.replication, hand.replication.profile
    ref = replication.ref
    hand.azure_scribble(source)
    start = ReprotectInput(
        entity_id=f"vm/{ref.site}/{ref.instance_uuid}/a",
        replication=replication,
        target=hand.target,
        profile=profile,
        policy=FailbackPolicy(timedelta(seconds=1)),
        bases=hand.state.bases,
        power_off_source=True,
    )
    job = await returning.start(names.REPROTECT_VM, start, start.entity_id)
    await returning.until(lambda told: any(one.base is not None for one in told))
    hand.azure_scribble(source)
    returning.lab.source.kill()
    returning.lab.source.restart()
    numbers = [one.base.number for one in await returning.until(lambda told: True) if one.base is not None]
    await returning.until(lambda told: any(one.base is not None and one.base.number > max(numbers) for one in told))
    await job.signal(names.FINISH_REVERSE, FinishReverse(keep=True))
    report = await returning.report()
    assert report.error is None and report.reverse is not None and report.reverse.base is not None
    hand.azure_scribble(source)
    home = FailbackInput(f"vm/{ref.site}/{ref.instance_uuid}/b", replication, hand.target, profile, report.reverse.base)
    await returning.start(names.FAILBACK_VM, home, home.entity_id)
    result = (await returning.report()).failback
    assert result is not None
    assert (result.outcome, result.source_on) == (JobOutcome.SUCCEEDED, True)
    after = hand.world.vcenter_control.vm(hand.vm.name)
    assert (after.power, after.annotation, [nic.connected for nic in after.nics]) == ("poweredOn", "", [True])
    for number, (disk_key, disk_id) in enumerate(hand.disks):
        capacity = replication.disks[number].capacity_bytes
        in_azure = hand.world.arm_control.disk_file(disk_id).path.read_bytes()[:capacity]
        assert hand.vm.source_bytes(number) == in_azure, f"disk {disk_key} differs"
    assert hand.our_azure_snapshots() == sorted(name for _, name in result.base.snapshots)
