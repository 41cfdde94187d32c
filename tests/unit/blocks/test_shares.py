"""The sharing rule: weighted max-min fairness."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.blocks.shares import Claim, shares

CLAIMS = st.lists(
    st.builds(Claim, st.integers(1, 16).map(float), st.one_of(st.just(inf), st.just(0.0), st.floats(0, 1e9))), max_size=60
)


@pytest.mark.parametrize(
    ("limit", "claims", "expected"),
    [
        (90, [(1, inf), (1, inf), (1, inf)], [30, 30, 30]),
        (60, [(4, inf), (1, inf), (1, inf)], [40, 10, 10]),
        (90, [(1, 10), (1, inf), (1, inf)], [10, 40, 40]),  # what the modest one leaves is divided
        (90, [(4, 6), (1, inf), (1, 20)], [6, 64, 20]),  # weight entitles to no more than is wanted
        (90, [(1, 0), (1, inf)], [0, 90]),
        (90, [(1, 10), (2, 20)], [10, 20]),  # nobody gets more than they can use
        (0, [(1, inf)], [0]),
        (90, [], []),
    ],
)
def test_a_limit_is_divided_by_weight_and_nobody_gets_more_than_they_want(
    limit: float, claims: list[tuple[float, float]], expected: list[float]
) -> None:
    assert shares(limit, [Claim(*claim) for claim in claims]) == pytest.approx(expected)


@given(st.floats(0, 1e10), CLAIMS)
def test_all_of_the_limit_is_used_while_somebody_wants_it(limit: float, claims: list[Claim]) -> None:
    granted = shares(limit, claims)
    assert sum(granted) == pytest.approx(min(limit, sum(claim.demand for claim in claims)), rel=1e-9, abs=1e-6)
    assert all(0 <= share <= claim.demand for share, claim in zip(granted, claims, strict=True))


@given(st.floats(1, 1e10), CLAIMS)
def test_who_gets_less_than_they_want_gets_no_less_for_their_weight_than_anybody(limit: float, claims: list[Claim]) -> None:
    granted = shares(limit, claims)
    by_weight = [share / claim.weight for share, claim in zip(granted, claims, strict=True)]
    for index, claim in enumerate(claims):
        if granted[index] < claim.demand * (1 - 1e-9):
            assert by_weight[index] >= max(by_weight) * (1 - 1e-9)
            assert granted[index] >= limit * claim.weight / sum(other.weight for other in claims) * (1 - 1e-9)
