"""How far a run of a recovery plan is, and what is next: a pure state machine (spec §8).

A run is a list of stages: each step is one, and so are all VMs of a group together, which run at once. A stage begins when
all before it are settled; a failed item lets its stage's others go on, and stops the plan there until it is retried,
skipped with a reason, or the run is aborted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from deltaferry.planning.recovery_plan import PlanStep, RecoveryPlan, RunKind, StepKind
from deltaferry.planning.transitions import Verdict


class ItemState(StrEnum):
    """Where an item of a run is."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    ABANDONED = "not done"
    """The run was aborted before it began."""


_NO_NAMES: Mapping[str, str] = MappingProxyType({})

NOTE_LIMIT = 500
"""Characters of a note that are kept: a run is carried in a workflow's state, and a script's output may be long."""

SETTLED = frozenset({ItemState.SUCCEEDED, ItemState.SKIPPED})


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a run does: a step, or a VM's failover or failback. Items of one stage run together."""

    item_id: str
    """`<group>/before/<step>`, `<group>/vm/<workflow id>` or `<group>/after/<step>`: the same in every run of the plan."""
    group: str
    stage: int
    step: PlanStep | None = None
    vm: str = ""
    name: str = ""
    """What people call it: its id, with the VM's name for the workflow id where that is known and tells it apart."""

    @property
    def is_manual(self) -> bool:
        """Whether the item ends by an operator's signal only."""
        return self.step is not None and self.step.kind is StepKind.MANUAL


@dataclass(frozen=True, slots=True)
class ItemProgress:
    """What became of an item: a short record, its output is stored elsewhere."""

    item_id: str
    state: ItemState = ItemState.WAITING
    attempts: int = 0
    note: str = ""
    """Why it failed, was skipped or confirmed."""
    by: str = ""
    """Who skipped or confirmed it."""


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """A run as it is carried from run to run of the workflow."""

    items: tuple[ItemProgress, ...]
    """In the order of `items_of`."""
    aborted: bool = False
    abort_note: str = ""
    abort_by: str = ""


@dataclass(frozen=True, slots=True)
class Next:
    """What a run has to do now, and what it waits for."""

    start: tuple[Item, ...] = ()
    running: tuple[Item, ...] = ()
    stopped_by: tuple[Item, ...] = ()
    """Failed items of the present stage, each waiting for retry or skip, or all for abort."""
    finished: bool = False
    """Nothing runs and nothing will: all is settled, or the run was aborted and what ran has ended."""


class PlanCommand(StrEnum):
    """What an operator sends to a run."""

    CONFIRM = "confirm"
    """A manual action is done."""
    REJECT = "reject"
    """A manual action cannot be done: it has failed."""
    RETRY = "retry_step"
    SKIP = "skip_step"
    ABORT = "abort"


def items_of(plan: RecoveryPlan, run: RunKind, vm_names: Mapping[str, str] = _NO_NAMES) -> tuple[Item, ...]:
    """Return what a run of the plan does, in order. Steps of other kinds of run are left out.

    `vm_names` are what VMs are called, by workflow id.
    """
    items = tuple(_items(plan, run))
    called = [f"{item.group}/vm/{vm_names[item.vm]}" if item.vm in vm_names else item.item_id for item in items]
    taken = Counter([*called, *(item.item_id for item in items if item.item_id not in called)])
    return tuple(replace(item, name=name if taken[name] == 1 else item.item_id) for item, name in zip(items, called, strict=True))


def find_item(items: tuple[Item, ...], said: str) -> Item | None:
    """Return the item that somebody means by its id, or by what people call it; None where there is none."""
    return next((item for item in items if said in (item.item_id, item.name)), None)


def _items(plan: RecoveryPlan, run: RunKind) -> Iterator[Item]:
    stage = 0
    for group in plan.groups:
        for step in _taken(group.before, run):
            yield Item(f"{group.name}/before/{step.name}", group.name, stage, step=step)
            stage += 1
        yield from (Item(f"{group.name}/vm/{vm}", group.name, stage, vm=vm) for vm in group.vms)
        stage += 1
        for step in _taken(group.after, run):
            yield Item(f"{group.name}/after/{step.name}", group.name, stage, step=step)
            stage += 1


def _taken(steps: tuple[PlanStep, ...], run: RunKind) -> tuple[PlanStep, ...]:
    return tuple(step for step in steps if run in step.runs)


def begin(items: tuple[Item, ...]) -> PlanProgress:
    """Return the progress of a run in which nothing was done yet."""
    return PlanProgress(tuple(ItemProgress(item.item_id) for item in items))


def next_of(items: tuple[Item, ...], progress: PlanProgress) -> Next:
    """Return what to start, what runs, what stops the run, or that it is finished. Total: one of these is never empty."""
    states = {entry.item_id: entry.state for entry in progress.items}
    running = tuple(item for item in items if states[item.item_id] is ItemState.RUNNING)
    if progress.aborted:
        return Next(running=running, finished=not running)
    unsettled = [item for item in items if states[item.item_id] not in SETTLED]
    if not unsettled:
        return Next(finished=True)
    present = [item for item in unsettled if item.stage == unsettled[0].stage]
    return Next(
        start=tuple(item for item in present if states[item.item_id] is ItemState.WAITING),
        running=running,
        stopped_by=tuple(item for item in present if states[item.item_id] is ItemState.FAILED),
    )


