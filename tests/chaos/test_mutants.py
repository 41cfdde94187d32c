"""Each guard of the data path is needed: taken away in a copy of the tree, its named test fails; left in, the test passes."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.mutants import MUTANTS, Edit, GuardGoneError, Mutant, apply

pytestmark = pytest.mark.chaos

_ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("deltaferry", "activities", "workflows", "workers", "console", "lab", "deploy", "tests", "pyproject.toml")
_INSTALLED = Path("lab/front/node_modules")
_LIMIT_S = 300.0


@pytest.fixture(autouse=True)
def whole_lab() -> None:
    """Leave the suite's lab alone: where a killer needs one, it starts its own."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests of one run said."""

    passed: frozenset[str]
    failed: frozenset[str]
    """Only those whose own assertions failed: an import or a fixture that breaks says nothing of a guard."""
    output: str


def copy_tree(target: Path) -> Path:
    """Copy the sources and tests; what is installed is linked."""
    target.mkdir()
    for name in _COPIED:
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, target / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        else:
            shutil.copy(_ROOT / name, target / name)
    (target / _INSTALLED).symlink_to(_ROOT / _INSTALLED)
    return target


def run(tree: Path, *killers: str) -> Verdict:
    """Run tests of a copy, with that copy first on the path of every process."""
    report = tree / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *killers]
    ended = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    output = ended.stdout + ended.stderr
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    passed, failed = set(), set()
    for case in cases:
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        if case.find("failure") is not None:
            failed.add(test)
        elif len(case) == 0 or all(child.tag not in ("error", "skipped") for child in case):
            passed.add(test)
    return Verdict(frozenset(passed), frozenset(failed), output)


def of_killer(tests: frozenset[str], killer: str) -> list[str]:
    """Return the tests of a run that a killer names: one, or all cases of one."""
    return [test for test in tests if test == killer or test.startswith(f"{killer}[")]


@pytest.fixture(scope="module")
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """The killers of all mutants that are selected, run on an unchanged copy."""
    selected = (
        item.callspec.params.get("mutant")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    )
    killers = {mutant.killer for mutant in selected if isinstance(mutant, Mutant)}
    tree = copy_tree(tmp_path_factory.mktemp("original") / "tree")
    return run(tree, *sorted(killers))


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A copy of the tree of the test's own."""
    copied = copy_tree(tmp_path / "tree")
    yield copied
    shutil.rmtree(copied)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_guard_that_is_taken_away_is_missed_by_its_test(mutant: Mutant, tree: Path, original: Verdict) -> None:
    assert of_killer(original.passed, mutant.killer), f"the killer does not pass on the original:\n{original.output[-3000:]}"
    assert not of_killer(original.failed, mutant.killer), original.output[-3000:]
    apply(mutant, tree)
    verdict = run(tree, mutant.killer)
    assert of_killer(verdict.failed, mutant.killer), f"{mutant.name} survives ({mutant.guard}):\n{verdict.output[-3000:]}"


def test_a_copy_is_what_its_tests_import(tree: Path) -> None:
    where = "import activities.apply, deltaferry.blocks.apply as blocks, tests.chaos.mutants as own; print(blocks.__file__, own.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tree.parent,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(path.startswith(str(tree)) for path in shown.stdout.split())


def test_a_guard_that_moved_is_not_forgotten(tree: Path) -> None:
    gone = Mutant("gone", "-", (Edit("deltaferry/blocks/apply.py", "text that is nowhere", ""),), "-")
    with pytest.raises(GuardGoneError):
        apply(gone, tree)
    twice = Mutant("twice", "-", (Edit("deltaferry/blocks/apply.py", "import ", ""),), "-")
    with pytest.raises(GuardGoneError):
        apply(twice, tree)
