"""The file that describes a site to `deltaferry simulate`: its tables, and the site that they stand for.

`deploy/examples/site.toml` shows all of it with comments. Every mistake is reported at once, each as a sentence that names
file, table and key and says what to write instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, TypeAdapter

from console.site_file_words import MOST_VMS, WRITE
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.planning.schedule import MAXIMUM_INTERVAL, MINIMUM_INTERVAL
from deltaferry.planning.simulation_site import (
    GIB,
    MIB,
    Churn,
    CycleCosts,
    Made,
    SimulatedAppliance,
    SimulatedDisk,
    SimulatedSite,
    SimulatedVm,
    make_vms,
)
from deltaferry.planning.slots import SlotLimits
from deltaferry.planning.throttle import parse_throttle
from deltaferry.planning.windows import DEFAULT_OFF_HOURS, parse_windows
from workers.settings_file import decode
from workers.settings_types import (
    STRICT,
    Duration,
    FrozenTable,
    Name,
    Period,
    TimeZone,
    WeeklyThrottle,
    WeeklyWindows,
    Word,
    refused,
)

_LONGEST_CHUNK = timedelta(minutes=15)
"""Spec §3: every transfer is cut in chunks of at most 15 minutes."""

_Count = Annotated[int, Field(ge=1, le=100_000)]
_Number = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
_NumberOrZero = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


def _chunk(value: timedelta) -> timedelta:
    if value > _LONGEST_CHUNK:
        raise refused("is more than 15 minutes")
    return value


def _day(value: str) -> str:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise refused("is not a date such as 2026-01-05") from None
    return value


def _line(value: str) -> str:
    try:
        schedule = parse_throttle(value)
    except ValueError:
        schedule = None
    if schedule is None or schedule.windows or schedule.default is None:
        raise refused("is not a rate of at least 1 Mbit/s")
    return value


@dataclass(frozen=True, slots=True)
class MadeVms:
    """VMs made up from counts."""

    __pydantic_config__ = STRICT

    count: Annotated[int, Field(ge=1, le=MOST_VMS)] = Made().vms
    disks: _Count = Made().disks
    hosts: _Count = Made().hosts
    datastores: _Count = Made().datastores
    used_gib_per_disk: _Number = Made().used_gib_per_disk
    waves: _Count = Made().waves
    wave_every: Duration = Made().wave_every
    largest_vm_disks: Annotated[int, Field(ge=1, le=256)] = Made().largest_vm_disks

    def __post_init__(self) -> None:
        """Refuse counts that contradict each other."""
        if not self.count <= self.disks <= self.count * self.largest_vm_disks:
            raise refused(
                f"has {self.disks} disks for {self.count} VMs of 1 to {self.largest_vm_disks} disks each: "
                f"write from {self.count} to {self.count * self.largest_vm_disks} disks"
            )


@dataclass(frozen=True, slots=True)
class DiskTable:
    """A disk of a VM that is known."""

    __pydantic_config__ = STRICT

    datastore: Word
    used_gib: _Number


@dataclass(frozen=True, slots=True)
class VmTable:
    """A VM that is known."""

    __pydantic_config__ = STRICT

    name: Word
    host: Word
    disks: Annotated[tuple[DiskTable, ...], Field(min_length=1, max_length=256)]
    enabled_after: Period = timedelta(0)
    churn: _NumberOrZero = 1.0


@dataclass(frozen=True, slots=True)
class ApplianceTable:
    """An appliance."""

    __pydantic_config__ = STRICT

    line: Annotated[str, AfterValidator(_line)] = "2 Gbit/s"
    blackout: WeeklyWindows = ""


@dataclass(frozen=True, slots=True)
class LimitTable:
    """The site's limits (spec §3)."""

    __pydantic_config__ = STRICT

    disks_per_appliance: _Count = SlotLimits().disks_per_appliance
    disks_per_host: _Count = SlotLimits().disks_per_host
    snapshots_per_datastore: _Count = SlotLimits().snapshots_per_datastore
    replications_per_appliance: _Count = SlotLimits().replications_per_appliance
    replications_per_site: _Count = SlotLimits().replications_per_site


@dataclass(frozen=True, slots=True)
class ChurnTable:
    """How guests change their disks."""

    __pydantic_config__ = STRICT

    day_kb_per_s: _NumberOrZero = Churn().day_bytes_per_s / 1000
    night_kb_per_s: _NumberOrZero = Churn().night_bytes_per_s / 1000
    day_begins: Annotated[float, Field(ge=0, le=24)] = Churn().day_begins_h
    day_ends: Annotated[float, Field(ge=0, le=24)] = Churn().day_ends_h
    working_set: Annotated[float, Field(gt=0, le=1)] = Churn().working_set

    def __post_init__(self) -> None:
        """Refuse a day that ends before it begins."""
        if self.day_begins > self.day_ends:
            raise refused("has a day_begins after its day_ends: exchange them")


