"""Who may start, and who gives way: slots are granted by whole vectors, by priority and age (spec §3, architecture "Slots").

A vector is granted at once or not at all, so those who wait for a first grant hold nothing. The exceptions to the limits
are the spec's:

- A VM with more disks than a transfer limit asks for at most the limit, and transfers its disks in turns.
- A VM that alone has more disks than a datastore's snapshot limit runs when nothing else holds a snapshot there.
- Initial replications and resyncs together hold at most two thirds of a datastore's snapshot slots; one that alone
  has more disks than that runs when no other of them holds a snapshot there.
- A pre-failover delta may exceed the snapshot count of a datastore that is not short of space.

What is kept free for whom:

- For a pre-failover delta that does not fit, what it lacks, at once: its snapshot slots, or if it has those all its transfer slots.
- For any other once it has waited for `reserve_after`, if it is the first of those that wait for what it lacks: snapshot
  slots before those of the host, and these before those of the appliance. What it could not use yet is left to others,
  and those who hold the snapshots that it waits for can come to their end.
- A transfer that gave way does not take back what it gave, while a more urgent request waits for it.

A replication group asks as one, for all its members together; nobody is asked to give way to it, and what it lacks is kept
for it as for any other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from deltaferry.planning.phrases import count_text
from deltaferry.planning.slot_vectors import (
    Kind,
    Lease,
    Priority,
    Resource,
    SlotLimits,
    SlotRequest,
    Taken,
    clamped,
    effective_priority,
    resumed,
    without_transfer,
)

__all__ = [
    "Lease", "Priority", "SlotLimits", "SlotRequest", "Taken", "clamped", "effective_priority", "grant", "in_order", "over_limits",
    "refusal_of_replication", "resumed", "to_yield", "without_transfer", "yielding",
]  # fmt: skip

_Identity = tuple[str, str]
"""(holder, request id)."""


def in_order(waiting: Iterable[SlotRequest], limits: SlotLimits, now: datetime) -> tuple[SlotRequest, ...]:
    """Return the requests in the order in which they are considered.

    That is by effective priority; then what is in progress, since it holds snapshots meanwhile; then what has aged, so that
    what has risen to a class is not starved by what is new in it, nor an initial replication, which has no class to rise to,
    by what has risen; then by ticket. What is in progress starves nobody: it comes to an end, and no more of it begins
    before those who have aged.
    """
    return tuple(request for _, request in _ranked(waiting, limits, now))


def grant(
    waiting: Iterable[SlotRequest],
    leases: Iterable[Lease],
    limits: SlotLimits,
    now: datetime,
    short_of_space: frozenset[str] = frozenset(),
    closed_appliances: frozenset[str] = frozenset(),
) -> tuple[SlotRequest, ...]:
    """Return the requests to grant now, in order, with their disks clamped to the limits.

    `short_of_space` names the datastores whose free space is below the threshold: there a pre-failover delta keeps to
    the snapshot count. `closed_appliances` names those in a blackout window: there only pre-failover deltas and what is
    in progress are granted, and nothing is kept free for others. The answer depends on the sets given, not on their
    order. A request that has a lease already is not granted again, unless it asks for the disks that the lease gave up.
    """
    leases = tuple(leases)
    room = _Room(Taken.by(leases), limits, now)
    passed_over: list[tuple[int, SlotRequest]] = []
    granted = []
    for effective, request in _able_to_start(waiting, leases, limits, now, closed_appliances):
        lacking = room.taken.lacking(request, limits, short_of_space)
        if lacking:
            if not room.keep_for(request, lacking) and lacking[0].kind is not Kind.DATASTORE:
                passed_over.append((effective, request))
        elif not (request.in_progress and passed_over and _gave_way_to(effective, request, passed_over, room.taken, limits)):
            room.taken.add(request)
            granted.append(request)
    return tuple(granted)


def to_yield(
    waiting: Iterable[SlotRequest],
    leases: Iterable[Lease],
    limits: SlotLimits,
    now: datetime,
    short_of_space: frozenset[str] = frozenset(),
    closed_appliances: frozenset[str] = frozenset(),
    asked: frozenset[str] = frozenset(),
) -> tuple[Lease, ...]:
    """Return the leases whose holders should give their transfer slots back at their chunk's end, in the order chosen."""
    return tuple(lease for lease, _ in yielding(waiting, leases, limits, now, short_of_space, closed_appliances, asked))


