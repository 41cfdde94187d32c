"""`RecoveryPlan`: one run of a plan: its groups in order, the VMs of a group together, steps before and after them."""

import asyncio
import dataclasses
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.errors import ErrorKind
    from deltaferry.planning.dr_states import DrOperation
    from deltaferry.planning.phrases import duration_text
    from deltaferry.planning.plan_progress import (
        NOTE_LIMIT,
        Item,
        ItemState,
        PlanCommand,
        ended,
        find_item,
        items_of,
        judge,
        next_of,
        obey,
        started,
    )
    from deltaferry.planning.transitions import Verdict
    from workflows import names
    from workflows.messages.plan import CleanUpItem, Phase, PlanResult, PlanRunState, PlanView
    from workflows.messages.plan_input import PlanAbort, PlanCleanUp, PlanDecision, PlanInput, run_contradictions
    from workflows.messages.replication_state import Refusal
    from workflows.plans.asking import PlanAsking, operation_of
    from workflows.plans.commands import PlanCommands, PlanRequest
    from workflows.plans.presenting import details, plan_view, result_of
    from workflows.plans.running import keep_output, run_step
    from workflows.plans.state import (
        LONGEST_HISTORY,
        carried,
        carried_state,
        clean_up_key,
        first_state,
        judge_clean_up,
        keep_decision,
        note_ends,
    )
    from workflows.refusals import EXAMPLES
    from workflows.steps import refusal


