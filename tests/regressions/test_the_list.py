"""The list of regressions is whole, and every test that it names is there."""

from pathlib import Path

import pytest

from tests.regressions import EXPECTED, REGRESSIONS
from tests.regressions.node_ids import exists, names_in

HERE = Path(__file__).parent
NAMED = {test for regression in REGRESSIONS.values() for test in regression.tests}


def test_every_defect_is_listed() -> None:
    assert sorted(REGRESSIONS) == sorted(EXPECTED)
    assert all(regression.tests for regression in REGRESSIONS.values())


@pytest.mark.parametrize("test", sorted(NAMED))
def test_a_named_test_exists(test: str) -> None:
    assert exists(test)


def test_a_test_that_does_not_exist_is_found() -> None:
    assert not exists("tests/regressions/test_the_list.py::test_that_was_never_written")
    assert not exists("tests/regressions/test_no_file.py::test_a_named_test_exists")


def test_every_test_of_this_folder_is_in_the_list() -> None:
    own = {
        f"tests/regressions/{path.name}::{name}"
        for path in HERE.glob("test_*.py")
        if path.name != Path(__file__).name
        for name in names_in(f"tests/regressions/{path.name}")
    }
    assert own <= NAMED
