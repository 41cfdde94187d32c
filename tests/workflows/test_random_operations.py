"""Operations of disaster recovery in random order, with random failures and terminations, against what the states say (spec §6 to §8).

A hypothesis state machine chooses; it runs in a thread, and what it does runs in the tests' loop. `--seed` repeats a run of the
long test, whose `--sequences` may be more; a failure prints what happened.
"""

import asyncio
import itertools
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import Operation
from deltaferry.planning.dr_operations import ALL_OPERATIONS
from deltaferry.planning.dr_states import AnyOperation, DrOperation
from deltaferry.planning.retention import PointChoice, parse_choice
from tests.workflows.random_life import Life
from tests.workflows.site_bench import Bench, site_bench
from tests.workflows.stand_ins import StandIns

_SHORT_SEED, _SHORT_SEQUENCES, _SHORT_STEPS = 4, 2, 6
_LONG_SEQUENCES, _LONG_STEPS = 25, 25
_STEP_TIMEOUT_S = 300

_O, _D = Operation, DrOperation
_POINT = ("pin_point", "copy_point", "import_copies", "create_target_vm", "delete_copies", "unpin_point")
_MIGRATION = ("begin_cycle", "seal_cycle", "shut_down_source", "import_disks", "create_target_vm", "guard_source")
_PASS = ("survey_failed_over", "snapshot_target", "plan_changes", "send_back", "write_back", "verify_back")
_CYCLE = ("begin_cycle", "transfer", "apply", "seal_cycle", "release_snapshot")
_STEPS: dict[AnyOperation, tuple[str, ...]] = {
    _O.RESUME: _CYCLE,
    _O.MIGRATE: ("read_power", *_MIGRATION),
    _O.RESYNC: ("read_disks", "begin_resync", "compare_source", "seal_cycle"),
    _O.REPAIR: ("read_disks", "begin_resync", "compare_source", "seal_cycle"),
    _O.ROLLBACK: ("unguard_source",),
    _O.STOP: ("clean_source", "clean_target"),
    _O.COMPLETE: ("clean_source", "clean_target"),
    _D.TEST_MIGRATE: _POINT,
    _D.CLEAN_UP: ("delete_target", "delete_copies", "unpin_point"),
    _D.FAILOVER: ("read_power", "shut_down_source", "guard_source", *_POINT),
    _D.PLANNED_FAILOVER: _MIGRATION,
    _D.CHANGE_POINT: ("delete_target", *_POINT),
    _D.COMMIT: ("unpin_point", "prune_points"),
    _D.CANCEL: ("delete_target", "unguard_source", "prepare_failback", "start_target"),
    _D.REPROTECT: ("prepare_failback", *_PASS),
    _D.FAILBACK: ("prepare_failback", "stop_target", *_PASS, "release_failback", "unguard_source"),
    _D.COMMIT_FAILBACK: ("delete_target", "drop_snapshots", "forget_site"),
}
"""The steps that an operation's work has, in which it may fail or be ended."""

_KINDS = (ErrorKind.AZURE_QUOTA, ErrorKind.VSPHERE_UNREACHABLE, ErrorKind.STORE_ACCESS_DENIED, ErrorKind.COVERAGE_MISMATCH)
_RARELY_SENT = frozenset({_O.STOP, _O.COMPLETE})
_numbers = itertools.count(1)