@workflow.defn(name=names.RECOVERY_PLAN)
class RecoveryPlan(PlanCommands, PlanAsking):
    """Starts what is next, waits, and takes commands; what is next is `deltaferry.planning.plan_progress`'s to say."""

    @workflow.init
    def __init__(self, request: PlanInput | None = None) -> None:
        self._state = None
        self._items: tuple[Item, ...] = ()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._in_activities = 0
        self._changed = False
        if request is not None:
            self._state = carried_state(request) if request.carried is not None else first_state(request)
        if self._state is not None:
            self._items = items_of(self._state.plan, self._state.options.kind, self._state.vm_names)

    @workflow.run
    async def run(self, request: PlanInput | None = None) -> PlanResult:
        """Run the plan to its end. Fails at once, with every reason, where it cannot begin."""
        request, state = self._required(request)
        try:
            await self._work_through(request, state)
            if state.tested and state.phase is Phase.RUNNING:
                state.phase = Phase.CLEAN_UP_PENDING
                state.clean_up = tuple(CleanUpItem(item.vm) for item in self._items if item.vm in state.tested)
            while state.phase is not Phase.RUNNING and state.phase is not Phase.ENDED:
                await self._clean_up_step(request, state)
        except asyncio.CancelledError:
            await self._cancelled(state)
            raise
        state.phase = Phase.ENDED
        self._present(state)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return result_of(workflow.info().workflow_id, self._items, state)

    def _required(self, request: PlanInput | None) -> tuple[PlanInput, PlanRunState]:
        """Return input and state. Refuses what people sent and cannot be run; a carried state that cannot be read waits for a deploy."""
        if request is None:
            raise refusal(ErrorKind.BAD_INPUT, f"RecoveryPlan needs an input. Write for example {EXAMPLES['PlanInput']}")
        if workflow.info().continued_run_id is None:
            if request.carried is not None:
                raise refusal(ErrorKind.BAD_INPUT, "The field 'carried' is the run's own: leave it out.")
            found = run_contradictions(request)
            if found:
                raise refusal(ErrorKind.BAD_INPUT, f"The plan cannot be run. {' '.join(found)}")
        if self._state is None:
            raise RuntimeError("the state carried over by the previous run cannot be read by this version of the code")
        return request, self._state

    # --- the plan ---

    async def _work_through(self, request: PlanInput, state: PlanRunState) -> None:
        """Do what is next until nothing is, or the run was aborted and what ran has ended."""
        while state.phase is Phase.RUNNING:
            note_ends(state)
            now = next_of(self._items, state.progress)
            if now.finished and not self._tasks:
                return
            for item in now.start:
                self._begin(state, item)
            for item in next_of(self._items, state.progress).running:
                if item.item_id not in self._tasks:
                    self._tasks[item.item_id] = asyncio.create_task(self._carry_out(state, item))
            self._present(state)
            await self._wait(request, state)

    def _begin(self, state: PlanRunState, item: Item) -> None:
        state.progress = started(state.progress, item.item_id)
        state.since[item.item_id] = workflow.now()
        state.ended.pop(item.item_id, None)
        state.outputs.pop(item.item_id, None)
        if item.vm:
            self.prepare_to_ask(state, item.item_id, self._attempt(state, item))

    async def _carry_out(self, state: PlanRunState, item: Item) -> None:
        """Carry out one attempt of an item, in a task of its own."""
        attempt = self._attempt(state, item)
        if item.vm:
            operation, options = operation_of(state.options)
            succeeded, note = await self.ask(state, item.item_id, item.vm, operation.value, options)
        elif item.is_manual:
            succeeded, note = False, await self._wait_for_person(state, item, attempt)
        else:
            self._in_activities += 1
            try:
                result = await run_step(state, item, attempt)
            finally:
                self._in_activities -= 1
            keep_output(state, item.item_id, result.output)
            succeeded, note = result.succeeded, result.note
        if self._is_current(state, item, attempt):
            state.progress = ended(state.progress, item.item_id, succeeded=succeeded, note=note)
        self._changed = True

    async def _wait_for_person(self, state: PlanRunState, item: Item, attempt: int) -> str:
        """Wait until somebody confirmed or rejected, or the run was aborted; return why nobody is waited for any more."""
        limit = item.step.time_limit if item.step is not None else None
        timeout = None
        if limit is not None:
            timeout = max(state.since[item.item_id] + limit - workflow.now(), timedelta(milliseconds=1))
        try:
            await workflow.wait_condition(
                lambda: not self._is_current(state, item, attempt), timeout=timeout, timeout_summary=f"somebody: {item.item_id}"
            )
        except TimeoutError:
            return f"Nobody confirmed or rejected it within {duration_text(limit or timedelta(0))}."
        return ""

    def _is_current(self, state: PlanRunState, item: Item, attempt: int) -> bool:
        entry = next(entry for entry in state.progress.items if entry.item_id == item.item_id)
        return entry.state is ItemState.RUNNING and entry.attempts == attempt

    def _attempt(self, state: PlanRunState, item: Item) -> int:
        return next(entry.attempts for entry in state.progress.items if entry.item_id == item.item_id)

    async def _wait(self, request: PlanInput, state: PlanRunState) -> None:
        """Wait until something changed; where the history has grown long, and no activity runs, go on in a new run."""
        self._changed = False
        await workflow.wait_condition(
            lambda: self._changed or any(task.done() for task in self._tasks.values()) or self._should_roll_over()
        )
        for item_id, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[item_id]
                task.result()
        if self._should_roll_over():
            await workflow.wait_condition(workflow.all_handlers_finished)
            upgraded = workflow.info().is_target_worker_deployment_version_changed()
            workflow.continue_as_new(
                dataclasses.replace(request, carried=carried(state)),
                initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE if upgraded else None,
            )

    def _should_roll_over(self) -> bool:
        info = workflow.info()
        return self._in_activities == 0 and (
            info.get_current_history_length() > LONGEST_HISTORY
            or info.is_continue_as_new_suggested()
            or info.is_target_worker_deployment_version_changed()
        )

    # --- clean-up of a test ---

    async def _clean_up_step(self, request: PlanInput, state: PlanRunState) -> None:
        """Wait for `clean_up`, or carry it out; the run stays open until nothing is left, or is to be left."""
        self._present(state)
        if state.phase is Phase.CLEAN_UP_PENDING:
            await self._wait(request, state)
            return
        for item in state.clean_up:
            key = clean_up_key(item.vm)
            if not item.done and key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._clean_up_vm(state, item.vm))
        while self._tasks:
            await self._wait(request, state)
            self._present(state)
        left = [item for item in state.clean_up if not item.done]
        state.phase = Phase.CLEAN_UP_PENDING if left else Phase.ENDED

    async def _clean_up_vm(self, state: PlanRunState, vm: str) -> None:
        succeeded, note = await self.ask(state, clean_up_key(vm), vm, DrOperation.CLEAN_UP.value, {})
        state.clean_up = tuple(
            dataclasses.replace(item, done=succeeded, note=note) if item.vm == vm else item for item in state.clean_up
        )
        self._changed = True

    # --- cancellation ---

    async def _cancelled(self, state: PlanRunState) -> None:
        """End what can be ended: steps on workers. Replications go on with what they have begun."""
        for task in self._tasks.values():
            task.cancel()
        for task in list(self._tasks.values()):
            try:
                await task
            except (asyncio.CancelledError, FailureError) as error:
                if not is_cancelled_exception(error):
                    workflow.logger.warning("a step of a cancelled plan failed")
        running = [item for item in next_of(self._items, state.progress).running if not item.is_manual]
        note = "The run was cancelled."
        for item in running:
            left = f"{note} The replication goes on with it." if item.vm else f"{note} The step was ended."
            state.progress = ended(state.progress, item.item_id, succeeded=False, note=left)
        if not state.progress.aborted and not next_of(self._items, state.progress).finished:
            state.progress = obey(PlanCommand.ABORT, self._items, state.progress, "", note, "a cancellation")
        state.phase = Phase.ENDED
        self._present(state)

    # --- what people send and see ---

    def verdict(self, verb: str, request: PlanRequest) -> Verdict:
        """Return whether a command is accepted now."""
        state = self._state
        if state is None:
            return Verdict(False, "The run has not begun, because its input cannot be used.")
        match request:
            case PlanCleanUp():
                return judge_clean_up(state, request)
            case PlanAbort():
                if state.phase in (Phase.CLEAN_UP_PENDING, Phase.CLEANING_UP):
                    return Verdict(False, 'The plan has ended; send clean_up, or clean_up with {"leave": true} to end the run.')
                return judge(PlanCommand.ABORT, self._items, state.progress, "", request.reason, request.by)
            case PlanDecision():
                return judge(PlanCommand(verb), self._items, state.progress, request.item, request.reason, request.by)

    def carry_out(self, verb: str, request: PlanRequest) -> None:
        """Take an accepted command into the state; the run goes on from there."""
        state = self._state
        if state is None:
            return
        self._changed = True
        item = find_item(self._items, request.item) if isinstance(request, PlanDecision) else None
        keep_decision(state, verb, item.name if item is not None else "", request.by, request.reason)
        if isinstance(request, PlanCleanUp):
            self._take_clean_up(state, request)
            return
        item_id = item.item_id if item is not None else ""
        state.progress = obey(PlanCommand(verb), self._items, state.progress, item_id, request.reason, request.by)

    def _take_clean_up(self, state: PlanRunState, request: PlanCleanUp) -> None:
        if request.leave:
            state.phase = Phase.ENDED
            note = f"left by {request.by}: {request.reason}"[:NOTE_LIMIT]
            state.clean_up = tuple(item if item.done else dataclasses.replace(item, note=note) for item in state.clean_up)
            return
        state.phase = Phase.CLEANING_UP
        for item in state.clean_up:
            if not item.done:
                self.prepare_to_ask(state, clean_up_key(item.vm), item.attempts + 1)
        state.clean_up = tuple(
            item if item.done else dataclasses.replace(item, attempts=item.attempts + 1, note="") for item in state.clean_up
        )

    def refused(self, refused: Refusal) -> None:
        """Show a refused signal."""
        if self._state is not None:
            self._state.last_refused = refused
            self._changed = True

    @workflow.query(description="How far the run is, item by item, and what can be sent.")
    def progress(self) -> PlanView:
        """Return the run as people see it."""
        if self._state is None:
            raise refusal(ErrorKind.BAD_INPUT, "The run has not begun, because its input cannot be used.")
        return self._view(self._state)

    @workflow.query(description='The end of an item\'s output. input: "database/before/stop jobs"')
    def output(self, item: str) -> str:
        """Return what is kept of the output of an item's last attempt; empty where there is none."""
        found = find_item(self._items, item)
        return self._state.outputs.get(found.item_id, "") if self._state is not None and found is not None else ""

    def _view(self, state: PlanRunState) -> PlanView:
        may_clean_up = judge_clean_up(state, PlanCleanUp()).accepted
        return plan_view(workflow.info().workflow_id, self._items, state, may_clean_up=may_clean_up)

    def _present(self, state: PlanRunState) -> None:
        workflow.set_current_details(details(self._view(state), workflow.now()))
