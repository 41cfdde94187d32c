"""Scrub and resync: how much of a disk one core compares with its checksum map, on the seed and on the source."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.model.units import GRANULE
from deltaferry.ports.access import BlobAccess, NbdAddress
from deltaferry.ports.data_plane import CheckJob, CompareJob, GranuleRange, ScrubbedDisk
from lab.certificates import make_certificates
from lab.processes import ManagedProcess, ProcessSpec, Readiness, python_command
from tests.bench.image import GIB, Image, make_image
from tests.bench.machine import Cost, measured
from tests.bench.report import Bench, Measure, median_cpu_s, median_seconds
from tests.bench.rig import ignore, unpaced_plane

_GB = 1e9
_KEY = bytes(range(32))
_LONG = timedelta(hours=1)
_BAR = 0.4


def measure_scrub(bench: Bench) -> Iterator[Measure]:
    """Measure a check of a seed over HTTPS, and a comparison of a source over NBD, of an image that equals its map."""
    image = make_image(bench.directory, bench.image_bytes)
    checksums, bare_rate = _map(image)
    size = len(checksums) // 16 * GRANULE
    part = GranuleRange(2000, size, 0, checksums, GranuleSet([(0, granules_of(size))]).encode())
    directory = Path(tempfile.mkdtemp(prefix="scrub-", dir=bench.directory))
    certificates = make_certificates(bench.directory / "certificates")
    pages = _server(
        directory,
        "tests.bench.range_files",
        *(str(image.path), str(certificates.certificate_file), str(certificates.key_file)),
    )
    nbd = _server(directory, "tests.bench.nbd_files", str(directory / "nbd"), str(image.path))
    plane = unpaced_plane()
    try:
        pages.start()
        nbd.start()
        access = BlobAccess(f"https://127.0.0.1:{pages.ready['port']}/seeds", "", str(certificates.ca_file))
        source = NbdAddress(unix_path=str(directory / "nbd"), export=str(size))
        checks = _costs(bench, lambda: plane.check(CheckJob(((part, "seed"),), access, _KEY, _LONG), ignore))
        compares = _costs(bench, lambda: plane.compare(CompareJob(((part, source),), _KEY, _LONG), ignore))
    finally:
        pages.stop()
        nbd.stop()
        shutil.rmtree(directory)
    yield _rate("scrub_seed_per_core", size, checks, bare_rate, "GET with Range over HTTPS")
    yield _rate("scrub_source_per_core", size, compares, bare_rate, "NBD from the page cache")


def _map(image: Image) -> tuple[bytes, float]:
    """Return the image's checksum map, and how fast one core computes it in a bare loop, in GB/s."""
    checksum = Hasher(_KEY).checksum
    buffer = memoryview(bytearray(GRANULE))
    checksums = []
    spent_s = 0.0
    with image.path.open("rb", buffering=0) as file:
        while file.readinto(buffer) == GRANULE:
            began = time.thread_time()
            checksums.append(checksum(buffer))
            spent_s += time.thread_time() - began
    return b"".join(checksums), len(checksums) * GRANULE / spent_s / _GB


def _costs(bench: Bench, run: Callable[[], tuple[ScrubbedDisk, ...]]) -> list[Cost[tuple[ScrubbedDisk, ...]]]:
    costs = [measured(run) for _ in range(bench.pairs)]
    for cost in costs:
        if any(len(GranuleSet.decode(disk.differing)) for disk in cost.result):
            raise AssertionError("an image differs from its own map")
    return costs


def _rate(name: str, size: int, costs: list[Cost[tuple[ScrubbedDisk, ...]]], bare_rate: float, how: str) -> Measure:
    gib = size / GIB
    return Measure(
        *(name, size / median_cpu_s(costs) / _GB, "GB/s", _BAR, True, bare_rate),
        f"of disk for each CPU second of the data process, with its start: {how}; "
        f"{size / median_seconds(costs) / _GB:.2f} GB/s by the clock, CPU-s/GiB {median_cpu_s(costs) / gib:.2f}; "
        "baseline: hashing alone",
    )


def _server(directory: Path, module: str, *arguments: str) -> ManagedProcess:
    return ManagedProcess(
        ProcessSpec(
            module.rpartition(".")[2],
            python_command("-m", module, *arguments),
            directory,
            {},
            Readiness.JSON_LINE,
            working_directory=Path(__file__).resolve().parents[2],
        )
    )
