"""The whole path on the lab, with Temporal: an initial replication against a bare loop, and delta cycles without a change."""

import asyncio
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas
from temporalio.client import Client

from deltaferry.model.states import ReplicationState
from deltaferry.model.units import BLOCK, MIB, SECTOR
from deltaferry.ports.access import BlobAccess, NbdAddress
from lab.configuration import ACCOUNTS
from lab.vcenter.control_views import VmState
from lab.world import World
from tests.bench.bare_job import BareDisk, BareJob, BareResult
from tests.bench.bench_lab import bench_lab, one_disk_vm
from tests.bench.image import make_image
from tests.bench.machine import Cost, measured_async, run_bare
from tests.bench.report import Bench, Measure, median_seconds, speed_ratio
from tests.bench.rig import PAGE_WRITERS, THREADS_PER_DISK
from tests.e2e.replicated import Replicated
from workflows import names

_SAS_LIFETIME = timedelta(hours=2)
_INTERVAL = timedelta(seconds=1)
_LOOK_S = 0.25
_SMALL_DISKS = (8 * MIB, 4 * MIB + SECTOR)
_SOURCE = random.Random(0)


def measure_lab_paths(bench: Bench) -> Iterator[Measure]:
    """Measure both in one lab."""
    directory = Path(tempfile.mkdtemp(prefix="lab-", dir=bench.directory))
    try:
        yield from asyncio.run(_measure(bench, directory))
    finally:
        shutil.rmtree(directory)


async def _measure(bench: Bench, directory: Path) -> list[Measure]:
    async with bench_lab(directory, _INTERVAL) as (world, client):
        return [*await _initial(bench, world, client), *await _empty_cycles(bench, world, client)]


async def _initial(bench: Bench, world: World, client: Client) -> list[Measure]:
    """Replicate a new VM and carry the same disk by the bare loop, in turn."""
    image = make_image(bench.directory, bench.image_bytes)
    ours: list[Cost[None]] = []
    theirs: list[Cost[BareResult]] = []
    for number in range(bench.pairs):
        disk = world.directory / f"initial-{number}.raw"
        shutil.copyfile(image.path, disk)
        vm = Replicated(
            world,
            client,
            f"bench-{number}",
            world.vcenter_control.add_vm(one_disk_vm(f"bench-{number}", disk, image.size_bytes)),
            _SOURCE,
        )
        job = _bare_job(world, vm.source, f"bare-{number}", image.size_bytes)
        theirs.append(await measured_async(partial(asyncio.to_thread, run_bare, job)))
        await vm.enable()
        ours.append(await measured_async(partial(_synced, vm)))
        await vm.stop()
    size = image.size_bytes
    return [
        Measure(
            *("initial_ratio", speed_ratio(ours, theirs), "", 0.8, True, size / median_seconds(theirs) / 1e9),
            f"initial replication of {size // MIB} MiB, half of it zero, from enabled to delta sync: {median_seconds(ours):.1f} s; "
            "the bare loop reads the same NBD export and puts, gets and writes on the same Azurite; baseline: its GB/s",
        )
    ]


async def _synced(vm: Replicated) -> None:
    """Wait until the first copy has ended, by the server's own record of it: a query would have the worker answer each time."""
    while True:
        seen = (await vm.handle.describe()).typed_search_attributes
        if seen.get(names.REPLICATION_STATE) == ReplicationState.DELTA_SYNC.value:
            return
        await asyncio.sleep(_LOOK_S)


async def _empty_cycles(bench: Bench, world: World, client: Client) -> list[Measure]:
    """Let cycles run for a VM whose guest writes nothing."""
    vm = Replicated.create(world, client, "bench-empty", _SMALL_DISKS)
    await vm.enable_and_sync()
    await vm.committed(bench.empty_cycles + 2)
    history = await vm.handle.fetch_history()
    times = sorted(event.event_time.ToDatetime(tzinfo=UTC) for event in history.events)
    starts = [cycle.started_at for cycle in await vm.cycles() if cycle.committed and cycle.changed_bytes == 0]
    seconds = [
        (cycle.ended_at - cycle.started_at).total_seconds()
        for cycle in await vm.cycles()
        if cycle.committed and cycle.changed_bytes == 0
    ]
    events = [sum(start <= time < end for time in times) for start, end in pairwise(starts) if start >= times[0]]
    await vm.stop()
    return [
        Measure(
            *("empty_cycle_seconds", statistics.median(seconds), "s", 3, False, min(seconds)),
            f"a delta cycle of two disks without a change, from snapshot to commit, median of {len(seconds)}; baseline: the fastest",
        ),
        Measure(
            *("empty_cycle_events", statistics.median(events), "events", 60, False, min(events)),
            f"of the entity's history, from one cycle's start to the next's, median of {len(events)}; baseline: the fewest",
        ),
    ]


def _bare_job(world: World, vm: VmState, container: str, size_bytes: int) -> BareJob:
    """Return the job that carries a VM's only disk through the log store onto a page blob."""
    disk = vm.disks[0]
    host, _, port = world.endpoints.nbd[vm.host].rpartition(":")
    source = NbdAddress(host=host, port=int(port), export=f"guest={vm.moref};disk={disk.key}")
    blocks = tuple(((start, min(BLOCK, size_bytes - start)),) for start in range(0, size_bytes, BLOCK))
    log, seed = (_container(world, store, container) for store in ("log", "seed"))
    service = _service(world, "seed")
    with service.get_blob_client(container, "seed") as blob:
        blob.create_page_blob(size_bytes)
    return BareJob("carry", (BareDisk(source, blocks),), log, seed, bytes(32), THREADS_PER_DISK, PAGE_WRITERS)


def _service(world: World, store: str) -> BlobServiceClient:
    return BlobServiceClient(
        world.endpoints.accounts[store],
        credential=world.account_key(store),
        connection_verify=str(world.endpoints.ca_file),
        api_version="2025-11-05",
    )


def _container(world: World, store: str, name: str) -> BlobAccess:
    """Make a container and return access to it."""
    with _service(world, store) as service:
        service.create_container(name)
    query = generate_container_sas(
        ACCOUNTS[store],
        name,
        world.account_key(store),
        permission=ContainerSasPermissions(read=True, write=True, create=True, delete=True, list=True),
        expiry=datetime.now(UTC) + _SAS_LIFETIME,
    )
    return BlobAccess(f"{world.endpoints.accounts[store]}/{name}", query, str(world.endpoints.ca_file))
