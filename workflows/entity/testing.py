"""How a replication has its VM tried out: jobs of their own, beside the cycles, and none of them waits for the other."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import WorkflowAlreadyStartedError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import HealthError
from deltaferry.planning.dr_states import TESTS_UP, DrState
from deltaferry.planning.retention import PointChoice, parse_choice
from workflows import names
from workflows.entity.base import merged
from workflows.entity.migration import EntityMigration
from workflows.messages.dr_state import MadeInAzure, TestRun
from workflows.messages.job import CleanUpInput, FromPointInput, JobReport, test_job
from workflows.messages.operator_input import CleanUpOptions, TestOptions
from workflows.messages.replication_state import FailureView
from workflows.reporting import is_running
from workflows.steps import health_error

_S = DrState

_LOOK = timedelta(minutes=15)
"""How often a test's job that has not reported is asked whether it still runs."""

_RUNNING = frozenset({_S.TEST_IN_PROGRESS, _S.CLEAN_UP_IN_PROGRESS})

_TO_START = frozenset({_S.TEST_QUEUED, _S.CLEAN_UP_IN_PROGRESS})
"""States in which a job is to be started, once."""


class EntityTests(EntityMigration):
    """Starts tests and their clean-up, and takes their reports, in a task of its own."""

    def _ask_for_test(self, options: TestOptions) -> None:
        """Note a test that was accepted."""
        s = self._state
        s.jobs_minted += 1
        number = s.jobs_minted
        name = s.target.vm_name or self._replication.vm_name
        target = dataclasses.replace(s.target, vm_name=f"{name[:48]}-test-{number}")
        target = merged(target, options.target) if options.target is not None else target
        target = dataclasses.replace(target, network=options.network, subnet=options.subnet)  # none of production's
        job_id = names.test_id(workflow.info().workflow_id, number)
        s.tests = (*s.tests, TestRun(number, _S.TEST_QUEUED, job_id, options, target, workflow.now()))

    def _ask_for_clean_up(self, options: CleanUpOptions) -> None:
        """Note which tests are to be deleted."""
        s = self._state
        for test in s.tests:
            if test.state in TESTS_UP and options.test in (None, test.number):
                s.jobs_minted += 1
                job_id = names.clean_up_id(workflow.info().workflow_id, s.jobs_minted)
                self._change_test(test.number, state=_S.CLEAN_UP_IN_PROGRESS, job_id=job_id, error=None)

    async def _run_tests(self) -> None:
        """Start what is to be started, for as long as the run lasts."""
        begun: set[str] = set()
        for test in self._state.tests:  # of a run before this one: whoever still runs reports again
            if test.state in _RUNNING and await is_running(test.job_id):
                begun.add(test.job_id)
            elif test.state is _S.TEST_IN_PROGRESS:
                self._note_gone(test)
        look_at = workflow.now() + _LOOK
        while True:
            waiting = self._started_tests(begun)
            timeout = max(look_at - workflow.now(), timedelta(milliseconds=1)) if waiting else None
            try:
                await workflow.wait_condition(
                    self._test_to_start(begun), timeout=timeout, timeout_summary="look whether a test's job still runs"
                )
            except TimeoutError:
                await self._look_after(waiting)
                look_at = workflow.now() + _LOOK
                continue
            self._starting = True
            for test in self._state.tests:
                if test.state in _TO_START and test.job_id not in begun:
                    begun.add(test.job_id)
                    await self._start_test_job(test)
            self._starting = False
            look_at = workflow.now() + _LOOK

    def _test_to_start(self, begun: set[str]) -> Callable[[], bool]:
        return lambda: any(test.state in _TO_START and test.job_id not in begun for test in self._state.tests)

    def _started_tests(self, begun: set[str]) -> list[TestRun]:
        return [test for test in self._state.tests if test.state in _RUNNING and test.job_id in begun]

    async def _start_test_job(self, test: TestRun) -> None:
        entity_id = workflow.info().workflow_id
        kind, start, summary = self._test_job(entity_id, test)
        if test.state is _S.TEST_QUEUED:
            self._change_test(test.number, state=_S.TEST_IN_PROGRESS)
        self._present()
        await self._record()  # before anything is made: a test that exists is known to whoever adopts the replication
        try:
            await workflow.start_child_workflow(
                kind,
                start,
                id=test.job_id,
                task_queue=names.CONTROL_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"{summary} of {self._replication.vm_name}",
            )
        except WorkflowAlreadyStartedError:
            await is_running(test.job_id)

    def _test_job(self, entity_id: str, test: TestRun) -> tuple[str, FromPointInput | CleanUpInput, str]:
        if test.state is _S.CLEAN_UP_IN_PROGRESS:
            keys = tuple(disk.disk_key for disk in test.point.disks) if test.point is not None else ()
            test_id = names.test_id(entity_id, test.number)
            made = MadeInAzure(test_job(test.number), test.target, keys)
            clean = CleanUpInput(entity_id, self._replication, made, test_id)
            return names.CLEAN_UP_TEST, clean, f"clean-up of test {test.number}"
        choice = parse_choice(test.options.point)
        assert isinstance(choice, PointChoice)  # judged when it was asked for
        start = FromPointInput(
            entity_id=entity_id,
            replication=self._replication,
            number=test.number,
            choice=choice,
            target=test.target,
            reason=test.options.reason or f"test {test.number}",
            isolated_from=self._state.target,
        )
        return names.TEST_MIGRATION, start, f"test {test.number}"

    async def _look_after(self, tests: list[TestRun]) -> None:
        """Note that a job ended without a report: what it made may exist."""
        for test in tests:
            if not await is_running(test.job_id) and any(test == known for known in self._state.tests):
                self._note_gone(test)

    def _note_gone(self, test: TestRun) -> None:
        ended = FailureView(ErrorKind.INTERRUPTED, f"Test {test.number} was ended from outside; what it made may exist.")
        self._fail_test(test, health_error(ended, workflow.now(), retried=False))

    def _take_test_report(self, report: JobReport) -> bool:
        """Take over how a test or its clean-up ended; return whether it was one."""
        test = next((test for test in self._state.tests if test.job_id == report.job_id), None)
        if test is None or report.made is None:
            return test is not None
        s, made = self._state, report.made
        if report.error is not None:
            self._fail_test(dataclasses.replace(test, point=made.point or test.point), report.error)
        elif test.state is _S.CLEAN_UP_IN_PROGRESS:
            s.tests = tuple(known for known in s.tests if known.number != test.number)
        else:
            s.tested_at = workflow.now()
            self._change_test(
                test.number, state=_S.CLEAN_UP_PENDING, vm_id=made.vm_id, point=made.point, ready_at=workflow.now(), error=None
            )
        self._present()
        return True

    def _fail_test(self, test: TestRun, error: HealthError) -> None:
        cleaning = test.state is _S.CLEAN_UP_IN_PROGRESS
        state = _S.CLEAN_UP_FAILED if cleaning else _S.TEST_FAILED
        self._change_test(test.number, state=state, error=error, point=test.point)
        self._present()

    def _change_test(self, number: int, **changes: object) -> None:
        self._state.tests = tuple(
            dataclasses.replace(test, **changes) if test.number == number else test  # type: ignore[arg-type]
            for test in self._state.tests
        )
