"""What a replication is made of: its state, the commands it takes, what it shows, and its commit record."""

import asyncio
import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.settling import Settling
from deltaferry.model.errors import CATALOGUE
from deltaferry.model.states import HealthError, MigrationState, Operation, ReplicationState
from deltaferry.planning.dr_states import TESTS_UP, AnyOperation, DrOperation, DrSituation, DrState
from deltaferry.planning.elsewhere import objection_to
from deltaferry.planning.policy import Schedule, contradictions
from deltaferry.planning.retention import PointChoice, parse_choice
from deltaferry.planning.transitions import Verdict
from workflows import names
from workflows.delta_cycle import profile_of, settle
from workflows.entity.presenting import details, disk_views, status_view
from workflows.entity.recovery_commands import RecoveryCommands
from workflows.held_room import look_for_room
from workflows.messages.job import CycleWanted, JobReport
from workflows.messages.operator_input import (
    ChangePointOptions,
    EndOptions,
    FailoverOptions,
    MigrateOptions,
    PolicyOptions,
    RepairOptions,
    ReprotectOptions,
    TargetProperties,
    TestOptions,
    VerifyOptions,
)
from workflows.messages.replication_state import CycleRecord, EntityState, Refusal, ReplicateVmInput, shown_state
from workflows.messages.site import SiteProfile
from workflows.messages.slot import SlotsAskedBack, SlotsDelayed, SlotsGranted
from workflows.messages.step import SettleInput
from workflows.messages.views import DiskView, StatusView
from workflows.policies import ASK
from workflows.slots.book import closed_until
from workflows.slots.holding import SlotHolder
from workflows.steps import failure_of, health_error, perform

_R, _M = ReplicationState, MigrationState


