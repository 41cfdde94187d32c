"""Who may start: slots are granted by whole vectors, by priority and age (spec §3, architecture "Slots").

A request's vector is its disks in transfer, counted on its appliance and on its ESXi host, and its disk snapshots,
counted on each datastore. It is granted at once or not at all, so holders never wait for each other. The exceptions
to the limits are the spec's:

- A VM with more disks than a transfer limit asks for at most the limit, and transfers its disks in turns.
- A VM that alone has more disks than a datastore's snapshot limit runs when nothing else holds a snapshot there.
- Initial replications and resyncs together hold at most two thirds of a datastore's snapshot slots; one that alone
  has more disks than that runs when no other of them holds a snapshot there.
- A pre-failover delta may exceed the snapshot count of a datastore that is not short of space.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum

from deltaferry.planning.phrases import count_text


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


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """What a cycle needs. Either part may be empty: a chunk's end gives transfer slots up and keeps its snapshot."""

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
    datastores: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class _Used:
    """What is taken: by leases, by the grants made so far, and by what is kept free for requests that waited long."""

    appliances: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    snapshots: Counter[str] = field(default_factory=Counter)
    bulk_snapshots: Counter[str] = field(default_factory=Counter)

    def add(self, taken: Lease | SlotRequest) -> None:
        self.appliances[taken.appliance] += taken.disks
        self.hosts[taken.host] += taken.disks
        for datastore, count in taken.datastores:
            self.snapshots[datastore] += count
            if taken.priority in _BULK:
                self.bulk_snapshots[datastore] += count


def effective_priority(request: SlotRequest, limits: SlotLimits, now: datetime) -> int:
    """Return the request's class, raised by one for every full `ageing` that it has waited, but not to pre-failover."""
    if request.priority <= _HIGHEST_BY_AGE:
        return request.priority
    classes = max(now - request.requested_at, timedelta(0)) // limits.ageing
    return max(request.priority - classes, _HIGHEST_BY_AGE)


def clamped(request: SlotRequest, limits: SlotLimits) -> SlotRequest:
    """Return the request asking for no more transfer slots than a limit allows: its disks then go in turns."""
    return replace(request, disks=min(request.disks, limits.disks_per_appliance, limits.disks_per_host))


def in_order(waiting: Iterable[SlotRequest], limits: SlotLimits, now: datetime) -> tuple[SlotRequest, ...]:
    """Return the requests in the order in which they are considered: effective priority, then what runs already, then ticket.

    A request that age has raised counts as running already: a stream of chunks that come back must not starve it.
    """

    def place(request: SlotRequest) -> tuple[int, bool, int, str, str]:
        effective = effective_priority(request, limits, now)
        newly_scheduled = not request.in_progress and effective == request.priority
        return effective, newly_scheduled, request.ticket, request.holder, request.request_id

    return tuple(sorted(waiting, key=place))


def grant(
    waiting: Iterable[SlotRequest],
    leases: Iterable[Lease],
    limits: SlotLimits,
    now: datetime,
    short_of_space: frozenset[str] = frozenset(),
) -> tuple[SlotRequest, ...]:
    """Return the requests to grant now, in order, with their disks clamped to the limits.

    `short_of_space` names the datastores whose free space is below the threshold: there a pre-failover delta keeps to
    the snapshot count. The answer depends on the sets given, not on their order. A request that already has a lease
    is not granted again.
    """
    used = _Used()
    known: set[tuple[str, str]] = set()
    for lease in leases:
        used.add(lease)
        known.add((lease.holder, lease.request_id))
    granted = []
    for waiter in in_order(waiting, limits, now):
        if (waiter.holder, waiter.request_id) in known:
            continue
        known.add((waiter.holder, waiter.request_id))
        request = clamped(waiter, limits)
        if request.disks < min(waiter.disks, 1):
            continue  # a transfer limit of zero: an operator lets nothing start
        if _fits(request, used, limits, short_of_space):
            used.add(request)
            granted.append(request)
        elif now - request.requested_at > limits.reserve_after:
            used.add(request)  # kept free for it: whoever comes later must fit beside it
    return tuple(granted)


def refusal_of_replication(on_appliance: int, on_site: int, limits: SlotLimits) -> str | None:
    """Return why one more replication has to wait, given how many there are, or None if there is room for it."""
    if on_site >= limits.replications_per_site:
        return (
            f"The site already has {count_text(on_site, 'replication')}, its limit: "
            "complete or stop one, or add a site with appliances of its own."
        )
    if on_appliance >= limits.replications_per_appliance:
        return f"The appliance already has {count_text(on_appliance, 'replication')}, its limit: a scale-out appliance is needed."
    return None


def _fits(request: SlotRequest, used: _Used, limits: SlotLimits, short_of_space: frozenset[str]) -> bool:
    if request.disks > 0 and (
        used.appliances[request.appliance] + request.disks > limits.disks_per_appliance
        or used.hosts[request.host] + request.disks > limits.disks_per_host
    ):
        return False
    wanted: Counter[str] = Counter()
    for datastore, count in request.datastores:
        wanted[datastore] += count
    return all(
        _snapshots_fit(request.priority, name, count, used, limits, short_of_space) for name, count in wanted.items() if count > 0
    )


def _snapshots_fit(
    priority: Priority, datastore: str, count: int, used: _Used, limits: SlotLimits, short_of_space: frozenset[str]
) -> bool:
    if priority is Priority.PRE_FAILOVER and datastore not in short_of_space:
        return True
    if priority in _BULK and not _room(datastore, count, used.bulk_snapshots, limits.bulk_snapshots_per_datastore):
        return False
    return _room(datastore, count, used.snapshots, limits.snapshots_per_datastore)


def _room(datastore: str, count: int, used: Counter[str], limit: int) -> bool:
    """Return whether `count` more stay within the limit, or are alone where they could never."""
    taken = used[datastore]
    return taken + count <= limit or (count > limit and taken == 0)
