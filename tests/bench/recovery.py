"""Failing over and coming back, on the lab: how long a failover takes, and what reprotect sends."""

import asyncio
import random
import shutil
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client

from deltaferry.model.naming import seed_container
from deltaferry.model.units import GRANULE, MIB
from deltaferry.planning.dr_states import DrOperation, DrState
from lab.oracle import target_disks
from lab.world import World
from tests.bench.bench_lab import bench_lab, one_disk_vm
from tests.bench.image import make_image
from tests.bench.report import Bench, Measure
from tests.e2e.replicated import Replicated
from workflows.messages.views import FailoverView

_INTERVAL = timedelta(hours=1)
"""Longer than a measure: no delta cycle runs beside it."""
_PERCENT = (0, 1, 10)
_OWN_BAR_S = 15.0
_GROWTH_BAR = 1.5
_UNCHANGED_BAR_KIB = 64.0
_SENT_BAR = 1.2
_SEED = 11
_SNAPSHOTS = 100
"""In five minutes: Azure's limit is not what is measured."""

Measured = Callable[[Bench, World, Client], Awaitable[list[Measure]]]


@dataclass(frozen=True, slots=True)
class Failover:
    """One failover, from the request until the VM ran."""

    seconds: float
    service_s: float
    """Of it the service's: copies inside the storage account, and imports, as the lab reports them."""
    phases: tuple[tuple[str, float], ...]
    """How long each phase took, the service's part included."""

    @property
    def own_s(self) -> float:
        return self.seconds - self.service_s


def measure_failover(bench: Bench) -> Iterator[Measure]:
    """Measure unplanned failovers of disks of several sizes, in turn."""
    yield from _on_a_lab(bench, "failover-", _failovers)


def measure_reprotect(bench: Bench) -> Iterator[Measure]:
    """Measure what reprotect sends when so much was written in Azure."""
    yield from _on_a_lab(bench, "reprotect-", _reprotects)


def _on_a_lab(bench: Bench, prefix: str, measure: Measured) -> list[Measure]:
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=bench.directory))

    async def run() -> list[Measure]:
        async with bench_lab(directory, _INTERVAL) as (world, client):
            world.arm_control.set_limits(snapshots_per_window=_SNAPSHOTS)
            return await measure(bench, world, client)

    try:
        return asyncio.run(run())
    finally:
        shutil.rmtree(directory)


async def _synced(bench: Bench, world: World, client: Client, name: str, size_bytes: int) -> Replicated:
    """Return a VM in delta sync, with one disk."""
    image = make_image(bench.directory, size_bytes)
    disk = world.directory / f"{name}.raw"
    shutil.copyfile(image.path, disk)
    state = world.vcenter_control.add_vm(one_disk_vm(name, disk, size_bytes))
    vm = Replicated(world, client, name, state, random.Random(_SEED))
    await vm.enable_and_sync()
    disk.unlink()
    return vm


async def _failed_over(vm: Replicated) -> FailoverView:
    """Fail over as where the site is away: the source is not asked."""
    await vm.handle.execute_update(DrOperation.FAILOVER.value, {"shut_down_source": False})
    ended = (DrState.FAILED_OVER.value, DrState.FAILOVER_FAILED.value)
    view = await vm.until(lambda status: status.migration_state in ended, "the failover")
    assert view.migration_state == DrState.FAILED_OVER, view.health
    assert view.failover is not None
    return view.failover


# --- failover ---


