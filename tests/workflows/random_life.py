"""One replication that random operations, failures and terminations happen to, and what must hold of it whenever it stands still.

`Life` runs on the dev server with stand-ins; it says in `said` what happened to it, which is what a failed test prints.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import MigrationState, Operation, ReplicationState
from deltaferry.planning.dr_operations import ALL_OPERATIONS, allowed, judge
from deltaferry.planning.dr_states import (
    IN_FAILOVER,
    NO_CYCLES,
    TEST_STATES,
    AnyMigrationState,
    AnyOperation,
    AnyReplicationState,
    DrOperation,
    DrSituation,
    DrState,
    ReverseState,
)
from tests.workflows.site_bench import Bench, Running, eventually
from workflows import names
from workflows.messages.replication_state import EndResult
from workflows.messages.views import StatusView, TestView

_O, _R, _M, _D, _S = Operation, ReplicationState, MigrationState, DrOperation, DrState

_PATIENCE_S = 100.0
_ADOPTED_LOOKS = 20
_NOT_DUE = timedelta(seconds=30)
_DAY = {"name": "gold", "rpo_threshold": "P2D", "retention": "P2D", "failback_interval": "PT12H"}
_TESTS_ON_THEIR_WAY = frozenset({_S.TEST_QUEUED, _S.TEST_IN_PROGRESS, _S.CLEAN_UP_IN_PROGRESS})
_TEST_STANDS = frozenset({_S.CLEAN_UP_PENDING, _S.CLEAN_UP_FAILED})
_ON_THEIR_WAY: frozenset[AnyReplicationState | AnyMigrationState] = frozenset({
    _R.PAUSE_IN_PROGRESS,
    _R.RESUME_QUEUED,
    _R.RESUME_IN_PROGRESS,
    _R.REPAIR_QUEUED,
    _R.RESYNC_IN_PROGRESS,
    _R.STOP_IN_PROGRESS,
    _R.COMPLETE_IN_PROGRESS,
    ReverseState.REPROTECT_IN_PROGRESS,
    _M.MIGRATION_QUEUED,
    _M.MIGRATION_IN_PROGRESS,
    _S.FAILOVER_IN_PROGRESS,
    _S.FAILBACK_IN_PROGRESS,
})  # fmt: skip
"""States that something ends by itself."""
_RUNS = (
    *("waiting for slots", "taking the snapshot", "sending", "applying", "verifying"),
    *("deleting what the migration made", "taking the guard", "powering"),
)
"""How the activity begins while a cycle or a rollback runs."""
_RUNS_IN_AZURE = frozenset({_S.FAILED_OVER, _S.COMMITTED, _S.FAILBACK_READY})
_HOMEWARDS: tuple[AnyOperation, ...] = (
    _D.CLEAN_UP,
    _O.STOP,
    _O.COMPLETE,
    _O.ROLLBACK,
    _D.COMMIT_FAILBACK,
    _O.RETRY,
    _D.CANCEL,
    _D.COMMIT,
)
"""What ends a replication, whatever it is in: the first one that is accepted is sent."""


@dataclass
class Life:
    """A replication, and what is known of it."""

    bench: Bench
    running: Running
    name: str
    said: list[str] = field(default_factory=list)
    view: StatusView | None = None
    interfered: bool = False
    """Somebody has ended a job from outside since the replication last had nothing left over: what it made may exist."""

    lost: bool = False
    """The replication was terminated, and has run no cycle since: the snapshot that it held may be left until the next one."""

    _ends: bool = False
    """Stop or complete was accepted last."""

    @classmethod
    async def begin(cls, bench: Bench) -> "Life":
        """Start a replication that has a recovery point, and keeps its points."""
        bench.profile(min_interval=timedelta(hours=1))
        running = await bench.replicated()
        life = cls(bench, running, running.vm)
        await running.update(_D.UPDATE_POLICY, _DAY)
        await life.settle()
        return life

    @property
    def now(self) -> StatusView:
        """Return what it was in when it last stood still."""
        assert self.view is not None
        return self.view

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.view is None

    # --- what happens to it ---

    async def send(self, operation: AnyOperation, argument: object = None) -> None:
        """Send an operation that is offered: it must be accepted."""
        self.said.append(f"send {operation.value} {argument or ''}".rstrip())
        if operation is _O.RESUME and self.now.migration_state == _M.MIGRATED:
            self._delete_the_migrated_vm()
        await self.running.update(operation.value, argument if argument is not None else _argument(operation))
        self._ends = operation in (_O.STOP, _O.COMPLETE)

    def _delete_the_migrated_vm(self) -> None:
        """Delete, as its owner does, what a migration has made for good, before the VM is replicated again."""
        world = self.bench.world
        world.vms.clear()
        world.ledger.cloud = {job: made for job, made in world.ledger.cloud.items() if made.name != self.name}

    async def fail_next(self, step: str, kind: ErrorKind) -> None:
        """Have the next call of a step fail for good."""
        self.said.append(f"the next {step} fails: {kind.value}")
        self.bench.world.fail(step, kind)

    async def end_job(self, step: str, operation: AnyOperation, argument: object, *, terminate: bool, entity_too: bool) -> None:
        """Send an operation, and end its job, or the replication with it, while it is in a step; then adopt."""
        hold = self.bench.world.hold(step)
        await self.send(operation, argument)
        reached = await self._reaches(hold)
        victims = self._jobs(await self.running.status()) if reached else []
        self.said.append(f"{'terminate' if terminate else 'cancel'} in {step}: {victims} {'and the replication' * entity_too}")
        if reached and entity_too:
            await self.running.handle.terminate("by chance")
        for victim in victims:
            self.interfered = True
            handle = self.bench.client.get_workflow_handle(victim)
            await _quietly(handle.terminate("by chance") if terminate else handle.cancel())
        hold.release()
        if reached and entity_too:
            await self.adopt()

    async def lose(self, step: str, operation: AnyOperation, argument: object) -> None:
        """Send an operation, terminate the replication alone while it is in a step, and adopt it."""
        hold = self.bench.world.hold(step)
        await self.send(operation, argument)
        if await self._reaches(hold):
            self.said.append(f"terminate the replication in {step}")
            await self.running.handle.terminate("by chance")
            hold.release()
            await self.adopt()
        hold.release()

    async def adopt(self) -> None:
        """Start the replication again from its commit record."""
        self.lost, self._ends = True, False
        adopted = await self.bench.adopt()
        assert adopted.adopted == (self.running.workflow_id,), adopted
        self.bench.running(self.running.workflow_id, self.name)

    async def _reaches(self, hold: Any) -> bool:
        """Return whether a step is reached before everything stands still."""

        async def either() -> bool:
            return hold.was_reached or self._stands_still(await self.running.status())

        await eventually(either, f"{hold.activity}, or its end without it", _PATIENCE_S)
        return bool(hold.was_reached)

    def _jobs(self, view: StatusView) -> list[str]:
        """Return the workflow ids of the jobs that run now."""
        tests = [test for test in view.tests if test.state in _TESTS_ON_THEIR_WAY]
        jobs = [names.test_id(self.running.workflow_id, test.number) for test in tests if test.state != _S.CLEAN_UP_IN_PROGRESS]
        return jobs or ([view.job_id] if view.job_id and not tests else [])

    # --- when it stands still ---

    async def settle(self) -> None:
        """Wait until nothing happens by itself any more, then see that all is as its states say."""
        self.bench.world.let_go()
        try:
            await self._until_still()
        except AssertionError as error:
            raise AssertionError(f"{error}; the last status was {await self.running.status()}") from None
        if self.view is not None:
            self.bench.world.forgive()
            await self._check(self.view)

    async def _until_still(self) -> None:
        hurried = starting = 0

        async def still() -> bool:
            nonlocal hurried, starting
            try:
                view = await self.running.status()
            except RPCError as error:
                if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                    raise
                return False
            self.view = view
            waits = view.replication_state == ReverseState.REPROTECT_IN_PROGRESS and (view.health or self.lost)
            if waits and hurried < 5 and view.job_id:
                hurried += 1  # a pass that failed is tried again in a minute, or now; one that adopts is told with the next
                await _quietly(self.bench.client.get_workflow_handle(view.job_id).signal(names.REVERSE_NOW))
            if self._has_ended(view):
                description = await self.running.handle.describe()
                if description.close_time is None:
                    return False
                self.view = None
                return True
            starting += view.activity == "starting"  # it was adopted: what is due begins after a moment, if anything is
            return self._stands_still(view) and (view.activity != "starting" or starting > _ADOPTED_LOOKS)

        await eventually(still, "to stand still", _PATIENCE_S)

    def _has_ended(self, view: StatusView) -> bool:
        return view.activity == "ended"

    def _stands_still(self, view: StatusView) -> bool:
        replication, migration = _states(view)
        if self._has_ended(view) or replication in _ON_THEIR_WAY or migration in _ON_THEIR_WAY:
            return False
        if self._ends and replication not in (_R.STOP_FAILED, _R.COMPLETE_FAILED):
            return False
        if any(test.state in _TESTS_ON_THEIR_WAY for test in view.tests) or view.activity.startswith(_RUNS):
            return False
        failover = view.failover
        if migration is _S.COMMITTED and failover is not None and failover.committed_at is None:
            return bool(view.health)  # the commit failed, and waits for retry
        if migration is _S.FAILED_BACK and view.activity.startswith("committing"):
            return False
        if replication is _R.DELTA_SYNC:  # a cycle that is due, or runs, has its time behind it
            return view.next_cycle_at is not None and view.next_cycle_at > datetime.now(UTC) + _NOT_DUE
        return True

    async def _check(self, view: StatusView) -> None:
        replication, migration = _states(view)
        situation = self._judged(view)
        assert (set(view.allowed)) == {operation.value for operation in allowed(situation)}, view
        for operation in ALL_OPERATIONS:
            if operation.value not in view.allowed:
                verdict = judge(operation, situation)
                sentence = await self._refusal(operation)
                assert sentence == verdict.sentence, (operation, sentence, verdict.sentence, view)
        await self._accounts_for_everything(view, replication, migration)

    async def _refusal(self, operation: AnyOperation) -> str:
        try:
            answer = await self.running.update(operation.value, _argument(operation))
        except WorkflowUpdateFailedError as error:
            assert isinstance(error.cause, ApplicationError)
            return error.cause.message
        raise AssertionError(f"{operation.value} is not offered, and was accepted: {answer}")

    def _judged(self, view: StatusView) -> DrSituation:
        """Return the situation that the table must have been asked about: what the status does not show, it may be either."""
        replication, migration = _states(view)
        up = sum(test.state not in _TESTS_ON_THEIR_WAY for test in view.tests)
        offered = {operation for operation in ALL_OPERATIONS if operation.value in view.allowed}
        for off in (False, True):
            for waits in (False, True):
                situation = DrSituation(
                    replication,
                    migration,
                    has_point=view.last_recovery_point is not None,
                    tests_to_clean_up=up,
                    tests_running=len(view.tests) - up,
                    source_shut_down_by_us=off,
                    source_is_off=off,
                    waits_for_retry=waits,
                )
                if set(allowed(situation)) == offered:
                    return situation
        raise AssertionError(f"no situation of {replication.value}/{migration.value} offers {sorted(view.allowed)}: {view}")

    # --- what exists ---

    async def _accounts_for_everything(
        self, view: StatusView, replication: AnyReplicationState, migration: AnyMigrationState
    ) -> None:
        """Everything that exists is explained by the states, and everything that these promise exists."""
        wrong: list[str] = []

        async def right() -> bool:
            wrong[:] = self._wrong(view, replication, migration)
            return not wrong

        try:
            await eventually(right, "accounted for", 5)
        except AssertionError:
            raise AssertionError(f"{replication.value}/{migration.value}: {'; '.join(wrong)}; {view}") from None
        if migration not in (_S.FAILOVER_FAILED, _M.MIGRATION_FAILED) and not view.tests:
            self.interfered = False
        self.lost = self.lost and bool(self.bench.world.snapshots)

    def _wrong(self, view: StatusView, replication: AnyReplicationState, migration: AnyMigrationState) -> list[str]:
        world = self.bench.world
        ledger, wrong = world.ledger, list(world.ledger.faults)
        tests = {f"test-{test.number}": test for test in view.tests}
        ours = {job: made for job, made in ledger.cloud.items() if job not in tests}
        for job, test in tests.items():
            wrong += _test_is_wrong(job, test, ledger.cloud.get(job) is not None)
        may_be_left = self.interfered or (migration is _S.FAILOVER_FAILED)
        in_azure = migration is _M.MIGRATED or (migration in IN_FAILOVER and migration is not _S.FAILOVER_FAILED)
        if in_azure and [made.created for made in ours.values()] != [True]:
            wrong.append(f"one VM is in Azure, and there are {ours}")
        if not in_azure and not may_be_left and ours:
            wrong.append(f"nothing explains {ours}")
        unnamed = {*ledger.cloud, *world.copies}.difference(view.in_azure.jobs if view.in_azure is not None else ())
        if unnamed:
            wrong.append(f"an audit would take {sorted(unnamed)} for nobody's")
        if in_azure and view.failover is not None and migration in (_S.FAILED_OVER, _S.COMMITTED, _S.FAILBACK_READY):
            wrong += [
                f"the VM is of {made.content}, and its point of {ledger.points.get(view.failover.point_key)}"
                for made in ours.values()
                if made.content != ledger.points.get(view.failover.point_key)
            ]
        if world.copies and not self.interfered and not view.tests and migration is not _S.FAILOVER_FAILED:
            wrong.append(f"copies are left: {sorted(world.copies)}")
        pinned = world.pins and not (self.interfered or view.tests or migration in (_S.FAILED_OVER, _S.FAILOVER_FAILED))
        pinned = pinned and not (migration is _S.COMMITTED and view.health)
        if pinned:
            wrong.append(f"pins are left: {world.pins}")
        no_cycle_comes = migration in NO_CYCLES or migration is _M.MIGRATION_FAILED or replication is _R.PAUSED
        an_audit_removes_it = self.lost and no_cycle_comes
        next_cycle_removes_it = replication is _R.DELTA_SYNC and view.health  # the failed one could not
        if world.snapshots and not (an_audit_removes_it or next_cycle_removes_it):
            wrong.append(f"the source VM has snapshots: {world.snapshots}")
        back = migration in (_S.COMMITTED, _S.FAILBACK_READY, _S.FAILBACK_FAILED, _S.FAILED_BACK)
        if (ledger.marked or ledger.disk_snapshots) and not back:
            wrong.append(f"of the way back is left: {ledger.marked=} {sorted(ledger.disk_snapshots)}")
        if migration is _S.FAILBACK_READY and not ledger.marked:
            wrong.append("failback is ready, and the VM at the site is not marked")
        if migration in (_S.FAILED_OVER, _S.FAILBACK_READY) and not all(made.running for made in ours.values()):
            wrong.append("the VM in Azure does not run")
        if migration is _S.FAILED_BACK and any(made.running for made in ours.values()):
            wrong.append("the VM runs on both sides")
        wrong += [
            f"point {point.cycle_key} cannot be restored"
            for point in world.points
            if {ledger.snapshots.get(disk.snapshot) for disk in point.disks} != {ledger.points.get(point.cycle_key)}
        ]
        is_committed = migration in IN_FAILOVER - {_S.FAILED_OVER, _S.FAILOVER_FAILED} or view.repair is not None
        if view.last_recovery_point != max(point.taken_at for point in world.points) and not is_committed:
            wrong.append(f"the last recovery point is {view.last_recovery_point}, and no such is stored")
        return wrong

    # --- the end ---

    async def end(self) -> None:
        """Bring it to its end by what is offered, and see that nothing is left."""
        for _ in range(12):
            if self.ended:
                break
            operation = next((one for one in _HOMEWARDS if one.value in self.now.allowed), None)
            assert operation is not None, f"it cannot be ended: {self.view}"
            await self.send(operation)
            await self.settle()
        assert self.ended, f"it has not ended: {self.view}"
        result = await self._result()
        world, ledger = self.bench.world, self.bench.world.ledger
        left = [made.name for made in ledger.cloud.values()]
        assert left == ([self.name] if result.target_vm_id else []), (left, result)
        assert not ledger.faults, ledger.faults
        assert (world.pins, world.copies, world.snapshots, world.records) == ({}, {}, {}, {})
        assert (ledger.marked, ledger.disk_snapshots) == (False, {})

    async def _result(self) -> EndResult:
        return await self.running.ended()


def _argument(operation: AnyOperation) -> object:
    """Return what an operation needs at least."""
    arguments: dict[AnyOperation, object] = {
        _D.TEST_MIGRATE: {"network": "drill"},
        _D.CHANGE_POINT: {"point": "latest"},
        _D.UPDATE_POLICY: _DAY,
        _O.UPDATE_TARGET: {"size": "Standard_D4s_v5"},
        _D.REPROTECT: {"confirm_losses": True, "power_off_source": True},
    }
    return arguments.get(operation)


def _states(view: StatusView) -> tuple[AnyReplicationState, AnyMigrationState]:
    replication = next(state for state in (*_R, *ReverseState) if state.value == view.replication_state)
    migration: AnyMigrationState = next(state for state in (*_M, *_S) if state.value == view.migration_state)
    return replication, _M.TEST_PENDING if migration in TEST_STATES else migration


def _test_is_wrong(job: str, test: TestView, exists: bool) -> list[str]:
    return [f"{job} is {test.state}, and has no VM"] if test.state == _S.CLEAN_UP_PENDING and not exists else []


async def _quietly(work: Any) -> None:
    """Do something to a workflow that may have ended meanwhile."""
    try:
        await work
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
