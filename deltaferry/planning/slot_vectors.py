"""What is asked for, what is held, and what is taken: the vectors that the decisions on slots are made of (spec §3).

A vector is the disks in transfer, counted on an appliance and on an ESXi host, and the disk snapshots, counted on each
datastore. `deltaferry.planning.slots` decides who gets one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple


class Priority(IntEnum):
    """Why a cycle runs, as far as its place in the queue goes; lower comes first."""

    PRE_FAILOVER = 1
    INITIAL = 2
    RESYNC = 3
    DELTA = 4


_HIGHEST_BY_AGE = Priority.INITIAL
"""How far waiting raises a request: never above, nor among, pre-failover deltas."""

_BULK = (Priority.INITIAL, Priority.RESYNC)


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """A site's limits and how age counts; every number is a default that operators may change while everything runs."""

    disks_per_appliance: int = 52
    disks_per_host: int = 8
    snapshots_per_datastore: int = 15
    replications_per_appliance: int = 300
    replications_per_site: int = 500
    ageing: timedelta = timedelta(hours=1)
    """A waiting request rises by one priority class for each such time."""
    reserve_after: timedelta = timedelta(minutes=10)
    """Once a request that does not fit has waited this long, what it needs is kept free for it."""

    @property
    def bulk_snapshots_per_datastore(self) -> int:
        """Two thirds of a datastore's snapshot slots: what initial replications and resyncs hold at most together."""
        return self.snapshots_per_datastore * 2 // 3


class Transfer(NamedTuple):
    """Disks in transfer, on an appliance and on a host."""

    appliance: str
    host: str
    disks: int


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """What a cycle needs.

    A transfer that gave its slots back at a chunk's end asks to go on by a request of its own: `in_progress`, with disks
    and without datastores, since it has kept its snapshots.
    """

    holder: str
    """The workflow id that the grant is sent to."""
    request_id: str
    """Unique among the holder's requests: the same one sent twice is one request."""
    priority: Priority
    appliance: str
    host: str
    disks: int
    """Disks in transfer."""
    datastores: tuple[tuple[str, int], ...]
    """(datastore, disk snapshots on it)."""
    ticket: int
    """The order of arrival at the arbiter."""
    requested_at: datetime
    in_progress: bool = False
    """The transfer has begun already: it comes before newly scheduled ones of its class."""
    further: tuple[Transfer, ...] = ()
    """A replication group asks as one: what its other members transfer. `datastores` holds the snapshots of all of them."""

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Everything that it transfers."""
        return (Transfer(self.appliance, self.host, self.disks), *self.further)


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted vector, with the disks as they were clamped when it was granted."""

    lease_id: str
    holder: str
    request_id: str
    priority: Priority
    appliance: str
    host: str
    disks: int
    """Disks in transfer; 0 while its transfer has given way and only the snapshots are held."""
    datastores: tuple[tuple[str, int], ...]
    granted_at: datetime | None = None
    """When its transfer was let in; the youngest give way first. One that is not known counts as the oldest."""


class Kind(IntEnum):
    """A kind of slots, in the order in which they are kept free for one who waits: so none waits for ever for two kinds in turn."""

    DATASTORE = 1
    HOST = 2
    APPLIANCE = 3


class Resource(NamedTuple):
    """What slots are counted on."""

    kind: Kind
    name: str


