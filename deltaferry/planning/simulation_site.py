"""The site that a simulation runs: what operators and planners know of theirs, and one made up from counts.

Sizes are of disks as the guest sees them; what goes over the line is smaller by the site's compression.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from deltaferry.planning.schedule import MAXIMUM_INTERVAL, MINIMUM_INTERVAL
from deltaferry.planning.simulation_draws import Draws
from deltaferry.planning.slots import SlotLimits
from deltaferry.planning.throttle import UNLIMITED, Throttle
from deltaferry.planning.windows import DEFAULT_OFF_HOURS, Windows, parse_windows

GIB = 1024**3
MIB = 1024**2

A_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
"""When a simulation begins unless a site says otherwise: a Monday at midnight."""


NO_WINDOWS = Windows()


@dataclass(frozen=True, slots=True)
class SimulatedDisk:
    """A virtual disk."""

    datastore: str
    used_bytes: int
    """Allocated, and not zero: what an initial replication copies."""


@dataclass(frozen=True, slots=True)
class SimulatedVm:
    """A VM that is to be replicated."""

    name: str
    host: str
    disks: tuple[SimulatedDisk, ...]
    enabled_after: timedelta = timedelta(0)
    """When its replication is enabled, from the simulation's begin."""
    churn: float = 1.0
    """How many times the site's churn its disks have."""

    @property
    def used_bytes(self) -> int:
        """Return what its initial replication copies."""
        return sum(disk.used_bytes for disk in self.disks)

    def snapshots(self) -> tuple[tuple[str, int], ...]:
        """Return the vector of its disk snapshots: (datastore, count)."""
        counts: dict[str, int] = {}
        for disk in self.disks:
            counts[disk.datastore] = counts.get(disk.datastore, 0) + 1
        return tuple(sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class SimulatedAppliance:
    """An appliance: its line, and the blackout windows of its own."""

    name: str
    bits_per_s: int = 2_000_000_000
    """What its line takes, before any throttle."""
    blackout: Windows = NO_WINDOWS


@dataclass(frozen=True, slots=True)
class Churn:
    """How guests change their disks: by day and by night, and how much of it is the same sectors again (spec §2.6)."""

    day_bytes_per_s: float = 40_000
    """Of one disk; 40 kB/s by day and 8 kB/s by night are 2 GB a day."""
    night_bytes_per_s: float = 8_000
    day_begins_h: float = 7
    day_ends_h: float = 19
    working_set: float = 0.05
    """The share of what is used that is written again and again: a cycle never has much more to send."""


@dataclass(frozen=True, slots=True)
class CycleCosts:
    """What a cycle takes besides moving bytes, and how fast one disk can be moved at best."""

    snapshot: timedelta = timedelta(seconds=20)
    consolidation: timedelta = timedelta(seconds=40)
    """Removing the snapshot and consolidating; meanwhile the log is applied and verified."""
    disk_bytes_per_s: float = 60.0 * MIB
    """What one page blob takes (facts A1)."""
    compare_bytes_per_s: float = 60.0 * MIB
    """How fast one disk is read for a resync, which sends so little that the line does not count."""
    compression: float = 2.4
    """Bytes of a disk for each byte on the line (measured: 2.44)."""
    pre_failover_weight: int = 4
    """How many times an ordinary transfer's share of the line a pre-failover cycle gets."""


@dataclass(frozen=True, slots=True)
class SimulatedSite:
    """A whole site."""

    vms: tuple[SimulatedVm, ...]
    appliances: tuple[SimulatedAppliance, ...] = (SimulatedAppliance("appliance-1"),)
    limits: SlotLimits = field(default_factory=SlotLimits)
    churn: Churn = Churn()
    costs: CycleCosts = CycleCosts()
    min_interval: timedelta = MINIMUM_INTERVAL
    max_interval: timedelta = MAXIMUM_INTERVAL
    chunk: timedelta = timedelta(minutes=15)
    """The longest time for which a transfer keeps its slots from more urgent work."""
    chunk_bytes: int = 4 * GIB
    """A chunk ends when so much of each disk was moved, too."""
    zone: tzinfo = UTC
    blackout: Windows = NO_WINDOWS
    off_hours: Windows = field(default_factory=lambda: parse_windows(DEFAULT_OFF_HOURS))
    throttle: Throttle = UNLIMITED
    migrations_per_day: float = 10
    """Asked for at random times, of VMs that have been copied."""
    resyncs_per_day: float = 2
    """Replications that need a resync, found at random times; it starts in the off-hours."""
    begins: datetime = A_MONDAY


@dataclass(frozen=True, slots=True)
class Made:
    """Counts and means that VMs are made up from."""

    vms: int = 500
    disks: int = 1200
    hosts: int = 20
    datastores: int = 12
    used_gib_per_disk: float = 60
    """The mean; a few disks have several times as much."""
    waves: int = 5
    """They are enabled in so many waves."""
    wave_every: timedelta = timedelta(hours=12)
    largest_vm_disks: int = 12


def make_vms(counts: Made, seed: int) -> tuple[SimulatedVm, ...]:
    """Return VMs made up from counts, the same for the same seed. Raises ValueError for counts that contradict each other."""
    if not counts.vms <= counts.disks <= counts.vms * counts.largest_vm_disks:
        raise ValueError(
            f"{counts.disks} disks cannot be given to {counts.vms} VMs of 1 to {counts.largest_vm_disks} disks each: "
            f"write from {counts.vms} to {counts.vms * counts.largest_vm_disks} disks."
        )
    draws = Draws(seed)
    sizes = _disk_counts(counts, draws)
    spreads = [draws.spread(0.7) for _ in range(counts.disks)]
    unit = counts.used_gib_per_disk * GIB * counts.disks / sum(spreads)
    taken = 0
    vms = []
    for number, size in enumerate(sizes):
        home = draws.below(counts.datastores)
        disks = tuple(
            SimulatedDisk(
                f"datastore-{1 + (home if draws.uniform() < 0.8 else draws.below(counts.datastores)):02d}", round(unit * spread)
            )
            for spread in spreads[taken : taken + size]
        )
        taken += size
        vms.append(
            SimulatedVm(
                name=f"vm-{number + 1:03d}",
                host=f"esxi-{1 + number % counts.hosts:02d}",
                disks=disks,
                enabled_after=number * counts.waves // counts.vms * counts.wave_every,
                churn=draws.spread(0.8),
            )
        )
    return tuple(vms)


def default_site(seed: int = 1) -> SimulatedSite:
    """Return the site that is simulated without a site file: 500 VMs with 1,200 disks on 20 hosts, 12 datastores, 2 appliances."""
    return SimulatedSite(
        vms=make_vms(Made(), seed),
        appliances=(
            SimulatedAppliance("appliance-1"),
            SimulatedAppliance("appliance-2", blackout=parse_windows("Wednesday;12:00;1h")),
        ),
        blackout=parse_windows("Sunday;2:00;4h"),
    )


def changed_bytes(used_bytes: int, written_bytes: float, working_set: float) -> float:
    """Return what a cycle has to send of a disk after so much was written: what is written again travels once.

    Writes spread evenly over the working set leave 1 - e^(-written / set) of it changed.
    """
    writable = used_bytes * working_set
    return writable * (1 - _E ** (-written_bytes / writable)) if writable > 0 else 0.0


_E = 2.718281828459045


def written_bytes(churn: Churn, from_s: float, to_s: float) -> float:
    """Return what is written to one disk between two times of day, in seconds since a midnight."""
    night = churn.night_bytes_per_s * (to_s - from_s)
    return night + (churn.day_bytes_per_s - churn.night_bytes_per_s) * (_day_s(churn, to_s) - _day_s(churn, from_s))


def _day_s(churn: Churn, until_s: float) -> float:
    """Return how much of the time since the midnight was day."""
    days, rest = divmod(until_s, 86_400)
    begins, ends = churn.day_begins_h * 3600, churn.day_ends_h * 3600
    return days * (ends - begins) + min(max(rest - begins, 0.0), ends - begins)


def _disk_counts(counts: Made, draws: Draws) -> Sequence[int]:
    """Return how many disks each VM has: one each, and the rest where chance has it, so that a few have many."""
    sizes = [1] * counts.vms
    weights = [draws.spread(1.0) for _ in range(counts.vms)]
    room = [number for number in range(counts.vms) for _ in range(max(1, round(weights[number] * 4)))]
    left = counts.disks - counts.vms
    while left:
        number = room[draws.below(len(room))]
        if sizes[number] < counts.largest_vm_disks:
            sizes[number] += 1
            left -= 1
        elif all(sizes[other] >= counts.largest_vm_disks for other in set(room)):
            room = [other for other in range(counts.vms) if sizes[other] < counts.largest_vm_disks]
    return sizes
