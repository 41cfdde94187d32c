"""How a replication runs its cycles, and what it decides after each."""

import asyncio
import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import HealthError, MigrationState, ReplicationState
from deltaferry.planning.dr_states import NO_CYCLES, DrState
from deltaferry.planning.failure import INTEGRITY, Course, after_failure
from deltaferry.planning.schedule import next_cycle
from workflows import meters, names
from workflows.delta_cycle import profile_of, run_cycle
from workflows.entity.base import Entity
from workflows.entity.presenting import KEPT_CYCLES
from workflows.messages.group import GroupGo
from workflows.messages.job import CycleAnswer, CycleWanted
from workflows.messages.replication_state import CycleRecord, FailureView
from workflows.slots.holding import PreemptedError
from workflows.steps import health_error

_R, _M = ReplicationState, MigrationState

_CYCLES_RUN_IN = frozenset({_R.DELTA_SYNC, _R.RESUME_QUEUED, _R.RESUME_IN_PROGRESS})


class EntityCycles(Entity):
    """Runs cycles, scheduled and asked for, and decides when the next one starts."""

    def _cycles_run(self) -> bool:
        return self._state.replication_state in _CYCLES_RUN_IN and self._state.migration_state not in NO_CYCLES

    def _cycle_is_due(self) -> bool:
        due = self._state.next_due
        return self._cycles_run() and (due is None or due <= workflow.now()) and self.closed_until() is None

    def _plan_anew(self) -> None:
        """Set the next cycle's time by the settings of now, counted from when the last cycle ended."""
        s = self._state
        if s.next_due is None or not s.cycles or not self._cycles_run():
            return
        chosen = next_cycle(s.last_duration, 0, self.profile().min_interval, self.profile().max_interval)
        s.next_due, s.next_reason = s.cycles[-1].ended_at + chosen.wait, f"{chosen.reason}, by new settings"

    async def _delta(self, together: GroupGo | None = None) -> None:
        """Run a scheduled cycle, or one that a replication group takes, and decide from its outcome when the next one starts."""
        s = self._state
        if s.replication_state is _R.RESUME_QUEUED:
            s.replication_state = _R.RESUME_IN_PROGRESS
            await self._record()  # before the snapshot: whoever adopts it goes on with a cycle, which removes that
        try:
            record, failure = await self._cycle(CycleKind.DELTA, unless=self._goes_before_a_delta, together=together)
        except PreemptedError:
            return
        s.last_duration = record.duration
        decision = self._decide_after(record, failure)
        self._remember(dataclasses.replace(record, decision=decision))
        if s.replication_state in (_R.RESUME_IN_PROGRESS, _R.RESUME_QUEUED):  # queued: paused and resumed while this cycle ran
            s.replication_state = _R.DELTA_SYNC
        self._say_idle()

    def _say_idle(self) -> None:
        s = self._state
        self._say(f"idle until {s.next_due:%Y-%m-%d %H:%M:%S} UTC: {s.next_reason}" if s.next_due else s.next_reason)

    def _goes_before_a_delta(self) -> bool:
        """Return whether something is wanted for which a delta that only waits for slots is not waited for."""
        s = self._state
        return (
            self._ending is not None
            or self._rollback
            or bool(self._wanted)
            or s.migration_state in (_M.MIGRATION_QUEUED, DrState.FAILOVER_IN_PROGRESS)
            or s.replication_state is _R.PAUSE_IN_PROGRESS
        )

    async def _cycle(
        self,
        kind: CycleKind,
        wanted: CycleWanted | None = None,
        unless: Callable[[], bool] = lambda: False,
        together: GroupGo | None = None,
    ) -> tuple[CycleRecord, FailureView | None]:
        answers: list[asyncio.Task[None]] = []

        def committed(record: CycleRecord) -> None:
            self._settling = True
            if wanted is not None and kind is CycleKind.FINAL:  # the source is off: its consolidation is not waited for
                answers.append(asyncio.create_task(self._answer(wanted, record, None)))

        def settled() -> None:
            self._settling = False

        def note(activity: str) -> None:
            if self._cycle_cut:
                raise asyncio.CancelledError
            self._say(activity)

        await self._cut_has_ended()
        self._running, self._cycle_cut = True, False
        self._cycles_in_run += 1
        try:
            record, failure = await run_cycle(
                self._replication, self._state, self._slots, kind, note, committed, settled, unless, together
            )
        finally:
            self._running = self._settling = False
        if wanted is not None and not answers:  # spec §2.5: the guest is shut down only when its disks are consolidated
            await self._answer(wanted, record, failure)
        for answer in answers:
            await answer
        return record, failure

    def _decide_after(self, record: CycleRecord, failure: FailureView | None) -> str:
        """Set when the next cycle starts, or that none does; return the sentence that says so."""
        s = self._state
        now = workflow.now()
        if record.committed:
            s.failures_in_row = s.transient_failures = 0
            s.health = self._repeated_resyncs() if failure is None else (health_error(failure, now, retried=True),)
            self._schedule(s.last_duration, 0)
            return self._next_sentence()
        assert failure is not None
        integrity = failure.kind in INTEGRITY
        s.failures_in_row += integrity
        s.transient_failures += not integrity
        decision = after_failure(failure.kind, s.failures_in_row)
        if decision.course is Course.REPAIR:
            self._mark(failure.kind, f"{failure.kind.value}: {decision.reason}")
            if s.migration_state is _M.MIGRATION_QUEUED:
                s.migration_state = _M.MIGRATION_FAILED  # it waited behind this cycle, and there is nothing to migrate from
            s.next_due, s.next_reason = None, "Repair pending: no cycles run"
            s.health = (health_error(failure, now, retried=False),)
            return f"Repair pending: {decision.reason}"
        s.health = (health_error(failure, now, retried=True),)
        self._schedule(s.last_duration, s.failures_in_row if integrity else s.transient_failures)
        return f"{decision.reason}; {self._next_sentence()}"

    @abstractmethod
    def _mark(self, cause: ErrorKind | None, reason: str) -> None:
        """Mark the replication for resync."""

    @abstractmethod
    def _repeated_resyncs(self) -> tuple[HealthError, ...]:
        """Return a health error where resyncs for one cause repeat: a committed cycle does not mend that."""

    def _schedule(self, duration: timedelta, failures: int) -> None:
        """Set the next cycle's time; a site whose interval is shorter than the back-off does not wait longer for a failure."""
        profile = profile_of(self._replication, self._state)
        by_formula = next_cycle(duration, 0, profile.min_interval, profile.max_interval)
        chosen = next_cycle(duration, failures, profile.min_interval, profile.max_interval)
        if chosen.wait > by_formula.wait:
            chosen = by_formula
        self._state.next_due = workflow.now() + chosen.wait
        self._state.next_reason = chosen.reason

    def _next_sentence(self) -> str:
        due = self._state.next_due
        return f"the next starts at {due:%H:%M:%S} UTC: {self._state.next_reason}" if due else self._state.next_reason

    def _remember(self, record: CycleRecord) -> None:
        meters.cycle_ended(self._replication.ref.site, record)
        self._state.cycles = (*self._state.cycles, record)[-KEPT_CYCLES:]

    async def _answer(self, wanted: CycleWanted, record: CycleRecord, failure: FailureView | None) -> None:
        error = health_error(failure, workflow.now(), retried=False) if failure is not None else None
        answer = CycleAnswer(wanted.request_id, record, self._state.fence, error)
        try:
            await workflow.get_external_workflow_handle(wanted.requester).signal(names.CYCLE_FINISHED, answer)
        except FailureError:
            workflow.logger.info("the workflow that asked for a cycle has ended")
