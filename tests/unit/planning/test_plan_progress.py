from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deltaferry.planning.plan_progress import (
    NOTE_LIMIT,
    SETTLED,
    Item,
    ItemState,
    PlanCommand,
    PlanProgress,
    begin,
    ended,
    find_item,
    items_of,
    judge,
    next_of,
    obey,
    started,
)
from deltaferry.planning.recovery_plan import PlanGroup, PlanStep, RecoveryPlan, RunKind, StepKind

MINUTE = timedelta(minutes=1)
SCRIPT = PlanStep("stop", StepKind.SCRIPT, "/opt/stop.sh", MINUTE, "app-1")
MANUAL = PlanStep("check", StepKind.MANUAL, "Look.")
NOT_IN_TESTS = PlanStep("dns", StepKind.WEBHOOK, "https://example.org", MINUTE, runs=(RunKind.PLANNED, RunKind.UNPLANNED))
PLAN = RecoveryPlan(
    "shop",
    (
        PlanGroup("db", ("vm/l/a", "vm/l/b"), (SCRIPT,), (NOT_IN_TESTS, MANUAL)),
        PlanGroup("web", ("vm/l/c",)),
    ),
)


def ids(items: tuple[Item, ...]) -> list[str]:
    return [item.item_id for item in items]


def run_to_end(progress: PlanProgress, items: tuple[Item, ...]) -> list[list[str]]:
    waves = []
    while wave := next_of(items, progress).start:
        waves.append(ids(wave))
        for item in wave:
            progress = ended(started(progress, item.item_id), item.item_id, succeeded=True)
    assert next_of(items, progress).finished
    return waves


def test_an_item_is_called_by_its_vms_name_where_that_tells_it_apart() -> None:
    items = items_of(PLAN, RunKind.PLANNED, {"vm/l/a": "db-01", "vm/l/c": "web-01"})
    called = {item.item_id: item.name for item in items}
    assert called["db/vm/vm/l/a"] == "db/vm/db-01"
    assert called["db/vm/vm/l/b"] == "db/vm/vm/l/b"
    assert called["web/vm/vm/l/c"] == "web/vm/web-01"
    assert called["db/before/stop"] == "db/before/stop"
    assert find_item(items, "db/vm/db-01") == find_item(items, "db/vm/vm/l/a") == items[1]
    alike = items_of(PLAN, RunKind.PLANNED, {"vm/l/a": "db", "vm/l/b": "db"})
    assert [item.name for item in alike] == ids(alike)


def test_a_run_goes_through_the_groups_in_order_and_a_groups_vms_together() -> None:
    items = items_of(PLAN, RunKind.UNPLANNED)
    assert run_to_end(begin(items), items) == [
        ["db/before/stop"],
        ["db/vm/vm/l/a", "db/vm/vm/l/b"],
        ["db/after/dns"],
        ["db/after/check"],
        ["web/vm/vm/l/c"],
    ]


def test_steps_of_another_kind_of_run_are_left_out() -> None:
    assert "db/after/dns" not in ids(items_of(PLAN, RunKind.TEST))


def fail(items: tuple[Item, ...], progress: PlanProgress, item_id: str) -> PlanProgress:
    return ended(started(progress, item_id), item_id, succeeded=False, note="exit code 3")


def test_a_failed_step_stops_the_plan_there_until_it_is_retried() -> None:
    items = items_of(PLAN, RunKind.PLANNED)
    progress = fail(items, begin(items), "db/before/stop")
    stop = next_of(items, progress)
    assert (stop.start, ids(stop.stopped_by), stop.finished) == ((), ["db/before/stop"], False)
    assert judge(PlanCommand.RETRY, items, progress, "db/before/stop", "", "").accepted
    progress = obey(PlanCommand.RETRY, items, progress, "db/before/stop", "", "")
    assert ids(next_of(items, progress).start) == ["db/before/stop"]
    progress = started(progress, "db/before/stop")
    assert progress.items[0].attempts == 2


