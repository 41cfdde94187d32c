"""The cutover of a guest that writes until it is off: B4, and the final delta of B12."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from deltaferry.model.extents import Extent
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import JobOutcome
from deltaferry.model.units import SECTOR
from lab.guest_journal import WriteKind, lost_writes, read_journal, stop_reason
from lab.guest_writer import GuestDiskSettings, GuestSettings
from lab.oracle import target_disks
from lab.world import World
from tests.e2e.replicated import Replicated
from workers.serving import connect
from workers.settings import load_settings

_BYTES_PER_S = 2_000_000


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    """A client of the lab's Temporal, while the three workers run."""
    workers = [world.worker(role) for role in ("control", "source", "target")]
    yield await connect(load_settings(world.config_file, world.environment))
    for worker in workers:
        worker.stop()


@pytest.mark.chaos
async def test_b4_what_a_guest_writes_until_it_is_off_is_on_the_target(world: World, client: Client) -> None:
    """os-migrate powers a Linux source off after snapshot, copy and conversion: what it wrote in between is lost.

    B12, Xen Orchestra: with "stop source" and no snapshot before it, the final delta was not carried at all.
    """
    vm = Replicated.create(world, client, "b4")
    host, _, port = world.endpoints.nbd[vm.source.host].rpartition(":")
    disks = tuple(
        GuestDiskSettings(
            disk.key, f"guest={vm.source.moref};disk={disk.key}", (Extent(0, disk.capacity_bytes // SECTOR * SECTOR),)
        )
        for disk in vm.source.disks
    )
    journal = world.directory / f"{vm.name}.journal"
    await vm.enable_and_sync()
    world.guest(GuestSettings(host, int(port), journal, disks, _BYTES_PER_S), f"guest-{vm.name}")
    await vm.committed(1)
    migrated = await vm.migrate()
    assert migrated.migration is not None and migrated.migration.outcome is JobOutcome.SUCCEEDED, migrated

    entries = read_journal(journal)
    assert (stop_reason(entries) or "").startswith("the VM stopped")
    assert sum(entry.kind is not WriteKind.STOPPED for entry in entries) > 10
    kinds = {record.kind: record for record in await vm.cycles()}
    assert kinds[CycleKind.FINAL].changed_bytes > 0, "the guest wrote after the on-demand delta"
    vm.assert_target_identical(migrated)
    files = [file for _, file, _ in target_disks(world, migrated.migration.target_vm_id or "")]
    lost = [entry for disk, file in zip(vm.source.disks, files, strict=True) for entry in lost_writes(entries, disk.key, file)]
    assert lost == []
    await vm.discard()
