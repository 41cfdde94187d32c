"""Planning runs inside Temporal's workflow sandbox: nothing that tells time, draws lots or touches the world may be imported."""

import ast
import textwrap
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import deltaferry.planning

FOLDER = Path(deltaferry.planning.__file__).parent
MODULES = sorted(file for file in FOLDER.glob("*.py") if file.name != "__init__.py")
PURE = {
    "collections", "collections.abc", "csv", "dataclasses", "datetime", "enum", "fnmatch", "functools", "heapq", "itertools", "math", "re", "types", "typing",
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=lambda file: file.stem)
def test_a_module_imports_only_the_model_and_what_is_pure(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text())):
        imported = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        for name in imported:
            assert name in PURE or name.startswith(("deltaferry.model.", "deltaferry.planning.")), f"{module.name} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda file: file.stem)
def test_a_module_never_asks_for_the_time(module: Path) -> None:
    attributes = {node.attr for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Attribute)}
    assert not attributes & {"now", "utcnow", "today", "monotonic"}


async def test_every_module_loads_inside_the_workflow_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MODULES
    imports = "\n".join(f"import deltaferry.planning.{module.stem}" for module in MODULES)
    probe = textwrap.dedent(
        """
        from temporalio import workflow
        {imports}

        @workflow.defn
        class Probe:
            @workflow.run
            async def run(self) -> None: ...
        """
    ).format(imports=imports)
    (tmp_path / "planning_sandbox_probe.py").write_text(probe)
    monkeypatch.syspath_prepend(str(tmp_path))
    import planning_sandbox_probe  # noqa: PLC0415 - written a moment ago

    definition = workflow._Definition.must_from_class(planning_sandbox_probe.Probe)
    SandboxedWorkflowRunner().prepare_workflow(definition)
