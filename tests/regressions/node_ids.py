"""Tests by their node ids, found in the source without running or importing it."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the names of a file's test functions; none if there is no such file."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    functions = (node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in functions if name.startswith("test_"))


def exists(node_id: str) -> bool:
    """Return whether there is a test of a node id `file::function`."""
    file, _, name = node_id.partition("::")
    return name in names_in(file)