async def _failovers(bench: Bench, world: World, client: Client) -> list[Measure]:
    vms = {size: await _synced(bench, world, client, f"failover-{size // MIB}", size) for size in bench.failover_sizes}
    found: dict[int, list[Failover]] = {size: [] for size in vms}
    for _ in range(bench.pairs):
        for size, vm in vms.items():
            found[size].append(await _failover(vm))
            await vm.handle.execute_update(DrOperation.CANCEL.value)
            await vm.until(lambda status: status.failover is None, "the cancel")
            await vm.committed(1)  # of the delta that follows, so that the next failover ends none
    smallest, largest = min(vms), max(vms)
    own = {size: statistics.median(run.own_s for run in runs) for size, runs in found.items()}
    growth = statistics.median(large.own_s / small.own_s for large, small in zip(found[largest], found[smallest], strict=True))
    sizes = ", ".join(str(size // MIB) for size in vms)
    whole = ", ".join(f"{statistics.median(run.seconds for run in runs):.1f}" for runs in found.values())
    service = ", ".join(f"{statistics.median(run.service_s for run in runs):.1f}" for runs in found.values())
    return [
        Measure(
            *("failover_own", own[largest], "s", _OWN_BAR_S, False, own[smallest]),
            f"from request to VM running, less the service's copy and import; {sizes} MiB: {whole} s in all, of which the service "
            f"{service} s; medians of {bench.pairs}; baseline: the smallest disk's; the phases of {smallest // MIB} MiB: "
            f"{_phases(found[smallest])}; of {largest // MIB} MiB: {_phases(found[largest])}",
        ),
        Measure(
            *("failover_growth", growth, "", _GROWTH_BAR, False, own[smallest]),
            f"the same of {largest // MIB} MiB against {smallest // MIB} MiB just before, median of {bench.pairs} pairs; baseline: the "
            "latter's seconds",
        ),
    ]


def _phases(runs: list[Failover]) -> str:
    """Return the median of each phase."""
    return ", ".join(
        f"{name} {statistics.median(seconds for _, seconds in same):.2f} s"
        for name, same in ((phases[0][0], phases) for phases in zip(*(run.phases for run in runs), strict=True))
    )


async def _failover(vm: Replicated) -> Failover:
    arm, blobs = vm.world.arm_control, vm.world.blob_control
    operations, seen = len(arm.operations()), max((request.number for request in blobs.requests()), default=0)
    view = await _failed_over(vm)
    assert view.running_at is not None
    imports = [one for one in arm.operations()[operations:] if one.action == "disks.import" and vm.name in one.resource]
    copies = [
        one for one in blobs.requests(seen) if one.operation == "CopyBlob" and one.container == seed_container(vm.reference)
    ]
    assert imports and copies, "the lab has seen no import or no copy"
    service_s = sum(one.seconds or 0.0 for one in imports) + sum(one.seconds for one in copies)
    return Failover((view.running_at - view.requested_at).total_seconds(), service_s, view.phases)


# --- reprotect ---


async def _reprotects(bench: Bench, world: World, client: Client) -> list[Measure]:
    size = bench.reprotect_disk_bytes
    sent: dict[int, tuple[int, int]] = {}
    for percent in _PERCENT:
        vm = await _synced(bench, world, client, f"reprotect-{percent}", size)
        view = await _failed_over(vm)
        await vm.handle.execute_update(DrOperation.COMMIT.value)
        await vm.until(lambda status: status.failover is not None and status.failover.committed_at is not None, "the commit")
        changed = await asyncio.to_thread(_write, world, view.vm_id, size, percent)
        await vm.handle.execute_update(DrOperation.REPROTECT.value, {"confirm_losses": True, "power_off_source": True})
        status = await vm.until(lambda status: status.migration_state == DrState.FAILBACK_READY.value, "reprotect")
        assert status.failover is not None
        sent[percent] = (status.failover.home_sent_bytes, changed)
        await vm.discard()
    how = (
        f"bytes sent by the first pass of reprotect (compressed, encrypted, with their headers) for each byte changed in Azure, of "
        f"{size // MIB} MiB: random bytes, which do not compress, in scattered granules of {GRANULE // 1024} KiB; baseline: MiB changed"
    )
    unchanged, _ = sent.pop(0)
    return [
        Measure(
            *("reprotect_unchanged", unchanged / 1024, "KiB", _UNCHANGED_BAR_KIB, False, size / MIB),
            "bytes sent by the first pass of reprotect, nothing changed in Azure, the checksums that the sides compare by left out; "
            "baseline: MiB of the disk",
        ),
        *(
            Measure(*(f"reprotect_{percent}_percent", bytes_sent / changed, "", _SENT_BAR, False, changed / MIB), how)
            for percent, (bytes_sent, changed) in sent.items()
        ),
    ]


def _write(world: World, vm_id: str | None, size_bytes: int, percent: int) -> int:
    """Have the VM in Azure write so much of its disk; return how many bytes."""
    assert vm_id is not None
    ((disk_id, _, _),) = target_disks(world, vm_id)
    source = random.Random(_SEED)
    granules = size_bytes // GRANULE
    chosen = source.sample(range(granules), -(-granules * percent // 100))
    for granule in chosen:
        world.arm_control.write(disk_id, granule * GRANULE, source.randbytes(GRANULE))
    return len(chosen) * GRANULE
