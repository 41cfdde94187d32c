"""A replication group on real bytes: two VMs whose guests write to all disks in turn, and the point that they share."""

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from deltaferry.model.recovery_points import RecoveryPointRecord
from deltaferry.model.units import MIB, SECTOR
from lab.settings import SITE, TARGET
from tests.e2e.accidents import quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached
from tests.e2e.replicated import LIMIT_S, Replicated
from tests.e2e.test_command_line import _done
from workers.settings import load_settings
from workers.wiring import build_target
from workflows import names
from workflows.messages.group import GroupResult, GroupView

_CAPACITIES = (6 * MIB + 37 * SECTOR, 2 * MIB)
_POLICY = {"name": "gold", "rpo_threshold": "PT1H", "retention": "PT1H"}
_BOUND = timedelta(seconds=20)
_PLACE = 5 * SECTOR
"""Where on each disk the number of the last write is."""


def _mark(number: int) -> bytes:
    return number.to_bytes(8, "big") + bytes(SECTOR - 8)


@dataclass
class Writer:
    """One application on several VMs: it writes the same number to every disk, one after the other, and then the next number."""

    vms: tuple[Replicated, ...]
    written: list[list[tuple[datetime, datetime]]] = field(default_factory=list)
    """For each number, when its write to each VM's last disk began and ended."""

    @contextmanager
    def writing(self) -> Any:
        done = threading.Event()

        def write() -> None:
            while not done.wait(0.02):
                times = []
                for vm in self.vms:
                    begun = datetime.now(UTC)
                    for disk, _ in enumerate(vm.source.disks):
                        vm.write(disk, _PLACE, _mark(len(self.written)))
                    times.append((begun, datetime.now(UTC)))
                self.written.append(times)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@pytest.fixture
async def pair(lab: Lab, client: Client) -> AsyncIterator[tuple[Replicated, Replicated]]:
    """Two VMs under replication, with the same policy."""
    made = tuple(Replicated.create(lab.world, client, f"group-{one}", _CAPACITIES) for one in ("web", "db"))
    first, second = made
    for vm in made:
        await vm.enable()
    for vm in made:
        await vm.committed(1)
        await vm.handle.execute_update("update_policy", _POLICY)
    yield first, second
    async for execution in client.list_workflows(f"WorkflowType = '{names.REPLICATION_GROUP}' AND ExecutionStatus = 'Running'"):
        try:
            await client.get_workflow_handle(execution.id).terminate("the test is over")
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
    for vm in made:
        await vm.discard()


async def _view(group: WorkflowHandle[Any, Any]) -> GroupView:
    return await group.query("status", result_type=GroupView)


async def _until(group: WorkflowHandle[Any, Any], condition: Callable[[GroupView], bool]) -> GroupView:
    last: list[GroupView] = []
    async with asyncio.timeout(LIMIT_S):
        while not last or not condition(last[0]):
            try:
                last[:] = [await _view(group)]
            except RPCError:  # the control worker is dead
                last.clear()
            await asyncio.sleep(0.2)
    return last[0]


