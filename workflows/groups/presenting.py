"""What people see of a replication group: the query `status`, and the Markdown of its details page."""

from datetime import datetime, timedelta

from deltaferry.planning.phrases import count_text, duration_text
from deltaferry.planning.replication_group import offered
from workflows.messages.group import GroupState, GroupView

_SHOWN = 12
"""Points and attempts on the details page: the query has all."""


def group_view(name: str, site: str, state: GroupState, interval: timedelta, activity: str, now: datetime) -> GroupView:
    """Return the answer of the query `status`."""
    keys = offered_keys(state, now)
    return GroupView(
        name=name,
        site=site,
        activity=activity,
        members=state.members,
        interval=interval,
        wait=state.rules.wait,
        max_spread=state.rules.max_spread,
        next_at=state.next_at,
        points=tuple(point for point in reversed(state.points) if point.key in keys),
        attempts=tuple(reversed(state.attempts)),
        warnings=_warnings(state),
        allowed=("add_member", "remove_member", "change_group", "take_point", "dissolve"),
        last_refused=state.last_refused,
    )


def offered_keys(state: GroupState, now: datetime) -> frozenset[str]:
    """Return the keys of the shared points that every member keeps."""
    retention = {member.replication: member.retention for member in state.members}
    return frozenset(offered([(point.key, point.taken_at) for point in state.points], retention, now))


def _warnings(state: GroupState) -> tuple[str, ...]:
    found = list(state.why_no_member)
    if len(state.members) < 2:
        found.append("The group has fewer than two members: no points are taken until another one is added.")
    bare = [member.vm for member in state.members if member.retention is None]
    if bare:
        found.append(
            f"{', '.join(bare)}: without a policy only the latest recovery point is kept, so that a shared point lasts until the "
            "next cycle; give each member the same policy."
        )
    kept = {member.retention for member in state.members if member.retention is not None}
    if len(kept) > 1:
        found.append(f"The members keep their points differently long: shared ones are offered for {duration_text(min(kept))}.")
    return tuple(found)


def group_details(view: GroupView) -> str:
    """Return the details page."""
    lines = [
        f"### Replication group {view.name}",
        "",
        f"- **Now:** {view.activity}",
        f"- **A point every:** {duration_text(view.interval)}, within {duration_text(view.max_spread)} of each other; "
        f"members are waited for {duration_text(view.wait)}",
        f"- **Next point:** {_time(view.next_at)}",
        f"- **You can send:** {', '.join(f'`{verb}`' for verb in view.allowed)}",
        *(
            [f"- **Refused:** `{refused.operation}` at {_time(refused.at)}: {refused.sentence}"]
            if (refused := view.last_refused) is not None
            else []
        ),
        "",
        *(f"> {warning}\n" for warning in view.warnings),
        f"**{count_text(len(view.members), 'member')}**",
        "",
        *(f"- {member.vm} (`{member.replication}`)" for member in view.members),
    ]
    if view.points:
        lines += ["", "**Shared points**", ""]
        lines += [
            f"- {_time(point.taken_at)}, `shared:{point.key}`: {count_text(len(point.members), 'VM')} within {spread_text(point.spread)}"
            for point in view.points[:_SHOWN]
        ]
    if view.attempts:
        lines += ["", "**Last points**", ""]
        lines += [
            f"- {_time(one.began_at)}: {'' if one.shared else '**not shared:** '}{one.sentence}" for one in view.attempts[:_SHOWN]
        ]
    return "\n".join(lines)


def spread_text(spread: timedelta) -> str:
    """Return a spread to the millisecond."""
    return f"{spread.total_seconds():.3f} s"


def _time(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at is not None else "not planned"
