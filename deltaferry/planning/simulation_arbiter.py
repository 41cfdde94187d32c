"""The arbiter in a simulation: the same functions that `SiteSlots` calls, and the events that its history would have."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from deltaferry.planning.appliances import assign
from deltaferry.planning.slots import Lease, SlotLimits, SlotRequest, grant, resumed, to_yield, without_transfer

ROLL_OVER_AT_EVENTS = 2_000
"""Above so many events the arbiter continues as new, as `workflows/site_slots.py` does. The server suggests it at 4,096, which
is too late to stay below: what a window's end lets in at once writes several hundred."""

_ASK_HOLDERS_EVERY = timedelta(minutes=1)
"""After so long without a change, while some wait, the arbiter asks those who hold slots whether they still run."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is simulated: the functions of planning. Others can be put in their place, to see that the watch notices."""

    grant: Callable[..., tuple[SlotRequest, ...]] = grant
    to_yield: Callable[..., tuple[Lease, ...]] = to_yield
    assign: Callable[..., str | None] = assign


@dataclass(slots=True)
class ArbiterHistory:
    """How many events the arbiter's runs have: Temporal's own, counted as `workflows/site_slots.py` causes them."""

    roll_over_at: int = ROLL_OVER_AT_EVENTS
    in_run: int = 0
    runs: int = 0
    most: int = 0
    total: int = 0

    _STARTED = 1
    _TASK = 3
    """Scheduled, started, completed."""
    _SIGNALED = 1
    _SIGNAL_SENT = 2
    """Initiated, and the answer that it arrived."""
    _TIMER = 2
    """Started, and cancelled or fired."""
    _CONTINUED = 1

    def decided(self, received: int, sent: int, *, timed: bool) -> None:
        """Count one decision: the signals received since the last, those sent, and the timer while others wait."""
        self._begin()
        self._add(received * self._SIGNALED + self._TASK + self._TIMER * timed)
        if sent:
            self._add(sent * self._SIGNAL_SENT + self._TASK)
        self._roll_over()

    def asked_holders(self, leases: int, times: int) -> None:
        """Count that the holders of leases were asked whether they still run."""
        for _ in range(times):
            self._begin()
            self._add(self._TIMER + 2 * self._TASK + leases * self._SIGNAL_SENT)
            self._roll_over()

    def _begin(self) -> None:
        if self.in_run == 0:
            self._add(self._STARTED + self._TASK)
            self.runs += 1

    def _roll_over(self) -> None:
        if self.in_run > self.roll_over_at:
            self._add(self._CONTINUED)
            self.in_run = 0

    def _add(self, events: int) -> None:
        self.in_run += events
        self.total += events
        self.most = max(self.most, self.in_run)


@dataclass(slots=True)
class SimulatedArbiter:
    """Waiting requests, leases, and the decisions over them. One lease a holder; its id is the holder's number of it."""

    limits: SlotLimits
    decisions: Decisions
    history: ArbiterHistory = field(default_factory=ArbiterHistory)
    waiting: dict[str, SlotRequest] = field(default_factory=dict)
    """By holder: each has at most one request."""
    leases: dict[str, Lease] = field(default_factory=dict)
    """By holder."""
    asked: dict[str, datetime] = field(default_factory=dict)
    """Holders that were asked to give way, and since when."""
    requests: int = 0
    yields: int = 0
    grants: int = 0
    decisions_made: int = 0
    _received: int = 0
    _some_wait_since: datetime | None = None

    def request(self, wanted: SlotRequest) -> None:
        """Take a holder's request up; one that it had before is forgotten."""
        self.requests += 1
        self.waiting[wanted.holder] = replace(wanted, ticket=self.requests, request_id=str(self.requests))
        self._received += 1

    def withdraw(self, holder: str) -> None:
        """Forget a holder's request."""
        if self.waiting.pop(holder, None) is not None:
            self._received += 1

    def release(self, holder: str) -> None:
        """Free a holder's lease."""
        del self.leases[holder]
        self.asked.pop(holder, None)
        self._received += 1

    def give_way(self, holder: str, at: datetime) -> datetime:
        """Take a lease's transfer slots back, and its request to go on; return since when the holder was asked."""
        lease = self.leases[holder]
        self.leases[holder] = without_transfer(lease)
        self.request(
            SlotRequest(holder, "", lease.priority, lease.appliance, lease.host, lease.disks, (), 0, at, in_progress=True)
        )
        self.yields += 1
        return self.asked.pop(holder)

    @property
    def changed(self) -> bool:
        """Whether anything has come in since the last decision."""
        return self._received > 0

    def decide(self, at: datetime, closed: frozenset[str], *, anyway: bool = False) -> list[tuple[SlotRequest, Lease]]:
        """Grant what fits, and ask those who have to give way; return the grants with the leases they became."""
        if not (self.changed or anyway):
            return []
        let_in = []
        asked_now = 0
        self.decisions_made += 1
        if self._some_wait_since is not None:
            self.history.asked_holders(len(self.leases), (at - self._some_wait_since) // _ASK_HOLDERS_EVERY)
        if self.waiting:
            for granted in self.decisions.grant(
                self.waiting.values(), self.leases.values(), self.limits, at, closed_appliances=closed
            ):
                let_in.append((granted, self._let_in(granted, at)))
        if self.waiting:
            asked_now = self._ask_to_give_way(at, closed)
        self.history.decided(self._received, len(let_in) + asked_now, timed=bool(self.waiting))
        self._received = 0
        self._some_wait_since = at if self.waiting and self.leases else None
        return let_in

    def _let_in(self, granted: SlotRequest, at: datetime) -> Lease:
        self.grants += 1
        del self.waiting[granted.holder]
        kept = self.leases.get(granted.holder)
        lease = (
            resumed(kept, granted, at)
            if kept is not None
            else Lease(
                lease_id=granted.holder,
                holder=granted.holder,
                request_id=granted.request_id,
                priority=granted.priority,
                appliance=granted.appliance,
                host=granted.host,
                disks=granted.disks,
                datastores=granted.datastores,
                granted_at=at,
            )
        )
        self.leases[granted.holder] = lease
        return lease

    def _ask_to_give_way(self, at: datetime, closed: frozenset[str]) -> int:
        chosen = self.decisions.to_yield(
            self.waiting.values(),
            self.leases.values(),
            self.limits,
            at,
            closed_appliances=closed,
            asked=frozenset(self.asked),
        )
        new = [lease.holder for lease in chosen if lease.holder not in self.asked]
        self.asked.update(dict.fromkeys(new, at))
        return len(new)
