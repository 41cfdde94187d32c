"""Options of the whole suite: the seed of what is random in it, and how long its soak takes."""

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the chaos suite."""
    group = parser.getgroup("chaos")
    group.addoption("--seed", type=int, default=None, help="repeat a run of the chaos suite: the seed that it printed")
    group.addoption(
        "--soak-minutes", type=float, default=2.0, help="how long the soak of the chaos suite runs (120 is two hours)"
    )
    group.addoption("--sequences", type=int, default=None, help="how many random sequences the model-based tests try")


def pytest_configure(config: pytest.Config) -> None:
    """Choose a seed where none is given; parallel workers are handed the same one with the other options."""
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().getrandbits(32)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what repeats this run."""
    terminalreporter.write_line(f"chaos seed: --seed {config.option.seed}")
