"""The HTTPS server: one thread a connection, TLS handshake on that thread, one write a reply."""

import json
import logging
import socket
import ssl
import uuid
from collections import deque
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from lab.arm.calls import Call, Reply
from lab.arm.errors import ArmError
from lab.arm.faults import Faults, Refusal
from lab.arm.page_plane import PagePlane
from lab.arm.page_requests import PageRefused
from lab.arm.routing import Router

_log = logging.getLogger(__name__)
_MAX_BODY_BYTES = 16 << 20
_REMEMBERED = 5_000


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request that was answered, for tests to count. The path carries no query: signatures stay out."""

    method: str
    path: str
    status: int


class ArmServer(ThreadingHTTPServer):
    """Listens on a free loopback port."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, router: Router, pages: PagePlane, faults: Faults, tls: ssl.SSLContext) -> None:
        self.router, self.pages, self.faults = router, pages, faults
        self.served: deque[ServedRequest] = deque(maxlen=_REMEMBERED)
        self._tls = tls
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands and serve one connection; called on the connection's thread."""
        if self.faults.unreachable():
            return
        request.settimeout(120)
        try:
            with self._tls.wrap_socket(request, server_side=True) as encrypted:
                super().finish_request(encrypted, client_address)
        except OSError as error:
            _log.debug("connection ended: %s", error)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a handler raised."""
        _log.exception("request from %s broke", client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: BaseServer

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self._serve()
        return False

    def handle_one_request(self) -> None:
        """Read a request line and serve it, whatever its method."""
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or len(self.raw_requestline) > 65_536:
            self.close_connection = True
            return
        self.parse_request()

    def _serve(self) -> None:
        server = self.server
        if not isinstance(server, ArmServer):
            raise TypeError("the handler belongs to ArmServer")
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MAX_BODY_BYTES:
            self._send(Reply(413, b"", {"Connection": "close"}))
            self.close_connection = True
            return
        body = self.rfile.read(length) if length else b""
        if server.faults.unreachable():
            self.close_connection = True
            return
        url = urlsplit(self.path)
        call = Call(
            method=self.command,
            path=unquote(url.path),
            query=dict(parse_qsl(url.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            base_url=f"https://{self.headers.get('Host', '127.0.0.1:' + str(server.server_port))}",
        )
        refusal = server.faults.take_refusal(call.method, call.path)
        if refusal is not None and refusal.status == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        reply = _answer(server, call) if refusal is None else _refused(refusal, of_data=server.pages.serves(call.path))
        server.served.append(ServedRequest(call.method, call.path, reply.status))
        if server.faults.take_drop(call.method, call.path):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        data = reply.body if isinstance(reply.body, bytes) else b"" if reply.body is None else json.dumps(reply.body).encode()
        headers = {
            "Date": formatdate(usegmt=True),
            "x-ms-request-id": str(uuid.uuid4()),
            "Content-Length": str(len(data)),
            **reply.headers,
        }
        if isinstance(reply.body, dict):
            headers.setdefault("Content-Type", "application/json; charset=utf-8")
        if reply.status == HTTPStatus.NO_CONTENT:
            del headers["Content-Length"]
        if self.headers.get("Connection", "").lower() == "close":
            self.close_connection = True
        phrase = HTTPStatus(reply.status).phrase
        lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        self.wfile.write(head if self.command == "HEAD" else head + data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log at debug level what the base class reports."""
        _log.debug(format, *args)


def _refused(refusal: Refusal, *, of_data: bool) -> Reply:
    if of_data:
        return PageRefused(refusal.status, refusal.code, "Refused on request of the lab.").reply
    error = ArmError(refusal.status, refusal.code, "Refused on request of the lab.")
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'} if refusal.status == HTTPStatus.UNAUTHORIZED else {}
    return Reply(refusal.status, error.body(), challenge)


def _answer(server: ArmServer, call: Call) -> Reply:
    try:
        return server.pages.handle(call) if server.pages.serves(call.path) else server.router.handle(call)
    except ArmError as error:
        return Reply(error.status, error.body(), error.headers)
    except Exception:
        _log.exception("%s %s broke", call.method, call.path)
        return Reply(500, {"error": {"code": "InternalServerError", "message": "Encountered internal server error."}})
