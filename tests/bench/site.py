"""A whole site: many replications of two disks each, through the real arbiter on a real server, whose database is in memory.

The steps are stand-ins that do nothing; what is measured is orchestration alone. All workflows run in a process of their own, the
steps in this one. Every replication runs the same number of delta cycles, one after the other, all of them due at once at first.
"""

import asyncio
import statistics
from collections.abc import Callable, Iterator, Mapping

from tests.bench.report import Bench, Measure
from tests.bench.site_run import Run, run_site
from tests.workflows.world import DISKS

_NOISE = 1.1
"""By how much two runs of the same work may differ."""
_CORES = 2
_LEASES_BAR = 5.0
_EVENTS_BAR = 60
_MEMORY_BAR_KB = 150
_ARBITER_EVENTS_BAR = 4096
_DELAY_BAR_S = 2.0
"""Of ours: a small part of the shortest interval that replications have."""


def measure_site(bench: Bench) -> Iterator[Measure]:
    """Measure sites of all sizes, each on a server and a worker of its own."""
    runs = {count: asyncio.run(run_site(bench, count)) for count in bench.site_replications}
    smallest, largest = runs[min(runs)], runs[max(runs)]
    shown = f"{', '.join(map(str, runs))} replications"
    slowest = min(runs.values(), key=lambda run: run.leases_per_s)
    yield Measure(
        *("site_leases", slowest.leases_per_s, "1/s", _LEASES_BAR, True, smallest.leases_per_s),
        f"sustained, the least of {shown}: {_each(runs, lambda run: run.leases_per_s)}; baseline: the smallest site's",
    )
    per_lease = largest.workflow_tasks / largest.leases
    yield Measure(
        *("site_workflow_tasks", largest.tasks_per_s, "1/s", _LEASES_BAR * per_lease, True, smallest.tasks_per_s),
        f"{shown}: {_each(runs, lambda run: run.tasks_per_s)}; {per_lease:.1f} for each lease, the arbiter's included; the bar is that of the leases",
    )
    yield Measure(
        *(
            "site_cpu_per_lease",
            largest.cpu_s / largest.leases,
            "s",
            _CORES / _LEASES_BAR,
            False,
            smallest.cpu_s / smallest.leases,
        ),
        f"CPU time of server, workflow worker and steps; {shown}: {_each(runs, lambda run: 1000 * run.cpu_s / run.leases)} ms, of which "
        f"the worker {_each(runs, lambda run: 1000 * run.worker_cpu_s / run.leases)} ms; the bar: what {_CORES} cores have for each "
        f"of {_LEASES_BAR:.0f} leases a second; baseline: the smallest site's",
    )
    delay_s, baseline_s = (statistics.median(run.delays_s) for run in (largest, smallest))
    yield Measure(
        *("site_arbiter_delay", delay_s, "s", _DELAY_BAR_S, False, baseline_s),
        f"from request to grant of what fits, {largest.waiting} others waiting: median of {len(largest.delays_s)}, at most "
        f"{max(largest.delays_s):.2f} s; baseline: {smallest.waiting} waiting",
    )
    events = [events for run in runs.values() for events in run.cycle_events]
    yield Measure(
        *("site_cycle_events", statistics.median(events), "", _EVENTS_BAR, False, min(events)),
        f"events of a delta cycle of {len(DISKS)} disks, with its wait: median of {len(events)}, of which 95 % took at most "
        f"{statistics.quantiles(events, n=20)[-1]:.0f}, all at most {max(events)}; baseline: the fewest",
    )
    arbiter = [events for run in runs.values() for events in run.arbiter_events]
    yield Measure(
        *("site_arbiter_events", max(arbiter), "", _ARBITER_EVENTS_BAR, False, max(smallest.arbiter_events)),
        f"the longest of the arbiter's {len(arbiter)} runs at {shown}; baseline: the smallest site's longest",
    )
    yield Measure(
        *("site_memory", largest.kb_each, "KB", _MEMORY_BAR_KB, False, smallest.kb_each),
        f"of the worker for each cached workflow, what all share included; {shown}: {_each(runs, lambda run: run.kb_each)}, of which "
        f"before their first cycle {_each(runs, lambda run: run.idle_kb_each)}; baseline: the smallest site's",
    )
    yield _growth("site_growth_time", runs, "s", lambda run: run.seconds)
    yield _growth("site_growth_memory", runs, "MB", lambda run: run.worker_bytes / 1e6)


def _each(runs: Mapping[int, Run], value: Callable[[Run], float]) -> str:
    return ", ".join(f"{value(run):.1f}" for run in runs.values())


def _growth(name: str, runs: Mapping[int, Run], unit: str, cost: Callable[[Run], float]) -> Measure:
    smallest, largest = runs[min(runs)], runs[max(runs)]
    share = (cost(largest) / largest.replications) / (cost(smallest) / smallest.replications)
    return Measure(
        *(name, share, "", _NOISE, False, cost(smallest)),
        f"{', '.join(map(str, runs))} replications: {_each(runs, cost)} {unit}; for each replication, the largest site's against the "
        f"smallest's; baseline: the smallest site in {unit}",
    )