class Operators(RuleBasedStateMachine):
    """Several people who do not talk to each other, and a world that fails them."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    client: ClassVar[Client]
    stand_ins: ClassVar[StandIns]

    def __init__(self) -> None:
        super().__init__()
        self._site: AbstractAsyncContextManager[Bench] | None = None
        self._life: Life | None = None

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something in the loop of the tests; what it raises says what had happened."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(_STEP_TIMEOUT_S)
        except Exception as error:
            error.add_note("what happened: " + "; ".join(self._life.said if self._life is not None else []))
            raise

    @property
    def life(self) -> Life:
        assert self._life is not None
        return self._life

    @property
    def lives(self) -> bool:
        return self._life is not None and not self._life.ended

    def choose(self, data: st.DataObject) -> tuple[AnyOperation, object]:
        """Choose one of the operations that are offered."""
        offered = [one for one in ALL_OPERATIONS if one.value in self.life.now.allowed]
        wanted = [one for one in offered if one not in _RARELY_SENT] or offered
        operation = data.draw(st.sampled_from(wanted), label="operation")
        if operation in (_D.TEST_MIGRATE, _D.FAILOVER, _D.CHANGE_POINT):
            keys = [point.cycle_key for point in self.life.bench.world.points]
            keys = [key for key in keys if isinstance(parse_choice(key), PointChoice)]
            point = data.draw(st.sampled_from(["latest", *keys]), label="point")
            network = {"network": "drill"} if operation is _D.TEST_MIGRATE else {}
            return operation, {**network, "point": point}
        return operation, None

    # --- what happens ---

    @initialize()
    def enable(self) -> None:
        self._site = site_bench(self.client, self.stand_ins, f"random{next(_numbers)}")
        self._life = self.do(Life.begin(self.do(self._site.__aenter__())))

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def an_operation_is_sent(self, data: st.DataObject) -> None:
        operation, argument = self.choose(data)
        self.do(self.life.send(operation, argument))
        self.do(self.life.settle())

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), kind=st.sampled_from(_KINDS))
    def a_step_of_it_fails(self, data: st.DataObject, kind: ErrorKind) -> None:
        operation, argument = self.choose(data)
        for step in data.draw(st.lists(st.sampled_from(_STEPS.get(operation, _CYCLE)), min_size=1, max_size=2, unique=True)):
            self.do(self.life.fail_next(step, kind))
        self.do(self.life.send(operation, argument))
        self.do(self.life.settle())

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), terminate=st.booleans(), entity_too=st.booleans())
    def its_job_is_ended_from_outside(self, data: st.DataObject, terminate: bool, entity_too: bool) -> None:
        operation, argument = self.choose(data)
        step = data.draw(st.sampled_from(_STEPS.get(operation, _CYCLE)))
        alone = entity_too or operation is _D.TEST_MIGRATE  # a test's end is looked for when the replication is adopted
        self.do(self.life.end_job(step, operation, argument, terminate=terminate, entity_too=alone))
        self.do(self.life.settle())

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def the_replication_is_terminated_and_adopted(self, data: st.DataObject) -> None:
        operation, argument = self.choose(data)
        step = data.draw(st.sampled_from(_STEPS.get(operation, _CYCLE)))
        self.do(self.life.lose(step, operation, argument))
        self.do(self.life.settle())

    def teardown(self) -> None:
        if self._site is None:
            return
        try:
            if self.lives:
                self.do(self.life.end())
        finally:
            self.do(self._site.__aexit__(None, None, None))


async def _try(environment: WorkflowEnvironment, stand_ins: StandIns, seed: int, sequences: int, steps: int) -> None:
    loop = asyncio.get_running_loop()
    machine = type("Operators", (Operators,), {"loop": loop, "client": environment.client, "stand_ins": stand_ins})
    limits = settings(
        max_examples=sequences,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, hypothesis.seed(seed)(machine), settings=limits)


async def test_operations_in_random_order_leave_what_their_states_say(
    dev_server: WorkflowEnvironment, stand_ins: StandIns
) -> None:
    await _try(dev_server, stand_ins, _SHORT_SEED, _SHORT_SEQUENCES, _SHORT_STEPS)


@pytest.mark.chaos
async def test_many_operations_in_random_order_leave_what_their_states_say(
    dev_server: WorkflowEnvironment, stand_ins: StandIns, request: pytest.FixtureRequest
) -> None:
    seed, sequences = int(request.config.option.seed), request.config.getoption("--sequences")
    await _try(dev_server, stand_ins, seed, int(sequences or _LONG_SEQUENCES), _LONG_STEPS)
