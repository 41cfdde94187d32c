"""What people see of a run of a recovery plan: the query `progress`, the Markdown of its details page, and its result."""

from datetime import datetime, timedelta
from urllib.parse import urlsplit

from deltaferry.model.states import JobOutcome
from deltaferry.planning.phrases import count_text, duration_text
from deltaferry.planning.plan_progress import Item, ItemProgress, ItemState, PlanCommand, judge, next_of
from deltaferry.planning.recovery_plan import RunKind, StepKind
from workflows.messages.plan import CleanUpItem, Decided, ItemView, Phase, PlanResult, PlanRunState, PlanView
from workflows.plans.commands import CLEAN_UP

_SIGNS = {
    ItemState.WAITING: "waiting",
    ItemState.RUNNING: "**running**",
    ItemState.SUCCEEDED: "done",
    ItemState.FAILED: "**failed**",
    ItemState.SKIPPED: "skipped",
    ItemState.ABANDONED: "not done",
}
_NEXT = {
    RunKind.TEST: "",
    RunKind.PLANNED: " Each VM that runs in Azure waits for its commit or cancel_failover.",
    RunKind.UNPLANNED: " Each VM that runs in Azure waits for its commit, change_recovery_point or cancel_failover.",
    RunKind.FAILBACK: " Each VM that is at its site again waits for its commit_failback.",
}
"""What is left to do when a run has ended, to follow the sentence that says how."""
_TIMED = (ItemState.SUCCEEDED, ItemState.FAILED)
_FAILED_STATES = (ItemState.FAILED, ItemState.ABANDONED)


def plan_view(run: str, items: tuple[Item, ...], state: PlanRunState, *, may_clean_up: bool) -> PlanView:
    """Return the answer of the query `progress`."""
    progress = state.progress
    views = tuple(_item(item, entry, items, state) for item, entry in zip(items, progress.items, strict=True))
    aborting = judge(PlanCommand.ABORT, items, progress, "", "why", "who").accepted and state.phase is Phase.RUNNING
    return PlanView(
        plan=state.plan.name,
        run=run,
        kind=state.options.kind.value,
        phase=state.phase.value,
        activity=_activity(items, state),
        began_at=state.began_at,
        done=sum(entry.state in (ItemState.SUCCEEDED, ItemState.SKIPPED) for entry in progress.items),
        total=len(items),
        items=views,
        aborted=progress.aborted,
        abort_note=progress.abort_note,
        abort_by=progress.abort_by,
        reason=state.options.reason,
        allowed=((PlanCommand.ABORT.value,) if aborting else ()) + ((CLEAN_UP,) if may_clean_up else ()),
        tested=state.tested,
        clean_up=state.clean_up,
        last_refused=state.last_refused,
        decisions=state.decisions,
        vm_names=state.vm_names,
    )


def _item(item: Item, entry: ItemProgress, items: tuple[Item, ...], state: PlanRunState) -> ItemView:
    possible: tuple[PlanCommand, ...] = ()
    if entry.state is ItemState.FAILED:
        possible = (PlanCommand.RETRY, PlanCommand.SKIP)
    elif entry.state is ItemState.RUNNING and item.is_manual:
        possible = (PlanCommand.CONFIRM, PlanCommand.REJECT)
    accepts = tuple(
        command.value
        for command in possible
        if judge(command, items, state.progress, item.item_id, "why", "who").accepted and state.phase is Phase.RUNNING
    )
    note = entry.note
    if entry.state is ItemState.RUNNING and item.item_id in state.asked:
        note = state.asked[item.item_id].sentence
    return ItemView(
        item_id=item.item_id,
        group=item.group,
        what=item.step.kind.value if item.step is not None else "VM",
        target=target_text(item),
        state=entry.state.value,
        attempts=entry.attempts,
        note=note,
        by=entry.by,
        since=state.since.get(item.item_id),
        accepts=accepts,
        name=item.name,
        ended_at=state.ended.get(item.item_id),
    )


def target_text(item: Item) -> str:
    """Return what an item is about; of a webhook the host alone, since a path may hold a token."""
    if item.step is None:
        return item.vm
    if item.step.kind is StepKind.WEBHOOK:
        return urlsplit(item.step.target).netloc
    if item.step.kind is StepKind.SCRIPT:
        return f"{item.step.target} on {item.step.worker}"
    return item.step.target


