"""Reading properties by path: `config.hardware.device`, typed as the path's leaf declares."""

import re
from dataclasses import dataclass
from typing import Any

from lab.vcenter.vmodl_values import typed
from lab.vcenter.vocabulary import vmodl, vmomi
from lab.vcenter.world import LabObject

_SEGMENT = re.compile(r"([A-Za-z_]\w*)(?:\[(.+)\])?")


@dataclass(frozen=True, slots=True)
class PropertyValue:
    """What a path gave: the declared type of its leaf, and the value (None where it is unset)."""

    kind: Any
    value: Any


class PropertyReader:
    """Reads several paths of one object, building each top-level property once."""

    def __init__(self, item: LabObject) -> None:
        self._item = item
        self._top: dict[str, Any] = {}

    def read(self, path: str) -> PropertyValue:
        """Read one path. Raises vmodl.query.InvalidProperty if the object's type has no such path."""
        first, *rest = _split(path)
        info = property_info(type(self._item.reference), first[0], path)
        if first[0] not in self._top:
            self._top[first[0]] = typed(self._item.read(first[0]), info.type)
        kind, value = _indexed(info.type, self._top[first[0]], first[1], path)
        for name, key in rest:
            info = property_info(kind if value is None else type(value), name, path)
            kind, value = _indexed(info.type, None if value is None else getattr(value, info.name), key, path)
        if isinstance(value, list) and not value and rest:
            value = None  # inside a data object an array that was never set looks like an empty one
        return PropertyValue(kind, typed(value, kind))


def property_info(kind: Any, name: str, path: str) -> Any:
    """Return the declaration of a type's property. Raises vmodl.query.InvalidProperty naming the path."""
    try:
        return kind._GetPropertyInfo(name)
    except AttributeError as error:
        raise invalid_property(path) from error


def check_path(kind: Any, path: str) -> None:
    """Raise vmodl.query.InvalidProperty unless the path's first segment is a property of the type."""
    property_info(kind, _split(path)[0][0], path)


def invalid_property(path: str) -> Any:
    """Return the fault for a path that does not exist."""
    return vmodl.query.InvalidProperty(name=path, msg=f"The property {path} is not valid.")


def all_paths(kind: Any) -> list[str]:
    """Return the names of all of a managed type's properties."""
    return [info.name for info in kind._GetPropertyList()]


def _split(path: str) -> list[tuple[str, str | None]]:
    segments: list[tuple[str, str | None]] = []
    for part in re.split(r"\.(?![^\[]*\])", path):
        match = _SEGMENT.fullmatch(part)
        if match is None:
            raise invalid_property(path)
        segments.append((match[1], match[2]))
    return segments


def _indexed(kind: Any, value: Any, key: str | None, path: str) -> tuple[Any, Any]:
    """Apply an index like `[2000]` or `["name"]`: the element of an array whose `key` it is."""
    if key is None:
        return kind, value
    if not issubclass(kind, list):
        raise invalid_property(path)
    wanted = key.strip("\"'")
    found = next((item for item in value or () if str(getattr(item, "key", None)) == wanted), None)
    return kind.Item, found


def is_a(reference: Any, kind: Any) -> bool:
    """Return whether a reference is to an object of a type, which may be a base type such as ManagedEntity."""
    return kind is vmomi.ManagedObject or isinstance(reference, kind)
