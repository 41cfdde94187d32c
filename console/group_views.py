"""What people see of replication groups on the command line."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from console.output import local_time
from deltaferry.model.recovery_points import SharedPoint
from deltaferry.planning.phrases import count_text, duration_text
from workflows.groups.presenting import spread_text
from workflows.messages.group import GroupView


def group_table(view: GroupView) -> RenderableType:
    """Return a group: its settings, what it warns of, members, shared points, and what became of the last points."""
    head = [
        f"{view.name} at {view.site}: {count_text(len(view.members), 'member')}; {view.activity}",
        f"A point every {duration_text(view.interval)}, snapshots within {duration_text(view.max_spread)}; "
        f"members are waited for {duration_text(view.wait)}",
    ]
    refused = view.last_refused
    if refused is not None:
        head.append(f"Refused at {local_time(refused.at)}: {refused.operation}: {refused.sentence}")
    members = Table("member", "replication", box=None, pad_edge=False)
    for member in view.members:
        members.add_row(member.vm, member.replication)
    tried = Table("tried", "spread", "became", box=None, pad_edge=False)
    for one in view.attempts:
        spread = spread_text(one.spread) if one.spread is not None else ""
        tried.add_row(local_time(one.began_at), spread, Text(one.sentence, style="" if one.shared else "yellow"))
    warnings = [Text(warning, style="yellow") for warning in view.warnings]
    return Group(*(Text(line) for line in head), *warnings, members, points_table(view.points), tried)


def points_table(found: tuple[SharedPoint, ...]) -> RenderableType:
    """Return shared points, newest first."""
    table = Table("taken", "spread", "VMs", "point", box=None, pad_edge=False)
    for point in found:
        table.add_row(local_time(point.taken_at), spread_text(point.spread), str(len(point.members)), f"shared:{point.key}")
    return table
