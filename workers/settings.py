"""The settings of every process: one TOML file, with secrets by reference into environment and files (spec §5).

`load_settings` reads it; every mistake in it is reported at once, each as a sentence that names file, table and key
and says what to write instead (BAD_CONFIGURATION). `deploy/examples/deltaferry.toml` shows all of it with comments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter
from temporalio.envconfig import ClientConfig, ClientConnectConfig

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import INSTALLATION_PATTERN
from deltaferry.planning.audit import DEFAULT_GRACE
from deltaferry.planning.schedule import MAXIMUM_INTERVAL, MINIMUM_INTERVAL
from deltaferry.planning.slots import SlotLimits
from deltaferry.planning.windows import DEFAULT_OFF_HOURS
from workers.settings_file import decode, find_file
from workers.settings_target import (
    AccountSettings,
    ClientSecretCredential,
    Credential,
    DefaultCredential,
    KeyVaultKeys,
    LocalFileKeys,
    TargetSettings,
    TokenCredential,
)
from workers.settings_types import (
    STRICT,
    AbsolutePath,
    Duration,
    Endpoint,
    FrozenTable,
    HttpsUrl,
    Name,
    Period,
    ScheduleInterval,
    Secret,
    TimeZone,
    WeeklyThrottle,
    WeeklyWindows,
    Word,
    refused,
)

__all__ = [
    "AccountSettings", "ClientSecretCredential", "Credential", "DefaultCredential", "Installation", "KeyVaultKeys", "LimitSettings",
    "LocalFileKeys", "LogFormat", "LogLevel", "LogSettings", "MetricsSettings", "NbdSettings", "PlanWorkerSettings", "Reader", "ScaleOutSettings", "Settings", "SiteSettings",
    "TargetSettings", "TemporalSettings", "TokenCredential", "TransferSettings", "VddkSettings", "WebhookSettings", "load_settings", "parse_settings",
]  # fmt: skip

_LONGEST_CHUNK = timedelta(minutes=15)
"""Spec §3: every transfer is cut in chunks of at most 15 minutes."""

_Count = Annotated[int, Field(ge=1, le=100_000)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _installation_id(value: str) -> str:
    if not INSTALLATION_PATTERN.fullmatch(value):
        raise refused("is not a name of 1 to 12 small letters, digits and hyphens")
    return value


def _chunk(value: timedelta) -> timedelta:
    if value > _LONGEST_CHUNK:
        raise refused("is more than 15 minutes")
    return value


class Reader(StrEnum):
    """How a snapshot's disks are read."""

    NBDKIT_VDDK = "nbdkit-vddk"
    """`nbdkit vddk`, one for each disk: production."""
    NBD = "nbd"
    """An NBD server of the host itself, in plain text: the lab."""


class LogLevel(StrEnum):
    """From which severity on lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Installation:
    """Which installation of Deltaferry this is: part of every claim and snapshot name."""

    __pydantic_config__ = STRICT

    id: Annotated[str, AfterValidator(_installation_id)]


@dataclass(frozen=True, slots=True)
class TemporalSettings:
    """Where Temporal is: an address given here, or a profile of the Temporal CLI's own configuration."""

    __pydantic_config__ = STRICT

    address: Endpoint | None = None
    namespace: Word | None = None
    """`default` with an address; with a profile, the profile's unless given here."""
    profile: Word | None = None

    def __post_init__(self) -> None:
        """Refuse an address beside a profile: it would not be clear whose TLS and API key count."""
        if self.address is not None and self.profile is not None:
            raise refused("has both address and profile, and only one of them can count: leave one out")

    def connect_config(self, environ: Mapping[str, str] | None = None) -> ClientConnectConfig:
        """Return the arguments for `Client.connect`. Raises BAD_CONFIGURATION where the CLI's configuration is unusable.

        With an address the CLI's configuration and its `TEMPORAL_*` variables are left out.
        """
        if self.address is not None:
            return ClientConnectConfig(target_host=str(self.address), namespace=self.namespace or "default")
        try:
            config = ClientConfig.load_client_connect_config(self.profile, override_env_vars=environ)
        except (RuntimeError, ValueError, OSError):
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION,
                "The Temporal CLI's configuration cannot be read, or lacks the profile asked for: "
                "check it with `temporal config list`, or write address in the table [temporal].",
            ) from None
        config.setdefault("target_host", "localhost:7233")
        config.setdefault("namespace", "default")
        if self.namespace is not None:
            config["namespace"] = self.namespace
        return config


