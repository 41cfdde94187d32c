"""What the runs of workflows share in a worker, and what each has of its own."""

import sys
from pathlib import Path

import pytest

from workflows import sandbox

ROOM = Path(sandbox.__file__).parent
NOT_OF_RUNS = {"__init__", "details_page", "plugin", "register", "sandbox"}
"""Modules of the room that run in clients and workers, around the runs."""


def test_all_that_workflows_are_made_of_is_loaded_once_and_their_own_files_for_each_run() -> None:
    modules = {path.stem: path.read_text(encoding="utf-8") for path in ROOM.glob("*.py") if path.stem not in NOT_OF_RUNS}
    pure = {name for name, source in modules.items() if "@workflow.defn" not in source}
    packages = {path.parent.name for path in ROOM.glob("*/__init__.py")}
    assert sorted(sandbox._SHARED_OF_ROOM) == sorted(pure | packages)


def test_every_run_executes_the_same_code_objects() -> None:
    specs = [sandbox._Finder().find_spec("workflows.site_audit", [str(ROOM)]) for _ in range(2)]
    loaders = [spec.loader for spec in specs if spec is not None]
    first, second = (loader.get_code("workflows.site_audit") for loader in loaders if isinstance(loader, sandbox._Loader))
    assert first is second and first is not None


@pytest.mark.parametrize("module", ["deltaferry.model.units", "tests.unit.test_sandbox", "workflows_of_somebody_else"])
def test_modules_outside_the_room_are_found_as_ever(module: str) -> None:
    assert sandbox._Finder().find_spec(module, None) is None


def test_the_finder_is_there_once_however_many_plugins_there_are() -> None:
    for _ in range(3):
        sandbox.sharing(None)
    assert sum(isinstance(finder, sandbox._Finder) for finder in sys.meta_path) == 1