def _activity(items: tuple[Item, ...], state: PlanRunState) -> str:
    if state.phase is Phase.ENDED:
        outcome, sentence = _outcome(items, state)
        return f"{outcome.value}: {sentence}"
    if state.phase is Phase.CLEANING_UP:
        return "deleting what the test has made"
    if state.phase is Phase.CLEAN_UP_PENDING:
        left = count_text(len(state.tested) - sum(item.done for item in state.clean_up), "VM")
        return f"{left} of the test exist in Azure and cost money: send {CLEAN_UP} when they are not needed any more"
    now = next_of(items, state.progress)
    manual = [item.name for item in now.running if item.is_manual]
    running = [item.name for item in now.running if not item.is_manual]
    parts = []
    if running:
        parts.append(f"{'waiting for the end of' if state.progress.aborted else 'doing'} {_named(running)}")
    if manual:
        parts.append(f"waiting for confirm or reject of {_named(manual)}")
    if now.stopped_by:
        parts.append(
            f"stopped by {_named([item.name for item in now.stopped_by])}: send {PlanCommand.RETRY}, {PlanCommand.SKIP} or {PlanCommand.ABORT}"
        )
    return "; ".join(parts) or "going on"


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def details(view: PlanView, now: datetime) -> str:
    """Return the details page: lists, no tables, since the Temporal UI's panel is narrow."""
    state = "aborted" if view.aborted else view.phase
    lines = [
        f"### {view.plan}: {view.kind}, {state}",
        "",
        f"- **Done:** {view.done} of {view.total}{skipped_text(view)}",
        f"- **Now:** {view.activity}",
        f"- **Began:** {_time(view.began_at)}",
        f"- **You can send:** {_verbs(view)}",
    ]
    if view.reason:
        lines.append(f"- **Why:** {view.reason}")
    lines.append("")
    if view.aborted:
        lines += [f"> **Aborted** by {view.abort_by}: {view.abort_note}", ""]
    if view.last_refused:
        refused = view.last_refused
        lines += [f"> *Last refused request:* `{refused.operation}` at {_time(refused.at)}: {refused.sentence}", ""]
    group = ""
    for item in view.items:
        if item.group != group:
            group = item.group
            lines += ["", f"**{group}**", ""]
        lines.append(_line(item, now))
    if view.clean_up:
        lines += ["", "**Clean-up**", ""]
        lines += [f"- {clean_up_text(view, item)}" for item in view.clean_up]
    if view.decisions:
        lines += ["", "**Decisions**", ""]
        lines += [f"- {_decision(one)}" for one in view.decisions]
    return "\n".join(lines)


def skipped_text(view: PlanView) -> str:
    """Return how many of the items that are done were skipped, to follow their number; empty for none."""
    skipped = sum(item.state == ItemState.SKIPPED for item in view.items)
    return f", {skipped} of them skipped" if skipped else ""


def clean_up_text(view: PlanView, item: CleanUpItem) -> str:
    """Return what became of a test's VM."""
    became = "deleted" if item.done else "not deleted" if item.attempts else "to be deleted"
    return f"{became}: {view.vm_names.get(item.vm, item.vm)}{_note(item.note)}"


def _verbs(view: PlanView) -> str:
    ofs = [f"`{verb}` of `{item.name}`" for item in view.items for verb in item.accepts]
    return ", ".join([*ofs[:8], *(f"`{verb}`" for verb in view.allowed)]) or "nothing at present"


def _line(item: ItemView, now: datetime) -> str:
    parts = [f"- {_SIGNS[ItemState(item.state)]}: {item.what} `{item.name}`"]
    if item.since is not None and item.ended_at is not None and item.state in _TIMED:
        parts.append(f", {duration_text(item.ended_at - item.since)}")
    if item.state == ItemState.RUNNING and item.since is not None:
        parts.append(f", since {item.since:%H:%M:%S} UTC")
        if item.what == StepKind.MANUAL:
            parts.append(f" ({duration_text(max(now - item.since, timedelta(0)))}): {item.target}")
    if item.attempts > 1:
        parts.append(f", attempt {item.attempts}")
    if item.by:
        parts.append(f", by {item.by}")
    return "".join(parts) + _note(item.note)


def _decision(one: Decided) -> str:
    what = f"`{one.verb}` of `{one.item}`" if one.item else f"`{one.verb}`"
    who = f" by {one.by}" if one.by else ""
    return f"{_time(one.at)}: {what}{who}{_note(one.reason)}"


def _note(note: str) -> str:
    return f": {' '.join(note.split())}" if note else ""


def result_of(run: str, items: tuple[Item, ...], state: PlanRunState) -> PlanResult:
    """Return how a run ended."""
    progress = state.progress
    skipped = tuple(entry.item_id for entry in progress.items if entry.state is ItemState.SKIPPED)
    not_done = tuple(entry.item_id for entry in progress.items if entry.state in _FAILED_STATES)
    succeeded = sum(entry.state is ItemState.SUCCEEDED for entry in progress.items)
    left = tuple(item.vm for item in state.clean_up if not item.done)
    outcome, sentence = _outcome(items, state)
    return PlanResult(state.plan.name, run, state.options.kind.value, outcome, succeeded, skipped, not_done, sentence, left)


def _outcome(items: tuple[Item, ...], state: PlanRunState) -> tuple[JobOutcome, str]:
    """Return how a run ended, with a sentence. An aborted one is Cancelled; one with skipped items, or with something left, has information."""
    progress = state.progress
    skipped = sum(entry.state is ItemState.SKIPPED for entry in progress.items)
    not_done = sum(entry.state in _FAILED_STATES for entry in progress.items)
    succeeded = sum(entry.state is ItemState.SUCCEEDED for entry in progress.items)
    left = sum(not item.done for item in state.clean_up)
    outcome, sentence = JobOutcome.SUCCEEDED, f"All {count_text(len(items), 'item')} are done."
    if progress.aborted:
        outcome = JobOutcome.CANCELLED
        sentence = f"{progress.abort_by} aborted the run: {progress.abort_note} {count_text(not_done, 'item')} not done."
    elif skipped or left:
        outcome = JobOutcome.COMPLETED_WITH_INFORMATION
        sentence = f"{count_text(succeeded, 'item')} done, {skipped} skipped."
    if left:
        sentence += f" What the test made of {count_text(left, 'VM')} was left: send clean_up to each."
    states = {entry.item_id: entry.state for entry in progress.items}
    if any(item.vm and states[item.item_id] is ItemState.SUCCEEDED for item in items):
        sentence += _NEXT[state.options.kind]
    return outcome, sentence


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")
