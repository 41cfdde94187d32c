"""One session with a vCenter: verified TLS, log-in when needed, log-in again when it expired, kept alive, logged out.

A session lives as long as the worker: vCenter allows 2,000 of them, and a log-in per activity leaks them. Everything
here raises pyVmomi's and the network's own exceptions, except where it says DeltaferryError.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.errors import NETWORK_ERRORS, VSPHERE_ERRORS, vsphere_errors
from deltaferry.vsphere.vocabulary import API_VERSION, ManagedObject, SoapStub, StubBase, vim, vmodl

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

KEEPALIVE_S = 600.0
"""vCenter ends a session after 30 idle minutes; asking the time every ten keeps it (as govmomi does)."""

REJECTED_FOR_S = 30.0
"""For how long a refused password is not tried again: five wrong ones in three minutes lock an SSO user out."""

_POOL_SIZE = 8
_POOL_IDLE_S = 30.0
"""Idle connections are closed before a server or firewall drops them: a request on a dropped one fails."""

_REPEATABLE = frozenset(
    {
        "RetrieveServiceContent",
        "RetrievePropertiesEx",
        "QueryChangedDiskAreas",
        "FindAllByUuid",
        "WaitForUpdatesEx",
        "CurrentTime",
    }
)
"""Methods that only read: sent once more when their connection broke. Any other might be carried out twice."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a site's vCenter (or stand-alone ESXi host) listens, and as whom to log in."""

    host: str
    user: str
    port: int = 443
    ca_file: Path | None = None
    """PEM file of the authorities to trust; None means the machine's own trust store."""
    timeout_s: float = 60.0
    """Limit of every connect, send and receive."""


@dataclass(frozen=True, slots=True)
class _Login:
    """One log-in: a stub of its own, so that late replies to an older session never replace the newer one's cookie."""

    number: int
    soap: Any
    session_manager: ManagedObject
    session_key: str


class _SessionStub(StubBase):  # type: ignore[misc]
    """The stub of every managed object: sends a call in the present session, and once more in a new one if that expired."""

    def __init__(self, session: "Session") -> None:
        super().__init__(version=API_VERSION)
        self._session = session

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:  # noqa: N802, N803, RUF100
        """Carry out a method call; pyVmomi's own name and signature."""
        login = self._session.login()
        status, result = self._send(login, mo, info, args)
        if isinstance(result, vim.fault.NotAuthenticated):
            login = self._session.login(instead_of=login.number)
            status, result = self._send(login, mo, info, args)
        if status != 200:
            raise result
        return result

    def _send(self, login: _Login, mo: Any, info: Any, args: Any) -> tuple[int, Any]:
        try:
            answer: tuple[int, Any] = login.soap.InvokeMethod(mo, info, args, self)
        except NETWORK_ERRORS:
            if info.wsdlName not in _REPEATABLE:
                raise
            answer = login.soap.InvokeMethod(mo, info, args, self)
        return answer


