"""Reading properties of managed objects in bulk: RetrievePropertiesEx with paging, never attribute by attribute."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltaferry.ports.access import Beat
from deltaferry.vsphere.session import Session, once_more_in_a_new_session
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

_PAGE_OBJECTS = 100
_query = vmodl.query.PropertyCollector


@dataclass(frozen=True, slots=True)
class ObjectProperties:
    """What one reading returned for one object, by property path."""

    reference: ManagedObject
    values: Mapping[str, Any]
    faults: Mapping[str, Exception]
    """Why a property could not be read, mostly NoPermission."""

    def get(self, path: str) -> Any:
        """Return a property's value, None where it is unset. Raises the fault that kept it from being read."""
        if path in self.faults:
            raise self.faults[path]
        return self.values.get(path)

    @property
    def moref(self) -> str:
        """The object's own name in vSphere, e.g. `vm-16`."""
        return moref(self.reference)


def moref(reference: ManagedObject) -> str:
    """Return vSphere's own name of an object."""
    return str(reference._GetMoId())


def read_objects(session: Session, references: Sequence[ManagedObject], paths: Sequence[str]) -> tuple[ObjectProperties, ...]:
    """Return these objects' properties, in vSphere's order. Objects are all of types that have these properties.

    Raises ManagedObjectNotFound if one of them is gone.
    """
    if not references:
        return ()
    kinds = {type(reference) for reference in references}
    spec = _query.FilterSpec(
        objectSet=[_query.ObjectSpec(obj=reference, skip=False) for reference in references],
        propSet=[_query.PropertySpec(type=kind, all=False, pathSet=list(paths)) for kind in kinds],
    )
    return once_more_in_a_new_session(session, lambda: _retrieve(session, spec))


def read_object(session: Session, reference: ManagedObject, paths: Sequence[str]) -> ObjectProperties:
    """Return one object's properties. Raises ManagedObjectNotFound."""
    return read_objects(session, [reference], paths)[0]


def read_all(session: Session, kind: Any, paths: Sequence[str]) -> tuple[ObjectProperties, ...]:
    """Return the properties of every object of a type in the inventory, found by a container view."""
    return read_kinds(session, {kind: paths}, lambda: None)


def read_kinds(session: Session, paths: Mapping[Any, Sequence[str]], beat: Beat) -> tuple[ObjectProperties, ...]:
    """Return the properties of every object of several types in one retrieval, with its paths for each type.

    `beat` is called after each page. What is deleted meanwhile is left out, or has a fault in place of its properties.
    """

    def read() -> tuple[ObjectProperties, ...]:
        content = session.content()
        view = content.viewManager.CreateContainerView(content.rootFolder, list(paths), True)
        try:
            spec = _query.FilterSpec(
                objectSet=[
                    _query.ObjectSpec(
                        obj=view,
                        skip=True,
                        selectSet=[_query.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)],
                    )
                ],
                propSet=[_query.PropertySpec(type=kind, all=False, pathSet=list(of_kind)) for kind, of_kind in paths.items()],
            )
            return _retrieve(session, spec, beat)
        finally:
            view.DestroyView()

    return once_more_in_a_new_session(session, read)


def read_referenced(
    session: Session, owner: ManagedObject, path: str, kind: Any, paths: Sequence[str]
) -> tuple[ObjectProperties, ...]:
    """Return properties of the objects that a property of `owner` refers to; those that are gone are left out."""
    spec = _query.FilterSpec(
        objectSet=[
            _query.ObjectSpec(
                obj=owner,
                skip=True,
                selectSet=[_query.TraversalSpec(name=path, type=type(owner), path=path, skip=False)],
            )
        ],
        propSet=[_query.PropertySpec(type=kind, all=False, pathSet=list(paths))],
    )
    return once_more_in_a_new_session(session, lambda: _retrieve(session, spec))


def names_of(session: Session, references: Iterable[ManagedObject]) -> dict[str, str]:
    """Return the names of managed entities (hosts, networks, datastores) by moref, in one reading."""
    unique = {moref(reference): reference for reference in references}
    return {row.moref: unescaped(row.get("name") or "") for row in read_objects(session, list(unique.values()), ["name"])}


def unescaped(name: str) -> str:
    """Return a name as people write it: vSphere stores `%`, `/` and backslash as `%25`, `%2f` and `%5c`."""
    for escape, character in (("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\"), ("%25", "%")):
        name = name.replace(escape, character)
    return name


def _retrieve(session: Session, spec: Any, beat: Beat = lambda: None) -> tuple[ObjectProperties, ...]:
    collector = session.content().propertyCollector
    rows: list[ObjectProperties] = []
    page = collector.RetrievePropertiesEx([spec], _query.RetrieveOptions(maxObjects=_PAGE_OBJECTS))
    while page is not None:
        beat()
        rows.extend(_row(content) for content in page.objects or ())
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return tuple(rows)


def _row(content: Any) -> ObjectProperties:
    return ObjectProperties(
        content.obj,
        {item.name: item.val for item in content.propSet or ()},
        {item.path: item.fault for item in content.missingSet or ()},
    )
