"""`python -m tests.bench [--quick] [data | site | recovery | group …]`: measure, print a table, write `.bench/results.json`.

A bar that is missed is reported, and the exit code stays 0; it is 1 if a measure could not be made.
"""

import argparse
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from rich.console import Console

from deltaferry.model.units import MIB
from tests.bench.deltas import measure_deltas
from tests.bench.growth import measure_growth
from tests.bench.lab_paths import measure_lab_paths
from tests.bench.machine import description
from tests.bench.nbd_tools import measure_nbd_tools
from tests.bench.recovery import measure_failover, measure_reprotect
from tests.bench.report import Bench, Group, Measure, NotMeasured, save, table
from tests.bench.scrub import measure_scrub
from tests.bench.site import measure_site
from tests.bench.stages import measure_stages
from tests.bench.throttle import measure_throttle

DATA: Mapping[str, Group] = {
    "stages": measure_stages,
    "nbdcopy": measure_nbd_tools,
    "deltas": measure_deltas,
    "growth": measure_growth,
    "scrub": measure_scrub,
    "lab": measure_lab_paths,
}
"""The data plane."""
SITE: Mapping[str, Group] = {
    "throttle": measure_throttle,
    "arbiter": measure_site,
}
"""What a whole site needs: its limits and its arbiter."""
RECOVERY: Mapping[str, Group] = {
    "failover": measure_failover,
    "reprotect": measure_reprotect,
}
"""Failing over and coming back."""
GROUPS: Mapping[str, Group] = {**DATA, **SITE, **RECOVERY}
SETS: Mapping[str, tuple[str, ...]] = {"data": tuple(DATA), "site": tuple(SITE), "recovery": tuple(RECOVERY)}


_WIDTH = 150
"""Of the table where the output is no terminal."""


def full(directory: Path) -> Bench:
    """Return what `make bench` measures."""
    return Bench(
        directory=directory,
        image_bytes=4096 * MIB,
        pairs=3,
        areas_64k=1000,
        areas_4k=10_000,
        growth_disk_bytes=1024 * MIB,
        empty_cycles=8,
        throttle_s=30,
        site_replications=(50, 100, 200, 500),
        site_cycles=2,
        site_probes=10,
        failover_sizes=(64 * MIB, 512 * MIB, 2048 * MIB),
        reprotect_disk_bytes=512 * MIB,
    )


def quick(directory: Path) -> Bench:
    """Return the smallest run of every measure: it proves that they can be made, and says nothing of speed."""
    return Bench(
        directory=directory,
        image_bytes=32 * MIB,
        pairs=1,
        areas_64k=32,
        areas_4k=64,
        growth_disk_bytes=8 * MIB,
        empty_cycles=2,
        throttle_s=3,
        site_replications=(3, 30),
        site_cycles=2,
        site_probes=2,
        failover_sizes=(8 * MIB, 16 * MIB),
        reprotect_disk_bytes=8 * MIB,
    )


def run(groups: list[str], bench: Bench, console: Console) -> tuple[list[Measure], list[str]]:
    """Make the measures of these groups; return them, and a sentence for each group that failed."""
    bench.directory.mkdir(parents=True, exist_ok=True)
    measures: list[Measure] = []
    failed: list[str] = []
    for group in groups:
        began = time.monotonic()
        try:
            for measure in GROUPS[group](bench):
                measures.append(measure)
                console.print(f"  {measure.name} = {measure.value:.3g} {measure.unit}", highlight=False)
        except NotMeasured as missing:
            console.print(f"[yellow]{group}: not measured: {missing}[/]")
        except Exception as error:  # one group's failure must not hide what the others measured
            failed.append(f"{group} could not be measured: {type(error).__name__}: {error}")
            console.print(f"[red]{failed[-1]}[/]")
        console.print(f"[dim]{group}: {time.monotonic() - began:.0f} s[/]")
    return measures, failed


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument(
        "names", nargs="*", metavar="data|site|recovery|group", help=f"groups: {', '.join(GROUPS)}; without any, all of them"
    )
    parser.add_argument("--quick", action="store_true", help="small images, one pair each: whether it can be measured at all")
    parser.add_argument("--directory", type=Path, default=Path(".bench"), help="where images and results go")
    options = parser.parse_args()
    unknown = set(options.names) - set(GROUPS) - set(SETS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    groups = [group for name in options.names or SETS for group in SETS.get(name, (name,))]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    signal.signal(signal.SIGTERM, _interrupt)
    directory = options.directory.absolute()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    measures, failed = run(groups, quick(directory) if options.quick else full(directory), console)
    console.print(table(measures, description()))
    save(measures, directory / ("quick.json" if options.quick else "results.json"))
    return 1 if failed else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that folders and processes are cleaned up."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