@dataclass(frozen=True, slots=True)
class CostTable:
    """What a cycle takes besides moving bytes, and how fast bytes move at best."""

    __pydantic_config__ = STRICT

    snapshot: Duration = CycleCosts().snapshot
    consolidation: Duration = CycleCosts().consolidation
    disk_mib_per_s: _Number = CycleCosts().disk_bytes_per_s / MIB
    compare_mib_per_s: _Number = CycleCosts().compare_bytes_per_s / MIB
    compression: Annotated[float, Field(ge=1, le=100)] = CycleCosts().compression
    pre_failover_weight: Annotated[int, Field(ge=1, le=1000)] = CycleCosts().pre_failover_weight


@dataclass(frozen=True, slots=True)
class SiteFile:
    """The whole file."""

    __pydantic_config__ = STRICT

    time_zone: TimeZone = "UTC"
    begins: Annotated[str, AfterValidator(_day)] = "2026-01-05"
    """A local date; the simulation begins at its midnight."""
    blackout: WeeklyWindows = ""
    off_hours: WeeklyWindows = DEFAULT_OFF_HOURS
    throttle: WeeklyThrottle = ""
    min_interval: Duration = MINIMUM_INTERVAL
    max_interval: Duration = MAXIMUM_INTERVAL
    chunk_max: Annotated[Duration, AfterValidator(_chunk)] = _LONGEST_CHUNK
    chunk_max_bytes: Annotated[int, Field(ge=4 * MIB, le=1024 * GIB)] = 4 * GIB
    migrations_per_day: Annotated[float, Field(ge=0, le=10_000)] = 10.0
    resyncs_per_day: Annotated[float, Field(ge=0, le=10_000)] = 2.0
    vms: MadeVms | None = None
    vm: Annotated[tuple[VmTable, ...], Field(max_length=MOST_VMS)] = ()
    appliances: Annotated[Mapping[Name, ApplianceTable], FrozenTable] = field(default_factory=dict)
    limits: LimitTable = field(default_factory=LimitTable)
    churn: ChurnTable = field(default_factory=ChurnTable)
    costs: CostTable = field(default_factory=CostTable)

    def __post_init__(self) -> None:
        """Check what concerns several keys."""
        if self.min_interval > self.max_interval:
            raise refused("has a min_interval above its max_interval: exchange them")
        if self.vms is None and not self.vm:
            raise refused("has no VMs: add a table [vms] with counts, or a table [[vm]] for each VM")
        if not self.appliances:
            raise refused("has no appliance: add a table such as [appliances.appliance-1]")
        names = [table.name for table in self.vm]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise refused(f"has more than one VM with the name {twice[0]}: give each its own")

    def site(self, seed: int) -> SimulatedSite:
        """Return the site; what is made up is the same for the same seed."""
        made = make_vms(self._counts(self.vms), seed) if self.vms is not None else ()
        zone = ZoneInfo(self.time_zone)
        return SimulatedSite(
            vms=(*made, *map(_vm, self.vm)),
            appliances=tuple(_appliance(name, table) for name, table in self.appliances.items()),
            limits=SlotLimits(
                self.limits.disks_per_appliance,
                self.limits.disks_per_host,
                self.limits.snapshots_per_datastore,
                self.limits.replications_per_appliance,
                self.limits.replications_per_site,
            ),
            churn=Churn(
                self.churn.day_kb_per_s * 1000,
                self.churn.night_kb_per_s * 1000,
                self.churn.day_begins,
                self.churn.day_ends,
                self.churn.working_set,
            ),
            costs=CycleCosts(
                self.costs.snapshot,
                self.costs.consolidation,
                self.costs.disk_mib_per_s * MIB,
                self.costs.compare_mib_per_s * MIB,
                self.costs.compression,
                self.costs.pre_failover_weight,
            ),
            min_interval=self.min_interval,
            max_interval=self.max_interval,
            chunk=self.chunk_max,
            chunk_bytes=self.chunk_max_bytes,
            zone=zone,
            blackout=parse_windows(self.blackout),
            off_hours=parse_windows(self.off_hours),
            throttle=parse_throttle(self.throttle),
            migrations_per_day=self.migrations_per_day,
            resyncs_per_day=self.resyncs_per_day,
            begins=datetime.combine(date.fromisoformat(self.begins), time(), zone).astimezone(UTC),
        )

    @staticmethod
    def _counts(made: MadeVms) -> Made:
        return Made(
            made.count,
            made.disks,
            made.hosts,
            made.datastores,
            made.used_gib_per_disk,
            made.waves,
            made.wave_every,
            made.largest_vm_disks,
        )


def _vm(table: VmTable) -> SimulatedVm:
    disks = tuple(SimulatedDisk(disk.datastore, round(disk.used_gib * GIB)) for disk in table.disks)
    return SimulatedVm(table.name, table.host, disks, table.enabled_after, table.churn)


def _appliance(name: str, table: ApplianceTable) -> SimulatedAppliance:
    line = parse_throttle(table.line).default
    assert line is not None, "the table was checked"
    return SimulatedAppliance(name, line.bits_per_s, parse_windows(table.blackout))


_SITE_FILE = TypeAdapter(SiteFile)


def load_site_file(path: Path) -> SiteFile:
    """Return what a site file says. Raises BAD_CONFIGURATION with every mistake in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION, f"The site file {path} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
    return decode(data, str(path), _SITE_FILE, WRITE)
