from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.appliances import assign, reassigned_from, refusal_of_assignment
from deltaferry.planning.slots import SlotLimits

LIMITS = SlotLimits()
FEW = replace(LIMITS, replications_per_appliance=4, replications_per_site=12)
LOADS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 6), max_size=5)
GONE = st.frozensets(st.sampled_from("abcdef"), max_size=2)


def test_a_replication_goes_to_the_appliance_with_the_fewest_and_equal_loads_are_decided_by_name() -> None:
    assert assign({"second": 12, "first": 11}, LIMITS) == "first"
    assert assign({"second": 11, "first": 11}, LIMITS) == "first"


def test_a_full_appliance_or_a_silent_one_gets_none() -> None:
    assert assign({"first": 300, "second": 120}, LIMITS) == "second"
    assert assign({"first": 100, "second": 120}, LIMITS, frozenset({"first"})) == "second"


@pytest.mark.parametrize(
    ("loads", "gone", "part"),
    [
        ({"first": 300}, (), "The appliance already has 300 replications, its limit: a scale-out appliance is needed."),
        ({"first": 300, "second": 200}, (), "The site already has 500 replications"),
        ({"first": 300, "second": 100}, ("second",), "The appliance already has 300 replications"),
        ({"first": 20}, ("first",), "no appliance that runs"),
        ({}, (), "no appliance that runs"),
    ],
)
def test_who_has_to_wait_is_told_what_is_needed(loads: dict[str, int], gone: tuple[str, ...], part: str) -> None:
    assert assign(loads, LIMITS, frozenset(gone)) is None
    assert part in (refusal_of_assignment(loads, LIMITS, frozenset(gone)) or "")


def test_several_full_appliances_are_one_sentence() -> None:
    sentence = refusal_of_assignment({"first": 4, "second": 4}, FEW)
    assert sentence is not None
    assert "Each of the 2 appliances" in sentence
    assert "scale-out appliance is needed" in sentence


@given(LOADS, GONE)
def test_either_there_is_an_appliance_or_a_sentence(loads: dict[str, int], gone: frozenset[str]) -> None:
    assert (assign(loads, FEW, gone) is None) == (refusal_of_assignment(loads, FEW, gone) is not None)


def test_the_replications_of_a_dead_appliance_even_out_the_others_loads() -> None:
    moved = reassigned_from("dead", [f"vm/{number}" for number in range(6)], {"dead": 6, "a": 10, "b": 12}, LIMITS)
    assert Counter(appliance for _, appliance in moved.moved) == {"a": 4, "b": 2}
    assert moved.left == ()


@given(LOADS, st.sets(st.integers(0, 30), max_size=20), GONE, st.randoms(use_true_random=False))
def test_a_dead_appliances_replications_go_somewhere_or_wait_and_never_over_the_limit(
    loads: dict[str, int], numbers: set[int], gone: frozenset[str], random: object
) -> None:
    carried = [f"vm/{number}" for number in numbers]
    loads["dead"] = len(carried)
    outcome = reassigned_from("dead", carried, loads, FEW, gone)
    random.shuffle(carried)  # type: ignore[attr-defined]
    assert reassigned_from("dead", carried, dict(reversed(loads.items())), FEW, gone) == outcome
    assert sorted([*(replication for replication, _ in outcome.moved), *outcome.left]) == sorted(carried)
    added = Counter(appliance for _, appliance in outcome.moved)
    assert not added.keys() & (gone | {"dead"})
    for appliance, count in added.items():
        assert loads[appliance] + count <= FEW.replications_per_appliance
    if outcome.left:
        rest = {name: loads[name] + added[name] for name in loads.keys() - gone - {"dead"}}
        assert all(count >= FEW.replications_per_appliance for count in rest.values())