@dataclass(slots=True)
class Taken:
    """What is taken: by leases, by the grants made so far, and by what is kept free for those who wait."""

    appliances: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    bulk_snapshots: dict[str, int] = field(default_factory=dict)

    @classmethod
    def by(cls, leases: Iterable[Lease]) -> "Taken":
        """Return what leases take."""
        taken = cls()
        for lease in leases:
            taken.add(lease)
        return taken

    def add(self, vector: Lease | SlotRequest) -> None:
        """Take a whole vector."""
        self.add_transfer(vector.appliance, vector.host, vector.disks)
        if isinstance(vector, SlotRequest):
            for transfer in vector.further:
                self.add_transfer(*transfer)
        self.add_snapshots(vector)

    def add_transfer(self, appliance: str, host: str, disks: int) -> None:
        """Take transfer slots; a negative number gives them back."""
        self.appliances[appliance] = self.appliances.get(appliance, 0) + disks
        self.hosts[host] = self.hosts.get(host, 0) + disks

    def add_up_to(self, kind: Kind, request: SlotRequest) -> None:
        """Take a request's slots of the kinds up to one."""
        self.add_snapshots(request)
        for appliance, host, disks in request.transfers:
            if kind >= Kind.HOST:
                self.hosts[host] = self.hosts.get(host, 0) + disks
            if kind >= Kind.APPLIANCE:
                self.appliances[appliance] = self.appliances.get(appliance, 0) + disks

    def add_snapshots(self, vector: Lease | SlotRequest) -> None:
        """Take a vector's snapshot slots alone."""
        bulk = vector.priority in _BULK
        for datastore, count in vector.datastores:
            self.snapshots[datastore] = self.snapshots.get(datastore, 0) + count
            if bulk:
                self.bulk_snapshots[datastore] = self.bulk_snapshots.get(datastore, 0) + count

    def lacking(self, request: SlotRequest, limits: SlotLimits, short_of_space: frozenset[str]) -> tuple["Resource", ...]:
        """Return what keeps a request from starting; nothing if its whole vector fits, by the limits and their exceptions.

        Of the kinds of slots the first that lacks, in the order of `Kind`: the later are worth nothing without it.
        """
        datastores = request.datastores if len(request.datastores) < 2 else _by_datastore(request.datastores)
        stores = tuple(
            [
                Resource(Kind.DATASTORE, name)
                for name, count in datastores
                if count > 0 and not self._snapshots_fit(request.priority, name, count, limits, short_of_space)
            ]
        )
        disks = request.disks
        if stores or disks == 0:
            return stores
        if request.further:
            return self._lacking_together(request, limits)
        if self.hosts.get(request.host, 0) + disks > limits.disks_per_host:
            return (Resource(Kind.HOST, request.host),)
        if self.appliances.get(request.appliance, 0) + disks > limits.disks_per_appliance:
            return (Resource(Kind.APPLIANCE, request.appliance),)
        return ()

    def _lacking_together(self, request: SlotRequest, limits: SlotLimits) -> tuple["Resource", ...]:
        """Return the transfer slots that a group lacks: all hosts' that lack, or else all appliances'."""
        hosts: dict[str, int] = {}
        appliances: dict[str, int] = {}
        for appliance, host, disks in request.transfers:
            hosts[host] = hosts.get(host, 0) + disks
            appliances[appliance] = appliances.get(appliance, 0) + disks
        full = [name for name, disks in hosts.items() if disks and self.hosts.get(name, 0) + disks > limits.disks_per_host]
        if full:
            return tuple(Resource(Kind.HOST, name) for name in sorted(full))
        taken, limit = self.appliances, limits.disks_per_appliance
        full = [name for name, disks in appliances.items() if disks and taken.get(name, 0) + disks > limit]
        return tuple(Resource(Kind.APPLIANCE, name) for name in sorted(full))

    def _snapshots_fit(
        self, priority: Priority, datastore: str, count: int, limits: SlotLimits, short_of_space: frozenset[str]
    ) -> bool:
        """Return whether a datastore has room within the limits, or by the exceptions for who is alone, and for migrations."""
        taken, limit = self.snapshots.get(datastore, 0), limits.snapshots_per_datastore
        if taken + count > limit and (count <= limit or taken):
            return priority is Priority.PRE_FAILOVER and datastore not in short_of_space
        if priority not in _BULK:
            return True
        taken, limit = self.bulk_snapshots.get(datastore, 0), limits.bulk_snapshots_per_datastore
        return taken + count <= limit or (count > limit and not taken)


def effective_priority(request: SlotRequest, limits: SlotLimits, now: datetime) -> int:
    """Return the request's class, raised by one for every full `ageing` that it has waited, but not to pre-failover."""
    waited = now - request.requested_at
    if request.priority <= _HIGHEST_BY_AGE or waited < limits.ageing:
        return int(request.priority)
    return max(request.priority - waited // limits.ageing, int(_HIGHEST_BY_AGE))


def clamped(request: SlotRequest, limits: SlotLimits) -> SlotRequest:
    """Return the request asking for no more transfer slots than a limit allows: its disks then go in turns.

    So do a group's members: those for which no slots are left at first ask for theirs when the others have ended.
    """
    if request.further:
        return _clamped_together(request, limits)
    most = min(limits.disks_per_appliance, limits.disks_per_host)
    return request if request.disks <= most else replace(request, disks=most)


def _clamped_together(request: SlotRequest, limits: SlotLimits) -> SlotRequest:
    hosts: dict[str, int] = {}
    appliances: dict[str, int] = {}
    fitting = []
    for appliance, host, disks in request.transfers:
        on_host, on_appliance = hosts.get(host, 0), appliances.get(appliance, 0)
        fits = max(min(disks, limits.disks_per_host - on_host, limits.disks_per_appliance - on_appliance), 0)
        hosts[host], appliances[appliance] = on_host + fits, on_appliance + fits
        fitting.append(Transfer(appliance, host, fits))
    return replace(request, disks=fitting[0].disks, further=tuple(fitting[1:]))


def without_transfer(lease: Lease) -> Lease:
    """Return what a lease still holds after its transfer gave way at a chunk's end: its snapshots."""
    return replace(lease, disks=0)


def resumed(lease: Lease, granted: SlotRequest, at: datetime) -> Lease:
    """Return a lease whose transfer may go on by a grant, where the VM is now: its host may be another by then."""
    return replace(lease, appliance=granted.appliance, host=granted.host, disks=granted.disks, granted_at=at)


def _by_datastore(datastores: tuple[tuple[str, int], ...]) -> Iterable[tuple[str, int]]:
    """Return each datastore once: a VM may be said to have disks on one in several places."""
    wanted: dict[str, int] = {}
    for datastore, count in datastores:
        wanted[datastore] = wanted.get(datastore, 0) + count
    return wanted.items()
