"""A whole site, simulated event by event over the very functions that decide in production: no server, no clock, no bytes.

VMs are enabled, copied, and kept up to date until they migrate. What a cycle takes is modelled: its snapshot, the bytes that
it has to move over its appliance's shared line, its consolidation. What is decided is not: slots, giving way, windows,
intervals and the choice of an appliance are those of `deltaferry.planning`. A watch of its own counts whether limits hold.

Times are seconds since the begin; the functions under test get instants. The same site and seed give the same course.
"""

import heapq
from collections.abc import Callable
from datetime import timedelta

from deltaferry.planning.schedule import next_cycle
from deltaferry.planning.simulation_arbiter import Decisions, SimulatedArbiter
from deltaferry.planning.simulation_draws import Draws
from deltaferry.planning.simulation_links import Line
from deltaferry.planning.simulation_lives import Asked, Life, Stage
from deltaferry.planning.simulation_report import Findings, SimulationReport
from deltaferry.planning.simulation_site import SimulatedSite
from deltaferry.planning.simulation_watch import LimitWatch
from deltaferry.planning.simulation_windows import SiteTimes
from deltaferry.planning.slots import Lease, Priority, SlotRequest

SAMPLE_EVERY_S = 300.0
DAY_S = 86_400.0
_SHUT_DOWN_S = 60.0
"""What the guest takes to shut down, between a migration's on-demand delta and its final one."""

_SLOTTED = frozenset({Stage.SNAPSHOT, Stage.SENDING, Stage.GAVE_WAY, Stage.CONSOLIDATING})


def simulate(site: SimulatedSite, days: float, seed: int, decisions: Decisions | None = None) -> SimulationReport:
    """Simulate a site for so many days; return what came of it. `decisions` replaces functions under test."""
    return _Simulation(site, days, seed, decisions or Decisions()).run()