@dataclass(frozen=True, slots=True)
class NbdSettings:
    """Where each ESXi host's NBD server listens. It speaks plain text, which has to be written down (spec §5)."""

    __pydantic_config__ = STRICT

    plaintext: Literal[True]
    hosts: Annotated[Mapping[Word, Endpoint], FrozenTable]
    """By the host's name in vCenter."""


@dataclass(frozen=True, slots=True)
class VddkSettings:
    """The user's own download of VMware's VDDK, and how to run nbdkit."""

    __pydantic_config__ = STRICT

    libdir: AbsolutePath
    thumbprint: Word
    """SHA-1 of vCenter's certificate, as VDDK wants it."""
    nbdkit: Word = "nbdkit"


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """A site's limits (spec §3)."""

    __pydantic_config__ = STRICT

    disks_per_appliance: _Count = SlotLimits().disks_per_appliance
    disks_per_host: _Count = SlotLimits().disks_per_host
    snapshots_per_datastore: _Count = SlotLimits().snapshots_per_datastore
    replications_per_appliance: _Count = SlotLimits().replications_per_appliance
    replications_per_site: _Count = SlotLimits().replications_per_site


@dataclass(frozen=True, slots=True)
class ScaleOutSettings:
    """A scale-out appliance: one more source worker of a site, which only moves data."""

    __pydantic_config__ = STRICT

    blackout: WeeklyWindows = ""
    """Blackout windows of its own, beside the site's."""


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One vCenter and what replicates from it."""

    __pydantic_config__ = STRICT

    vcenter: HttpsUrl
    user: Secret
    password: Secret
    appliance: Name
    target: Name
    reader: Reader
    ca_file: AbsolutePath | None = None
    """PEM file of the authorities to trust; the machine's own trust store where left out."""
    time_zone: TimeZone = "UTC"
    """IANA name; the site's windows are local times of it."""
    blackout: WeeklyWindows = ""
    """When no cycle may start; empty: cycles may always start."""
    off_hours: WeeklyWindows = DEFAULT_OFF_HOURS
    """When automatic resyncs may start; empty: never by themselves."""
    throttle: WeeklyThrottle = ""
    """What each appliance may send to the log store, by weekly schedule; empty: as much as the line takes."""
    pre_failover_weight: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many times an ordinary transfer's share of a throttled line a pre-failover cycle gets."""
    sample_share: _Share = 0.001
    """How much of the blocks that change tracking calls unchanged each cycle compares nevertheless, from 0 to 1."""
    scrub_every: Period = timedelta(days=30)
    """How often the seed disks are read whole and compared with what was committed; zero: only on request."""
    inventory_every: ScheduleInterval = timedelta(minutes=15)
    """How often the site's VMs are listed anew; zero: only on request."""
    audit_every: ScheduleInterval = timedelta(hours=24)
    """How often what does not belong is looked for, and repaired where that is safe; zero: only on request."""
    audit_grace: Duration = DEFAULT_GRACE
    """An audit neither touches nor reports what is younger."""
    min_interval: Duration = MINIMUM_INTERVAL
    max_interval: Duration = MAXIMUM_INTERVAL
    nbd: NbdSettings | None = None
    vddk: VddkSettings | None = None
    limits: LimitSettings = field(default_factory=LimitSettings)
    scale_out: Annotated[Mapping[Name, ScaleOutSettings], FrozenTable] = field(default_factory=dict)
    """Scale-out appliances, by name."""

    def __post_init__(self) -> None:
        """Check what concerns several keys."""
        if self.min_interval > self.max_interval:
            raise refused("has a min_interval above its max_interval: exchange them")
        if self.reader is Reader.NBD and self.nbd is None:
            raise refused('has reader = "nbd" but no table nbd: add it, with plaintext = true and hosts')
        if self.reader is Reader.NBDKIT_VDDK and self.vddk is None:
            raise refused('has reader = "nbdkit-vddk" but no table vddk: add it, with libdir and thumbprint')


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How the data plane moves blocks."""

    __pydantic_config__ = STRICT

    chunk_max: Annotated[Duration, AfterValidator(_chunk)] = _LONGEST_CHUNK
    chunk_max_bytes: Annotated[int, Field(ge=4 * 1024**2, le=1024**4)] = 4 * 1024**3
    """Of one disk: bounds what lies unapplied in the log store."""
    threads_per_disk: Annotated[int, Field(ge=1, le=64)] = 8
    page_blob_rate_mib_s: Annotated[int, Field(ge=1, le=10_000)] = 60
    """What one page blob is paced to; 60 MiB/s is the target Azure documents (facts A1)."""


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where metrics are served; nowhere when left out."""

    __pydantic_config__ = STRICT

    prometheus: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and how it looks."""

    __pydantic_config__ = STRICT

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.JSON


@dataclass(frozen=True, slots=True)
class PlanWorkerSettings:
    """The scripts of recovery plans that may run on the machine of this file's workers."""

    __pydantic_config__ = STRICT

    name: Name
    """What plans call it: the worker serves the queue `plan-<name>`."""
    scripts: tuple[AbsolutePath, ...]
    """All that may be run, by absolute path."""


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """How webhooks are called: those of recovery plans, and the one that is told of events."""

    __pydantic_config__ = STRICT

    rpo: Secret | None = None
    """Where the HTTPS address is that is told when a replication crosses its RPO threshold, and when it recovers: it may hold a
    token. Nobody is told where left out."""
    ca_file: AbsolutePath | None = None
    """PEM file of the authorities to trust; the machine's own trust store where left out."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file."""

    __pydantic_config__ = STRICT

    installation: Installation
    temporal: TemporalSettings = field(default_factory=TemporalSettings)
    sites: Annotated[Mapping[Name, SiteSettings], FrozenTable] = field(default_factory=dict)
    targets: Annotated[Mapping[Name, TargetSettings], FrozenTable] = field(default_factory=dict)
    transfer: TransferSettings = field(default_factory=TransferSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    plan_worker: PlanWorkerSettings | None = None
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)

    def __post_init__(self) -> None:
        """Check what concerns several tables."""
        appliances: dict[str, str] = {}
        for name, site in self.sites.items():
            if site.target not in self.targets:
                raise refused(f"has a site {name} with target {site.target}, but no table [targets.{site.target}]: add it")
            for appliance in (site.appliance, *site.scale_out):
                if appliance in appliances:
                    where = (
                        f"the sites {appliances[appliance]} and {name}" if appliances[appliance] != name else f"the site {name}"
                    )
                    raise refused(f"gives {where} the appliance {appliance} twice, and so one queue: give each its own name")
                appliances[appliance] = name


_SETTINGS = TypeAdapter(Settings)


def load_settings(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings in `config`, or in the first file of the default order that exists.

    The order is `config`, the variable DELTAFERRY_CONFIG, `./deltaferry.toml`, `~/.config/deltaferry/deltaferry.toml`.
    Raises BAD_CONFIGURATION with every mistake that the file has.
    """
    file = find_file(config, environ)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION, f"The settings file {file} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
    return parse_settings(data, str(file))


def parse_settings(data: bytes, file: str) -> Settings:
    """Return the settings that a TOML text holds; `file` is its name in sentences. Raises BAD_CONFIGURATION."""
    return decode(data, file, _SETTINGS)
