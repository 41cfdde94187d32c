"""Faults that a test asks for by name and count; each is used up by the calls that it meets."""

import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lab.vcenter.vocabulary import vim, vmodl, vmomi


class FaultName(StrEnum):
    """What can be asked for."""

    METHOD = "method"
    """`method` raises the vmodl fault named `fault` (with `as_task_error`: in its task)."""
    SNAPSHOT_FAILS = "snapshot_fails"
    """CreateSnapshot's task ends with a SnapshotFault after its time, and no snapshot is made."""
    QUIESCE_FAILS = "quiesce_fails"
    """A quiesced CreateSnapshot's task ends with ApplicationQuiesceFault."""
    CONSOLIDATION_STUCK = "consolidation_stuck"
    """A removal leaves its deltas behind; ConsolidateVMDisks ends with FileLocked."""
    SHUTDOWN_NEVER_FINISHES = "shutdown_never_finishes"
    """ShutdownGuest returns, and the guest stays up."""
    FOLDER_ERROR = "folder_error"
    """`/folder` answers with HTTP status `status` (500 if not given)."""
    CUT = "cut"
    """The connection is closed instead of carrying `method` out."""
    DROP_REPLY = "drop_reply"
    """`method` is carried out, and the connection closed instead of answering."""
    HTTP_ERROR = "http_error"
    """`method` is not carried out: HTTP status `status` with a page, as of vCenter's proxy."""
    NO_SOAP = "no_soap"
    """`method` is not carried out: a page that is not SOAP, as of something else that listens there."""


WIRE_FAULTS = (FaultName.CUT, FaultName.DROP_REPLY, FaultName.HTTP_ERROR, FaultName.NO_SOAP)
"""Those that a request's connection meets, before any session or method."""


@dataclass(slots=True)
class FaultRequest:
    """One request: the next `count` calls that match it."""

    name: FaultName
    count: int = 1
    """How often; 0 means until it is cleared."""
    vm: str = ""
    """Only for this VM (moref); empty means any."""
    method: str = ""
    fault: str = ""
    as_task_error: bool = False
    status: int = 500
    after_effect: bool = False
    """With `as_task_error`: the task does its work first."""
    message_key: str = ""
    """With FileFault: the key of its fault message."""
    invalid_property: str = ""
    """With InvalidArgument: the property complained of."""
    object_type: str = ""
    """With ManagedObjectNotFound: the WSDL name of the type of the object that it names."""

    def make_fault(self) -> Any:
        """Return a new instance of the vmodl fault that `fault` names. Raises ValueError."""
        for room in (vim.fault, vmodl.fault, vmodl.query):
            kind = getattr(room, self.fault, None)
            if kind is not None:
                return self._filled(kind(msg=f"The lab was asked for {self.fault}."))
        raise ValueError(f"there is no vSphere fault called {self.fault}")

    def _filled(self, fault: Any) -> Any:
        """Fill a fault's required fields; those that name a managed object get the service instance."""
        for info in fault._GetPropertyList():
            if getattr(fault, info.name) is None and not info.flags & vmomi.F_OPTIONAL:
                if issubclass(info.type, vmomi.ManagedObject):
                    setattr(fault, info.name, info.type("lab-fault"))
                elif issubclass(info.type, vmomi.Enum):
                    setattr(fault, info.name, info.type.values[0])
        if self.invalid_property:
            fault.invalidProperty = self.invalid_property
        if self.object_type:
            fault.obj = vmomi.GetWsdlType("urn:vim25", self.object_type)("lab-fault")
        if self.message_key:
            fault.faultMessage = [vmodl.LocalizableMessage(key=self.message_key, message=self.message_key)]
        return fault


@dataclass(slots=True)
class FaultPlan:
    """The faults that are still to come."""

    _requests: list[FaultRequest] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, request: FaultRequest) -> None:
        """Add a request. Raises ValueError if it names a vSphere fault that there is not."""
        if request.name is FaultName.METHOD:
            request.make_fault()
        with self._lock:
            self._requests.append(request)

    def clear(self, name: FaultName | None = None) -> None:
        """Forget all requests, or those of one name."""
        with self._lock:
            self._requests = [request for request in self._requests if name is not None and request.name is not name]

    def take(self, name: FaultName, *, vm: str = "", method: str = "", as_task_error: bool = False) -> FaultRequest | None:
        """Use up and return the first request that matches, or None."""
        with self._lock:
            for request in self._requests:
                if (
                    request.name is name
                    and request.vm in ("", vm)
                    and request.method == method
                    and request.as_task_error == as_task_error
                ):
                    self._use(request)
                    return request
        return None

    def take_wire(self, method: str, vm: str) -> FaultRequest | None:
        """Use up and return what the connection of a call of a method is to meet, or None."""
        found = (self.take(name, vm=vm, method=method) for name in WIRE_FAULTS)
        return next((request for request in found if request is not None), None)

    def take_method(self, method: str, vm: str, *, as_task_error: bool = False) -> Any:
        """Use up and return the vmodl fault that a call of a method is to raise, or None."""
        request = self.take(FaultName.METHOD, vm=vm, method=method, as_task_error=as_task_error)
        return None if request is None else request.make_fault()

    def _use(self, request: FaultRequest) -> None:
        if request.count == 1:
            self._requests.remove(request)
        elif request.count > 1:
            request.count -= 1

    def pending(self) -> tuple[FaultRequest, ...]:
        """Return the requests that are not used up."""
        with self._lock:
            return tuple(self._requests)
