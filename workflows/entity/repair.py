"""How a replication repairs itself: when a resync is due, on which rung, and what follows from how it ended (spec §4)."""

import asyncio
import dataclasses
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.disk_changes import DiskChanges
from activities.off_hours import OffHours
from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.model.replication import CycleKind, DiskBase
from deltaferry.model.states import HealthError, MigrationState, ReplicationState
from deltaferry.planning.dr_states import NO_CYCLES
from deltaferry.planning.ladder import Rung, failed_in_itself, first_step, next_step
from workflows import names
from workflows.delta_cycle import profile_of
from workflows.entity.growth import growth_of_resync
from workflows.entity.jobs import EntityJobs
from workflows.messages.job import CopyResult, JobReport, ResyncInput
from workflows.messages.operator_input import RepairOptions
from workflows.messages.replication_state import CycleRecord, FailureView, RepairState, ResyncRecord
from workflows.messages.site import OffHoursInput
from workflows.messages.step import DisksNow, OnReplication
from workflows.policies import ASK
from workflows.reporting import is_running
from workflows.steps import failure_of, health_error, perform

_R, _M = ReplicationState, MigrationState

KEPT_RESYNCS = 10
_REPEATED_WITHIN = timedelta(days=7)
_REPEATED = 3
"""So many resyncs for one cause within that time are a health error of their own."""
_TRY_AGAIN = timedelta(minutes=15)
"""How long after an outage cut a resync the next automatic one may start."""
_ASK_AGAIN = timedelta(hours=1)
"""When the off-hours window could not be told."""

_LAST_RESORT = (
    'Stop the replication, reset change tracking on the VM (or send repair with {"reset_tracking": true}), and enable it again.'
)


