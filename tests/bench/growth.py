"""How the cost grows with the number of disks and with their size."""

from collections.abc import Iterator

from deltaferry.blocks.plan import Plan
from deltaferry.model.units import MIB
from tests.bench.image import make_image
from tests.bench.machine import Cost, measured
from tests.bench.report import Bench, Measure
from tests.bench.rig import Rig, unpaced_plane
from tests.bench.stages import whole_plan

_COUNTS = (1, 4, 8)
_TIMES_LARGER = (1, 4, 16)
_NOISE = 1.1
"""A time that grows linearly varies by so much from run to run."""


def measure_growth(bench: Bench) -> Iterator[Measure]:
    """Measure both stages with 1, 4 and 8 disks, and with a disk of 1, 4 and 16 times a size."""
    image = make_image(bench.directory, bench.image_bytes)
    unit = bench.growth_disk_bytes
    with Rig(bench.directory, image) as rig:
        by_count = {count: _both_stages(rig, whole_plan(unit // 2), count) for count in _COUNTS}
        yield _growth("growth_disks", by_count, f"1, 4, 8 disks of {unit // 2 // MIB} MiB")
        eight = by_count[_COUNTS[-1]]
        yield Measure(
            *("memory_eight_disks", max(eight.peak_rss_bytes, 1) / MIB, "MiB", 1024, False, by_count[1].peak_rss_bytes / MIB),
            "largest resident set of the data process with 8 disks, stage 1 or 2; baseline: with one",
        )
        by_size = {times: _both_stages(rig, whole_plan(unit * times), 1) for times in _TIMES_LARGER}
        sizes = ", ".join(f"{unit * times / 1024 / MIB:g}" for times in _TIMES_LARGER)
        yield _growth("growth_size", by_size, f"one disk of {sizes} GiB")
        small, large = by_size[_TIMES_LARGER[0]].peak_rss_bytes, by_size[_TIMES_LARGER[-1]].peak_rss_bytes
        yield Measure(
            *("growth_memory", large / max(small, 1), "", _NOISE, False, small / MIB),
            f"largest resident set with the largest of {sizes} GiB against the smallest; baseline: the smallest's in MiB",
        )


def _both_stages(rig: Rig, plan: Plan, count: int) -> Cost[None]:
    """Return the cost of sending and applying together."""
    disks = rig.disks(plan, count)
    plane = unpaced_plane()
    log = rig.log(kept=True)
    send = measured(lambda: rig.send(plane, disks, log))
    apply = measured(lambda: rig.apply(plane, disks, send.result, log))
    rig.forget_objects()
    peak = max(send.peak_rss_bytes, apply.peak_rss_bytes)
    return Cost(None, send.seconds + apply.seconds, send.cpu_s + apply.cpu_s, peak)


def _growth(name: str, costs: dict[int, Cost[None]], what: str) -> Measure:
    one = costs[1].seconds
    worst = max(cost.seconds / times / one for times, cost in costs.items())
    shown = ", ".join(f"{cost.seconds:.1f}" for cost in costs.values())
    return Measure(
        name,
        worst,
        "",
        _NOISE,
        False,
        one,
        f"both stages of {what}: {shown} s; time per disk or GiB at worst, against the first's",
    )