class _Simulation:
    """The course of events: a heap of planned ones, and the lines' transfers, whose ends move with every other transfer."""

    def __init__(self, site: SimulatedSite, days: float, seed: int, decisions: Decisions) -> None:
        self._site, self._days, self._seed = site, days, seed
        self._ends_s = days * DAY_S
        self._decisions = decisions
        self._draws = Draws(seed)
        self._times = SiteTimes(site, self._ends_s)
        self._arbiter = SimulatedArbiter(site.limits, decisions)
        self._watch = LimitWatch(site.limits, site.chunk)
        self._findings = Findings()
        self._lives = [Life(number, vm) for number, vm in enumerate(site.vms)]
        self._by_holder = {life.holder: life for life in self._lives}
        self._loads = {appliance.name: 0 for appliance in site.appliances}
        self._lines = {
            appliance.name: Line(
                next(self._times.rates(appliance))[1],
                site.costs.disk_bytes_per_s,
                site.costs.compare_bytes_per_s,
                site.costs.pre_failover_weight,
            )
            for appliance in site.appliances
        }
        self._closed = self._times.closed_at(0.0)
        self._now_s = 0.0
        self._decide_anyway = self._look_due = False
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._plans = 0

    def run(self) -> SimulationReport:
        """Simulate to the end, and report."""
        self._plan_the_givens()
        while self._step():
            let_in = self._arbiter.decide(self._times.instant(self._now_s), self._closed, anyway=self._decide_anyway)
            self._decide_anyway = False
            for request, lease in let_in:
                self._let_in(self._by_holder[request.holder], request, lease)
            if self._look_due:
                self._look()
        self._now_s = self._ends_s
        return self._report()

    def _step(self) -> bool:
        """Let everything happen that happens at the next instant; return whether there was one before the end."""
        at_s, ended = self._planned[0][0] if self._planned else self._ends_s, None
        for line in self._lines.values():
            first = line.next_end()
            if first is not None and first[0] < at_s:
                at_s, ended = first
        if at_s >= self._ends_s:
            return False
        self._now_s = at_s
        if ended is not None:
            self._chunk_ended(self._lives[ended])
        while self._planned and self._planned[0][0] <= at_s:
            heapq.heappop(self._planned)[2]()
        return True

    def _plan(self, at_s: float, event: Callable[[], None]) -> None:
        self._plans += 1
        heapq.heappush(self._planned, (at_s, self._plans, event))

    def _plan_stage(self, life: Life, at_s: float, event: Callable[[Life], None]) -> None:
        """Plan an event that is void if the VM has gone on to another stage by then."""
        life.token += 1
        token = life.token

        def happen() -> None:
            if life.token == token:
                event(life)

        self._plan(at_s, happen)

    def _plan_the_givens(self) -> None:
        """Plan what does not depend on the course: enabling, windows, throttle, and what is asked for at random."""
        for life in self._lives:
            self._plan_stage(life, life.vm.enabled_after.total_seconds(), self._enable)
        for at_s in self._times.changes():
            self._plan(at_s, self._windows_changed)
        for appliance in self._site.appliances:
            for at_s, bytes_per_s in self._times.rates(appliance):
                line = self._lines[appliance.name]
                self._plan(at_s, lambda line=line, rate=bytes_per_s: line.limit(self._now_s, rate))  # type: ignore[misc]
        for _ in range(round(self._site.migrations_per_day * self._days)):
            self._plan(self._draws.uniform() * self._ends_s, self._migrate_one)
        for _ in range(round(self._site.resyncs_per_day * self._days)):
            self._plan(self._draws.uniform() * self._ends_s, self._resync_one)
        for number in range(int(self._ends_s // SAMPLE_EVERY_S) + 1):
            self._plan(number * SAMPLE_EVERY_S, self._sample)

    def _windows_changed(self) -> None:
        self._closed = self._times.closed_at(self._now_s)
        self._decide_anyway = True

    # the life of a VM

    def _enable(self, life: Life) -> None:
        appliance = self._decisions.assign(self._loads, self._site.limits)
        if appliance is None:
            life.stage = Stage.NO_APPLIANCE
            return
        self._loads[appliance] += 1
        self._watch.assigned(self._times.instant(self._now_s), self._loads, appliance)
        life.appliance = appliance
        self._ask(life, Priority.INITIAL)

    def _ask(self, life: Life, kind: Priority) -> None:
        life.stage, life.kind, life.requested_s = Stage.WAITING, kind, self._now_s
        life.token += 1
        self._arbiter.request(
            SlotRequest(
                holder=life.holder,
                request_id="",
                priority=kind,
                appliance=life.appliance,
                host=life.vm.host,
                disks=len(life.vm.disks),
                datastores=life.vm.snapshots(),
                ticket=0,
                requested_at=self._times.instant(self._now_s),
            )
        )

    def _let_in(self, life: Life, request: SlotRequest, lease: Lease) -> None:
        now = self._times.instant(self._now_s)
        if request.in_progress:
            self._watch.went_on(now, lease)
            waited_s = self._now_s - life.requested_s
            life.paused_s += waited_s
            self._findings.longest_pause_s = max(self._findings.longest_pause_s, waited_s)
            self._send(life, lease.disks)
            return
        self._watch.let_in(now, lease, closed=life.appliance in self._closed)
        self._findings.waits[life.kind].append(self._waited_s(life))
        life.stage, life.granted_s, life.paused_s, life.at_once = Stage.SNAPSHOT, self._now_s, 0.0, lease.disks
        self._plan_stage(life, self._now_s + self._site.costs.snapshot.total_seconds(), self._snapshot_taken)

    def _waited_s(self, life: Life) -> float:
        """Return how long a VM has waited for slots; a closed window is no wait that limits force."""
        if life.kind is Priority.PRE_FAILOVER:
            return self._now_s - life.requested_s
        return self._times.open_s(life.appliance, life.requested_s, self._now_s)

    def _snapshot_taken(self, life: Life) -> None:
        life.snapshot_s = self._now_s
        life.left_bytes = life.to_send(self._site, life.at_once)
        self._send(life, life.at_once)

    def _send(self, life: Life, disks: int) -> None:
        """Begin a chunk; fewer disks at once than before have so much more to send each."""
        life.left_bytes *= life.at_once / disks
        life.stage, life.at_once = Stage.SENDING, disks
        chunk_bytes = min(life.left_bytes, self._site.chunk_bytes)
        life.left_bytes -= chunk_bytes
        self._lines[life.appliance].start(self._now_s, life.number, life.lane, disks, chunk_bytes)
        self._plan_stage(life, self._now_s + self._site.chunk.total_seconds(), self._chunk_ended)

    def _chunk_ended(self, life: Life) -> None:
        """Consolidate when all is sent; otherwise give way, if the arbiter asked for that, or begin the next chunk."""
        life.token += 1  # its time may be up at the very instant at which its bytes are sent
        life.left_bytes += self._lines[life.appliance].stop(self._now_s, life.number)
        if life.left_bytes < 1:
            life.stage = Stage.CONSOLIDATING
            self._plan_stage(life, self._now_s + self._site.costs.consolidation.total_seconds(), self._committed)
        elif life.holder in self._arbiter.asked:
            now = self._times.instant(self._now_s)
            life.stage, life.requested_s = Stage.GAVE_WAY, self._now_s
            self._watch.gave_way(now, life.holder, self._arbiter.give_way(life.holder, now))
        else:
            self._send(life, life.at_once)

    def _committed(self, life: Life) -> None:
        self._arbiter.release(life.holder)
        self._watch.ended(self._times.instant(self._now_s), life.holder)
        found = self._findings
        found.committed[life.kind] += 1
        if life.kind is Priority.INITIAL:
            life.copied = True
            found.copied_s.append(self._now_s)
        else:
            found.exposures_s.append(self._now_s - life.committed_snapshot_s)
        life.committed_snapshot_s = life.snapshot_s
        if life.kind is Priority.DELTA:
            life.last_duration_s = self._now_s - life.granted_s - life.paused_s
        if life.kind is Priority.PRE_FAILOVER and life.asked is Asked.FINAL:
            self._migrated(life)
            return
        life.stage = Stage.IDLE
        if life.kind is Priority.RESYNC:
            found.resyncs += 1
            life.asked = Asked.NOTHING
        self._what_next(life)

    def _what_next(self, life: Life) -> None:
        """Plan what follows for a VM that runs no cycle: what was asked for, or else the next delta by the formula."""
        if life.asked is Asked.ON_DEMAND and life.kind is Priority.PRE_FAILOVER:
            life.asked = Asked.FINAL
            self._plan_stage(life, self._now_s + _SHUT_DOWN_S, lambda life: self._ask(life, Priority.PRE_FAILOVER))
        elif life.asked is Asked.ON_DEMAND:
            self._ask(life, Priority.PRE_FAILOVER)
        elif life.asked is Asked.RESYNC:
            starts_s = self._times.off_hours_at(self._now_s)
            if starts_s is not None:
                self._plan_stage(life, starts_s, lambda life: self._ask(life, Priority.RESYNC))
        else:
            last = timedelta(seconds=life.last_duration_s) if life.last_duration_s is not None else None
            wait = next_cycle(last, 0, self._site.min_interval, self._site.max_interval).wait.total_seconds()
            self._plan_stage(life, self._now_s + wait, lambda life: self._ask(life, Priority.DELTA))

    def _migrated(self, life: Life) -> None:
        life.stage = Stage.MIGRATED
        self._findings.migrations += 1
        self._loads[life.appliance] -= 1
        for other in self._lives:
            if other.stage is Stage.NO_APPLIANCE:
                self._enable(other)

    # what is asked for at random

    def _one_in_delta_sync(self) -> Life | None:
        """Return a VM that has been copied and for which nothing was asked yet."""
        candidates = [
            life for life in self._lives if life.copied and life.asked is Asked.NOTHING and life.stage is not Stage.MIGRATED
        ]
        return candidates[self._draws.below(len(candidates))] if candidates else None

    def _migrate_one(self) -> None:
        life = self._one_in_delta_sync()
        if life is None:
            return
        opens_s = self._times.opens_at(life.appliance, self._now_s)
        if opens_s > self._now_s:
            self._findings.refused_for_window += 1
            self._plan(opens_s, self._migrate_one)
            return
        self._ask_beside_schedule(life, Asked.ON_DEMAND)

    def _resync_one(self) -> None:
        life = self._one_in_delta_sync()
        if life is not None:
            self._ask_beside_schedule(life, Asked.RESYNC)

    def _ask_beside_schedule(self, life: Life, asked: Asked) -> None:
        """Take up what was asked for: at once, or when the running cycle ends. A delta that only waits gives its place up."""
        life.asked = asked
        if life.stage not in _SLOTTED:
            self._arbiter.withdraw(life.holder)
            life.stage = Stage.IDLE
            life.kind = Priority.DELTA
            self._what_next(life)

    # what is looked at

    def _sample(self) -> None:
        self._decide_anyway = self._look_due = True

    def _look(self) -> None:
        self._look_due = False
        now = self._times.instant(self._now_s)
        self._findings.look(self._now_s, now, self._watch, self._arbiter, self._closed)

    def _report(self) -> SimulationReport:
        for life in self._lives:  # what has not ended counts too, as far as it has come
            if life.stage is Stage.WAITING:
                self._findings.waits[life.kind].append(self._waited_s(life))
            if life.copied and life.stage is not Stage.MIGRATED:
                self._findings.exposures_s.append(self._now_s - life.committed_snapshot_s)
        uncopied = sum(not life.copied for life in self._lives)
        return self._findings.report(self._site, self._days, self._seed, self._watch, self._arbiter, uncopied)
