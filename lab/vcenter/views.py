"""Container and list views: sets of objects that live in one session."""

from typing import Any

from lab.vcenter.vocabulary import vim
from lab.vcenter.world import LabObject, World


class View(LabObject):
    """A container view (live) or a list view of one session."""

    def __init__(self, world: World, moref: str, kind: Any) -> None:
        super().__init__(kind(moref))
        self._world = world


class ContainerView(View):
    """All objects of some types below a container, as they are at each reading."""

    def __init__(self, world: World, moref: str, container: Any, types: list[Any], recursive: bool) -> None:
        super().__init__(world, moref, vim.view.ContainerView)
        self.readers["container"] = lambda: container
        self.readers["type"] = lambda: types
        self.readers["recursive"] = lambda: recursive
        self.readers["view"] = lambda: self._below(container, types, recursive)

    def _below(self, container: Any, types: list[Any], recursive: bool) -> list[Any]:
        found = []
        for item in self._world.all():
            parents = self._parents(item)
            inside = str(container._moId) in (parents if recursive else parents[:1])
            if inside and (not types or any(isinstance(item.reference, kind) for kind in types)):
                found.append(item.reference)
        return found

    def _parents(self, item: LabObject) -> list[str]:
        parents: list[str] = []
        current: LabObject | None = item
        while current is not None:
            parent = current.read("parent")
            if parent is None:
                break
            parents.append(str(parent._moId))
            current = self._world.find(parents[-1])
        return parents


class ListView(View):
    """The objects that its owner listed."""

    def __init__(self, world: World, moref: str, objects: list[Any]) -> None:
        super().__init__(world, moref, vim.view.ListView)
        self.objects = list(objects)
        self.readers["view"] = lambda: [item for item in self.objects if world.find(str(item._moId)) is not None]
