"""The lab of the end-to-end tests, for enumerated and for random faults; the seed that makes a random run the same again."""

import random
from datetime import timedelta

import pytest

from tests.e2e.conftest import client, lab, vm, whole_lab

__all__ = ["chaos_random", "chaos_seed", "client", "lab", "sequences", "soak_for", "vm", "whole_lab"]


@pytest.fixture(scope="session")
def chaos_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run: a new one, or the one given by `--seed`."""
    return int(request.config.option.seed)


@pytest.fixture
def chaos_random(request: pytest.FixtureRequest, chaos_seed: int) -> random.Random:
    """A source of choices that depends on the seed and on the test's name alone, so that one test alone repeats its choices."""
    return random.Random(f"{chaos_seed} {request.node.name}")


@pytest.fixture(scope="session")
def soak_for(request: pytest.FixtureRequest) -> timedelta:
    """How long the soak runs: `--soak-minutes`."""
    return timedelta(minutes=float(request.config.getoption("--soak-minutes")))


@pytest.fixture(scope="session")
def sequences(request: pytest.FixtureRequest) -> int | None:
    """How many sequences model-based tests try, where `--sequences` says."""
    wanted = request.config.getoption("--sequences")
    return None if wanted is None else int(wanted)
