"""Deltas of many small areas on the sink: requests to the log store, and time against the bare loop."""

import mmap
import random
from collections.abc import Iterator

from deltaferry.blocks.plan import Plan, make_plan
from deltaferry.model.extents import Extent
from deltaferry.model.units import GRANULE
from tests.bench.image import Image, make_image
from tests.bench.machine import Cost, measured, run_bare
from tests.bench.report import Bench, Measure, median_seconds, pairs, time_ratio
from tests.bench.rig import Rig, unpaced_plane

_KIB = 1024
_SEED = 7
_AREAS_PER_REQUEST = 16
_LONGEST = 1.3


def measure_deltas(bench: Bench) -> Iterator[Measure]:
    """Measure a delta of 64 KiB areas and one of 4 KiB areas."""
    image = make_image(bench.directory, bench.image_bytes)
    with Rig(bench.directory, image) as rig:
        yield from _delta(bench, rig, "delta_64k", bench.areas_64k, 64 * _KIB)
        yield from _delta(bench, rig, "delta_4k", bench.areas_4k, 4 * _KIB)


def _delta(bench: Bench, rig: Rig, name: str, count: int, length: int) -> Iterator[Measure]:
    areas = scattered(rig.image, count, length)
    plan = make_plan(rig.image.size_bytes, areas, [])
    requests: list[int] = []

    def product() -> Cost[None]:
        before = rig.counts()
        cost = measured(lambda: _product(rig, plan))
        requests.append(rig.counts().since(before).log_store)
        return cost

    ours, theirs = pairs(bench.pairs, product, lambda: measured(lambda: _bare(rig, plan)))
    allowed = len(areas) / _AREAS_PER_REQUEST
    how = f"{len(areas):,} scattered areas of {length // _KIB} KiB, both stages"
    yield Measure(
        *(f"{name}_requests", max(requests), "requests", allowed, False, len(areas)),
        f"to the log store, puts and gets: {how}; baseline: areas",
    )
    yield Measure(
        *(f"{name}_ratio", time_ratio(ours, theirs), "", _LONGEST, False, median_seconds(theirs)),
        f"time against the bare loop: {how}; {median_seconds(ours):.2f} s; baseline: the bare loop's seconds",
    )


def _product(rig: Rig, plan: Plan) -> None:
    disks = rig.disks(plan)
    plane = unpaced_plane()
    log = rig.log(kept=True)
    rig.apply(plane, disks, rig.send(plane, disks, log), log, pristine=False)


def _bare(rig: Rig, plan: Plan) -> None:
    log = rig.log(kept=True)
    objects = run_bare(rig.bare_send(rig.disks(plan), log)).objects
    run_bare(rig.bare_apply(objects, log))


def scattered(image: Image, count: int, length: int) -> list[Extent]:
    """Return areas that do not touch, each in a granule of its own and aligned to its length, none of them zero."""
    source = random.Random(_SEED)
    granules = list(range(0, image.size_bytes // GRANULE, 2))  # every second one: areas must stay apart
    source.shuffle(granules)
    found: list[Extent] = []
    zero = bytes(length)
    with image.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for granule in granules:
            offset = granule * GRANULE + source.randrange(GRANULE // length) * length
            if content[offset : offset + length] != zero:
                found.append(Extent(offset, length))
            if len(found) == count:
                break
    return found
