"""How much room a datastore must have before a snapshot is taken and while one is held (spec §2.7)."""

from deltaferry.model.vm import DatastoreSpace
from deltaferry.planning.phrases import size_text

_FREE_SHARE = 10
"""Percent of a datastore's capacity that stays free."""


def threshold_bytes(space: DatastoreSpace, expected_growth_bytes: int) -> int:
    """Return the free space below which no snapshot is taken: the larger of 10 % and the snapshots' expected growth."""
    return max(space.capacity_bytes * _FREE_SHARE // 100, expected_growth_bytes)


def shortage(space: DatastoreSpace, expected_growth_bytes: int = 0) -> str | None:
    """Return a sentence with the numbers where a datastore's free space is below its threshold, else None."""
    threshold = threshold_bytes(space, expected_growth_bytes)
    if space.free_bytes >= threshold:
        return None
    return (
        f"Datastore {space.name} has {size_text(space.free_bytes)} free of {size_text(space.capacity_bytes)}; "
        f"a snapshot needs {size_text(threshold)} to be free."
    )
