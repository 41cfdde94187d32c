"""The lab that whole paths are measured on: three workers, and a vSphere that takes no time of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client

from lab.settings import DATASTORES, ESXI_HOSTS, NETWORKS, LabSettings, LabTimes
from lab.vcenter.inventory_file import DiskSpec, NicSpec, VmSpec
from lab.world import World
from workers.serving import connect
from workers.settings import TransferSettings, load_settings
from workflows import names

_TIMES = LabTimes(stun_s=0.01, snapshot_s=0.05, consolidation_s=0.05, shutdown_s=0.2, power_s=0.05, reconfigure_s=0.02)
"""vSphere's own time is not ours: as short as the tests have it."""


@asynccontextmanager
async def bench_lab(directory: Path, interval: timedelta) -> AsyncIterator[tuple[World, Client]]:
    """Run a lab whose delta cycles start so long after one another; blocks are moved as the product's defaults have it."""
    settings = LabSettings(
        times=_TIMES,
        search_attributes=names.SEARCH_ATTRIBUTES,
        with_ui=False,
        min_interval=interval,
        chunk_max_bytes=TransferSettings().chunk_max_bytes,
        threads_per_disk=TransferSettings().threads_per_disk,
    )
    with World(directory, settings) as world:
        for role in ("control", "source", "target"):
            world.worker(role)
        yield world, await connect(load_settings(world.config_file, world.environment))


def one_disk_vm(name: str, disk: Path, size_bytes: int) -> VmSpec:
    """Return a running VM with one disk, which begins with an image."""
    return VmSpec(
        name=name,
        host=ESXI_HOSTS[0].name,
        datastore=DATASTORES[0].name,
        guest_id="debian12_64Guest",
        guest_full_name="Debian GNU/Linux 12 (64-bit)",
        disks=(DiskSpec(size_bytes, "Hard disk 1", disk),),
        nics=(NicSpec(NETWORKS[0]),),
    )
