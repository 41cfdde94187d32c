"""Sentences for input that cannot be read: what is wrong, where, and what to write instead."""

import dataclasses
import functools
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

EXAMPLES = {
    "EnableInput": '{"vm": "web-01", "site": "lon1"}',
    "AdoptInput": '{"site": "lon1"}',
    "InventoryInput": '{"site": "lon1"}',
    "AuditInput": '{"site": "lon1", "dry_run": true}',
    "MigrateOptions": '{"shutdown_timeout": "PT10M", "allow_power_off": true}',
    "EndOptions": '{"keep_change_tracking": false, "reason": "why"}',
    "RepairOptions": '{"full_copy": false, "reset_tracking": false}',
    "VerifyOptions": '{"with_source": false}',
    "SettingsChange": '{"disks_per_host": 4, "blackout": "Monday;7:00;7h"}',
    "ReassignInput": '{"vm": "5021f0…", "appliance": "edge-2"}',
    "ForceRelease": '{"holder": "vm/lon1/5021f0…", "reason": "why"}',
    "TestOptions": '{"network": "drill"}',
    "CleanUpOptions": '{"test": 1, "reason": "all came up"}',
    "FailoverOptions": '{"point": "latest", "shut_down_source": true}',
    "ChangePointOptions": '{"point": "2026-11-22T12:00:00Z"}',
    "ReprotectOptions": '{"confirm_losses": false, "power_off_source": false}',
    "AlternateLocation": '{"datastore": "ds2", "host": "esx-2"}',
    "PolicyOptions": '{"name": "gold", "rpo_threshold": "PT4H", "retention": "P1D"}',
    "PolicyName": '{"name": "gold", "reason": "why"}',
    "PlanInput": '{"plan": {"name": "shop", "groups": [{"name": "database", "vms": ["vm/lon1/5021f0…"]}]}, "run": "test", "network": "drill"}',
    "PlanDecision": '{"item": "database/after/check the data", "reason": "why", "by": "who"}',
    "GroupInput": '{"name": "shop", "site": "lon1", "members": ["vm/lon1/5021f0…", "vm/lon1/5021f1…"]}',
    "GroupChange": '{"interval": "PT2H", "reason": "why"}',
    "GroupMemberInput": '{"member": "vm/lon1/5021f0…"}',
    "PlanAbort": '{"reason": "why", "by": "who"}',
    "PlanCleanUp": '{"leave": false}',
    "Reason": '{"reason": "why"}',
    "TargetProperties": '{"size": "Standard_D4s_v5", "subnet": "web"}',
}
"""An input that is accepted, for each type that people write."""


class UnreadableInputError(Exception):
    """An input is not what an operation takes; the text is the sentence for whoever sent it."""


def read_input(what: str, kind: type[T], raw: object) -> T:
    """Return an input as the type that an operation takes; nothing at all stands for an empty object.

    Raises UnreadableInputError.
    """
    try:
        read: T = _adapter(kind).validate_python({} if raw is None else raw)  # type: ignore[arg-type]  # a type is hashable
    except ValidationError as error:
        raise UnreadableInputError(bad_input_sentence(what, kind, error)) from None
    return read


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Return the reader of a type, built once: a burst of signals that each built one would keep the thread for seconds."""
    return TypeAdapter(kind)


def bad_input_sentence(what: str, kind: type[Any], error: ValidationError) -> str:
    """Return what is wrong with an input, field by field, with an example of a right one. Holds no value of the input."""
    problems = "; ".join(
        _problem(kind, details["loc"], details["type"], details["msg"]) for details in error.errors(include_input=False)
    )
    example = EXAMPLES.get(kind.__name__, "{}")
    return f"The input ({what}) cannot be used: {problems}. Write for example {example}"


def _problem(kind: type[Any], location: tuple[int | str, ...], code: str, message: str) -> str:
    where = ".".join(str(part) for part in location)
    if code == "unexpected_keyword_argument":
        known = ", ".join(field.name for field in dataclasses.fields(_owner(kind, location)))
        return f"there is no field {where!r} (the fields are {known})"
    if code == "missing":
        return f"the field {where!r} is missing"
    if not where:
        return f"it must be a JSON object ({message[:1].lower()}{message[1:]})"
    return f"the field {where!r}: {message[:1].lower()}{message[1:]}"


def _owner(kind: type[Any], location: tuple[int | str, ...]) -> type[Any]:
    """Return the dataclass in which the location's last field was looked for."""
    for part in location[:-1]:
        if isinstance(part, int):  # an entry of a list, of which the field before has the type
            continue
        field = next((field for field in dataclasses.fields(kind) if field.name == part), None)
        inner = _dataclass_in(field.type) if field is not None else None
        if inner is None:
            return kind
        kind = inner
    return kind


def _dataclass_in(annotation: Any) -> type[Any] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and dataclasses.is_dataclass(c)), None)
