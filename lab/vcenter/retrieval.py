"""What a filter says of the objects that it selects: their properties, and what could not be read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lab.vcenter.properties import PropertyReader, PropertyValue, all_paths, check_path, invalid_property, is_a
from lab.vcenter.selection import Find, select
from lab.vcenter.settings import Denials
from lab.vcenter.soap import wire_text
from lab.vcenter.vocabulary import vim, vmodl, vmomi
from lab.vcenter.world import LabObject, data_object

_Collector = vmodl.query.PropertyCollector


@dataclass(slots=True)
class ObjectReading:
    """One object's properties by path; unset ones are left out, as vSphere does."""

    reference: Any
    values: dict[str, PropertyValue] = field(default_factory=dict)
    missing: dict[str, Any] = field(default_factory=dict)
    """Paths that could not be read, each with its fault."""

    def content(self) -> Any:
        """Return the reading as an ObjectContent."""
        return data_object(
            _Collector.ObjectContent,
            obj=self.reference,
            propSet=[vmodl.DynamicProperty(name=path, val=item.value) for path, item in self.values.items()],
            missingSet=self.missing_set(),
        )

    def missing_set(self) -> list[Any]:
        """Return what could not be read as MissingProperty objects."""
        return [_Collector.MissingProperty(path=path, fault=fault) for path, fault in self.missing.items()]

    def wire(self) -> dict[str, str]:
        """Return each value as it would be serialised, to find out whether it changed."""
        return {path: wire_text(item.value, vmomi.GetVmodlType("anyType")) for path, item in self.values.items()}


def check_spec(filter_spec: Any) -> None:
    """Raise InvalidProperty if a property spec names a path that its type does not have."""
    for spec in filter_spec.propSet:
        for path in spec.pathSet or ():
            check_path(spec.type, path)


def check_filter(filter_spec: Any, find: Find) -> None:
    """Raise what reading the filter's objects now would: InvalidProperty, ManagedObjectNotFound, InvalidArgument."""
    check_spec(filter_spec)
    for _ in select(filter_spec, find):
        continue


def read_spec(filter_spec: Any, find: Find, denials: Denials) -> Iterator[ObjectReading]:
    """Yield the readings of a filter's objects, those that no property spec speaks of left out.

    Raises InvalidProperty, ManagedObjectNotFound and InvalidArgument, as `select` and the paths demand.
    """
    check_spec(filter_spec)
    for item in select(filter_spec, find):
        specs = [spec for spec in filter_spec.propSet if is_a(item.reference, spec.type)]
        if specs:
            yield _read_object(item, specs, denials)


def _read_object(item: LabObject, specs: list[Any], denials: Denials) -> ObjectReading:
    reading = ObjectReading(item.reference)
    reader = PropertyReader(item)
    for spec in specs:
        for path in all_paths(type(item.reference)) if spec.all else spec.pathSet or ():
            if path in reading.values or path in reading.missing:
                continue
            if path in denials.properties:
                reading.missing[path] = vim.fault.NoPermission(object=item.reference, privilegeId="System.Read")
                continue
            value = reader.read(path)
            if value.value is not None:
                reading.values[path] = value
    return reading


def fetch(item: LabObject, path: str) -> PropertyValue:
    """Return one property, as the undocumented Fetch does. Raises InvalidProperty."""
    if "." in path:
        raise invalid_property(path)
    return PropertyReader(item).read(path)
