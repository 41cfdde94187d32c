"""The rotation of samples."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.sampling import sample


@given(st.integers(0, 5000), st.integers(0, 10**6), st.floats(0.001, 1))
def test_every_granule_is_in_one_sample_of_as_many_cycles_as_the_share_asks_for(granules: int, cycle: int, share: float) -> None:
    seen: list[int] = []
    for number in range(cycle, cycle + ceil(1 / share)):
        seen += sample(granules, number, share)
    assert sorted(seen) == list(range(granules))


def test_a_sample_is_about_its_share_of_the_disk() -> None:
    for cycle in range(100):
        assert abs(len(sample(1_000_037, cycle, 0.01)) - 10_000) <= 1


def test_a_share_of_nothing_samples_nothing_and_of_everything_all() -> None:
    assert list(sample(1000, 3, 0)) == []
    assert sample(1000, 3, 1) == range(1000)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_beyond_the_whole_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="a share is from 0 to 1"):
        sample(10, 0, share)
