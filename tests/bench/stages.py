"""The two stages on the sink, against the bare loop; what they send, and the memory they take."""

from collections.abc import Iterator
from typing import TypeVar

import zstandard

from deltaferry.blocks.plan import Plan, make_plan
from deltaferry.model.extents import Extent
from deltaferry.model.units import BLOCK, GRANULE, MIB
from tests.bench.image import GIB, Image, make_image
from tests.bench.machine import Cost, measured, run_bare
from tests.bench.report import Bench, Measure, median_cpu_s, median_seconds, pairs, peak_rss_bytes, speed_ratio
from tests.bench.rig import Rig, unpaced_plane

T = TypeVar("T")
U = TypeVar("U")
_GB = 1e9


def whole_plan(size_bytes: int) -> Plan:
    """Return the plan of a disk of which everything is to be read."""
    return make_plan(size_bytes, [Extent(0, size_bytes)], [])


def measure_stages(bench: Bench) -> Iterator[Measure]:
    """Measure stage 1, stage 2, the bytes sent, and the memory of one disk."""
    image = make_image(bench.directory, bench.image_bytes)
    size = bench.image_bytes
    with Rig(bench.directory, image) as rig:
        disks = rig.disks(whole_plan(size))
        plane = unpaced_plane()
        sends, bare_sends = pairs(
            bench.pairs,
            lambda: measured(lambda: rig.send(plane, disks, rig.log(kept=False))),
            lambda: measured(lambda: run_bare(rig.bare_send(disks, rig.log(kept=False)))),
        )
        yield from _stage("stage1", size, sends, bare_sends, 0.8, "NBD from the page cache, HTTPS to the sink, 30 ms")
        yield _bytes_sent(image, sends[0].result[0].bytes_sent)

        log, bare_log = rig.log(kept=True), rig.log(kept=True)
        sent = rig.send(plane, disks, log)
        objects = run_bare(rig.bare_send(disks, bare_log)).objects
        applies, bare_applies = pairs(
            bench.pairs,
            lambda: measured(lambda: rig.apply(plane, disks, sent, log)),
            lambda: measured(lambda: run_bare(rig.bare_apply(objects, bare_log))),
        )
        yield from _stage("stage2", size, applies, bare_applies, 0.5, "HTTPS from and to the sink, 30 ms each")
        peak = max(peak_rss_bytes(sends), peak_rss_bytes(applies))
        bare_peak = max(peak_rss_bytes(bare_sends), peak_rss_bytes(bare_applies))
        yield Measure(
            *("memory_one_disk", peak / MIB, "MiB", 200, False, bare_peak / MIB),
            "largest resident set of the data process, stage 1 or 2; baseline: the bare loop's",
        )


def _stage(name: str, size: int, ours: list[Cost[T]], theirs: list[Cost[U]], bar: float, how: str) -> Iterator[Measure]:
    bare_rate = size / median_seconds(theirs) / _GB
    gib = size / GIB
    yield Measure(
        *(f"{name}_ratio", speed_ratio(ours, theirs), "", 0.85, True, 1.0),
        f"speed against the bare loop: {how}; CPU-s/GiB {median_cpu_s(ours) / gib:.2f}, bare {median_cpu_s(theirs) / gib:.2f}",
    )
    yield Measure(
        *(f"{name}_rate", size / median_seconds(ours) / _GB, "GB/s", bar, True, bare_rate),
        "of disk, half of it zero, from starting the data process to its outcome; baseline: the bare loop",
    )


def _bytes_sent(image: Image, sent_bytes: int) -> Measure:
    needed = compressed_bytes(image)
    return Measure(
        *("bytes_sent_ratio", sent_bytes / needed, "", 1.01, False, needed / MIB),
        "object bytes against the compressed size of all data that is not zero; baseline in MiB",
    )


def compressed_bytes(image: Image) -> int:
    """Return how large an image's granules that are not zero are, compressed end to end in frames of 4 MiB."""
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
    zero = bytes(GRANULE)
    gathered = bytearray()
    total = 0
    with image.path.open("rb") as file:
        while granule := file.read(GRANULE):
            if granule != zero[: len(granule)]:
                gathered += granule
            if len(gathered) >= BLOCK:
                total += len(compressor.compress(gathered))
                gathered.clear()
    return total + (len(compressor.compress(gathered)) if gathered else 0)
