"""Whether the limits are kept in a simulation: counted anew from what was let in, without a line of the code that decides.

Sums change only when something is let in, gives way or ends, so looking then is looking at every instant.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from deltaferry.planning.slots import Lease, Priority, SlotLimits, SlotRequest

_KEPT = 50
"""So many violations are kept with their words; all are counted."""


class Rule(StrEnum):
    """What a simulation watches over."""

    APPLIANCE = "disks in transfer on an appliance"
    HOST = "disks in transfer on an ESXi host"
    DATASTORE = "disk snapshots on a datastore"
    BULK = "disk snapshots of initial replications and resyncs on a datastore"
    ONE_SNAPSHOT = "one snapshot of a VM at a time"
    BLACKOUT = "no new cycle inside a blackout window"
    REPLICATIONS = "replications on an appliance and on the site"
    CHUNK = "giving way within one chunk"
    NEEDLESS_WAIT = "no wait while everything needed is free"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken."""

    at: datetime
    rule: Rule
    who: str
    count: int
    limit: int


@dataclass(slots=True)
class _Held:
    appliance: str
    host: str
    disks: int
    stores: Mapping[str, int]
    priority: Priority


@dataclass(slots=True)
class LimitWatch:
    """Counts what is held, and notes every limit that is exceeded but by the spec's exceptions (spec §3)."""

    limits: SlotLimits
    chunk: timedelta
    violations: list[Violation] = field(default_factory=list)
    count: int = 0
    checks: int = 0
    """How often a limit was looked at: a watch that never looked proves nothing."""
    _held: dict[str, _Held] = field(default_factory=dict)
    _on_appliance: Counter[str] = field(default_factory=Counter)
    _on_host: Counter[str] = field(default_factory=Counter)
    _holders: dict[str, dict[str, tuple[int, Priority]]] = field(default_factory=dict)
    """Datastore → holder → (snapshots, class)."""

    def let_in(self, at: datetime, lease: Lease, *, closed: bool) -> None:
        """Note a grant of a whole vector; `closed` says that its appliance is in a blackout window."""
        if lease.holder in self._held:
            self._note(at, Rule.ONE_SNAPSHOT, lease.holder, 2, 1)
        if closed and lease.priority is not Priority.PRE_FAILOVER:
            self._note(at, Rule.BLACKOUT, lease.holder, 1, 0)
        stores: Counter[str] = Counter()
        for datastore, count in lease.datastores:
            stores[datastore] += count
        self._held[lease.holder] = _Held(lease.appliance, lease.host, lease.disks, stores, lease.priority)
        self._transfer(at, lease.holder, lease.appliance, lease.host, lease.disks)
        for datastore, count in stores.items():
            self._holders.setdefault(datastore, {})[lease.holder] = (count, lease.priority)
            self._look_at(at, datastore, lease.holder)

    def gave_way(self, at: datetime, holder: str, asked_at: datetime) -> None:
        """Note that a transfer gave its slots back at a chunk's end."""
        held = self._held[holder]
        self._transfer(at, holder, held.appliance, held.host, -held.disks)
        held.disks = 0
        self.checks += 1
        if at - asked_at > self.chunk + timedelta(seconds=1):
            self._note(at, Rule.CHUNK, holder, round((at - asked_at).total_seconds()), round(self.chunk.total_seconds()))

    def went_on(self, at: datetime, lease: Lease) -> None:
        """Note that a transfer that gave way was let in again."""
        held = self._held[lease.holder]
        held.appliance, held.host, held.disks = lease.appliance, lease.host, lease.disks
        self._transfer(at, lease.holder, lease.appliance, lease.host, lease.disks)

    def ended(self, at: datetime, holder: str) -> None:
        """Note that a holder gave everything back."""
        held = self._held.pop(holder)
        self._transfer(at, holder, held.appliance, held.host, -held.disks)
        for datastore in held.stores:
            del self._holders[datastore][holder]

    def assigned(self, at: datetime, loads: Mapping[str, int], appliance: str) -> None:
        """Note that a replication was given to an appliance; `loads` are those after it."""
        self.checks += 1
        if loads[appliance] > self.limits.replications_per_appliance:
            self._note(at, Rule.REPLICATIONS, appliance, loads[appliance], self.limits.replications_per_appliance)
        if sum(loads.values()) > self.limits.replications_per_site:
            self._note(at, Rule.REPLICATIONS, "site", sum(loads.values()), self.limits.replications_per_site)

    def obstacles(self, request: SlotRequest) -> frozenset[Rule]:
        """Return the limits that keep a request waiting as things are; empty if everything that it needs is free."""
        found = set()
        disks = min(request.disks, self.limits.disks_per_appliance, self.limits.disks_per_host)
        if disks and self._on_appliance[request.appliance] + disks > self.limits.disks_per_appliance:
            found.add(Rule.APPLIANCE)
        if disks and self._on_host[request.host] + disks > self.limits.disks_per_host:
            found.add(Rule.HOST)
        for datastore, count in request.datastores:
            if request.priority is Priority.PRE_FAILOVER or not count:
                continue
            if not _within(count, self._snapshots(datastore, bulk=False), self.limits.snapshots_per_datastore):
                found.add(Rule.DATASTORE)
            if request.priority is not Priority.DELTA and not _within(
                count, self._snapshots(datastore, bulk=True), self.limits.snapshots_per_datastore * 2 // 3
            ):
                found.add(Rule.BULK)
        return frozenset(found)

    def waits(self, at: datetime, waiting: Iterable[SlotRequest]) -> Counter[Rule]:
        """Return what those who wait, and may start by the windows, wait for; note who waits for nothing.

        One for which everything is free may only wait for the sake of another that needs the same and is as urgent by
        its age or class.
        """
        waiting = tuple(waiting)
        reasons: Counter[Rule] = Counter()
        for request in waiting:
            self.checks += 1
            obstacles = self.obstacles(request)
            reasons.update(obstacles)
            if obstacles or any(_stands_before(other, request) for other in waiting):
                continue
            self._note(at, Rule.NEEDLESS_WAIT, request.holder, round((at - request.requested_at).total_seconds()), 0)
        return reasons

    def in_use(self) -> tuple[Mapping[str, int], int]:
        """Return the disks in transfer by appliance, and the disk snapshots in all."""
        return self._on_appliance, sum(count for held in self._holders.values() for count, _ in held.values())

    def _transfer(self, at: datetime, who: str, appliance: str, host: str, disks: int) -> None:
        self._on_appliance[appliance] += disks
        self._on_host[host] += disks
        if disks > 0:
            self.checks += 1
            if self._on_appliance[appliance] > self.limits.disks_per_appliance:
                self._note(at, Rule.APPLIANCE, who, self._on_appliance[appliance], self.limits.disks_per_appliance)
            if self._on_host[host] > self.limits.disks_per_host:
                self._note(at, Rule.HOST, who, self._on_host[host], self.limits.disks_per_host)

    def _look_at(self, at: datetime, datastore: str, who: str) -> None:
        """Look at a datastore that `who` has just got snapshots on."""
        self.checks += 1
        count, priority = self._holders[datastore][who]
        if priority is Priority.PRE_FAILOVER:
            return  # the spec's exception: a migration never waits for a snapshot slot
        for rule, bulk, limit in (
            (Rule.DATASTORE, False, self.limits.snapshots_per_datastore),
            (Rule.BULK, True, self.limits.snapshots_per_datastore * 2 // 3),
        ):
            taken = self._snapshots(datastore, bulk=bulk)
            counts = not bulk or priority is not Priority.DELTA
            if counts and not _within(count, taken - count, limit):
                self._note(at, rule, who, taken, limit)

    def _snapshots(self, datastore: str, *, bulk: bool) -> int:
        held = self._holders.get(datastore, {}).values()
        return sum(count for count, priority in held if not bulk or priority in (Priority.INITIAL, Priority.RESYNC))

    def _note(self, at: datetime, rule: Rule, who: str, count: int, limit: int) -> None:
        self.count += 1
        if len(self.violations) < _KEPT:
            self.violations.append(Violation(at, rule, who, count, limit))


def _within(count: int, beside: int, limit: int) -> bool:
    return beside + count <= limit or (beside == 0 and count > limit)


def _stands_before(other: SlotRequest, request: SlotRequest) -> bool:
    """Return whether a request may wait for another's sake: they need the same, and the other is not the less urgent by class and age."""
    if other is request:
        return False
    shared = (
        other.appliance == request.appliance
        or other.host == request.host
        or bool({name for name, _ in other.datastores} & {name for name, _ in request.datastores})
    )
    return shared and (other.priority <= request.priority or other.requested_at < request.requested_at)
