"""docs/integrity.md: every test that it names exists, and every promise names one."""

import re

import pytest

from tests.regressions.node_ids import ROOT, exists

TEXT = (ROOT / "docs" / "integrity.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py::\w+)`", TEXT)
SECTIONS = TEXT.split("\n## ")[1:]


@pytest.mark.parametrize("test", NAMED)
def test_a_test_that_the_document_names_exists(test: str) -> None:
    assert exists(test)


def test_everything_that_looks_like_a_test_is_checked() -> None:
    assert len(re.findall(r"tests/\S*::", TEXT)) == len(NAMED) >= 40


@pytest.mark.parametrize("section", [pytest.param(section, id=section.partition("\n")[0]) for section in SECTIONS])
def test_a_promise_names_the_tests_that_prove_it(section: str) -> None:
    if "**Promise.**" in section:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", section)
