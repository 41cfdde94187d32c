"""What people see of a site: the Markdown of its arbiter's details page."""

from collections import Counter
from datetime import datetime

from deltaferry.planning.phrases import count_text
from workflows.messages.slot import HeldLease, SlotsState, WaitingRequest
from workflows.slots.book import closed_until
from workflows.slots.parts import in_groups_hands

_SHOWN = 40
"""Lines of each list: the page is for reading, the query `status` for everything."""


def site_details(state: SlotsState, now: datetime) -> str:
    """Return the details page: what is held, who waits, the settings, and what is wrong."""
    profile = state.profile
    lines = [
        f"### Site {profile.site}",
        "",
        f"- **Slots:** {count_text(len(state.leases), 'lease')} held, {len(state.waiting)} waiting",
        f"- **Limits:** {profile.disks_per_appliance} disks per appliance, {profile.disks_per_host} per host, "
        f"{profile.snapshots_per_datastore} disk snapshots per datastore",
        f"- **Throttle:** {profile.throttle or 'none'}",
        f"- **Blackout windows:** {_blackout(state, now)}",
        f"- **Settings:** revision {profile.revision}",
        "",
        "**Appliances**",
        "",
    ]
    loads = Counter(state.assigned.values())
    for name in (profile.appliance, *(one.name for one in profile.appliances)):
        silent = ": **does not answer**" if name in state.silent else ""
        lines.append(f"- {name}: {count_text(loads[name], 'replication')}{silent}")
    if state.short_of_space:
        lines += ["", f"> **Short of space:** {', '.join(state.short_of_space)}"]
    lines += _listed("Held", [_held(lease) for lease in state.leases[:_SHOWN]], len(state.leases))
    lines += _listed("Waiting", [_waiting(state, waiting) for waiting in state.waiting[:_SHOWN]], len(state.waiting))
    return "\n".join(lines)


def _blackout(state: SlotsState, now: datetime) -> str:
    if not state.profile.blackout:
        return "none"
    until = closed_until(state.profile, now)
    return f"{state.profile.blackout} ({state.profile.time_zone})" + (f", open until {until:%Y-%m-%d %H:%M} UTC" if until else "")


def _held(lease: HeldLease) -> str:
    wanted = lease.wanted
    if in_groups_hands(wanted):
        return f"- `{wanted.holder}` (group) holds {count_text(wanted.disks, 'disk')} for `{wanted.replication}`"
    if lease.holder_gone:
        return f"- `{wanted.holder}` ({wanted.kind}) **left a snapshot behind** that is not known to be gone"
    what = "its snapshot, and waits for transfer slots" if lease.gave_way else f"{count_text(wanted.disks, 'disk')} in transfer"
    return f"- `{wanted.holder}` ({wanted.kind}) holds {what}"


def waits_without_appliance(state: SlotsState, waiting: WaitingRequest) -> bool:
    """Return whether no appliance has room for the replication that waits."""
    return bool(waiting.wanted.replication) and waiting.wanted.replication not in state.assigned


def _waiting(state: SlotsState, waiting: WaitingRequest) -> str:
    wanted = waiting.wanted
    why = "; no appliance has room for it" if waits_without_appliance(state, waiting) else ""
    return f"- `{wanted.holder}` ({wanted.kind}) since {waiting.requested_at:%H:%M:%S} UTC for {count_text(wanted.disks, 'disk')}{why}"


def _listed(title: str, lines: list[str], of: int) -> list[str]:
    if not lines:
        return []
    more = [f"- … and {of - len(lines)} more"] if of > len(lines) else []
    return ["", f"**{title}**", "", *lines, *more]
