"""From a SOAP request to the method that answers it: authentication, privileges, asked-for faults, the call."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.vcenter.collector import DEFAULT_COLLECTOR, PropertyCollector
from lab.vcenter.faults import FaultRequest
from lab.vcenter.retrieval import fetch
from lab.vcenter.sessions import Session, SessionManager
from lab.vcenter.soap import SoapRequest, render_fault, render_result
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import LabObject, World

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """One call, with what its handler needs to know."""

    world: World
    sessions: SessionManager
    session: Session | None
    """The caller's session; a handler that is not anonymous can rely on it."""
    target: LabObject
    method: str
    arguments: Any
    address: str
    agent: str
    opened: Session | None = None
    """Set by Login: its cookie is sent with the reply."""

    @property
    def caller(self) -> Session:
        """The caller's session. Raises vim.fault.NotAuthenticated."""
        if self.session is None:
            raise not_authenticated(self.target.reference)
        return self.session

    def argument(self, name: str) -> Any:
        """Return an argument by its declared name; an omitted optional one is None or empty."""
        return self.arguments.get(name)


Handler = Callable[[Call], Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, rendered."""

    status: int
    body: bytes
    opened: Session | None = None


ANONYMOUS = frozenset({"RetrieveServiceContent", "Login", "SessionIsActive"})
"""Methods that need no session. Reading the service instance does not either."""


def not_authenticated(reference: Any) -> Any:
    """Return the fault for a call without a live session."""
    return vim.fault.NotAuthenticated(object=reference, privilegeId="System.View", msg="The session is not authenticated.")


class Dispatcher:
    """Answers requests by a table of handlers, keyed by the methods' WSDL names."""

    def __init__(self, world: World, sessions: SessionManager, handlers: dict[str, Handler]) -> None:
        self._world = world
        self._sessions = sessions
        self._handlers = handlers
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Return how often each method was called."""
        return dict(self._counts)

    def wire_fault(self, request: SoapRequest) -> FaultRequest | None:
        """Use up and return what the request's connection is to meet, or None."""
        return self._world.faults.take_wire(request.method, str(request.this._moId))

    def answer(self, request: SoapRequest, cookie: str | None, address: str, agent: str) -> Reply:
        """Carry out a request. Every failure becomes a SOAP fault."""
        with self._world.lock:
            session = self._sessions.find(cookie)
            self._counts[request.method] += 1
            if session is not None:
                session.in_progress += 1
        try:
            return self._answer(request, session, address, agent)
        except vmodl.MethodFault as fault:
            return Reply(500, render_fault(fault))
        except Exception:
            _log.exception("the lab's vCenter broke in %s", request.method)
            return Reply(500, render_fault(vmodl.fault.SystemError(reason="lab", msg="A general system error occurred")))
        finally:
            if session is not None:
                with self._world.lock:
                    session.in_progress -= 1
                    session.touch()

    def _answer(self, request: SoapRequest, session: Session | None, address: str, agent: str) -> Reply:
        if session is None and not _is_anonymous(request):
            raise not_authenticated(request.this)
        target = self._target(request.this, session)
        if request.info is None:
            with self._world.lock:
                found = fetch(target, request.arguments["prop"])
                return Reply(200, render_result("Fetch", found.kind, found.value))
        injected = self._world.faults.take_method(request.method, target.moref)
        if injected is not None:
            raise injected
        self._check_privilege(request)
        handler = self._handlers.get(request.method)
        if handler is None:
            raise vmodl.fault.NotSupported(msg=f"The lab's vCenter does not have {request.method}.")
        call = Call(self._world, self._sessions, session, target, request.method, request.arguments, address, agent)
        result = handler(call)
        with self._world.lock:
            return Reply(200, render_result(request.method, request.info.result, result), call.opened)

    def _target(self, reference: Any, session: Session | None) -> LabObject:
        moref = str(reference._moId)
        if session is not None:
            own = session.find(moref)
            if own is not None:
                return own
            if moref == DEFAULT_COLLECTOR:
                collector = PropertyCollector(self._world, self._sessions, session, moref)
                session.add(collector)
                return collector
        if moref == DEFAULT_COLLECTOR:
            return PropertyCollector(self._world, self._sessions, Session("", "", ""), moref)
        return self._world.get(reference)

    def _check_privilege(self, request: SoapRequest) -> None:
        privilege = getattr(request.info, "privId", None)
        if privilege in self._world.denials.privileges:
            raise vim.fault.NoPermission(
                object=request.this, privilegeId=privilege, msg="Permission to perform this operation was denied."
            )


def _is_anonymous(request: SoapRequest) -> bool:
    if request.info is None:
        return isinstance(request.this, vim.ServiceInstance)
    if request.method in ANONYMOUS:
        return True
    if request.method not in ("RetrieveProperties", "RetrievePropertiesEx"):
        return False
    objects = [item for spec in request.arguments["specSet"] for item in spec.objectSet]
    return all(isinstance(item.obj, vim.ServiceInstance) and not item.selectSet for item in objects)
