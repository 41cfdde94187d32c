"""What workflow code may not do, read from the source: the pure modules that it uses are passed through the sandbox.

A replay has to decide what was decided: no clock but `workflow.now()`, no random but `workflow.uuid4()` and `workflow.random()`,
no files, no environment, no module state that one run could leave to another.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_MODULES = frozenset({"random", "time", "os", "socket", "subprocess", "threading", "secrets", "pathlib", "tempfile", "requests"})
"""Whose import alone is refused."""
_CALLS = frozenset(
    {
        "asyncio.wait", "asyncio.as_completed", "asyncio.to_thread", "asyncio.run", "datetime.now", "datetime.today", "datetime.utcnow",
        "date.today", "uuid.uuid1", "uuid.uuid4", "open", "print", "input", "breakpoint",
    }
)  # fmt: skip
_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
"""A table of constants is written so, with a name in capitals."""
_EMPTY = frozenset(
    {"set", "dict", "list", "deque", "Counter", "defaultdict", "OrderedDict", "WeakKeyDictionary", "WeakValueDictionary"}
)
_PURE_BESIDE = {"plugin", "sandbox"}
"""Modules of the room that are no workflow code: they run in clients and workers."""


def _modules() -> Iterator[Path]:
    for folder in ("workflows", "deltaferry/planning", "deltaferry/model"):
        yield from sorted(path for path in (ROOT / folder).glob("*.py") if path.stem not in _PURE_BESIDE)


def refused(source: str) -> list[str]:
    """Return what in a module's source a replay could decide otherwise, with the lines."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: import {a.name}" for a in node.names if a.name.partition(".")[0] in _MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _MODULES:
            found.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in _CALLS:
            found.append(f"{node.lineno}: {ast.unparse(node.func)}")
        elif isinstance(node, ast.Global):
            found.append(f"{node.lineno}: global {', '.join(node.names)}")
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            is_display = isinstance(node.value, _DISPLAYS) and not target.isupper() and target != "__all__"
            is_empty = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in _EMPTY
            if is_display or is_empty:
                found.append(f"{node.lineno}: the state {target}")
    return found


@pytest.mark.parametrize("path", list(_modules()), ids=lambda path: path.stem)
def test_workflow_code_decides_by_its_history_alone(path: Path) -> None:
    assert refused(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["import random", "from time import monotonic", "now = datetime.now(UTC)", "async def run():\n    await asyncio.wait([])",
     "_SEEN: set[str] = set()", "_kept = []", "def f():\n    global x", "print(1)"],
)  # fmt: skip
def test_the_rule_finds_what_is_refused(source: str) -> None:
    assert refused(source)