def _point_of(vm: Replicated, key: str) -> RecoveryPointRecord:
    """Return the VM's stored recovery point of a shared key."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in vm.world.environment.items():
            environment.setenv(name, value)
        target = build_target(load_settings(vm.world.config_file, vm.world.environment), TARGET)
        points = target.points.list(vm.reference).points
    (found,) = [point for point in points if point.shared_key == key]
    return found


def _number_at(vm: Replicated, point: RecoveryPointRecord, bases: list[bytes]) -> int:
    """Compare every byte of a VM's point with its source; return the number of the application's write that it holds."""
    snapshots = {disk.disk_key: disk.snapshot for disk in point.disks}
    numbers = []
    for index, disk in enumerate(vm.source.disks):
        held = vm.seed_bytes(index, snapshots[disk.key])
        numbers.append(int.from_bytes(held[_PLACE : _PLACE + 8], "big"))
        assert held == bases[index][:_PLACE] + _mark(numbers[-1]) + bases[index][_PLACE + SECTOR :]
    assert numbers[0] - numbers[-1] in (0, 1), f"the disks of {vm.name} are of different instants: {numbers}"
    return numbers[-1]


async def test_a_shared_point_holds_what_an_application_on_two_vms_had_written_within_its_spread(
    lab: Lab, client: Client, pair: tuple[Replicated, Replicated]
) -> None:
    for vm in pair:
        vm.scribble()
        for disk, _ in enumerate(vm.source.disks):
            vm.write(disk, _PLACE, _mark(0))
    bases = [[vm.source_bytes(index) for index, _ in enumerate(vm.source.disks)] for vm in pair]
    writer = Writer(pair)
    name = f"shop-{random.SystemRandom().getrandbits(32):08x}"
    with writer.writing():
        made = await _done(
            lab.world, "group", "create", name, pair[0].name, pair[1].name, "--site", SITE, "--interval", "1h", "--max-spread", "20s"
        )  # fmt: skip
        assert made["warning"].startswith("The whole group pays for its shared points")
        group = client.get_workflow_handle(made["workflow_id"], result_type=GroupResult)
        view = await _until(group, lambda view: any(one.shared for one in view.attempts))
        await reached(lambda: len(writer.written) > 3, "some writes")
        number = len(writer.written)
        await reached(lambda: len(writer.written) > number + 1, "a write after the point")
    (point,) = view.points
    assert timedelta(0) <= point.spread <= _BOUND
    assert set(point.members) == {vm.handle.id for vm in pair}
    records = [_point_of(vm, point.key) for vm in pair]
    assert point.spread == max(one.taken_at for one in records) - min(one.taken_at for one in records)
    numbers = [_number_at(vm, record, base) for vm, record, base in zip(pair, records, bases, strict=True)]
    for one, other in ((0, 1), (1, 0)):  # what the one has and the other has not was not written longer before than the bound
        first_missing = numbers[other] + 1
        if numbers[one] >= first_missing:
            assert writer.written[numbers[one]][one][0] - writer.written[first_missing][other][1] <= _BOUND

    listed = await _done(lab.world, "group", "points", name)
    assert [row["point"] for row in listed["points"]] == [f"shared:{point.key}"]
    shown = await _done(lab.world, "group", "show", name)
    assert point.key in json.dumps(shown)
    await _done(lab.world, "group", "dissolve", name)
    await group.result()
    for vm in pair:
        await vm.committed(1)  # on its own again, by the schedule
        await quiet(vm)
        await asyncio.to_thread(vm.assert_seeds_equal_source)
        assert vm.our_snapshots() == []
        await vm.stop()
        vm.assert_nothing_left()


@pytest.mark.chaos
async def test_a_group_whose_workers_are_killed_takes_its_next_point(
    lab: Lab, client: Client, pair: tuple[Replicated, Replicated]
) -> None:
    workflow_id = names.group_id(SITE, f"shop-{random.SystemRandom().getrandbits(32):08x}")
    group = await client.start_workflow(
        names.REPLICATION_GROUP,
        {
            "name": workflow_id.rpartition("/")[2],
            "site": SITE,
            "members": [vm.handle.id for vm in pair],
            "interval": "PT10H",
            "max_spread": "PT20S",
        },
        id=workflow_id,
        task_queue=names.CONTROL_QUEUE,
        result_type=GroupResult,
    )
    await reached(lambda: any(vm.our_snapshots() for vm in pair), "a snapshot")
    for worker in (lab.source, lab.control):
        worker.kill()
        worker.start()
    await _until(group, lambda view: len(view.attempts) == 1)
    for _ in range(3):
        for vm in pair:
            vm.scribble()
        tried = len((await _view(group)).attempts)
        await group.execute_update("take_point")
        view = await _until(group, lambda view, tried=tried: len(view.attempts) > tried)  # type: ignore[misc]
        if view.attempts[0].shared:
            break
    assert view.attempts[0].shared, view.attempts
    await group.execute_update("dissolve")
    await group.result()
    for vm in pair:
        await quiet(vm)
        await asyncio.to_thread(vm.assert_seeds_equal_source)
        assert vm.our_snapshots() == []
