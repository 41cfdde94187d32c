"""The sector map against a plain set."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from lab.sectors import SectorMap

END = 40_000
ranges = st.lists(st.tuples(st.integers(0, END), st.integers(0, 9_000)).map(lambda r: (r[0], min(END, sum(r)))), max_size=12)


def made(parts) -> tuple[SectorMap, set[int]]:
    sectors, model = SectorMap(), set()
    for first, end in parts:
        sectors.add(first, end)
        model.update(range(first, end))
    return sectors, model


@settings(max_examples=60, deadline=None)
@given(ranges, ranges, st.integers(0, END), st.integers(0, END))
def test_runs_are_the_maximal_runs_of_the_set_inside_the_window(parts, others, first, end):
    (one, model), (two, other) = made(parts), made(others)
    both = one.union(two)
    assert len(one) == len(model)
    assert len(both) == len(model | other)
    runs = list(both.runs(first, end))
    assert {sector for start, stop in runs for sector in range(start, stop)} == {s for s in model | other if first <= s < end}
    assert all(start < stop for start, stop in runs)
    assert all(before[1] < after[0] for before, after in pairwise(runs))


@settings(max_examples=40, deadline=None)
@given(ranges, st.integers(0, END), st.integers(0, 9_000))
def test_what_is_removed_is_gone_and_a_copy_keeps_it(parts, first, length):
    sectors, model = made(parts)
    copy, end = sectors.copy(), min(END, first + length)
    sectors.remove(first, end)
    left = {sector for start, stop in sectors.runs(0, END) for sector in range(start, stop)}
    assert left == {sector for sector in model if not first <= sector < end}
    assert len(copy) == len(model)
