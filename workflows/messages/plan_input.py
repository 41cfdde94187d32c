"""What people write to run a recovery plan, and to answer a run: strict, since a typo that is ignored does harm."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, StringConstraints

from deltaferry.planning.recovery_plan import PlanGroup, PlanStep, RecoveryPlan, RunKind, StepKind, plan_contradictions
from deltaferry.planning.retention import Choice, PointChoice, parse_choice

_STRICT = ConfigDict(extra="forbid")
_Word = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class RunWord(StrEnum):
    """What a run does with its VMs, as it is typed."""

    TEST = "test"
    PLANNED = "planned"
    UNPLANNED = "unplanned"
    FAILBACK = "failback"

    @property
    def kind(self) -> RunKind:
        """The kind of run that the word means."""
        return RunKind[self.name]


class StepWord(StrEnum):
    """What a step is, as it is typed."""

    SCRIPT = "script"
    WEBHOOK = "webhook"
    RUNBOOK = "runbook"
    MANUAL = "manual"

    @property
    def kind(self) -> StepKind:
        """The kind of step that the word means."""
        return StepKind[self.name]


@dataclass(frozen=True, slots=True)
class PlanStepInput:
    """A step before or after a group's VMs."""

    __pydantic_config__ = _STRICT

    name: _Word
    kind: StepWord
    target: _Word
    """A script's absolute path, a webhook's https:// URL, a runbook's resource id, or what a person shall do."""
    time_limit: timedelta | None = None
    """Such as `PT5M`; only a manual action may do without."""
    worker: str = ""
    """The plan worker that runs a script."""
    runs: tuple[RunWord, ...] = tuple(RunWord)
    """In which runs the step is taken; in all where left out."""

    def step(self) -> PlanStep:
        """Return the step."""
        runs = tuple(word.kind for word in self.runs)
        return PlanStep(self.name, self.kind.kind, self.target, self.time_limit, self.worker, runs)


@dataclass(frozen=True, slots=True)
class PlanGroupInput:
    """VMs that come up together, after those of the groups before."""

    __pydantic_config__ = _STRICT

    name: _Word
    vms: tuple[_Word, ...] = ()
    """Workflow ids of replications, `vm/<site>/<instance uuid>`."""
    before: tuple[PlanStepInput, ...] = ()
    after: tuple[PlanStepInput, ...] = ()

    def group(self) -> PlanGroup:
        """Return the group."""
        before = tuple(step.step() for step in self.before)
        return PlanGroup(self.name, self.vms, before, tuple(step.step() for step in self.after))


@dataclass(frozen=True, slots=True)
class PlanDefinition:
    """An application and what it depends on, group by group in the order in which it has to come up."""

    __pydantic_config__ = _STRICT

    name: _Word
    groups: tuple[PlanGroupInput, ...]

    def plan(self) -> RecoveryPlan:
        """Return the plan."""
        return RecoveryPlan(self.name, tuple(group.group() for group in self.groups))


@dataclass(frozen=True, slots=True)
class PlanInput:
    """Start `RecoveryPlan` with this: the plan itself, and what this run of it shall do."""

    __pydantic_config__ = _STRICT

    plan: PlanDefinition
    run: RunWord
    network: _Word | None = None
    """Of a test: an isolated virtual network, which is not the one that the VMs will be failed over to."""
    subnet: _Word | None = None
    """Of a test; each target's default where left out."""
    point: _Word | None = None
    """Of a test or an unplanned failover: `latest` (where left out), `latest-app-consistent`, an instant with its time zone, or,
    where all VMs are of one replication group, `shared:` and the key of a shared point."""
    reason: str = ""
    vm_names: dict[str, str] = field(default_factory=dict)
    """What VMs are called, by workflow id: people read that, and may write it, for the id. The command line fills it in."""
    carried: dict[str, Any] | None = None
    """Written by the run itself when it continues as new, never by people: how far it is."""


@dataclass(frozen=True, slots=True)
class PlanDecision:
    """What somebody decides about one item of a run."""

    __pydantic_config__ = _STRICT

    item: _Word
    """As the run shows it, such as `database/before/stop jobs`."""
    reason: str = ""
    by: str = ""
    """Who decides: kept with the run."""


@dataclass(frozen=True, slots=True)
class PlanAbort:
    """Why a run is given up, and by whom."""

    __pydantic_config__ = _STRICT

    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class PlanCleanUp:
    """Delete what a test of the plan has made."""

    __pydantic_config__ = _STRICT

    leave: bool = False
    """End the run without deleting what is left: `clean_up` of each replication deletes it then."""
    reason: str = ""
    by: str = ""


def run_contradictions(request: PlanInput) -> tuple[str, ...]:
    """Return one sentence for each reason why a run cannot begin; none if it can."""
    return (*plan_contradictions(request.plan.plan()), *_run(request))


def _run(request: PlanInput) -> Iterator[str]:
    is_test = request.run is RunWord.TEST
    if is_test and request.network is None:
        yield "A test needs an isolated network: name a virtual network that is not the production one in the field 'network'."
    for name, given in (("network", request.network), ("subnet", request.subnet)):
        if given is not None and not is_test:
            yield f"The field {name!r} belongs to a test: leave it out of a {request.run.kind}, which uses the VMs' own target properties."
    known = {vm for group in request.plan.groups for vm in group.vms}
    for vm in sorted(request.vm_names.keys() - known):
        yield f"The field 'vm_names' names {vm!r}, which is in no group."
    if request.point is None:
        return
    if not is_test and request.run is not RunWord.UNPLANNED:
        yield f"A {request.run.kind} loses nothing and so takes no recovery point: leave the field 'point' out."
        return
    choice = parse_choice(request.point)
    if not isinstance(choice, PointChoice):
        yield choice
    elif choice.choice is Choice.CHOSEN and sum(len(group.vms) for group in request.plan.groups) > 1:
        yield "A cycle's key names a recovery point of one VM, and the plan has several: write an instant, such as 2026-11-22T12:00:00Z."
