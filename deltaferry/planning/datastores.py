"""How much room a datastore must have before a snapshot is taken and while one is held (spec §2.7)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deltaferry.model.vm import DatastoreSpace, SourceDisk
from deltaferry.planning.phrases import size_text

_FREE_SHARE = 10
"""Percent of a datastore's capacity that stays free."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A datastore below its threshold, and the sentence with the numbers."""

    datastore: str
    sentence: str


def threshold_bytes(space: DatastoreSpace, expected_growth_bytes: int) -> int:
    """Return the free space below which no snapshot is taken: the larger of 10 % and the snapshots' expected growth."""
    return max(space.capacity_bytes * _FREE_SHARE // 100, expected_growth_bytes)


def shortage(space: DatastoreSpace, expected_growth_bytes: int = 0) -> str | None:
    """Return a sentence with the numbers where a datastore's free space is below its threshold, else None."""
    threshold = threshold_bytes(space, expected_growth_bytes)
    if space.free_bytes >= threshold:
        return None
    return f"{_free(space)} a snapshot needs {size_text(threshold)} to be free."


def shortages_before(spaces: Iterable[DatastoreSpace], growth_bytes: Mapping[str, int]) -> tuple[Shortage, ...]:
    """Return the datastores without room for a snapshot that grows by that much on each of them, by name."""
    found = ((space, shortage(space, growth_bytes.get(space.name, 0))) for space in spaces)
    return tuple(Shortage(space.name, sentence) for space, sentence in found if sentence is not None)


def shortages_while_held(spaces: Iterable[DatastoreSpace]) -> tuple[Shortage, ...]:
    """Return the datastores whose held snapshots have to be released: those with less than 10 % free.

    What a snapshot was expected to grow by does not count again: the room for it was there when it was taken, and what is
    missing of that room now is what it has grown by, which is no longer to come.
    """
    return tuple(
        Shortage(space.name, f"{_free(space)} while a snapshot is held, {size_text(kept)} have to stay free.")
        for space in spaces
        if space.free_bytes < (kept := threshold_bytes(space, 0))
    )


def growth_by_datastore(disks: Iterable[SourceDisk], growth_bytes: Iterable[tuple[int, int]]) -> Mapping[str, int]:
    """Return by how much a snapshot is expected to grow on each datastore, given (disk key, bytes) of each disk."""
    by_disk = dict(growth_bytes)
    by_datastore: Counter[str] = Counter()
    for disk in disks:
        by_datastore[disk.datastore] += by_disk.get(disk.key, 0)
    return by_datastore


def _free(space: DatastoreSpace) -> str:
    return f"Datastore {space.name} has {size_text(space.free_bytes)} free of {size_text(space.capacity_bytes)};"