def test_a_failed_vm_lets_the_others_of_its_group_go_on_but_nothing_after_them() -> None:
    items = items_of(PLAN, RunKind.PLANNED)
    progress = ended(started(begin(items), "db/before/stop"), "db/before/stop", succeeded=True)
    progress = fail(items, started(progress, "db/vm/vm/l/b"), "db/vm/vm/l/a")
    assert ids(next_of(items, progress).running) == ["db/vm/vm/l/b"]
    progress = ended(progress, "db/vm/vm/l/b", succeeded=True)
    assert next_of(items, progress).start == ()
    progress = obey(PlanCommand.SKIP, items, progress, "db/vm/vm/l/a", "rebuilt by hand", "ann")
    assert ids(next_of(items, progress).start) == ["db/after/dns"]


def test_a_skip_an_abort_and_a_manual_action_need_who_and_why() -> None:
    items = items_of(PLAN, RunKind.TEST)
    failed = fail(items, begin(items), "db/before/stop")
    for command, item_id in ((PlanCommand.SKIP, "db/before/stop"), (PlanCommand.ABORT, "")):
        for reason, by in (("", "ann"), ("because", ""), (" ", " ")):
            assert "who decides this and why" in judge(command, items, failed, item_id, reason, by).sentence
        assert judge(command, items, failed, item_id, "because", "ann").accepted


def test_a_manual_action_waits_for_its_answer_and_keeps_it() -> None:
    items = items_of(RecoveryPlan("p", (PlanGroup("g", (), (MANUAL,)),)), RunKind.TEST)
    progress = started(begin(items), "g/before/check")
    assert judge(PlanCommand.CONFIRM, items, progress, "g/before/check", "it answers", "ann").accepted
    done = obey(PlanCommand.CONFIRM, items, progress, "g/before/check", "it answers", "ann")
    assert (done.items[0].state, done.items[0].note, done.items[0].by) == (ItemState.SUCCEEDED, "it answers", "ann")
    no = obey(PlanCommand.REJECT, items, progress, "g/before/check", "it does not", "ann")
    assert ids(next_of(items, no).stopped_by) == ["g/before/check"]


def test_an_abort_waits_for_what_runs_but_not_for_a_person() -> None:
    plan = RecoveryPlan("p", (PlanGroup("g", ("vm/l/a",), (MANUAL,)),))
    items = items_of(plan, RunKind.TEST)
    aborted = obey(PlanCommand.ABORT, items, started(begin(items), "g/before/check"), "", "no", "ann")
    assert next_of(items, aborted).finished
    assert {entry.state for entry in aborted.items} == {ItemState.ABANDONED}
    running = obey(PlanCommand.CONFIRM, items, started(begin(items), "g/before/check"), "g/before/check", "y", "ann")
    running = started(running, "g/vm/vm/l/a")
    aborted = obey(PlanCommand.ABORT, items, running, "", "no", "ann")
    assert not next_of(items, aborted).finished
    assert next_of(items, ended(aborted, "g/vm/vm/l/a", succeeded=True)).finished


@pytest.mark.parametrize(
    ("command", "item_id", "part"),
    [
        (PlanCommand.RETRY, "db/before/nothing", "has no item"),
        (PlanCommand.RETRY, "db/vm/vm/l/a", "has not failed"),
        (PlanCommand.SKIP, "db/vm/vm/l/a", "has not failed"),
        (PlanCommand.CONFIRM, "db/before/stop", "no manual action"),
        (PlanCommand.CONFIRM, "db/after/check", "does not wait"),
    ],
)
def test_a_refused_command_says_why(command: PlanCommand, item_id: str, part: str) -> None:
    items = items_of(PLAN, RunKind.TEST)
    verdict = judge(command, items, fail(items, begin(items), "db/before/stop"), item_id, "because", "ann")
    assert not verdict.accepted and part in verdict.sentence


