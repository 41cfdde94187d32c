"""A site's throttle on its way from the operator to the bytes: arbiter, source worker, data process."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.client import Client

from deltaferry.model.replication import CycleKind
from deltaferry.model.units import GRANULE, MIB
from lab.settings import SITE
from tests.e2e.conftest import Lab
from tests.e2e.replicated import LIMIT_S, Replicated
from workflows import names
from workflows.messages.operator_input import SettingsChange
from workflows.messages.replication_state import CycleRecord

_BURST_S = 0.25


class Throttle:
    """Changes the site's throttle, and waits until the source worker says that it holds."""

    def __init__(self, lab: Lab, client: Client) -> None:
        self._log = lab.source.log_file
        self._arbiter = client.get_workflow_handle(names.slots_id(SITE))

    async def set(self, text: str, rate: str) -> None:
        seen = len(self._rates())
        await self._arbiter.execute_update("change_settings", SettingsChange(throttle=text))
        async with asyncio.timeout(LIMIT_S):
            while self._rates()[seen:][-1:] != [rate]:
                await asyncio.sleep(0.1)

    def _rates(self) -> list[str]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if '"throttle"' in line]
        return [line["rate"] for line in lines if line.get("event") == "throttle"]


@pytest.fixture
async def throttle(lab: Lab, client: Client, vm: Replicated) -> AsyncIterator[Throttle]:
    await vm.enable_and_sync()
    made = Throttle(lab, client)
    yield made
    await made.set("", "unlimited")


@pytest.mark.chaos
async def test_a_throttle_set_at_the_arbiter_holds_the_transfers_of_the_appliance(vm: Replicated, throttle: Throttle) -> None:
    await throttle.set("1 Mbit/s", "1 Mbit/s")
    for granule in range(2 * MIB // GRANULE):  # a snapshot may come between two of them: then one cycle has the larger part
        vm.write(1, granule * GRANULE, vm.random.randbytes(GRANULE))

    async def sent() -> CycleRecord | None:
        deltas = (cycle for cycle in await vm.cycles() if cycle.committed and cycle.kind is CycleKind.DELTA)
        return next((cycle for cycle in deltas if cycle.bytes_sent >= MIB), None)

    async with asyncio.timeout(LIMIT_S):
        while (cycle := await sent()) is None:
            await asyncio.sleep(0.2)
    at_this_rate = timedelta(seconds=cycle.bytes_sent * 8 / 1e6 - _BURST_S)
    assert cycle.duration >= 0.9 * at_this_rate