def yielding(
    waiting: Iterable[SlotRequest],
    leases: Iterable[Lease],
    limits: SlotLimits,
    now: datetime,
    short_of_space: frozenset[str] = frozenset(),
    closed_appliances: frozenset[str] = frozenset(),
    asked: frozenset[str] = frozenset(),
) -> tuple[tuple[Lease, SlotRequest], ...]:
    """Return the leases whose holders should give their transfer slots back, and for which request each.

    They do so for a request that lacks transfer slots only, has a strictly better effective priority than the lease's
    class, and will fit once they have: as few as are needed, the least urgent and the youngest of them first. What
    `grant` would grant meanwhile counts as granted. `asked` holds the ids of the leases that were asked already: they
    are taken first, so that asking anew asks no others without need. A lease without disks has nothing to give.
    """
    leases = tuple(leases)
    room = _Room(Taken.by(leases), limits, now)
    taken = room.taken
    may_give = [lease for lease in leases if lease.disks > 0]
    least_urgent = max((lease.priority for lease in may_give), default=Priority.PRE_FAILOVER)
    on_host: dict[str, list[Lease]] = {}
    for lease in may_give:
        on_host.setdefault(lease.host, []).append(lease)
    more_urgent = [request for request in waiting if effective_priority(request, limits, now) < least_urgent]
    chosen: dict[_Identity, tuple[Lease, SlotRequest]] = {}
    for effective, request in _able_to_start(more_urgent, leases, limits, now, closed_appliances):
        lacking = taken.lacking(request, limits, short_of_space)
        if lacking and lacking[0].kind is not Kind.DATASTORE and not request.further:
            from_host = taken.hosts.get(request.host, 0) + request.disks - limits.disks_per_host
            from_appliance = taken.appliances.get(request.appliance, 0) + request.disks - limits.disks_per_appliance
            less_urgent = [
                lease
                for lease in (may_give if from_appliance > 0 else on_host.get(request.host, ()))
                if lease.priority > effective and _identity(lease) not in chosen
            ]
            for lease in _fewest(less_urgent, request.host, request.appliance, from_host, from_appliance, asked):
                chosen[_identity(lease)] = (lease, request)
                taken.add_transfer(lease.appliance, lease.host, -lease.disks)
                lacking = ()
        if lacking:
            room.keep_for(request, lacking)
        else:
            taken.add(request)
    return tuple(chosen.values())


def over_limits(leases: Iterable[Lease], limits: SlotLimits, asked: frozenset[str] = frozenset()) -> tuple[Lease, ...]:
    """Return the leases to give their transfer slots back because a limit was lowered below what is held.

    As few as are needed, the least urgent and the youngest first; they ask to go on, clamped to the limits of then.
    """
    may_give = [lease for lease in leases if lease.disks > 0]
    taken = Taken.by(may_give)
    chosen: dict[_Identity, Lease] = {}

    def choose(host: str, appliance: str, host_excess: int, appliance_excess: int) -> None:
        left = [lease for lease in may_give if _identity(lease) not in chosen]
        for lease in _fewest(left, host, appliance, host_excess, appliance_excess, asked):
            chosen[_identity(lease)] = lease
            taken.add_transfer(lease.appliance, lease.host, -lease.disks)

    for host in sorted(host for host, disks in taken.hosts.items() if disks > limits.disks_per_host):
        choose(host, "", taken.hosts[host] - limits.disks_per_host, 0)
    for appliance in sorted(taken.appliances):
        if taken.appliances[appliance] > limits.disks_per_appliance:
            choose("", appliance, 0, taken.appliances[appliance] - limits.disks_per_appliance)
    return tuple(chosen.values())


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


def _ranked(waiting: Iterable[SlotRequest], limits: SlotLimits, now: datetime) -> Iterator[tuple[int, SlotRequest]]:
    """Yield (effective priority, request) in the order in which requests are considered."""
    queue = []
    for number, request in enumerate(waiting):
        young = request.priority is Priority.PRE_FAILOVER or now - request.requested_at < limits.ageing
        effective = int(request.priority) if young else effective_priority(request, limits, now)
        place = (effective, not request.in_progress, young, request.ticket, request.holder, request.request_id)
        queue.append((*place, number, request))
    queue.sort()
    return ((entry[0], entry[-1]) for entry in queue)


