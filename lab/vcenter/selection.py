"""Which objects a filter names: its object specs, followed along traversal specs."""

from collections.abc import Callable, Iterator
from typing import Any

from lab.vcenter.properties import PropertyReader, check_path, is_a
from lab.vcenter.vocabulary import vmodl, vmomi
from lab.vcenter.world import LabObject

Find = Callable[[Any], LabObject | None]
"""Finds an object by reference, in the caller's session or in the inventory; None if it is gone."""


def select(filter_spec: Any, find: Find) -> Iterator[LabObject]:
    """Yield the objects of a FilterSpec, each once.

    Raises vmodl.fault.ManagedObjectNotFound for an object spec's own object, and InvalidProperty for a traversal along
    a property that its type does not have. An object that a traversal meets and that is gone meanwhile is left out.
    """
    seen: set[str] = set()
    for object_spec in filter_spec.objectSet:
        start = find(object_spec.obj)
        if start is None:
            if filter_spec.reportMissingObjectsInResults:
                continue
            raise vmodl.fault.ManagedObjectNotFound(obj=object_spec.obj, msg="The object has already been deleted.")
        named = _named_specs(object_spec.selectSet)
        yield from _follow(start, object_spec.skip, object_spec.selectSet, named, find, seen, set())


def _named_specs(select_set: Any) -> dict[str, Any]:
    """Collect the traversal specs that selection specs refer to by name."""
    named: dict[str, Any] = {}
    pending = list(select_set or ())
    while pending:
        spec = pending.pop()
        if isinstance(spec, vmodl.query.PropertyCollector.TraversalSpec):
            check_path(spec.type, spec.path)
            if spec.name:
                named[spec.name] = spec
            pending.extend(spec.selectSet or ())
    return named


def _follow(
    item: LabObject, skip: Any, select_set: Any, named: dict[str, Any], find: Find, seen: set[str], walked: set[tuple[str, int]]
) -> Iterator[LabObject]:
    if not skip and item.moref not in seen:
        seen.add(item.moref)
        yield item
    for spec in select_set or ():
        traversal = spec
        if not isinstance(spec, vmodl.query.PropertyCollector.TraversalSpec):
            if spec.name not in named:
                raise vmodl.fault.InvalidArgument(invalidProperty="selectSet", msg=f"There is no selection {spec.name}.")
            traversal = named[spec.name]
        if not is_a(item.reference, traversal.type) or (item.moref, id(traversal)) in walked:
            continue
        walked.add((item.moref, id(traversal)))
        for reference in _references(PropertyReader(item).read(traversal.path).value):
            target = find(reference)
            if target is not None:
                yield from _follow(target, traversal.skip, traversal.selectSet, named, find, seen, walked)


def _references(value: Any) -> list[Any]:
    if isinstance(value, vmomi.ManagedObject):
        return [value]
    return [item for item in value or () if isinstance(item, vmomi.ManagedObject)]
