"""What a simulation has shown: waits, data loss exposure, what held cycles up, and the course of it for a plot."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil

from deltaferry.planning.simulation_arbiter import SimulatedArbiter
from deltaferry.planning.simulation_site import SimulatedSite
from deltaferry.planning.simulation_watch import LimitWatch, Rule, Violation
from deltaferry.planning.slots import Priority, SlotRequest

LIMITS = (Rule.APPLIANCE, Rule.HOST, Rule.DATASTORE, Rule.BULK)
"""The limits that a cycle can wait for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How things were at an instant."""

    at_s: float
    """Since the begin."""
    transfers: Mapping[str, int]
    """Disks in transfer, by appliance."""
    snapshots: int
    """Disk snapshots on all datastores."""
    waiting: Mapping[Priority, int]
    """Requests that wait, by class."""
    closed: bool
    """An appliance, or the whole site, is in a blackout window."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long requests of one class waited for slots, without the time that windows were closed to them."""

    count: int
    p50_s: float
    p99_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class Exposure:
    """How much work would have been lost, at worst, if the site had been lost: time from a snapshot to the next one's commit."""

    p50_s: float
    p95_s: float
    p99_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class ArbiterLoad:
    """What the arbiter's histories would hold."""

    max_events: int
    """Of its longest run."""
    runs: int
    events: int
    decisions: int
    grants: int
    yields: int


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """The outcome of a simulation."""

    begins: datetime
    days: float
    seed: int
    vms: int
    disks: int
    limit_violations: int
    violations: tuple[Violation, ...]
    """The first of them, with their words."""
    checks: int
    """How often a limit was looked at."""
    cycles: int
    by_class: Mapping[Priority, int]
    """Cycles that were committed, by class."""
    waits: Mapping[Priority, Waits]
    longest_pause_s: float
    """The longest time between giving way and going on."""
    rpo: Exposure
    waited_for: Mapping[Rule, float]
    """Share of the waiting requests, over time, that a limit held up; one request may be held up by several."""
    arbiter: ArbiterLoad
    copied_after_s: float | None
    """When the last initial replication was committed; None if not all were."""
    uncopied: int
    """VMs whose initial replication was not committed in time."""
    migrations: int
    refused_for_window: int
    """Migrations that were asked for in a blackout window, and asked for again at its end."""
    resyncs: int
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class Findings:
    """What is noted while a simulation runs."""

    waits: dict[Priority, list[float]] = field(default_factory=lambda: {priority: [] for priority in Priority})
    longest_pause_s: float = 0.0
    exposures_s: list[float] = field(default_factory=list)
    committed: Counter[Priority] = field(default_factory=Counter)
    obstacles: Counter[Rule] = field(default_factory=Counter)
    looked_at_waiting: int = 0
    copied_s: list[float] = field(default_factory=list)
    migrations: int = 0
    refused_for_window: int = 0
    resyncs: int = 0
    samples: list[Sample] = field(default_factory=list)

    def look(self, at_s: float, at: datetime, watch: LimitWatch, arbiter: SimulatedArbiter, closed: frozenset[str]) -> None:
        """Note how things are at an instant, and what those wait for who may start by the windows."""
        able = [request for request in arbiter.waiting.values() if not _is_shut_out(request, closed)]
        self.obstacles.update(watch.waits(at, able))
        self.looked_at_waiting += len(able)
        transfers, snapshots = watch.in_use()
        waiting = Counter(request.priority for request in arbiter.waiting.values())
        self.samples.append(Sample(at_s, dict(transfers), snapshots, waiting, bool(closed)))

    def report(
        self, site: SimulatedSite, days: float, seed: int, watch: LimitWatch, arbiter: SimulatedArbiter, uncopied: int
    ) -> SimulationReport:
        """Return what all that was noted says."""
        exposures = sorted(self.exposures_s)
        history = arbiter.history
        return SimulationReport(
            begins=site.begins,
            days=days,
            seed=seed,
            vms=len(site.vms),
            disks=sum(len(vm.disks) for vm in site.vms),
            limit_violations=watch.count,
            violations=tuple(watch.violations),
            checks=watch.checks,
            cycles=self.committed.total(),
            by_class=dict(self.committed),
            waits={priority: _waits(waits) for priority, waits in self.waits.items()},
            longest_pause_s=self.longest_pause_s,
            rpo=Exposure(
                percentile(exposures, 0.5), percentile(exposures, 0.95), percentile(exposures, 0.99), max(exposures, default=0.0)
            ),
            waited_for={rule: self.obstacles[rule] / max(self.looked_at_waiting, 1) for rule in LIMITS},
            arbiter=ArbiterLoad(
                history.most, history.runs, history.total, arbiter.decisions_made, arbiter.grants, arbiter.yields
            ),
            copied_after_s=None if uncopied else max(self.copied_s, default=0.0),
            uncopied=uncopied,
            migrations=self.migrations,
            refused_for_window=self.refused_for_window,
            resyncs=self.resyncs,
            samples=tuple(self.samples),
        )


def _waits(waits: Sequence[float]) -> Waits:
    return Waits(len(waits), percentile(waits, 0.5), percentile(waits, 0.99), max(waits, default=0.0))


def _is_shut_out(request: SlotRequest, closed: frozenset[str]) -> bool:
    return request.appliance in closed and not request.in_progress and request.priority is not Priority.PRE_FAILOVER


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value that `share` of all are not above; 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[max(ceil(share * len(values)) - 1, 0)]
