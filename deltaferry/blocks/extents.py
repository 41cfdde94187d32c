"""Arithmetic on lists of ranges: every function takes ranges in any order and returns sorted, disjoint, merged ones.

A range says nothing of what it holds. Lists from vSphere come unordered, overlapping and, at the end of a disk, too
long; they pass through `normalise` before anything else looks at them.
"""

from collections.abc import Iterable, Iterator

from deltaferry.model.extents import Extent
from deltaferry.model.units import SECTOR


def merge(extents: Iterable[Extent]) -> list[Extent]:
    """Return the union of ranges: sorted, disjoint, touching ones joined, empty ones dropped."""
    merged: list[Extent] = []
    for extent in sorted(extent for extent in extents if extent.length_bytes > 0):
        if not merged or extent.offset_bytes > merged[-1].end_bytes:
            merged.append(extent)
        elif extent.end_bytes > merged[-1].end_bytes:
            merged[-1] = Extent(merged[-1].offset_bytes, extent.end_bytes - merged[-1].offset_bytes)
    return merged


def clip(extents: Iterable[Extent], start_bytes: int, end_bytes: int) -> list[Extent]:
    """Return the parts of ranges that lie in `[start_bytes, end_bytes)`, merged."""
    return merge(
        Extent(max(extent.offset_bytes, start_bytes), min(extent.end_bytes, end_bytes) - max(extent.offset_bytes, start_bytes))
        for extent in extents
    )


def align(extents: Iterable[Extent], unit_bytes: int = SECTOR) -> list[Extent]:
    """Return ranges widened to whole units, merged."""
    widened = []
    for extent in extents:
        if extent.length_bytes > 0:
            start = extent.offset_bytes // unit_bytes * unit_bytes
            widened.append(Extent(start, -(-extent.end_bytes // unit_bytes) * unit_bytes - start))
    return merge(widened)


def normalise(extents: Iterable[Extent], capacity_bytes: int) -> list[Extent]:
    """Return ranges widened to whole sectors and cut off at the disk's ends, merged."""
    return clip(align(extents), 0, capacity_bytes)


def subtract(extents: Iterable[Extent], removed: Iterable[Extent]) -> list[Extent]:
    """Return what is in `extents` and not in `removed`."""
    cuts = merge(removed)
    rest: list[Extent] = []
    first = 0
    for extent in merge(extents):
        while first < len(cuts) and cuts[first].end_bytes <= extent.offset_bytes:
            first += 1
        position, index = extent.offset_bytes, first
        while index < len(cuts) and cuts[index].offset_bytes < extent.end_bytes:
            if cuts[index].offset_bytes > position:
                rest.append(Extent(position, cuts[index].offset_bytes - position))
            position = cuts[index].end_bytes
            index += 1
        if position < extent.end_bytes:
            rest.append(Extent(position, extent.end_bytes - position))
    return rest


def total_bytes(extents: Iterable[Extent]) -> int:
    """Return the sum of the ranges' lengths; overlaps count as often as they occur."""
    return sum(extent.length_bytes for extent in extents)


def split(extent: Extent, unit_bytes: int) -> Iterator[Extent]:
    """Yield a range's parts, cut wherever a multiple of `unit_bytes` lies inside."""
    position = extent.offset_bytes
    while position < extent.end_bytes:
        end = min(extent.end_bytes, (position // unit_bytes + 1) * unit_bytes)
        yield Extent(position, end - position)
        position = end
