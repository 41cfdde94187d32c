"""Who may import whom (docs/architecture.md): downwards only, read from the source with `ast`, never by importing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("console", "workers", "lab", "workflows", "activities", "deltaferry")

MAY_IMPORT = {
    "console": {"console", "workers", "lab", "workflows", "activities", "deltaferry"},
    "workers": {"workers", "workflows", "activities", "deltaferry"},
    "lab": {"lab", "deltaferry"},
    "workflows": {"workflows", "activities", "deltaferry.model", "deltaferry.planning"},
    "workflows.messages": {"workflows.messages", "deltaferry.model", "deltaferry.planning"},
    "activities": {
        "activities",
        "workflows.messages",
        "workflows.names",
        "deltaferry.model",
        "deltaferry.planning",
        "deltaferry.ports",
        "deltaferry.blocks.account",
        "deltaferry.blocks.checksum_map",
        "deltaferry.blocks.granules",
        "deltaferry.blocks.manifest",
        "deltaferry.blocks.plan",
        "deltaferry.blocks.sector_sets",
        "deltaferry.blocks.seed_check",
    },
    "deltaferry.model": {"deltaferry.model"},
    "deltaferry.planning": {"deltaferry.planning", "deltaferry.model"},
    "deltaferry.ports": {"deltaferry.model", "deltaferry.ports"},
    "deltaferry.blocks": {"deltaferry.blocks", "deltaferry.model", "deltaferry.ports"},
    "deltaferry.vsphere": {"deltaferry.vsphere", "deltaferry.model", "deltaferry.ports"},
    "deltaferry.azure": {"deltaferry.azure", "deltaferry.model", "deltaferry.ports"},
}
"""Room → first-party rooms and modules that it may import. Of the data plane, activities see its stored formats only."""

HOMES = {
    "pyVmomi": {"deltaferry.vsphere", "lab.vcenter"},
    "pyVim": {"deltaferry.vsphere", "lab.vcenter"},
    "azure": {"deltaferry.azure", "workers.wiring", "lab"},
    "temporalio": {"workflows", "activities", "workers", "console"},
    "typer": {"console"},
    "rich": {"console"},
}
"""Third-party library → the only rooms that may import it."""


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from workflows import names` imports the module workflows.names
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in inner) if node.module in PACKAGES else (node.module,)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(module: str) -> str:
    return max((room for room in MAY_IMPORT if within(module, room)), key=len, default="")


def violations(module: str, imported: set[str]) -> list[str]:
    found = []
    room = room_of(module)
    for name in sorted(imported):
        if name.partition(".")[0] in PACKAGES and room and not any(within(name, allowed) for allowed in MAY_IMPORT[room]):
            found.append(f"{module} imports {name}")
        home = HOMES.get(name.partition(".")[0])
        if home is not None and not any(within(module, place) for place in home):
            found.append(f"{module} imports {name}, whose home is {', '.join(sorted(home))}")
    return found


def test_imports_point_downwards_only() -> None:
    read = dict(modules())
    assert len(read) > 100, "the walk over the sources has missed most of them"
    found = [violation for module, path in read.items() for violation in violations(module, set(imports(path)))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("deltaferry.planning.slots", "deltaferry.vsphere.client"),
        ("deltaferry.model.vm", "deltaferry.ports"),
        ("workflows.replicate_vm", "deltaferry.azure.seeds"),
        ("activities.apply", "deltaferry.blocks.plane"),
        ("activities.apply", "azure.storage.blob"),
        ("deltaferry.blocks.plan", "temporalio"),
        ("lab.world", "workflows.names"),
    ],
)
def test_an_upward_import_is_found(module: str, imported: str) -> None:
    assert violations(module, {imported})