class EntityRepair(EntityJobs):
    """Marks the replication for resync, and has it made when it is due."""

    # --- what is due ---

    def _repair_is_due(self) -> bool:
        repair = self._state.repair
        if repair is None or self._state.migration_state in NO_CYCLES:
            return False
        return repair.asked or (repair.starts_at is not None and repair.starts_at <= workflow.now())

    def _repair_is_to_be_scheduled(self) -> bool:
        repair = self._state.repair
        if repair is None or repair.scheduled or repair.asked or self._state.migration_state in NO_CYCLES:
            return False
        return repair.ask_again_at is None or repair.ask_again_at <= workflow.now()

    def _wake_for_repair(self) -> bool:
        """Return whether a repair is to be looked after now."""
        return self._repair_is_due() or self._repair_is_to_be_scheduled()

    def _goes_before_a_resync(self) -> bool:
        """Return whether a resync that has not begun is put off: for what cuts it, or for a rollback, which needs no replica."""
        return self._cuts_jobs() or self._rollback

    # --- marking ---

    def _ask_for_resync(self, options: RepairOptions) -> None:
        """Take an operator's request: at once, whatever the window."""
        s = self._state
        if s.repair is None:
            self._mark(None, options.reason or "asked for by an operator")
        assert s.repair is not None
        repair = dataclasses.replace(s.repair, asked=True, reset_tracking=options.reset_tracking or s.repair.reset_tracking)
        if options.full_copy:
            repair = _on(repair, Rung.FULL, "a full copy was asked for")
        s.repair = repair
        s.replication_state = _R.REPAIR_QUEUED
        s.next_due, s.next_reason = None, "a resync was asked for"

    def _mark(self, cause: ErrorKind | None, reason: str) -> None:
        """Mark the replication for resync: no cycles run until one has succeeded."""
        s = self._state
        if s.repair is not None:
            return  # it was asked for while the cycle ran that failed now
        step = first_step(cause, reason)
        s.repair = RepairState(cause=cause, reason=reason, since=workflow.now(), rung=step.rung, step=step.reason)
        s.repair = dataclasses.replace(s.repair, bases=self._from_nothing(), reset_tracking=cause is ErrorKind.CBT_CORRUPT)
        s.replication_state = _R.REPAIR_PENDING

    def _from_nothing(self) -> tuple[DiskBase, ...]:
        return tuple(DiskBase(disk.key, None, 0) for disk in self._replication.disks)

    # --- scheduling ---

    async def _schedule_repair(self) -> None:
        """Find out when the next off-hours window lets a resync begin; without `auto_repair` it waits for `repair`."""
        s = self._state
        assert s.repair is not None
        s.repair = dataclasses.replace(s.repair, scheduled=True)
        if not s.auto_repair:
            self._say(f"Repair pending: {s.repair.reason}. It waits for repair, since auto_repair is off")
            return
        if s.repair.parked:
            self._say(f"Repair pending: {s.repair.reason}. The resync failed, and waits for repair")
            return
        earliest = max(workflow.now(), s.repair.not_before or workflow.now())
        try:
            answer = await perform(
                OffHours.next_off_hours,
                OffHoursInput(profile_of(self._replication, s), earliest),
                queue=names.CONTROL_QUEUE,
                limits=ASK,
                summary="when may a resync begin?",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            s.health = (*s.health, health_error(failure_of(error), workflow.now(), retried=True))
            s.repair = dataclasses.replace(s.repair, scheduled=False, ask_again_at=workflow.now() + _ASK_AGAIN)
            self._say(f"Repair pending: {s.repair.reason}. When a resync may begin could not be told: it waits for repair")
            return
        s.repair = dataclasses.replace(s.repair, starts_at=answer.start)
        if answer.start is None:
            self._say(f"Repair pending: {s.repair.reason}. The site has no off-hours window: it waits for repair")
        else:
            self._say(f"Repair pending: {s.repair.reason}. The resync begins at {answer.start:%Y-%m-%d %H:%M} UTC, or on repair")

    # --- the resync ---

    async def _resync(self) -> None:
        """Have the seed made equal to the source again, by a job."""
        s = self._state
        repair = s.repair
        assert repair is not None
        s.replication_state = _R.REPAIR_QUEUED
        if not await self._cut_has_ended(unless=self._goes_before_a_resync):
            return
        taken_up = repair.under_way and s.job_id is not None and await is_running(s.job_id)
        if not taken_up:
            s.jobs_minted += 1
            s.job_id = names.resync_id(workflow.info().workflow_id, s.jobs_minted)
        job_id = s.job_id or ""
        repair = s.repair = dataclasses.replace(s.repair or repair, under_way=True)
        self._say(f"resync queued: {repair.step}")
        if not taken_up:
            try:
                known = await self._with_disks_of_now(repair)
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                failed = health_error(failure_of(error), workflow.now(), retried=False)
                self._note_failed_resync(JobReport(job_id, error=failed), began=False)
                return
            if known is None:
                s.repair = dataclasses.replace(s.repair or repair, under_way=False)
                return
            repair = s.repair = known
        await self._record()
        start = ResyncInput(
            entity_id=workflow.info().workflow_id,
            replication=self._replication,
            fence=s.fence,
            cycle_number=s.cycles_minted,
            bases=repair.bases,
            placement=s.placement,
            dirty=repair.dirty,
            profile=s.profile,
            rung=repair.rung,
            reset_tracking=repair.reset_tracking,
            whatever_window=s.migration_state is _M.MIGRATION_QUEUED,
            expected_growth=growth_of_resync(self._replication, s),
        )
        report = await self._run_job(names.RESYNC, start, job_id, "resync", cut_by_stop=True)
        self._percent = None
        if self._ending is not None:
            return
        if report.copied is None and self._goes_before_everything():  # it was cut, and is made again after a cancel_failover
            s.repair = dataclasses.replace(s.repair or repair, under_way=False)
            self._burn_numbers()
            return
        if report.copied is not None:
            await self._commit_resync(report.copied)
        else:
            self._note_failed_resync(report)

    async def _with_disks_of_now(self, repair: RepairState) -> RepairState | None:
        """Take over disks that were added, removed or resized; those that are as they were keep what is known of them.

        None where something goes before a resync that has not begun: it does not wait for a site that may not answer.
        """
        s, before = self._state, self._replication.disks
        now = await self._read_disks()
        if now is None:
            return None
        if not now.sentence:
            return repair
        self._replication = dataclasses.replace(self._replication, disks=now.disks)
        same = {disk.key for disk in now.disks if disk in before}
        if repair.cause is ErrorKind.DISKS_CHANGED and not repair.failures:
            committed = {base.disk_key: base for base in s.bases if base.disk_key in same}
            dirty = tuple((key, plan) for key, plan in s.dirty if key in same)
        else:
            committed = {base.disk_key: base for base in repair.bases if base.disk_key in same}
            dirty = tuple((key, plan) for key, plan in repair.dirty if key in same)
        bases = tuple(committed.get(disk.key, DiskBase(disk.key, None, 0)) for disk in now.disks)
        workflow.logger.info("the VM's disks have changed: %s", now.sentence)
        return dataclasses.replace(repair, bases=bases, dirty=dirty, step=f"{repair.step} ({now.sentence})")

    async def _read_disks(self) -> DisksNow | None:
        """Return the VM's disks of now; None where something goes before the resync and the site has not answered."""
        reading = asyncio.create_task(
            perform(
                DiskChanges.read_disks,
                OnReplication(self._replication),
                queue=names.vsphere_queue(self._replication.ref.site),
                limits=ASK,
                summary="read the VM's disks",
                aside=True,
            )
        )
        try:
            await workflow.wait_condition(lambda: reading.done() or self._goes_before_a_resync())
        except asyncio.CancelledError:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            raise
        if reading.done():
            return reading.result()
        reading.cancel()
        self._cut.append(reading)
        return None

    async def _commit_resync(self, result: CopyResult) -> None:
        s = self._state
        assert s.repair is not None
        repair = s.repair
        self._take_copy(result)
        record = CycleRecord(
            cycle_key=result.cycle_key,
            kind=CycleKind.RESYNC,
            started_at=result.started_at,
            ended_at=workflow.now(),
            committed=True,
            duration=workflow.now() - result.started_at,
            changed_bytes=result.differing_bytes,
            bytes_read=result.compared_bytes + sum(summary.bytes_read for summary in result.summaries),
            bytes_sent=sum(summary.bytes_sent for summary in result.summaries),
            verified_blocks=sum(summary.verified_blocks for summary in result.summaries),
            decision=f"{repair.step}; delta cycles go on",
        )
        self._remember(record)
        s.delta_bytes_sent += record.bytes_sent
        s.resyncs = (
            *s.resyncs,
            ResyncRecord(
                repair.cause, repair.rung, result.started_at, workflow.now(), result.compared_bytes, result.differing_bytes
            ),
        )[-KEPT_RESYNCS:]
        s.repair = None
        s.failures_in_row = s.transient_failures = 0
        s.replication_state = _R.DELTA_SYNC
        if s.migration_state is _M.NONE:
            s.migration_state = _M.TEST_PENDING
        s.health = self._repeated_resyncs()
        self._schedule(s.last_duration, 0)
        self._say("resynchronised; delta cycles go on")
        await self._settle()

    def _repeated_resyncs(self) -> tuple[HealthError, ...]:
        """Return a health error where resyncs for one cause repeat: what leads to them wants mending."""
        since = workflow.now() - _REPEATED_WITHIN
        recent = [record for record in self._state.resyncs if record.cause is not None and record.ended_at >= since]
        if not recent:
            return ()
        last = recent[-1]
        times = sum(record.cause is last.cause for record in recent)
        if last.cause is None or times < _REPEATED:
            return ()
        detail = (
            f"{times} resyncs within {_REPEATED_WITHIN.days} days had the same cause: {last.cause.value}. "
            f"{CATALOGUE[last.cause].cause}"
        )
        return (health_error(FailureView(ErrorKind.RESYNC_REPEATS, detail), last.ended_at, retried=False),)

    def _note_failed_resync(self, report: JobReport, *, began: bool = True) -> None:
        """Park with cause and remedy; an outage's resync is tried again by itself, on the same rung, and so is one never begun."""
        s = self._state
        assert s.repair is not None
        if report.error is None:
            self._burn_numbers()
        error = report.error or health_error(
            FailureView(ErrorKind.INTERRUPTED, "The resync was ended from outside."), workflow.now(), retried=False
        )
        own_fault = began and failed_in_itself(error.kind)
        parked = own_fault or not CATALOGUE[error.kind].retryable
        failures = s.repair.failures + own_fault
        if failures > 1:
            error = dataclasses.replace(error, remedy=_LAST_RESORT)
        repair = dataclasses.replace(
            s.repair,
            asked=False,
            under_way=False,
            scheduled=False,
            starts_at=None,
            parked=parked,
            failures=failures,
            not_before=workflow.now() + _TRY_AGAIN,
            reset_tracking=s.repair.reset_tracking or error.kind is ErrorKind.CBT_CORRUPT,
        )
        if own_fault:
            step = next_step(repair.rung, repair.reason)
            repair = _on(repair, step.rung, step.reason)
        s.repair = repair
        s.replication_state = _R.REPAIR_PENDING
        if s.migration_state is _M.MIGRATION_QUEUED:
            s.migration_state = _M.MIGRATION_FAILED
        s.health = (dataclasses.replace(error, retried=not parked and s.auto_repair),)


def _on(repair: RepairState, rung: Rung, reason: str) -> RepairState:
    """Return a repair on another rung; what was compared on the old one is not carried over, what was found is."""
    bases = tuple(DiskBase(base.disk_key, None, 0) for base in repair.bases)
    return dataclasses.replace(repair, rung=rung, step=reason, bases=bases)
