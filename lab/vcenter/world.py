"""The one shared state of the lab's vCenter: its objects, its clock, and the condition that every change notifies."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from lab.vcenter.faults import FaultPlan
from lab.vcenter.settings import Answers, Denials, Times
from lab.vcenter.vocabulary import vmodl


def now() -> datetime:
    """Return the time, as vSphere gives it: in UTC."""
    return datetime.now(UTC)


class LabObject:
    """A managed object: a reference that travels, and readers of its properties by name."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference
        self.readers: dict[str, Callable[[], Any]] = {}

    @property
    def moref(self) -> str:
        """The object's own name in vSphere, e.g. `vm-21`."""
        return str(self.reference._moId)

    def read(self, name: str) -> Any:
        """Return a property's value as vmodl objects, or None where it is unset; called under the world's lock."""
        reader = self.readers.get(name)
        return None if reader is None else reader()


class World:
    """Objects by moref, the lock that guards all of them, and the means to wait for a change."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self.faults = FaultPlan()
        self.denials = Denials()
        self.answers = Answers()
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.revision = 0
        self.stopping = threading.Event()
        self._objects: dict[str, LabObject] = {}
        self._next_number = 100

    def number(self) -> int:
        """Return a number that was never returned before: morefs, keys and snapshot ids are made of them."""
        with self.lock:
            self._next_number += 1
            return self._next_number

    def add(self, item: LabObject) -> None:
        """Make an object reachable."""
        with self.lock:
            self._objects[item.moref] = item
            self.changed()

    def remove(self, moref: str) -> None:
        """Make an object unreachable: calls on it raise ManagedObjectNotFound from now on."""
        with self.lock:
            self._objects.pop(moref, None)
            self.changed()

    def changed(self) -> None:
        """Tell everybody who waits for updates that something may have changed."""
        with self.condition:
            self.revision += 1
            self.condition.notify_all()

    def find(self, moref: str) -> LabObject | None:
        """Return an object by moref, or None."""
        with self.lock:
            return self._objects.get(moref)

    def get(self, reference: Any) -> LabObject:
        """Return the object that a reference names. Raises vmodl.fault.ManagedObjectNotFound."""
        found = self.find(str(reference._moId))
        if found is None or not isinstance(found.reference, type(reference)):
            raise object_not_found(reference)
        return found

    def all(self) -> Iterator[LabObject]:
        """Return all objects, in the order in which they were made."""
        with self.lock:
            return iter(list(self._objects.values()))

    def pause(self, seconds: float) -> None:
        """Let time pass; ends early when the lab stops."""
        if seconds > 0:
            self.stopping.wait(seconds)


def object_not_found(reference: Any) -> Any:
    """Return the fault for a reference to an object that does not exist (any more)."""
    return vmodl.fault.ManagedObjectNotFound(
        obj=reference,
        msg=f"The object '{reference._wsdlName}:{reference._moId}' has already been deleted or has not been completely created",
    )


def data_object(kind: Any, /, **values: Any) -> Any:
    """Return a vmodl data object; a spelling of its own so that reads of the inventory stay short."""
    made = kind()
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made
