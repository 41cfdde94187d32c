"""The shape of a recovery plan: ordered groups of VMs, with steps before and after each (spec §8), and what is wrong with one.

Everything here is pure. How far a run of a plan is, and what is next, is in `plan_progress`. The kinds of steps and the
runs that they belong to are Site Recovery's (facts A7); a webhook is ours.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from deltaferry.planning.phrases import duration_text

MAX_GROUPS = 20
MAX_STEPS = 20
"""Before a group, and after it."""
MAX_VMS = 200
"""Of a whole plan. These three keep a plan's progress readable on one page, and far below the limit of a workflow's payload."""

MIN_TIME_LIMIT = timedelta(seconds=1)
MAX_TIME_LIMIT = timedelta(hours=24)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}")
_WEBHOOK = re.compile(r"https://(?P<authority>[^/?#\s]+)(?P<rest>[/?#]\S*)?")
_RUNBOOK = re.compile(
    r"/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.Automation/automationAccounts/[^/\s]+/runbooks/[^/\s]+",
    re.IGNORECASE,
)


class RunKind(StrEnum):
    """What a run of a plan does with its VMs."""

    TEST = "test failover"
    PLANNED = "planned failover"
    UNPLANNED = "unplanned failover"
    FAILBACK = "failback"


class StepKind(StrEnum):
    """What a step is."""

    SCRIPT = "script"
    """A program on the machine of a worker that the operator names."""
    WEBHOOK = "webhook"
    """An HTTPS POST."""
    RUNBOOK = "runbook"
    """An Azure Automation runbook."""
    MANUAL = "manual action"
    """Somebody does something, and says so by a signal, with who and why."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """Something that is done before or after a group's VMs."""

    name: str
    kind: StepKind
    target: str
    """A script's path, a webhook's URL, a runbook's resource id, or what a person shall do."""
    time_limit: timedelta | None = None
    """After so long the step has failed. A manual action may wait for ever."""
    worker: str = ""
    """The worker that runs a script."""
    runs: tuple[RunKind, ...] = tuple(RunKind)
    """In which runs of the plan the step is taken; left out of others."""


@dataclass(frozen=True, slots=True)
class PlanGroup:
    """VMs that are started together, after those of the groups before."""

    name: str
    vms: tuple[str, ...]
    """Workflow ids of replications, `vm/<site>/<instance uuid>`."""
    before: tuple[PlanStep, ...] = ()
    after: tuple[PlanStep, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """An application and what it depends on, in the order in which it has to come up."""

    name: str
    groups: tuple[PlanGroup, ...]


def plan_contradictions(plan: RecoveryPlan) -> tuple[str, ...]:
    """Return one sentence for each reason why a plan cannot be run; none if it can."""
    return tuple(_plan(plan))


def _plan(plan: RecoveryPlan) -> Iterator[str]:
    if not _NAME.fullmatch(plan.name):
        yield _bad_name("plan", plan.name)
    if not plan.groups:
        yield "A recovery plan needs a group: list the VMs that come up first in it."
    if len(plan.groups) > MAX_GROUPS:
        yield f"The plan has {len(plan.groups)} groups; at most {MAX_GROUPS} are possible: join some, or make two plans."
    vms = [vm for group in plan.groups for vm in group.vms]
    if len(vms) > MAX_VMS:
        yield f"The plan has {len(vms)} VMs; at most {MAX_VMS} are possible: make two plans."
    for vm in _twice(vms):
        yield f"The VM {vm} is in the plan more than once: it can come up only once."
    for name in _twice([group.name for group in plan.groups]):
        yield f"Two groups are called {name!r}: give each a name of its own, so that a message names one."
    for group in plan.groups:
        yield from _group(group)


def _group(group: PlanGroup) -> Iterator[str]:
    if not _NAME.fullmatch(group.name):
        yield _bad_name("group", group.name)
    if not group.vms and not group.before and not group.after:
        yield f"Group {group.name!r} is empty: give it a VM or a step, or leave it out."
    for vm in group.vms:
        if not re.fullmatch(r"vm/[^/\s]+/[^/\s]+", vm):
            yield f"Group {group.name!r} names {vm!r}: write the replication's workflow id, vm/<site>/<instance uuid>."
    for where, steps in (("before", group.before), ("after", group.after)):
        if len(steps) > MAX_STEPS:
            yield f"Group {group.name!r} has {len(steps)} steps {where} it; at most {MAX_STEPS} are possible."
    for name in _twice([step.name for step in (*group.before, *group.after)]):
        yield f"Group {group.name!r} has two steps called {name!r}: give each a name of its own, so that a retry names one."
    for step in (*group.before, *group.after):
        for wrong in _step(step):
            yield f"Step {step.name!r} of group {group.name!r} {wrong}"


def _step(step: PlanStep) -> Iterator[str]:
    if not _NAME.fullmatch(step.name):
        yield "needs a name of 1 to 63 letters, digits, spaces, dots, hyphens and underscores, beginning with a letter or digit."
    if not step.runs:
        yield "belongs to no run: name at least one kind, or leave the list out for all."
    if len(step.target) > 2000:
        yield "says in more than 2,000 characters what to do: put it where the plan can refer to it."
    if step.time_limit is None and step.kind is not StepKind.MANUAL:
        yield f"needs a time limit: a {step.kind} that never ends would stop the plan for ever."
    if step.time_limit is not None and not MIN_TIME_LIMIT <= step.time_limit <= MAX_TIME_LIMIT:
        yield (
            f"has a time limit of {duration_text(step.time_limit)}: write between {duration_text(MIN_TIME_LIMIT)} "
            f"and {duration_text(MAX_TIME_LIMIT)}."
        )
    match step.kind:
        case StepKind.SCRIPT:
            if not step.target.startswith("/") and not re.match(r"[A-Za-z]:\\", step.target):
                yield "needs the script's absolute path on the worker's machine."
            if not step.worker:
                yield "needs the worker that runs the script."
        case StepKind.WEBHOOK:
            url = _WEBHOOK.fullmatch(step.target)
            if url is None:
                yield "needs a URL that begins with https://."
            elif "@" in url["authority"]:
                yield "has a user name or password in its URL: a plan is readable; leave the secret to the receiver's configuration."
        case StepKind.RUNBOOK:
            if not _RUNBOOK.fullmatch(step.target):
                yield "needs the runbook's resource id, /subscriptions/…/automationAccounts/…/runbooks/…."
        case StepKind.MANUAL:
            if not step.target.strip():
                yield "must say what the person shall do."
    if step.worker and step.kind is not StepKind.SCRIPT:
        yield f"names a worker, but a {step.kind} does not run on one."


def _bad_name(what: str, name: str) -> str:
    return (
        f"A {what}'s name has 1 to 63 letters, digits, spaces, dots, hyphens and underscores, "
        f"and begins with a letter or digit: {name[:80]!r} does not."
    )


def _twice(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