def test_a_note_is_kept_short() -> None:
    items = items_of(PLAN, RunKind.TEST)
    progress = ended(started(begin(items), "db/before/stop"), "db/before/stop", succeeded=False, note="x" * 10_000)
    assert len(progress.items[0].note) == NOTE_LIMIT


STEPS = st.lists(st.sampled_from([MANUAL, SCRIPT, NOT_IN_TESTS]), max_size=2, unique_by=lambda step: step.name).map(tuple)
GROUPS = st.lists(st.tuples(st.integers(0, 3), STEPS, STEPS), min_size=1, max_size=3)


class Runs(RuleBasedStateMachine):
    """Random plans, outcomes and commands: a run never skips a stage, never doubles an item, and never stands still unasked."""

    @initialize(groups=GROUPS, kind=st.sampled_from(RunKind))
    def make(self, groups: list[tuple[int, tuple[PlanStep, ...], tuple[PlanStep, ...]]], kind: RunKind) -> None:
        made = [
            PlanGroup(f"g{number}", tuple(f"vm/l/{number}-{vm}" for vm in range(vms)), before, after)
            for number, (vms, before, after) in enumerate(groups)
        ]
        self.items = items_of(RecoveryPlan("p", tuple(made)), kind)
        self.progress = begin(self.items)
        self.began_after_abort = False

    def states(self) -> dict[str, ItemState]:
        return {entry.item_id: entry.state for entry in self.progress.items}

    @rule()
    def start(self) -> None:
        for item in next_of(self.items, self.progress).start:
            self.began_after_abort |= self.progress.aborted
            self.progress = started(self.progress, item.item_id)

    @rule(data=st.data(), succeeded=st.booleans())
    def end_one(self, data: st.DataObject, succeeded: bool) -> None:
        running = next_of(self.items, self.progress).running
        if running:
            item = data.draw(st.sampled_from(running))
            self.progress = ended(self.progress, item.item_id, succeeded=succeeded)

    @rule(data=st.data(), command=st.sampled_from(PlanCommand))
    def command(self, data: st.DataObject, command: PlanCommand) -> None:
        item_id = data.draw(st.sampled_from([*ids(self.items), "", "g0/vm/nobody"]))
        before = self.progress
        if judge(command, self.items, before, item_id, "because", "ann").accepted:
            self.progress = obey(command, self.items, before, item_id, "because", "ann")
            assert self.progress != before
        elif command is not PlanCommand.ABORT:
            with pytest.raises(ValueError):
                if self.progress.aborted:
                    raise ValueError("an aborted run takes no command, whatever its items are")
                if command in (PlanCommand.CONFIRM, PlanCommand.REJECT) and not self.is_manual(item_id):
                    raise ValueError("what is no manual action is never confirmed")
                obey(command, self.items, before, item_id, "because", "ann")

    def is_manual(self, item_id: str) -> bool:
        return any(item.is_manual for item in self.items if item.item_id == item_id)

    @invariant()
    @precondition(lambda self: hasattr(self, "items"))
    def nothing_begins_before_all_stages_before_it_are_settled(self) -> None:
        states = self.states()
        for item in self.items:
            if states[item.item_id] not in (ItemState.WAITING, ItemState.ABANDONED):
                assert all(states[other.item_id] in SETTLED for other in self.items if other.stage < item.stage)

    @invariant()
    @precondition(lambda self: hasattr(self, "items"))
    def a_run_never_stands_still_without_saying_what_for(self) -> None:
        now = next_of(self.items, self.progress)
        assert now.start or now.running or now.stopped_by or now.finished
        if now.finished:
            assert not now.start and not now.running
            assert self.progress.aborted or all(state in SETTLED for state in self.states().values())
        assert not (self.progress.aborted and now.start) and not self.began_after_abort


Runs.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRuns = Runs.TestCase
