"""What a run of a recovery plan carries from run to run, what its steps are asked and answer, and what people see of it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from deltaferry.model.states import JobOutcome
from deltaferry.planning.plan_progress import PlanProgress
from deltaferry.planning.recovery_plan import RecoveryPlan, RunKind
from workflows.messages.replication_state import Refusal

OUTPUT_LIMIT = 4096
"""Bytes of a script's or runbook's output that are kept, its end: they pass through the workflow's history."""

# --- what a run carries ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run does with its VMs, and why."""

    kind: RunKind
    network: str | None = None
    subnet: str | None = None
    point: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a replication was asked, and how far its answer is. Asking again with the same id begins nothing twice."""

    request_id: str
    first_at: datetime
    asked_at: datetime | None = None
    """When it was asked last; None before the first time."""
    heard: bool = False
    """It was accepted."""
    over: bool = False
    """It was refused, or it has ended: a further attempt is a request of its own."""
    succeeded: bool = False
    missing_since: datetime | None = None
    """Since when no such replication runs."""
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class CleanUpItem:
    """What became of a test's VM."""

    vm: str
    done: bool = False
    attempts: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """What somebody decided about a run, and why."""

    at: datetime
    verb: str
    item: str
    """As people call it; empty where it was about the run as a whole."""
    by: str
    reason: str


class Phase(StrEnum):
    """Where a run is as a whole."""

    RUNNING = "running"
    CLEAN_UP_PENDING = "clean-up pending"
    """The plan was tested; the tests' VMs exist and cost money until `clean_up`."""
    CLEANING_UP = "cleaning up"
    ENDED = "ended"


@dataclass(slots=True)
class PlanRunState:
    """All that a run knows."""

    plan: RecoveryPlan
    options: RunOptions
    key: str
    """Names the run to scripts, webhooks, runbooks and replications: the same after every continue-as-new."""
    progress: PlanProgress
    began_at: datetime
    phase: Phase = Phase.RUNNING
    since: dict[str, datetime] = field(default_factory=dict)
    """When each item's last attempt began."""
    ended: dict[str, datetime] = field(default_factory=dict)
    """When it ended, well or not."""
    asked: dict[str, Asked] = field(default_factory=dict)
    """By item id, and for clean-ups by the VM's workflow id."""
    tested: tuple[str, ...] = ()
    """Workflow ids of replications that have accepted a test."""
    clean_up: tuple[CleanUpItem, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)
    """The end of the output of each item's last attempt; the oldest are dropped when together they are too long."""
    last_refused: Refusal | None = None
    vm_names: dict[str, str] = field(default_factory=dict)
    """What VMs are called, by workflow id."""
    decisions: tuple[Decided, ...] = ()
    """The last ones, oldest first."""


# --- what steps are asked and answer --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepInput:
    """A script, webhook or runbook is to be run, once."""

    plan: str
    run: str
    kind: RunKind
    group: str
    item_id: str
    attempt: int
    target: str
    time_limit: timedelta
    workflow_id: str
    worker: str = ""

    @property
    def idempotency_key(self) -> str:
        """The same for every try of one attempt, another for the next attempt."""
        return f"{self.run}/{self.item_id}/{self.attempt}"


@dataclass(frozen=True, slots=True)
class StepResult:
    """How it ended. A step that could not be begun raises instead."""

    succeeded: bool
    note: str = ""
    """A sentence: what it ended with."""
    output: str = ""
    """The end of its output, at most `OUTPUT_LIMIT` bytes."""


@dataclass(frozen=True, slots=True)
class RunbookTarget:
    """Whose queue a runbook's job is made from."""

    target: str


# --- what people see ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item of a run."""

    item_id: str
    group: str
    what: str
    """`script`, `webhook`, `runbook`, `manual action`, or `VM`."""
    target: str
    state: str
    attempts: int
    note: str
    by: str
    since: datetime | None
    accepts: tuple[str, ...] = ()
    """The verbs that can be sent for it now."""
    name: str = ""
    """What people call it: can be sent for the id."""
    ended_at: datetime | None = None
    """Of its last attempt, which began at `since`."""


@dataclass(frozen=True, slots=True)
class PlanView:
    """The answer of the query `progress`."""

    plan: str
    run: str
    kind: str
    phase: str
    activity: str
    """What it does now, or what it waits for."""
    began_at: datetime
    done: int
    total: int
    items: tuple[ItemView, ...]
    aborted: bool
    abort_note: str
    abort_by: str
    reason: str
    allowed: tuple[str, ...]
    """Verbs for the run as a whole."""
    tested: tuple[str, ...] = ()
    clean_up: tuple[CleanUpItem, ...] = ()
    last_refused: Refusal | None = None
    decisions: tuple[Decided, ...] = ()
    """Who decided what, and why, oldest first."""
    vm_names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanResult:
    """How a run ended."""

    plan: str
    run: str
    kind: str
    outcome: JobOutcome
    succeeded: int
    skipped: tuple[str, ...]
    """Item ids, with why and by whom in the progress."""
    not_done: tuple[str, ...]
    """Item ids that failed or were not begun when the run was aborted."""
    sentence: str
    left: tuple[str, ...] = ()
    """Replications of which a test's VM was not deleted."""
