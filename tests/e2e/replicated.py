"""A VM of the lab under replication, as end-to-end tests handle one: write to it, enable it, wait for it, compare it."""

import asyncio
import os
import random
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import BlobServiceClient
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from console.client import between_two_runs
from deltaferry.model.naming import gateway_container, log_container, seed_container, seed_name
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.model.units import MIB, SECTOR
from lab.oracle import first_difference, leftovers, source_leftovers, target_disks
from lab.settings import DATASTORES, ESXI_HOSTS, NETWORKS, SITE
from lab.vcenter.control_views import VmState
from lab.vcenter.inventory_file import DiskSpec, NicSpec, VmSpec
from lab.world import World
from workflows import names
from workflows.messages.operator_input import EnableInput, TargetProperties
from workflows.messages.replication_state import CycleRecord
from workflows.messages.site import EnableResult
from workflows.messages.views import StatusView

LIMIT_S = 240.0
"""How long a test waits for a state before it fails with what it saw last."""
_POLL_S = 0.15
_MAX_NAME = 40


class Unreached(AssertionError):
    """A state was not reached in time."""


@dataclass
class Replicated:
    """One VM. `reference` is set once replication is enabled."""

    world: World
    client: Client
    name: str
    source: VmState
    random: random.Random
    enabled: EnableResult | None = None

    @classmethod
    def create(
        cls,
        world: World,
        client: Client,
        test_name: str,
        capacities: tuple[int, ...] = (24 * MIB + 37 * SECTOR, 12 * MIB),
        *,
        host: str | None = None,
        datastore: str | None = None,
    ) -> "Replicated":
        """Make a VM; where nothing else is said, on any host and datastore of those that every lab has."""
        seed = random.SystemRandom().getrandbits(32)
        source = random.Random(seed)
        name = re.sub(r"[^a-z0-9]+", "-", test_name.lower())[:_MAX_NAME].strip("-") + f"-{seed:08x}"
        disks = tuple(
            DiskSpec(capacity, f"Hard disk {number}", image_of(world.directory, f"{name}-{number}", capacity, source))
            for number, capacity in enumerate(capacities, start=1)
        )
        spec = VmSpec(
            name=name,
            host=host or ESXI_HOSTS[seed % len(ESXI_HOSTS)].name,
            datastore=datastore or DATASTORES[seed % len(DATASTORES)].name,
            guest_id="debian12_64Guest",
            guest_full_name="Debian GNU/Linux 12 (64-bit)",
            disks=disks,
            nics=(NicSpec(NETWORKS[0]),),
        )
        return cls(world, client, name, world.vcenter_control.add_vm(spec), source)

    # --- the guest ---

    def write(self, disk: int, offset: int, data: bytes) -> None:
        """Have the guest write to its `disk`-th disk (0 is the boot disk)."""
        self.world.vcenter_control.write(self.source.moref, self.source.disks[disk].key, offset, data)

    def scribble(self, writes: int = 20) -> None:
        """Have the guest write random data, and zeros, of up to 64 KiB at random sectors of all disks."""
        for _ in range(writes):
            disk = self.random.randrange(len(self.source.disks))
            sectors = self.source.disks[disk].capacity_bytes // SECTOR
            length = self.random.choice((1, 8, 16, 64, 128))
            offset = self.random.randrange(sectors - length) * SECTOR
            zero = self.random.random() < 0.2
            self.write(disk, offset, bytes(length * SECTOR) if zero else self.random.randbytes(length * SECTOR))

    # --- replication ---

    @property
    def handle(self) -> WorkflowHandle[object, object]:
        """The entity's handle, of whatever run is the current one."""
        return self.client.get_workflow_handle(names.replication_id(SITE, self.source.instance_uuid))

    @property
    def reference(self) -> ReplicationRef:
        assert self.enabled is not None, "replication is not enabled"
        return ReplicationRef("lab", SITE, "lab", self.source.instance_uuid, self.enabled.replication_id)

    async def enable(self, target: TargetProperties | None = None, *, auto_repair: bool = False) -> EnableResult:
        """Enable replication; without `auto_repair`, since most tests look at what waits for an operator."""
        self.enabled = await self.client.execute_workflow(
            names.ENABLE_REPLICATION,
            EnableInput(vm=self.name, site=SITE, target=target or TargetProperties(), auto_repair=auto_repair),
            id=f"enable-{self.name}-{random.SystemRandom().getrandbits(32):x}",
            task_queue=names.CONTROL_QUEUE,
            result_type=EnableResult,
        )
        return self.enabled

    async def enable_and_sync(self, *, auto_repair: bool = False) -> StatusView:
        """Enable replication and wait for the first committed delta."""
        await self.enable(auto_repair=auto_repair)
        return await self.committed(1)

    async def status(self) -> StatusView:
        return await self.handle.query("status", result_type=StatusView)

    async def cycles(self) -> tuple[CycleRecord, ...]:
        return await self.handle.query("cycles", result_type=tuple[CycleRecord, ...])

    async def until(self, reached: Callable[[StatusView], bool], what: str = "a state", limit_s: float = LIMIT_S) -> StatusView:
        """Wait until the status is as wanted; a query that fails meanwhile (a worker is dead) is asked again."""
        deadline = time.monotonic() + limit_s
        last: object = None
        while time.monotonic() < deadline:
            try:
                last = await asyncio.wait_for(self.status(), 10)
            except (RPCError, TimeoutError) as error:
                last = error
            else:
                if reached(last):
                    return last
            await asyncio.sleep(_POLL_S)
        raise Unreached(f"{what} was not reached within {limit_s:.0f} s; last seen: {last}")

    async def state(self, wanted: ReplicationState) -> StatusView:
        return await self.until(lambda status: status.replication_state == wanted.value, wanted.value)

    async def committed(self, more: int = 1) -> StatusView:
        """Wait for `more` further committed cycles."""
        try:
            before = (await self.status()).cycles_committed
        except RPCError:
            before = 0
        return await self.until(lambda status: status.cycles_committed >= before + more, f"{more} committed cycles")

    async def migrate(self, **options: object) -> StatusView:
        """Signal migrate_now and wait for the end of the migration, whichever."""
        await self.handle.signal("migrate_now", options or None)
        return await self.migration_ended()

    async def migration_ended(self) -> StatusView:
        ended = (MigrationState.MIGRATED.value, MigrationState.MIGRATION_FAILED.value)
        return await self.until(lambda status: status.migration_state in ended, "the end of the migration")

    async def _end(self, operation: str) -> None:
        """Send what ends replication, which continues as new at once: an event that overtakes that has the server ask for it again."""
        async for attempt in between_two_runs():
            with attempt:
                await self.handle.execute_update(operation)

    async def complete(self) -> None:
        await self._end("complete")
        await asyncio.wait_for(self.handle.result(), LIMIT_S)

    async def stop(self) -> None:
        await self._end("stop")
        await asyncio.wait_for(self.handle.result(), LIMIT_S)

    # --- oracles ---

    def assert_target_identical(self, status: StatusView) -> None:
        """Compare every byte of every managed disk with the source disk as the guest left it."""
        assert status.migration is not None and status.migration.target_vm_id is not None, status
        targets = target_disks(self.world, status.migration.target_vm_id)
        assert len(targets) == len(self.source.disks)
        for disk, (disk_id, file, _) in zip(self.source.disks, targets, strict=True):
            with tempfile.TemporaryDirectory(dir=self.world.directory) as folder:
                dump = Path(folder) / "source.raw"
                self.world.vcenter_control.dump(self.source.moref, disk.key, dump)
                assert first_difference(dump, file, disk.capacity_bytes) is None, f"{disk_id} differs from {disk.label}"

    def seed_bytes(self, disk: int, snapshot: str | None = None) -> bytes:
        """Return a seed disk's bytes, of now or as a blob snapshot has them, without footer and padding."""
        key = self.source.disks[disk].key
        blob = self.blobs("seed").get_blob_client(seed_container(self.reference), seed_name(key), snapshot=snapshot)
        with blob:
            return blob.download_blob().readall()[: self.source.disks[disk].capacity_bytes]

    def source_bytes(self, disk: int) -> bytes:
        """Return a source disk's bytes of now."""
        with tempfile.TemporaryDirectory(dir=self.world.directory) as folder:
            dump = Path(folder) / "source.raw"
            self.world.vcenter_control.dump(self.source.moref, self.source.disks[disk].key, dump)
            return dump.read_bytes()

    def assert_seeds_equal_source(self) -> None:
        """Compare the seed disks with the source disks; only meaningful while the guest does not write."""
        for disk, _ in enumerate(self.source.disks):
            assert self.seed_bytes(disk) == self.source_bytes(disk), f"seed disk {disk} differs from its source"

    def blobs(self, store: str) -> BlobServiceClient:
        """Return a client of a storage account (`log`, `gateway`, `seed`), as an intruder or an auditor would use it."""
        return BlobServiceClient(
            self.world.endpoints.accounts[store],
            credential=self.world.account_key(store),
            connection_verify=str(self.world.endpoints.ca_file),
            api_version="2025-11-05",
        )

    def log_objects(self) -> list[str]:
        """Return the names of the replication's segments in the log store."""
        with self.blobs("log").get_container_client(log_container(self.reference)) as container:
            return [blob.name for blob in container.list_blobs()]

    def our_snapshots(self) -> list[str]:
        """Return the names of our snapshots on the VM."""
        return [s.name for s in self.world.vcenter_control.vm(self.name).snapshots if s.name.startswith("df/")]

    def assert_nothing_left(self) -> None:
        """Assert that nothing of this replication is left on the source VM and in the stores."""
        left = list(source_leftovers(self.world, self.name))
        if self.enabled is not None:
            containers = {log_container(self.reference), gateway_container(self.reference), seed_container(self.reference)}
            left += [
                sentence for sentence in leftovers(self.world, self.name, migrated=True) if any(c in sentence for c in containers)
            ]
        assert left == []

    async def discard(self) -> None:
        """End whatever still runs for this VM, so that it does not load the lab for the tests after it."""
        prefix = names.replication_id(SITE, self.source.instance_uuid)
        async for execution in self.client.list_workflows("ExecutionStatus = 'Running'"):
            if execution.id.startswith(prefix) and execution.status is WorkflowExecutionStatus.RUNNING:
                try:
                    await self.client.get_workflow_handle(execution.id, run_id=execution.run_id).terminate("the test is over")
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND:  # else it has ended since it was listed
                        raise
        slots = self.client.get_workflow_handle(names.slots_id(SITE))
        await _forget_leases(slots, prefix)


async def _forget_leases(slots: WorkflowHandle[object, object], prefix: str) -> None:
    """Give back the leases of a terminated holder, as an operator would have to."""
    try:
        state = await slots.query("status")
    except RPCError:
        return
    for held in [*state["leases"], *state["waiting"]]:
        wanted = held["wanted"]
        if wanted["holder"].startswith(prefix):
            await slots.signal(names.SLOTS_RELEASED, {"holder": wanted["holder"], "request_id": wanted["request_id"]})


def image_of(directory: Path, stem: str, capacity: int, source: random.Random) -> Path:
    """Return a raw image: a third random, a third compressible, the rest never written."""
    path = directory / f"{stem}.raw"
    with path.open("wb") as file:
        file.truncate(capacity)
        for block in range(0, capacity, MIB):
            length = min(MIB, capacity - block)
            choice = source.randrange(3)
            if choice == 0:
                os.pwrite(file.fileno(), source.randbytes(length), block)
            elif choice == 1:
                os.pwrite(file.fileno(), (source.randbytes(512) * (length // 512 + 1))[:length], block)
    return path
