"""What people write: strict, since a typo that is ignored does harm."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from deltaferry.model.policy import DEFAULT_RETENTION, DEFAULT_REVERSE_INTERVAL, FailbackPolicy, ReplicationPolicy

_STRICT = ConfigDict(extra="forbid")
_Word = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
_Count = Annotated[int, Field(ge=0, le=100_000)]


@dataclass(frozen=True, slots=True)
class TargetProperties:
    """The VM to make in Azure. What is left out comes from the target's configuration, or from the source VM."""

    __pydantic_config__ = _STRICT

    vm_name: _Word | None = None
    size: _Word | None = None
    resource_group: _Word | None = None
    network: _Word | None = None
    subnet: _Word | None = None
    zone: _Word | None = None
    disk_sku: _Word | None = None
    license_type: _Word | None = None
    os_type: _Word | None = None
    """`Linux` or `Windows`; only needed where the source's guest type does not say."""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """A replication policy: `{"name": "gold", "rpo_threshold": "PT4H"}` is enough."""

    __pydantic_config__ = _STRICT

    name: _Word
    rpo_threshold: timedelta
    """How old the latest recovery point may be before an event says so."""
    retention: timedelta = DEFAULT_RETENTION
    """How long recovery points are kept, at most 15 days."""
    app_consistent_every: timedelta | None = None
    """How often a cycle's snapshot is quiesced, 1 to 12 hours; never where left out."""
    failback_interval: timedelta = DEFAULT_REVERSE_INTERVAL
    failback_rpo_threshold: timedelta | None = None
    reason: str = ""

    def policy(self) -> ReplicationPolicy:
        """Return the policy with its failback policy."""
        failback = FailbackPolicy(self.failback_interval, self.failback_rpo_threshold)
        return ReplicationPolicy(self.name, self.rpo_threshold, self.retention, self.app_consistent_every, failback)


@dataclass(frozen=True, slots=True)
class EnableInput:
    """Start `EnableReplication` with this: `{"vm": "web-01", "site": "lon1"}` is enough."""

    __pydantic_config__ = _STRICT

    vm: _Word
    """The VM's name, or its instance UUID."""
    site: _Word
    target: TargetProperties = field(default_factory=TargetProperties)
    auto_repair: bool = True
    """A resync that is needed begins by itself in the site's off-hours window; without, it waits for `repair`."""
    policy: PolicyOptions | _Word | None = None
    """A replication policy, or the name of one; without one only the latest recovery point is kept, and no RPO is watched."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an operator asks for something; kept in the history."""

    __pydantic_config__ = _STRICT

    reason: str = ""


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """How to migrate. With everything left out: shut the guest down, lose nothing, fail rather than power it off hard."""

    __pydantic_config__ = _STRICT

    keep_source_running: bool = False
    """True: what the guest writes after the last snapshot is not in the target."""
    shutdown_timeout: timedelta = timedelta(minutes=10)
    allow_power_off: bool = False
    """Power off hard when the guest has not shut down in time."""
    max_downtime: timedelta | None = None
    """Repeat on-demand deltas until the predicted downtime fits; end before the shutdown where it does not."""
    guard_source: bool = True
    """Annotate the source and disconnect its NICs at power-on, so that two masters do not write."""
    target: TargetProperties | None = None
    """Overrides single target properties for this migration."""
    expected_import: timedelta = timedelta(minutes=1)
    """What `max_downtime` reckons for importing the disks and starting the VM."""
    override_blackout: bool = False
    """Migrate although a blackout window is open; without, the migration is refused with the window's end."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TestOptions:
    """How to try a VM out: `{"network": "drill"}` is enough. Replication goes on meanwhile."""

    __pydantic_config__ = _STRICT

    network: _Word
    """An isolated virtual network, which is not the one that the VM will be migrated to."""
    subnet: _Word | None = None
    """The target's default where left out."""
    point: _Word = "latest"
    """`latest`, `latest-app-consistent`, a cycle's key, or an instant such as `2026-11-22T12:00:00Z`: the latest point until then."""
    target: TargetProperties | None = None
    """Overrides single target properties for this test; the VM is called `<name>-test-<number>` unless they name it."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CleanUpOptions:
    """Which tests to delete, and what was found."""

    __pydantic_config__ = _STRICT

    test: int | None = None
    """A test's number; all that have ended where left out."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FailoverOptions:
    """How to fail over from a recovery point, whether the source can be reached or not."""

    __pydantic_config__ = _STRICT

    point: _Word = "latest"
    """`latest`, `latest-app-consistent`, a cycle's key, or an instant such as `2026-11-22T12:00:00Z`: the latest point until then."""
    shut_down_source: bool = True
    """Shut the source VM down first, where it can be reached; what does not succeed soon is not waited for."""
    target: TargetProperties | None = None
    """Overrides single target properties for this failover."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChangePointOptions:
    """Which recovery point to replace the VM in Azure by; what that VM has written is lost."""

    __pydantic_config__ = _STRICT

    point: _Word
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AlternateLocation:
    """Another place at the site for a VM that comes home: `{"datastore": "ds2", "host": "esx-2"}` is enough.

    A new VM is made there, as the one that it came from was. Either `host` or `cluster` is given.
    """

    __pydantic_config__ = _STRICT

    datastore: _Word
    host: _Word | None = None
    """The ESXi host that the VM is made on."""
    cluster: _Word | None = None
    """The cluster; the VM is made on one of its hosts that mounts the datastore."""
    resource_pool: _Word | None = None
    """A resource pool of that host or cluster; its own where left out."""
    folder: _Word | None = None
    """Path below the datacenter's VM folder, such as `/prod/web`; that folder itself where left out."""
    name: _Word | None = None
    """The new VM's name; that of the old one where left out."""
    networks: dict[str, _Word] = field(default_factory=dict)
    """From a network that the VM was on to the one that it shall be on, by their names at the site; the others stay as they are."""


