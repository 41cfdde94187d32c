"""Which part of a disk a cycle compares with the checksum map though nothing is said to have changed there (*trust no CBT*)."""

from math import ceil


def sample(granules: int, cycle_number: int, share: float) -> range:
    """Return the granules of a cycle's sample of a disk: one stretch, so that little of the map has to be read for it.

    Consecutive cycles take turns: after `ceil(1 / share)` of them every granule was in a sample. Nothing for a share of 0.
    Raises ValueError for a share that is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, not {share}")
    if share == 0:
        return range(0)
    turns = ceil(1 / share)
    turn = cycle_number % turns
    return range(granules * turn // turns, granules * (turn + 1) // turns)
