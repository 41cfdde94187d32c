"""Which appliance carries a replication: by load when it is made, and anew when an appliance has died (spec §3).

A site has a primary appliance and may have scale-out appliances. Load is the number of replications; the limits are those
of an appliance and of the site. Everything here is deterministic: equal loads are decided by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deltaferry.planning.slots import SlotLimits, refusal_of_replication


@dataclass(frozen=True, slots=True)
class Reassigned:
    """Where the replications of a dead appliance go."""

    moved: tuple[tuple[str, str], ...]
    """(replication, its new appliance), by replication."""
    left: tuple[str, ...]
    """Those that no appliance has room for: they wait, and their health says that a scale-out appliance is needed."""


def assign(loads: Mapping[str, int], limits: SlotLimits, unavailable: frozenset[str] = frozenset()) -> str | None:
    """Return the appliance that one more replication goes to: the one with the fewest, or None where it has to wait.

    `loads` has the number of replications on every appliance of the site, those without any and those in `unavailable`
    too: what a dead or retired appliance still carries counts for the site.
    """
    if sum(loads.values()) >= limits.replications_per_site:
        return None
    return _least_loaded(loads, limits, unavailable)


def refusal_of_assignment(loads: Mapping[str, int], limits: SlotLimits, unavailable: frozenset[str] = frozenset()) -> str | None:
    """Return why one more replication has to wait, as a sentence with the remedy; None where `assign` finds an appliance."""
    if assign(loads, limits, unavailable) is not None:
        return None
    if not loads.keys() - unavailable:
        return "The site has no appliance that runs: start one, or add a scale-out appliance."
    of_site = refusal_of_replication(0, sum(loads.values()), limits)
    if of_site is not None:
        return of_site
    names = sorted(loads.keys() - unavailable)
    if len(names) == 1:
        return refusal_of_replication(loads[names[0]], 0, limits)
    return (
        f"Each of the {len(names)} appliances that run already has {limits.replications_per_appliance} replications "
        "or more, the limit: a scale-out appliance is needed."
    )


def reassigned_from(
    dead: str,
    carried: Iterable[str],
    loads: Mapping[str, int],
    limits: SlotLimits,
    unavailable: frozenset[str] = frozenset(),
) -> Reassigned:
    """Return where the replications that a dead appliance carried go: spread so that the others' loads even out.

    `loads` has the number of replications on each appliance of the site, as `assign` takes it. The site's limit does
    not count: the replications are on the site already.
    """
    filled = {name: count for name, count in loads.items() if name != dead}
    moved, left = [], []
    for replication in sorted(set(carried)):
        appliance = _least_loaded(filled, limits, unavailable)
        if appliance is None:
            left.append(replication)
            continue
        filled[appliance] += 1
        moved.append((replication, appliance))
    return Reassigned(tuple(moved), tuple(left))


def _least_loaded(loads: Mapping[str, int], limits: SlotLimits, unavailable: frozenset[str]) -> str | None:
    free = [
        (count, name) for name, count in loads.items() if name not in unavailable and count < limits.replications_per_appliance
    ]
    return min(free)[1] if free else None
