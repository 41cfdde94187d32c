"""How a limit is divided among transfers: weighted max-min fairness. Pure.

Everyone gets what their weight entitles them to, or what they can use, whichever is less; what the modest leave is divided
among the others by the same rule. So nobody gets less than their weight's part of the limit unless they ask for less, and nothing
is left over while somebody could use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Claim:
    """What one transfer could use."""

    weight: float
    """Above zero: a transfer of weight 4 gets four times as much as one of weight 1 where both want more."""
    demand: float
    """At least zero, in the unit of the limit; infinite for all there is."""


def shares(limit: float, claims: Sequence[Claim]) -> tuple[float, ...]:
    """Return each claim's share, in their order. Their sum is the limit, or the sum of all demands if that is less."""
    greediest_first = sorted(range(len(claims)), key=lambda index: claims[index].demand / claims[index].weight, reverse=True)
    weights = list(accumulate(claims[index].weight for index in greediest_first))
    granted = [0.0] * len(claims)
    left = limit
    for index, weight in zip(reversed(greediest_first), reversed(weights), strict=True):
        claim = claims[index]
        granted[index] = min(claim.demand, left * (claim.weight / weight))
        left -= granted[index]
    return tuple(granted)
