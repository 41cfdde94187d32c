"""One replicated VM for many tests that each leave it in Delta sync: enabling it anew for every one would take most of the time."""

import asyncio
from dataclasses import replace

from temporalio.client import Client

from deltaferry.model.states import ReplicationState
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated
from workers.serving import connect
from workers.settings import load_settings


class SharedVm:
    """The VM of a file's tests; where a test left it in another state, the next one gets a new VM."""

    def __init__(self, lab: Lab, name: str, capacities: tuple[int, ...]) -> None:
        self._lab = lab
        self._name = name
        self._capacities = capacities
        self._made: list[Replicated] = []

    async def in_delta_sync(self, client: Client) -> Replicated:
        """Return the VM, in Delta sync and without a health error."""
        if self._made:
            present = replace(self._made[-1], client=client)
            status = await present.status()
            if status.replication_state == ReplicationState.DELTA_SYNC.value and not status.health:
                return present
            await present.discard()
        fresh = Replicated.create(self._lab.world, client, self._name, self._capacities)
        self._made.append(fresh)
        await fresh.enable_and_sync()
        return fresh

    def discard(self) -> None:
        """End what still runs, from a loop of its own: those of the tests are closed."""
        asyncio.run(self._discard())

    async def _discard(self) -> None:
        client = await connect(load_settings(self._lab.world.config_file, self._lab.world.environment))
        for vm in self._made:
            await replace(vm, client=client).discard()