def _able_to_start(
    waiting: Iterable[SlotRequest], leases: Sequence[Lease], limits: SlotLimits, now: datetime, closed: frozenset[str]
) -> Iterator[tuple[int, SlotRequest]]:
    """Yield, in order and clamped, the requests that more slots could start: each once, none that has what it asks for."""
    disks_held = {_identity(lease): lease.disks for lease in leases}
    for effective, waiter in _ranked(waiting, limits, now):
        identity = (waiter.holder, waiter.request_id)
        held = disks_held.get(identity)
        if held is not None and (held > 0 or waiter.disks == 0):
            continue
        disks_held[identity] = waiter.disks or 1
        if closed and not waiter.in_progress and waiter.priority is not Priority.PRE_FAILOVER and _is_closed(waiter, closed):
            continue
        request = clamped(waiter, limits)
        if request.disks >= min(waiter.disks, 1):  # else a transfer limit of zero: an operator lets nothing start
            yield effective, request


def _is_closed(request: SlotRequest, closed: frozenset[str]) -> bool:
    return request.appliance in closed or any(transfer.appliance in closed for transfer in request.further)


def _identity(vector: Lease | SlotRequest) -> _Identity:
    return vector.holder, vector.request_id


@dataclass(slots=True)
class _Room:
    """What is taken while the queue is gone through, and for whom room is kept."""

    taken: Taken
    limits: SlotLimits
    at: datetime
    waited_for: set[Resource] = field(default_factory=set)
    """What is kept for one already: whoever else lacks it is not the first."""

    def keep_for(self, request: SlotRequest, lacking: Sequence[Resource]) -> bool:
        """Keep what a request lacks free for it, if it is its turn; return whether it is."""
        if request.priority is Priority.PRE_FAILOVER:
            self.taken.add_up_to(Kind.DATASTORE if lacking[0].kind is Kind.DATASTORE else Kind.APPLIANCE, request)
            return True
        if self.at - request.requested_at <= self.limits.reserve_after or not self.waited_for.isdisjoint(lacking):
            return False
        self.waited_for.update(lacking)
        self.taken.add_up_to(lacking[0].kind, request)
        return True


def _gave_way_to(
    effective: int, request: SlotRequest, passed_over: Iterable[tuple[int, SlotRequest]], taken: Taken, limits: SlotLimits
) -> bool:
    """Return whether a transfer that asks to go on would take the slots that more urgent requests wait for."""
    ahead = [other for urgency, other in passed_over if urgency < effective]
    awaited = [transfer for other in ahead for transfer in other.transfers]
    on_host = sum(transfer.disks for transfer in awaited if transfer.host == request.host)
    on_appliance = sum(transfer.disks for transfer in awaited if transfer.appliance == request.appliance)
    return (on_host > 0 and taken.hosts.get(request.host, 0) + on_host + request.disks > limits.disks_per_host) or (
        on_appliance > 0
        and taken.appliances.get(request.appliance, 0) + on_appliance + request.disks > limits.disks_per_appliance
    )


def _fewest(
    leases: Sequence[Lease], host: str, appliance: str, from_host: int, from_appliance: int, asked: frozenset[str]
) -> Sequence[Lease]:
    """Return leases that free at least so many disks of a host and of an appliance; none if all of them do not."""
    if not leases:
        return ()

    def gives_way(lease: Lease) -> tuple[bool, int, float, str, str]:
        let_in = lease.granted_at.timestamp() if lease.granted_at is not None else 0.0
        return lease.lease_id not in asked, -lease.priority, -let_in, lease.holder, lease.request_id

    def freed(lease: Lease) -> tuple[int, int]:
        return lease.disks * (lease.host == host), lease.disks * (lease.appliance == appliance)

    picked = []
    for lease in sorted(leases, key=gives_way):
        of_host, of_appliance = freed(lease)
        if (from_host > 0 and of_host) or (from_appliance > 0 and of_appliance):
            picked.append(lease)
            from_host -= of_host
            from_appliance -= of_appliance
    if from_host > 0 or from_appliance > 0:
        return ()
    needed = []
    for lease in reversed(picked):  # the most urgent are let go on first, where the others free enough
        of_host, of_appliance = freed(lease)
        if from_host + of_host <= 0 and from_appliance + of_appliance <= 0:
            from_host += of_host
            from_appliance += of_appliance
        else:
            needed.append(lease)
    return needed[::-1]