@dataclass(frozen=True, slots=True)
class ReprotectOptions:
    """How to replicate a failed-over VM back to its site."""

    __pydantic_config__ = _STRICT

    confirm_losses: bool = False
    """What the source VM wrote after the point that was failed over to may be overwritten."""
    power_off_source: bool = False
    """Power the source VM off where it runs: its disks are written to."""
    reason: str = ""
    location: AlternateLocation | None = None
    """Make a new VM there, and leave the one that it came from as it is."""


@dataclass(frozen=True, slots=True)
class EndOptions:
    """How to stop, or to complete a migration."""

    __pydantic_config__ = _STRICT

    keep_change_tracking: bool = False
    """Leave CBT on although Deltaferry switched it on."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How to resynchronise: at once, and as precisely as the ladder allows."""

    __pydantic_config__ = _STRICT

    full_copy: bool = False
    """Compare nothing, and send everything that is allocated."""
    reset_tracking: bool = False
    """Reset change tracking on the VM first; refused while the VM has snapshots."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What to verify the seed disks against."""

    __pydantic_config__ = _STRICT

    with_source: bool = False
    """Compare with the source's blocks too, by a resync, which repairs what differs; else with the checksum maps only."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class InventoryInput:
    """Start `SiteInventory` with this: `{"site": "lon1"}`."""

    __pydantic_config__ = _STRICT

    site: _Word


@dataclass(frozen=True, slots=True)
class AuditInput:
    """Start `SiteAudit` with this: `{"site": "lon1", "dry_run": true}`."""

    __pydantic_config__ = _STRICT

    site: _Word
    dry_run: bool = False
    """Only report; change nothing."""
    grace: Annotated[timedelta, Field(ge=timedelta(0))] | None = None
    """Nothing younger is touched or reported; the site's setting `audit_grace` where left out."""


@dataclass(frozen=True, slots=True)
class AdoptInput:
    """Start `AdoptReplications` with this, after the Temporal database was lost or an entity was terminated by mistake."""

    __pydantic_config__ = _STRICT

    site: _Word
    vm: _Word | None = None
    """Only the replication of this VM (name or instance UUID); all of the site's when left out."""


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """What an operator changes of a site's settings while everything runs; what is left out stays as it is."""

    __pydantic_config__ = _STRICT

    disks_per_appliance: _Count | None = None
    disks_per_host: _Count | None = None
    snapshots_per_datastore: _Count | None = None
    replications_per_appliance: _Count | None = None
    replications_per_site: _Count | None = None
    min_interval: timedelta | None = None
    max_interval: timedelta | None = None
    time_zone: _Word | None = None
    """IANA name: the windows are local times of it."""
    blackout: str | None = None
    """When no cycle may start, such as `Monday;7:00;7h | Friday;13:00;8m`; empty: cycles may always start."""
    off_hours: str | None = None
    """When automatic resyncs may start; empty: never by themselves."""
    throttle: str | None = None
    """What each appliance may send, such as `100 Mbit/s | Monday;7:00;10h;10 Mbit/s`; empty: no limit."""
    pre_failover_weight: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How many times an ordinary transfer's share of a throttled line a pre-failover cycle gets."""
    sample_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    scrub_every: timedelta | None = None
    appliances: dict[str, str] | None = None
    """All scale-out appliances: each one's name, and blackout windows of its own or an empty text."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReassignInput:
    """Move a replication to another appliance; its next chunk goes through there."""

    __pydantic_config__ = _STRICT

    vm: _Word
    """The VM's instance UUID, or its replication's workflow id."""
    appliance: _Word
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ForceRelease:
    """Take a holder's slots away, although it may still use them: for a lease that nothing else frees."""

    __pydantic_config__ = _STRICT

    holder: _Word
    """Its workflow id, as the arbiter's details show it."""
    reason: str = ""
