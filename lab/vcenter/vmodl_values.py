"""Building vmodl values: required fields filled, and values typed as the property they stand in declares."""

from datetime import UTC, datetime
from typing import Any

from lab.vcenter.vocabulary import vmomi

_BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)


def complete(value: Any) -> Any:
    """Fill a data object's unset required fields with neutral values, all the way down, and return it.

    Unset required fields make pyVmomi's serializer fail, and a vCenter always sends them. Required references to
    managed objects have no neutral value: their absence is left for the serializer to report.
    """
    for info in value._GetPropertyList():
        current = getattr(value, info.name)
        if isinstance(current, vmomi.DataObject):
            complete(current)
        elif isinstance(current, list):
            for item in current:
                if isinstance(item, vmomi.DataObject):
                    complete(item)
        elif current is None and not info.flags & vmomi.F_OPTIONAL:
            filler = neutral(info.type)
            if filler is not None:
                setattr(value, info.name, filler)
    return value


def neutral(kind: Any) -> Any:
    """Return the neutral value of a declared type, or None where there is none."""
    if issubclass(kind, list):
        return kind()
    if issubclass(kind, vmomi.DataObject):
        return complete(kind())
    if issubclass(kind, vmomi.Enum):
        return kind.values[0]
    if issubclass(kind, datetime):
        return _BEGINNING
    if issubclass(kind, bool):
        return False
    if issubclass(kind, (int, float, str)):
        return kind()
    return None


def typed(value: Any, kind: Any) -> Any:
    """Return a value as it must stand in an Any: arrays, longs and enums carry their declared type on the wire."""
    if value is None:
        return None
    if issubclass(kind, list):
        return value if type(value) is kind else kind(value)
    if isinstance(value, vmomi.DataObject | vmomi.ManagedObject | datetime | bool):
        return value
    if isinstance(value, int | float | str) and issubclass(kind, (int, float, str)) and type(value) is not kind:
        return kind(value)
    return value
