from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from deltaferry.blocks.extents import align, clip, merge, normalise, split, subtract, total_bytes
from deltaferry.model.extents import Extent
from deltaferry.model.units import SECTOR

extents = st.lists(st.builds(Extent, st.integers(0, 60), st.integers(0, 20)), max_size=12)


def members(ranges: list[Extent]) -> set[int]:
    return {position for extent in ranges for position in range(extent.offset_bytes, extent.end_bytes)}


def assert_canonical(ranges: list[Extent]) -> None:
    assert all(extent.length_bytes > 0 for extent in ranges)
    assert all(first.end_bytes < second.offset_bytes for first, second in pairwise(ranges))


@given(extents)
def test_merge_keeps_every_byte_once_in_order(ranges: list[Extent]) -> None:
    merged = merge(ranges)
    assert_canonical(merged)
    assert members(merged) == members(ranges)
    assert total_bytes(merged) == len(members(ranges))


@given(extents, st.integers(0, 80), st.integers(0, 80))
def test_clip_keeps_what_is_inside(ranges: list[Extent], start: int, end: int) -> None:
    clipped = clip(ranges, start, end)
    assert_canonical(clipped)
    assert members(clipped) == members(ranges) & set(range(start, end))


@given(extents, extents)
def test_subtract_is_the_difference_of_sets(ranges: list[Extent], removed: list[Extent]) -> None:
    rest = subtract(ranges, removed)
    assert_canonical(rest)
    assert members(rest) == members(ranges) - members(removed)


@given(extents, st.integers(1, 9))
def test_align_widens_to_whole_units_and_no_further(ranges: list[Extent], unit: int) -> None:
    widened = align(ranges, unit)
    assert_canonical(widened)
    assert members(widened) == {
        position for byte in members(ranges) for position in range(byte // unit * unit, byte // unit * unit + unit)
    }


@given(st.lists(st.builds(Extent, st.integers(0, 20_000), st.integers(0, 9000)), max_size=12))
def test_normalised_areas_are_whole_sectors_inside_the_disk(ranges: list[Extent]) -> None:
    capacity = 37 * SECTOR
    normal = normalise(ranges, capacity)
    assert_canonical(normal)
    assert all(extent.offset_bytes % SECTOR == extent.length_bytes % SECTOR == 0 for extent in normal)
    assert members(normal) >= members(ranges) & set(range(capacity))
    assert members(normal) <= set(range(capacity))


@given(st.builds(Extent, st.integers(0, 60), st.integers(0, 40)), st.integers(1, 9))
def test_split_cuts_only_where_units_meet(extent: Extent, unit: int) -> None:
    parts = list(split(extent, unit))
    assert [position for part in parts for position in range(part.offset_bytes, part.end_bytes)] == sorted(members([extent]))
    assert all(part.offset_bytes // unit == (part.end_bytes - 1) // unit for part in parts)
    assert all(first.end_bytes % unit == 0 for first in parts[:-1])
