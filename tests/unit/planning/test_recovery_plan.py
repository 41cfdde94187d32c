from dataclasses import replace
from datetime import timedelta

import pytest

from deltaferry.planning.recovery_plan import MAX_GROUPS, MAX_STEPS, MAX_VMS, PlanGroup, PlanStep, RecoveryPlan, StepKind
from deltaferry.planning.recovery_plan import plan_contradictions as wrong

MINUTE = timedelta(minutes=1)
RUNBOOK = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Automation/automationAccounts/a/runbooks/r"
SCRIPT = PlanStep("stop queue", StepKind.SCRIPT, "/opt/stop.sh", MINUTE, "app-1")
WEBHOOK = PlanStep("tell", StepKind.WEBHOOK, "https://example.org/hook?x=1", MINUTE)
BOOK = PlanStep("dns", StepKind.RUNBOOK, RUNBOOK, MINUTE)
MANUAL = PlanStep("check", StepKind.MANUAL, "Look whether the shop answers.")
DB = PlanGroup("database", ("vm/london/a", "vm/london/b"), (SCRIPT,), (WEBHOOK, BOOK))
WEB = PlanGroup("web", ("vm/london/c",), after=(MANUAL,))
PLAN = RecoveryPlan("shop", (DB, WEB))


def test_a_plan_of_all_kinds_of_steps_can_be_run() -> None:
    assert wrong(PLAN) == ()


def step(**changes: object) -> RecoveryPlan:
    kind = changes.pop("of", SCRIPT)
    assert isinstance(kind, PlanStep)
    return RecoveryPlan("p", (PlanGroup("g", ("vm/l/a",), (replace(kind, **changes),)),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "part"),
    [
        (RecoveryPlan("", (DB,)), "plan's name"),
        (RecoveryPlan("p", ()), "needs a group"),
        (RecoveryPlan("p", tuple(PlanGroup(f"g{n}", (f"vm/l/{n}",)) for n in range(MAX_GROUPS + 1))), "join some"),
        (RecoveryPlan("p", (PlanGroup("g", tuple(f"vm/l/{n}" for n in range(MAX_VMS + 1))),)), "two plans"),
        (RecoveryPlan("p", (DB, replace(WEB, vms=("vm/london/a",)))), "more than once"),
        (RecoveryPlan("p", (DB, replace(WEB, name="database"))), "Two groups are called"),
        (RecoveryPlan("p", (PlanGroup("g", ()),)), "is empty"),
        (RecoveryPlan("p", (PlanGroup("g/1", ("vm/l/a",)),)), "group's name"),
        (RecoveryPlan("p", (PlanGroup("g", ("web-01",)),)), "workflow id"),
        (
            RecoveryPlan("p", (PlanGroup("g", (), tuple(replace(MANUAL, name=f"s{n}") for n in range(MAX_STEPS + 1))),)),
            "steps before",
        ),
        (RecoveryPlan("p", (PlanGroup("g", (), (MANUAL,), (MANUAL,)),)), "two steps called"),
        (step(name=""), "needs a name"),
        (step(runs=()), "belongs to no run"),
        (step(time_limit=None), "needs a time limit"),
        (step(time_limit=timedelta(hours=25)), "write between"),
        (step(time_limit=timedelta(0)), "write between"),
        (step(target="stop.sh"), "absolute path"),
        (step(worker=""), "needs the worker"),
        (step(of=MANUAL, target=" "), "what the person shall do"),
        (step(of=MANUAL, target="x" * 2001), "2,000 characters"),
        (step(of=MANUAL, worker="app-1"), "does not run on one"),
        (step(of=WEBHOOK, target="http://example.org"), "begins with https"),
        (step(of=WEBHOOK, target="https://u:p@example.org/"), "password in its URL"),
        (step(of=BOOK, target="runbooks/r"), "resource id"),
    ],
)
def test_a_contradiction_is_one_sentence_that_says_what_to_write(plan: RecoveryPlan, part: str) -> None:
    found = wrong(plan)
    assert len(found) == 1 and part in found[0]
    assert found[0].endswith(".") and found[0][0].isupper()


def test_no_sentence_repeats_a_secret() -> None:
    assert not any("p@" in sentence for sentence in wrong(step(of=WEBHOOK, target="https://u:p@example.org/")))


def test_all_contradictions_are_told_at_once() -> None:
    assert len(wrong(RecoveryPlan("", (PlanGroup("g", ()), PlanGroup("g", ("x",)))))) == 4


def test_a_windows_path_is_absolute_too() -> None:
    assert wrong(step(target=r"C:\scripts\stop.ps1")) == ()