class Session:
    """The one session of a worker with one endpoint; safe for use by several threads at once.

    `password` is called at every log-in, so that a rotated secret is read again; what it raises passes through.
    """

    def __init__(self, endpoint: Endpoint, password: Callable[[], str], *, keepalive_s: float = KEEPALIVE_S) -> None:
        self.endpoint = endpoint
        self._password = password
        self._keepalive_s = keepalive_s
        self._lock = threading.Lock()
        self._login: _Login | None = None
        self._logins = 0
        self._rejected: tuple[str, float] | None = None
        self._closed = threading.Event()
        self._content: Any = None
        self._stub = _SessionStub(self)

    def __repr__(self) -> str:
        """Endpoint only: no secret and no cookie."""
        return f"<Session {self.endpoint.user} at {self.endpoint.host}:{self.endpoint.port}>"

    @property
    def number(self) -> int:
        """How often this session was logged in: objects of the session (views, collectors, filters) die when it changes."""
        return self._logins

    @property
    def key(self) -> str:
        """The present session's key in vSphere."""
        return self.login().session_key

    def content(self) -> Any:
        """Return the service content: references to the endpoint's managers, the same for the life of the process."""
        if self._content is None:
            self._content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
        return self._content

    def object(self, kind: Any, moref: str) -> ManagedObject:
        """Return a reference to an object whose name in vSphere is known."""
        return kind(moref, self._stub)

    def login(self, instead_of: int | None = None) -> _Login:
        """Return the present log-in, logging in first if there is none or if it is number `instead_of`."""
        with self._lock:
            if self._closed.is_set():
                raise DeltaferryError(ErrorKind.INTERRUPTED, f"the session with {self.endpoint.host} is closed")
            if self._login is None or self._login.number == instead_of:
                self._login = self._log_in()
            return self._login

    def close(self) -> None:
        """Log out and close the connections. A session that cannot be logged out expires by itself."""
        with self._lock:
            self._closed.set()
            login, self._login = self._login, None
        if login is None:
            return
        try:
            login.session_manager.Logout()
        except VSPHERE_ERRORS as error:
            _log.warning("logging out of %s failed: %s", self.endpoint.host, type(error).__name__)
        login.soap.DropConnections()

    def _log_in(self) -> _Login:
        password = self._read_password()
        if self._rejected and self._rejected[0] == password and time.monotonic() < self._rejected[1]:
            raise DeltaferryError(
                ErrorKind.VSPHERE_LOGIN_REJECTED,
                f"{self.endpoint.host} has just refused this password for {self.endpoint.user}; it is not tried again at once",
            )
        soap = SoapStub(
            host=self.endpoint.host,
            port=self.endpoint.port,
            version=API_VERSION,
            poolSize=_POOL_SIZE,
            connectionPoolTimeout=_POOL_IDLE_S,
            sslContext=verified_context(self.endpoint),
            httpConnectionTimeout=self.endpoint.timeout_s,
        )
        manager = vim.ServiceInstance("ServiceInstance", soap).RetrieveContent().sessionManager
        try:
            session = manager.Login(self.endpoint.user, password, None)
        except vim.fault.InvalidLogin:
            self._rejected = (password, time.monotonic() + REJECTED_FOR_S)
            soap.DropConnections()
            raise
        self._rejected = None
        if self._login is None:
            threading.Thread(target=self._keep_alive, name=f"keepalive-{self.endpoint.host}", daemon=True).start()
        else:
            self._login.soap.DropConnections()
        self._logins += 1
        _log.info("logged in to %s as %s (log-in %d)", self.endpoint.host, self.endpoint.user, self._logins)
        return _Login(self._logins, soap, manager, session.key)

    def _read_password(self) -> str:
        try:
            return self._password()
        except OSError as error:
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION,
                f"the password of {self.endpoint.user} at {self.endpoint.host} cannot be read: {error.strerror}",
            ) from error

    def _keep_alive(self) -> None:
        instance = vim.ServiceInstance("ServiceInstance", self._stub)
        while not self._closed.wait(self._keepalive_s):
            try:
                with vsphere_errors(f"keeping the session with {self.endpoint.host} alive"):
                    instance.CurrentTime()
            except DeltaferryError as error:
                _log.warning("%s", error)


def verified_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name, whatever the host.

    pyVmomi left to itself verifies nothing on a loopback address. Raises BAD_CONFIGURATION for a CA file that cannot
    be read.
    """
    try:
        return ssl.create_default_context(cafile=str(endpoint.ca_file) if endpoint.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION,
            f"the CA file {endpoint.ca_file} of {endpoint.host} cannot be read: {type(error).__name__}",
        ) from error


def once_more_in_a_new_session(session: Session, read: Callable[[], _T]) -> _T:
    """Call `read`, and once more if the session was lost in its middle, taking its views and paging tokens along."""
    before = session.number
    try:
        return read()
    except (vmodl.fault.ManagedObjectNotFound, vmodl.fault.InvalidArgument):
        if session.number == before or before == 0:
            raise
        return read()
