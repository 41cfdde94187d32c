"""What a person reads of a run of a recovery plan on the command line."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from console.output import local_time
from deltaferry.planning.phrases import duration_text
from deltaferry.planning.plan_progress import ItemState
from workflows.messages.plan import Decided, PlanView
from workflows.plans.presenting import clean_up_text, skipped_text

_ITEM_STYLES = {ItemState.FAILED: "bold red", ItemState.RUNNING: "bold", ItemState.SUCCEEDED: "green"}


def progress_view(view: PlanView) -> RenderableType:
    """Return how far a run is, what it waits for, and who decided what."""
    head = [
        f"{view.plan}: {view.kind}, {'aborted' if view.aborted else view.phase}",
        f"{view.done} of {view.total} done{skipped_text(view)}; {view.activity}",
    ]
    if view.aborted:
        head.append(f"Aborted by {view.abort_by}: {view.abort_note}")
    if view.last_refused:
        head.append(f"Last refused request: {view.last_refused.operation}: {view.last_refused.sentence}")
    table = Table("item", "what", "is", "took", "attempts", "note", "by", "can be sent")
    for item in view.items:
        state = Text(item.state, style=_ITEM_STYLES.get(ItemState(item.state), ""))
        what = Text(f"{item.what}: {item.target}" if item.what != "VM" else "VM")
        took = duration_text(item.ended_at - item.since) if item.since and item.ended_at else ""
        accepts = ", ".join(item.accepts)
        table.add_row(Text(item.name), what, state, took, str(item.attempts), Text(item.note), Text(item.by), accepts)
    left = [Text(clean_up_text(view, one)) for one in view.clean_up]
    return Group(*(Text(line) for line in head), table, *left, *([_decisions(view.decisions)] if view.decisions else []))


def _decisions(decisions: tuple[Decided, ...]) -> Table:
    table = Table("decided", "item", "by", "why", "at")
    for one in decisions:
        table.add_row(one.verb, Text(one.item or "the run"), Text(one.by), Text(one.reason), local_time(one.at))
    return table