def started(progress: PlanProgress, item_id: str) -> PlanProgress:
    """Record that a waiting item runs."""
    entry = _entry(progress, item_id, ItemState.WAITING)
    return _with(progress, replace(entry, state=ItemState.RUNNING, attempts=entry.attempts + 1, note="", by=""))


def ended(progress: PlanProgress, item_id: str, *, succeeded: bool, note: str = "", by: str = "") -> PlanProgress:
    """Record how a running item ended; `by` says who confirmed or rejected a manual action."""
    entry = _entry(progress, item_id, ItemState.RUNNING)
    state = ItemState.SUCCEEDED if succeeded else ItemState.FAILED
    return _with(progress, replace(entry, state=state, note=note[:NOTE_LIMIT], by=by))


def judge(command: PlanCommand, items: tuple[Item, ...], progress: PlanProgress, item_id: str, reason: str, by: str) -> Verdict:
    """Return whether a command is accepted, with the sentence. A reason and a name may be needed.

    `item_id` may be what people call the item; it is empty for abort.
    """
    if progress.aborted:
        return Verdict(False, "The run was aborted and takes nothing else: start the plan again.")
    if command is PlanCommand.ABORT:
        if next_of(items, progress).finished:
            return Verdict(False, "The run has ended, so there is nothing to abort.")
        return _with_reason("Nothing more is started; what runs is waited for.", reason, by)
    item = find_item(items, item_id)
    if item is None:
        known = ", ".join(item.name for item in next_of(items, progress).stopped_by) or "none"
        return Verdict(False, f"The run has no item {item_id!r}; items that wait for an answer: {known}.")
    state = _entry(progress, item.item_id).state
    if command in (PlanCommand.CONFIRM, PlanCommand.REJECT):
        if not item.is_manual:
            return Verdict(False, f"{item.name} is no manual action: it ends by itself.")
        if state is not ItemState.RUNNING:
            return Verdict(False, f"{item.name} does not wait for an answer: it is {state}.")
        return _with_reason("The plan goes on." if command is PlanCommand.CONFIRM else "The plan stops there.", reason, by)
    if state is not ItemState.FAILED:
        return Verdict(False, f"{item.name} has not failed: it is {state}.")
    if command is PlanCommand.RETRY:
        return Verdict(True, f"{item.name} is tried again.")
    return _with_reason(f"{item.name} is skipped, and the plan goes on without it.", reason, by)


def obey(
    command: PlanCommand, items: tuple[Item, ...], progress: PlanProgress, item_id: str, reason: str, by: str
) -> PlanProgress:
    """Return the progress after a command that `judge` accepted. Raises ValueError where the item is not in the state for it."""
    match command:
        case PlanCommand.ABORT:
            return _aborted(items, progress, reason, by)
        case PlanCommand.CONFIRM | PlanCommand.REJECT:
            return ended(progress, item_id, succeeded=command is PlanCommand.CONFIRM, note=reason, by=by)
        case PlanCommand.RETRY:
            return _with(progress, replace(_entry(progress, item_id, ItemState.FAILED), state=ItemState.WAITING, note="", by=by))
        case PlanCommand.SKIP:
            entry = _entry(progress, item_id, ItemState.FAILED)
            note = f"{reason}; it had failed: {entry.note}" if entry.note else reason
            return _with(progress, replace(entry, state=ItemState.SKIPPED, note=note[:NOTE_LIMIT], by=by))


def _aborted(items: tuple[Item, ...], progress: PlanProgress, reason: str, by: str) -> PlanProgress:
    """Give up what has not begun, and the manual actions, which nobody is asked for any more."""
    manual = {item.item_id for item in items if item.is_manual}
    entries = tuple(
        replace(entry, state=ItemState.ABANDONED)
        if entry.state is ItemState.WAITING or (entry.state is ItemState.RUNNING and entry.item_id in manual)
        else entry
        for entry in progress.items
    )
    return PlanProgress(entries, aborted=True, abort_note=reason[:NOTE_LIMIT], abort_by=by)


def _with_reason(sentence: str, reason: str, by: str) -> Verdict:
    if not reason.strip() or not by.strip():
        return Verdict(False, "Say who decides this and why: both are kept with the run.")
    return Verdict(True, sentence)


def _entry(progress: PlanProgress, item_id: str, state: ItemState | None = None) -> ItemProgress:
    entry = next((entry for entry in progress.items if entry.item_id == item_id), None)
    if entry is None or state not in (None, entry.state):
        raise ValueError(f"{item_id} is {entry.state if entry else 'not in the run'}, not {state}")
    return entry


def _with(progress: PlanProgress, changed: ItemProgress) -> PlanProgress:
    items = tuple(changed if entry.item_id == changed.item_id else entry for entry in progress.items)
    return replace(progress, items=items)
