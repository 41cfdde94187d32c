"""Many VMs under replication at once on a site with small limits: their guests, and what hosts and datastores saw of it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy

from deltaferry.model.units import MIB, SECTOR
from lab.settings import DATASTORES, SITE, LabSettings
from lab.world import World
from tests.e2e.accidents import quiet
from tests.e2e.replicated import Replicated
from tests.e2e.slot_timeline import explain
from workers.settings import load_settings
from workers.wiring import site_profile
from workflows import names
from workflows.messages.slot import SlotsState

PATIENCE_S = 600.0
"""A queue of VMs, each of which may wait out a killed worker's heartbeat limit."""
_BOOT_BYTES = 6 * MIB + 37 * SECTOR
_DATA_BYTES = 2 * MIB
_WRITES_AT_A_TIME = 6


async def start_arbiter(world: World, client: Client) -> WorkflowHandle[object, object]:
    """Start the site's arbiter with the limits of the settings file and the primary appliance alone; use the one that runs."""
    profile = site_profile(load_settings(world.config_file, world.environment), SITE)
    slots: WorkflowHandle[object, object] = await client.start_workflow(
        names.SITE_SLOTS,
        SlotsState(profile),
        id=names.slots_id(SITE),
        task_queue=names.CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    await slots.execute_update("change_settings", {"appliances": {}})
    return slots


@dataclass(frozen=True, slots=True)
class SiteOfVms:
    """VMs in turns of one and of two disks, spread over hosts and datastores."""

    world: World
    vms: tuple[Replicated, ...]

    @classmethod
    def create(cls, world: World, client: Client, test_name: str, count: int, hosts: Sequence[str]) -> "SiteOfVms":
        """Make so many VMs; none is enabled yet."""
        return cls(
            world,
            tuple(
                Replicated.create(
                    world,
                    client,
                    f"{number:02}-{test_name}",
                    (_BOOT_BYTES, _DATA_BYTES)[: 2 - number % 2],
                    host=hosts[number % len(hosts)],
                    datastore=DATASTORES[number // 2 % len(DATASTORES)].name,
                )
                for number in range(count)
            ),
        )

    async def enable(self) -> None:
        """Enable replication of all at once."""
        await asyncio.gather(*(vm.enable() for vm in self.vms))

    async def committed(self, more: int, but: Iterable[Replicated] = ()) -> None:
        """Wait for `more` further committed cycles of each VM, but of some."""
        left = [vm for vm in self.vms if vm not in but]
        before = {vm.name: (await vm.status()).cycles_committed for vm in left}
        for vm in left:
            await vm.until(
                lambda status: status.cycles_committed >= before[status.vm] + more, f"{more} committed cycles", PATIENCE_S
            )

    async def until_all_is_sent(self, but: Iterable[Replicated] = ()) -> None:
        """Wait until each VM's recovery point is younger than now."""
        now = datetime.now(UTC)
        for vm in self.vms:
            if vm not in but:
                await vm.until(
                    lambda status: status.last_recovery_point is not None and status.last_recovery_point > now,
                    "a recovery point of after the last write",
                    PATIENCE_S,
                )

    async def assert_identical(self, but: Iterable[Replicated] = ()) -> None:
        """Pause each VM's replication and compare every byte of its seeds; its guest writes no more."""
        for vm in self.vms:
            if vm not in but:
                await quiet(vm)
                await asyncio.to_thread(vm.assert_seeds_equal_source)

    async def stop(self, but: Iterable[Replicated] = ()) -> None:
        """Stop replication of all, and assert that nothing of it is left."""
        stopping = [vm for vm in self.vms if vm not in but]
        await asyncio.gather(*(vm.stop() for vm in stopping))
        for vm in stopping:
            await asyncio.to_thread(vm.assert_nothing_left)

    @asynccontextmanager
    async def writing(self, pause_s: float) -> AsyncIterator[None]:
        """Let the guests write, one after the other, every so often."""
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                for vm in self.vms:
                    if not done.is_set() and self.world.vcenter_control.vm(vm.name).power == "poweredOn":
                        await asyncio.to_thread(vm.scribble, _WRITES_AT_A_TIME)
                try:
                    async with asyncio.timeout(pause_s):
                        await done.wait()
                except TimeoutError:
                    continue

        writer = asyncio.create_task(write())
        try:
            yield
        finally:
            done.set()
            await writer

    async def assert_within(self, limits: LabSettings, *, exempt: Iterable[str] = ()) -> None:
        """Assert of all that happened since the lab started, as hosts and datastores saw it, that no limit was exceeded.

        `exempt` names VMs that were migrated: a pre-failover delta may exceed the snapshot count of a datastore (spec §3).
        """
        seen = self.world.vcenter_control.occupancy()
        assert seen.readers and seen.snapshots, "nothing was read"
        for hosts in seen.readers:
            disks = {host: len(exports) for host, exports in hosts.items()}
            assert max(disks.values()) <= limits.disks_per_host, hosts
            assert sum(disks.values()) <= limits.disks_per_appliance, hosts
        for number, datastores in enumerate(seen.snapshots):
            for datastore, vms in datastores.items():
                counted = {name: disks for name, disks in vms.items() if name not in exempt}
                if sum(counted.values()) > limits.snapshots_per_datastore:
                    ids = {vm.name: vm.handle.id for vm in self.vms}
                    history = await explain(self.vms[0].client, ids, counted)
                    around = [entry.get(datastore) for entry in seen.snapshots[max(0, number - 4) : number + 4]]
                    raise AssertionError(
                        f"{datastore} had {vms} of {limits.snapshots_per_datastore}; around: {around}\n{history}"
                    )