class Entity(RecoveryCommands):
    """The state of a replication, and everything that reads or shows it; what is done with it is in the classes built on this one."""

    _shows = False
    """There is something to show: this run has a state."""

    def __init__(self, start: ReplicateVmInput | None = None) -> None:
        if start is None:
            return  # run() says what that means
        self._shows = True
        self._replication = start.replication
        self._state = start.state
        self._slots = SlotHolder(workflow.info().workflow_id, self._slots_delayed, lambda: look_for_room(self._replication))
        self._activity = "starting"
        self._percent: float | None = None
        self._running = False
        self._cycles_in_run = 0
        self._retry = False
        self._rollback = False
        self._rolls_back = False
        self._powers_on = False
        """A rollback runs; and it has come to powering the source on."""
        self._settings_came = False
        self._starting = False
        """A test's job is being started, which a run does not end in the middle of."""
        self._unanswered: set[str] = set()
        self._beside: list[asyncio.Task[None]] = []
        """What runs beside the procedure: tests, the watch over the RPO, other workflows' requests."""
        self._moved_to = ""
        """The workflow id under which the replication goes on, once its VM came home to another place."""
        self._reverse_watch: tuple[str, asyncio.Task[None]] | None = None
        """What this run has started to replicate back to the site: its workflow id, and its end."""
        self._settling = False
        """A cycle is committed, and its recovery point is being written."""
        self._cut: list[asyncio.Task[Any]] = []
        """What an unplanned failover has cut and has not let go yet: cycles, the end of a resync, a reading, a rollback."""
        self._cycle_cut = False
        self._rollback_cut = False
        """Whether the last of them was cut: one whose step ends well all the same does not hear of its cancellation."""
        self._continue_after_migration = False
        self._ending = _accepted_end(start.state)
        self._reports: dict[str, JobReport] = {}
        self._wanted: list[CycleWanted] = []
        self._shown: dict[SearchAttributeKey[Any], Any] = {}
        """The search attributes that this run has written."""

    def situation(self) -> DrSituation:
        """Return what the table of allowed operations needs to know."""
        s = self._state
        up = sum(test.state in TESTS_UP for test in s.tests)
        return DrSituation(
            replication=s.replication_state,
            migration=s.migration_state,
            has_point=s.point is not None,
            tests_to_clean_up=up,
            tests_running=len(s.tests) - up,
            source_shut_down_by_us=s.source_off_by_us,
            source_is_off=s.source_off_by_us,
            waits_for_retry=s.replication_state is _R.INITIAL_FAILED or self._commit_has_failed(),
            closed_until=self.closed_until(),
            rolls_back=self._rollback or self._rolls_back,
        )

    def accept(self, operation: AnyOperation, argument: Any) -> None:
        """Note an accepted command: the states change at once, so that a second command is judged by them."""
        self._state.last_refused = None
        if isinstance(operation, DrOperation):
            self._accept_recovery(operation, argument)
        else:
            self._accept(operation, argument)
        self._present()

    def _accept(self, operation: Operation, argument: Any) -> None:
        s = self._state
        match operation:
            case Operation.PAUSE:
                s.replication_state = _R.PAUSE_IN_PROGRESS
            case Operation.RESUME if s.migration_state is _M.MIGRATED:
                self._continue_after_migration = True
            case Operation.RESUME:
                s.replication_state = _R.RESUME_QUEUED
                s.next_due = workflow.now()
            case Operation.MIGRATE:
                options: MigrateOptions = argument
                if s.repair is not None:
                    self._ask_for_resync(RepairOptions(reason="the migration goes on behind it"))
                s.migration_state = _M.MIGRATION_QUEUED
                s.migrate_options = options
            case Operation.RETRY:
                self._retry = True
            case Operation.ROLLBACK:
                self._rollback = True
            case Operation.STOP | Operation.COMPLETE:
                stopping = operation is Operation.STOP
                s.replication_state = _R.STOP_IN_PROGRESS if stopping else _R.COMPLETE_IN_PROGRESS
                s.end_options = argument
                self._ending = (operation, argument)
            case Operation.UPDATE_TARGET:
                s.target = merged(s.target, argument)
            case Operation.REPAIR | Operation.RESYNC:
                self._ask_for_resync(argument)
            case Operation.VERIFY:
                self._ask_for_scrub(argument)

    @abstractmethod
    def _accept_recovery(self, operation: DrOperation, argument: Any) -> None:
        """Note an accepted command of disaster recovery."""

    @abstractmethod
    def _ask_for_resync(self, options: RepairOptions) -> None:
        """Take an operator's request for a resync."""

    @abstractmethod
    def _ask_for_scrub(self, options: VerifyOptions) -> None:
        """Take an operator's request to verify the seeds."""

    def _commit_has_failed(self) -> bool:
        s = self._state
        return (
            s.migration_state is DrState.COMMITTED
            and s.failover is not None
            and s.failover.committed_at is None
            and bool(s.health)
        )

    def judge(self, operation: AnyOperation, argument: Any) -> Verdict:
        """Return whether an operation is accepted now, by the states and by what comes with it."""
        verdict = super().judge(operation, argument)
        objection = self._objection(argument) if verdict.accepted else ""
        return Verdict(False, objection) if objection else verdict

    def _objection(self, argument: Any) -> str:
        """Return what is wrong with an input that could be read; empty if nothing is."""
        if isinstance(argument, TestOptions | FailoverOptions | ChangePointOptions):
            choice = parse_choice(argument.point)
            return choice if isinstance(choice, str) else self._unshared(choice)
        if isinstance(argument, ReprotectOptions) and argument.location is not None:
            return objection_to(argument.location.host, argument.location.cluster)
        if isinstance(argument, PolicyOptions):
            return " ".join(contradictions(argument.policy(), self.schedule()))
        return ""

    @abstractmethod
    def _unshared(self, choice: PointChoice) -> str:
        """Return why a point that was asked for as a shared one is none; empty if nothing is against it."""

    def schedule(self) -> Schedule:
        """Return what the site's schedule can do."""
        return Schedule(self.profile().min_interval, self.profile().max_interval)

    def refused(self, refused: Refusal) -> None:
        """Show a signal that was refused."""
        self._state.last_refused = refused
        self._present()

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._slots.granted(grant)

    @workflow.signal(name=names.SLOTS_ASKED_BACK, description="Sent by the site's arbiter: something more urgent waits.")
    def slots_asked_back(self, asked: SlotsAskedBack) -> None:
        """Note that the transfer slots are to be given back at the chunk's end."""
        self._slots.asked_back(asked)

    @workflow.signal(name=names.SLOTS_DELAYED, description="Sent by the site's arbiter: why there are no slots yet.")
    def slots_delayed(self, delayed: SlotsDelayed) -> None:
        """Note why there are no slots yet."""
        self._slots.delayed(delayed)

    @workflow.signal(name=names.ANNOUNCE_SLOTS, description="Sent by an arbiter that starts afresh.")
    async def announce_slots(self) -> None:
        """Say what is held and waited for."""
        await self._slots.announce(self.profile())

    @workflow.signal(name=names.SETTINGS_CHANGED, description="Sent by the site's arbiter: the site's settings of now.")
    def settings_changed(self, profile: SiteProfile) -> None:
        """Take the site's settings over: what sleeps is planned anew by them."""
        before = self.profile()
        self._state.profile = profile
        self._settings_came = True  # what sleeps looks at its deadline again
        if (before.min_interval, before.max_interval) != (profile.min_interval, profile.max_interval):
            self._plan_anew()
        self._present()

    @abstractmethod
    async def _cut_has_ended(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until what an unplanned failover has cut has let go of snapshot and slots, `unless` holds; return whether it has."""

    @abstractmethod
    def _look_at_rpo(self) -> None:
        """Compare the latest recovery point's age with what the policy allows."""

    @abstractmethod
    def _plan_anew(self) -> None:
        """Set the next cycle's time by the settings of now."""

    def profile(self) -> SiteProfile:
        """Return the site's settings as last pushed, or as they were at enabling."""
        return profile_of(self._replication, self._state)

    def closed_until(self) -> datetime | None:
        """Return until when a blackout window lets no cycle start; None if one may start now."""
        return closed_until(self.profile(), workflow.now())

    def _slots_delayed(self) -> None:
        self._say(self._slots.waits_because(self.profile(), workflow.now()))

    @workflow.query(description="States, progress, last recovery point, health, and what can be sent now.")
    def status(self) -> StatusView:
        """Return the replication's status."""
        return status_view(self._replication, self._state, self.situation(), self._activity, self._percent)

    @workflow.query(description="Per disk: size, what is copied, what the last cycles changed.")
    def disks(self) -> tuple[DiskView, ...]:
        """Return the disks."""
        return disk_views(self._replication, self._state)

    @workflow.query(description="The last cycles: bytes, durations, what was decided and why.")
    def cycles(self) -> tuple[CycleRecord, ...]:
        """Return the last cycles, newest last."""
        return self._state.cycles

    async def _record(self) -> None:
        """Write the commit record, so that `adopt` knows of this state, though nothing was committed; without much patience."""
        try:
            await perform(
                Settling.settle_cycle,
                SettleInput(self._replication, self._state, record_only=True),
                queue=names.apply_queue(self._replication.ref.target),
                limits=ASK,
                summary="write the commit record",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the commit record was not written: %s", failure_of(error).kind.value)

    async def _settle(self) -> None:
        try:
            await settle(self._replication, self._state)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self._state.health = (*self._state.health, health_error(failure_of(error), workflow.now(), retried=True))

    async def _wait_for_retry(self, error: BaseException | HealthError, state: ReplicationState) -> None:
        """Park: show what failed, and wait for retry or stop."""
        if isinstance(error, HealthError):
            health = error
        elif is_cancelled_exception(error):
            raise error
        else:
            health = health_error(failure_of(error), workflow.now(), retried=False)
        self._state.replication_state = state if self._ending is None else self._state.replication_state
        self._state.health = (health,)
        self._retry = False
        self._say(f"failed, waiting for retry or stop: {CATALOGUE[health.kind].remedy}")
        await workflow.wait_condition(lambda: self._retry or self._ending is not None)
        self._retry = False
        self._state.health = ()

    def _say(self, activity: str) -> None:
        self._activity = activity
        self._present()

    def details_page(self) -> str:
        """Return the details page as of now; it is made when somebody reads it (`workflows.details_page`)."""
        return details(self.status(), self.disks(), self._state.cycles) if self._shows else ""

    def _present(self) -> None:
        """Bring the search attributes up to date: those that changed, after the first time."""
        s = self._state
        errors = s.shown_health()
        shown: dict[SearchAttributeKey[Any], Any] = {
            names.SITE: self._replication.ref.site,
            names.VM_NAME: self._replication.vm_name,
            names.REPLICATION_STATE: s.replication_state.value,
            names.MIGRATION_STATE: shown_state(s).value,
            names.HEALTH: errors[0].kind.value if errors else "Healthy",
        }
        if s.point is not None:
            shown[names.LAST_RECOVERY_POINT] = s.point.taken_at
        changed = [key.value_set(value) for key, value in shown.items() if self._shown.get(key) != value]
        if changed:
            self._shown = shown
            workflow.upsert_search_attributes(changed)


def merged(present: TargetProperties, changes: TargetProperties) -> TargetProperties:
    """Return target properties with the given ones changed and the others kept."""
    given = {
        field.name: value for field in dataclasses.fields(changes) if (value := getattr(changes, field.name)) not in (None, {})
    }
    return dataclasses.replace(present, **given)


def _accepted_end(state: EntityState) -> tuple[Operation, EndOptions] | None:
    """Return the stop or complete that was accepted before the replication was terminated and adopted."""
    options = state.end_options or EndOptions()
    if state.replication_state in (_R.STOP_IN_PROGRESS, _R.STOP_FAILED):
        return Operation.STOP, options
    if state.replication_state in (_R.COMPLETE_IN_PROGRESS, _R.COMPLETE_FAILED):
        return Operation.COMPLETE, options
    return None
