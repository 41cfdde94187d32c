"""What a benchmark says: one number for each measure, beside its bar and its baseline."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.table import Table

from tests.bench.machine import Cost

T = TypeVar("T")
U = TypeVar("U")


class NotMeasured(Exception):
    """A measure needs something that this machine does not have; the message says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number. `at_least` says on which side of the bar it should lie."""

    name: str
    value: float
    unit: str
    bar: float
    at_least: bool
    baseline: float
    """What it is compared with, in the unit that `note` says."""
    note: str
    """How it was measured: shown beside it."""

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar


@dataclass(frozen=True, slots=True)
class Bench:
    """How much to measure, and where to put what it takes."""

    directory: Path
    image_bytes: int
    pairs: int
    areas_64k: int
    areas_4k: int
    growth_disk_bytes: int
    """Size of each disk where their number grows, and of the smallest one where the size grows."""
    empty_cycles: int
    throttle_s: float
    """How long each run over a throttled line lasts; its windows are a third of it."""
    site_replications: tuple[int, ...]
    """The sizes of the sites."""
    site_cycles: int
    """How many delta cycles every replication of a site runs: at least two, since a cycle ends where the next begins."""
    site_probes: int
    """How many cycles run beside those that wait, on each of two VMs."""
    failover_sizes: tuple[int, ...]
    """Of the disks that are failed over, in bytes."""
    reprotect_disk_bytes: int


Group = Callable[[Bench], Iterator[Measure]]


def pairs(count: int, product: Callable[[], Cost[T]], baseline: Callable[[], Cost[U]]) -> tuple[list[Cost[T]], list[Cost[U]]]:
    """Measure both in turn, so that what else this machine does weighs on both alike."""
    ours: list[Cost[T]] = []
    theirs: list[Cost[U]] = []
    for _ in range(count):
        theirs.append(baseline())
        ours.append(product())
    return ours, theirs


def median_seconds(costs: Sequence[Cost[T]]) -> float:
    """Return the median wall time."""
    return statistics.median(cost.seconds for cost in costs)


def median_cpu_s(costs: Sequence[Cost[T]]) -> float:
    """Return the median CPU time."""
    return statistics.median(cost.cpu_s for cost in costs)


def peak_rss_bytes(costs: Sequence[Cost[T]]) -> int:
    """Return the largest resident set of several runs."""
    return max(cost.peak_rss_bytes for cost in costs)


def speed_ratio(ours: Sequence[Cost[T]], theirs: Sequence[Cost[U]]) -> float:
    """Return how fast the product is where the baseline is 1: the median over the pairs."""
    return statistics.median(base.seconds / own.seconds for own, base in zip(ours, theirs, strict=True))


def time_ratio(ours: Sequence[Cost[T]], theirs: Sequence[Cost[U]]) -> float:
    """Return how long the product takes where the baseline takes 1: the median over the pairs."""
    return statistics.median(own.seconds / base.seconds for own, base in zip(ours, theirs, strict=True))


def table(measures: Sequence[Measure], title: str) -> Table:
    """Return the results as people read them."""
    shown = Table(title=title, title_justify="left")
    for heading, right in (("measure", False), ("value", True), ("bar", True), ("", False), ("baseline", True), ("how", False)):
        shown.add_column(heading, justify="right" if right else "left", overflow="fold")
    for measure in measures:
        shown.add_row(
            measure.name,
            f"{measure.value:.3g} {measure.unit}".rstrip(),
            f"{'≥' if measure.at_least else '≤'} {measure.bar:g}",
            "[green]✓[/]" if measure.ok else "[red]✗[/]",
            f"{measure.baseline:.3g}",
            measure.note,
        )
    return shown


def save(measures: Sequence[Measure], path: Path) -> None:
    """Write the results of this run as JSON; what earlier runs measured, and this one did not, stays."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = earlier | {
        measure.name: {
            "value": measure.value,
            "unit": measure.unit,
            "bar": measure.bar,
            "ok": measure.ok,
            "baseline": measure.baseline,
        }
        for measure in measures
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
