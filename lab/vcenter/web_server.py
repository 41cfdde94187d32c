"""The vCenter's HTTPS server: `/sdk`, `/sdk/vimServiceVersions.xml` and `/folder`."""

import logging
import math
import re
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lab.processes import free_ports
from lab.vcenter.dispatch import Dispatcher
from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.folder import DatastoreFiles, FileReply
from lab.vcenter.service_content import SERVICE_VERSIONS
from lab.vcenter.sessions import COOKIE_NAME, Session
from lab.vcenter.soap import BadRequestError, parse_request, render_fault
from lab.vcenter.vocabulary import vmodl

_log = logging.getLogger(__name__)
_COOKIE = re.compile(rf'{COOKIE_NAME}="?([0-9a-f]+)"?')
_BODY_LIMIT = 16 << 20
_CHUNK_LINE_LIMIT = 1024
_SEND_STEP = 1 << 20
_HANDSHAKE_S = 30.0
_LOOK_S = 0.05
"""How often an unreachable server looks whether it still is."""


class _Handler(BaseHTTPRequestHandler):
    """One connection. `server` is a WebServer."""

    protocol_version = "HTTP/1.1"
    server_version = "lab-vcenter"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    server: "WebServer"

    def setup(self) -> None:
        """Do the TLS handshake here, in the connection's own thread."""
        self.request.settimeout(_HANDSHAKE_S)
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.request.settimeout(None)
        self.server.track(self.request)
        super().setup()

    def finish(self) -> None:
        """Close the TLS socket: the server knows only the plain one, which the handshake took over."""
        try:
            super().finish()
        finally:
            self.server.untrack(self.request)
            self.request.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Log to the process' log, not to standard error."""
        _log.debug(format, *args)

    def do_POST(self) -> None:
        """Answer a SOAP request."""
        body = self._read_body()
        if not body or self.path.rstrip("/") not in ("/sdk", "/sdk/vimService"):
            self.close_connection = True
            self._send(404, b"", "text/plain")
            return
        if self.server.is_unreachable():
            self.close_connection = True
            return
        try:
            request = parse_request(body)
        except BadRequestError as error:
            self._send(500, render_fault(vmodl.fault.InvalidRequest(msg=str(error))), "text/xml; charset=utf-8")
            return
        fault = self.server.dispatcher.wire_fault(request)
        if fault is not None and fault.name is not FaultName.DROP_REPLY:
            self._answer_instead(fault)
            return
        agent = self.headers.get("User-Agent", "")
        reply = self.server.dispatcher.answer(request, self._cookie(), str(self.client_address[0]), agent)
        if fault is not None:
            self.close_connection = True
            return
        self._send(reply.status, reply.body, "text/xml; charset=utf-8", reply.opened)

    def _answer_instead(self, fault: FaultRequest) -> None:
        """Do what was asked for to a request that is not carried out."""
        if fault.name is FaultName.HTTP_ERROR:
            self._send(fault.status, b"<html>Service Unavailable</html>", "text/html")
        elif fault.name is FaultName.NO_SOAP:
            self._send(200, b"Welcome to another server.", "text/plain")
        else:
            self.close_connection = True

    def _read_body(self) -> bytes | None:
        """Return the request's body, sent with its length or in chunks (govc does); None if it is too large or cut off."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", "0"))
            return self.rfile.read(length) if 0 <= length <= _BODY_LIMIT else None
        body = bytearray()
        while True:
            try:
                size = int(self.rfile.readline(_CHUNK_LINE_LIMIT).split(b";")[0], 16)
            except ValueError:
                return None
            if not 0 <= size <= _BODY_LIMIT - len(body):
                return None
            body += self.rfile.read(size)
            ending = self.rfile.readline(_CHUNK_LINE_LIMIT)
            if size == 0:
                while ending.strip():  # trailers, of no interest
                    ending = self.rfile.readline(_CHUNK_LINE_LIMIT)
                return bytes(body)

    def do_GET(self) -> None:
        """Answer a download, or the list of API versions."""
        self._get(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with what a GET's headers would be."""
        self._get(with_body=False)

    def _get(self, *, with_body: bool) -> None:
        if self.path == "/sdk/vimServiceVersions.xml":
            self._send(200, SERVICE_VERSIONS, "text/xml")
        elif self.path.startswith("/folder/"):
            reply = self.server.files.answer(self.path, self._cookie(), dict(self.headers.items()))
            self._send_file(reply, with_body=with_body)
        else:
            self._send(404, b"", "text/plain")

    def _cookie(self) -> str | None:
        """Return the session cookie's value: clients send it quoted or not, some with its attributes (facts C1)."""
        match = _COOKIE.search(self.headers.get("Cookie", ""))
        return match[1] if match else None

    def _send(self, status: int, body: bytes, content_type: str, opened: Session | None = None) -> None:
        if self.server.is_unreachable():
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if opened is not None:
            self.send_header("Set-Cookie", f'{COOKIE_NAME}="{opened.cookie}"; Path=/; HttpOnly; Secure; SameSite=Strict')
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, reply: FileReply, *, with_body: bool) -> None:
        self.send_response(reply.status)
        if reply.status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="VMware HTTP server"')
        if reply.status in (206, 416):
            shown = f"{reply.offset}-{reply.offset + reply.length - 1}" if reply.status == 206 else "*"
            self.send_header("Content-Range", f"bytes {shown}/{reply.size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(reply.length))
        self.end_headers()
        if not with_body or reply.path is None:
            return
        with reply.path.open("rb") as file:
            file.seek(reply.offset)
            left = reply.length
            while left > 0:
                part = file.read(min(left, _SEND_STEP))
                if not part:
                    self.close_connection = True
                    return
                self.wfile.write(part)
                left -= len(part)


class WebServer(ThreadingHTTPServer):
    """Serves on a free port of the loopback address."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, dispatcher: Dispatcher, files: DatastoreFiles, tls: ssl.SSLContext, port: int = 0) -> None:
        self.dispatcher = dispatcher
        self.files = files
        self.tls = tls
        self._unreachable_until = 0.0
        self._back = threading.Event()
        self._listens = True
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        # A port that the kernel chose would be lost by `be_unreachable`: it is only kept for a socket that asked for it.
        super().__init__(("127.0.0.1", port or free_ports(1)[0]), _Handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def be_unreachable(self, seconds: float | None) -> None:
        """Drop all connections and refuse new ones, for a while or until `be_reachable`."""
        self._unreachable_until = math.inf if seconds is None else time.monotonic() + seconds
        self._back.clear()
        with self._lock:
            if self._listens:
                # Linux: a listening socket that is shut down refuses connections, and may listen again.
                self._listens = False
                self.socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                _log.debug("a connection was gone already: %s", error)

    def be_reachable(self) -> None:
        """Answer again, from the moment that this returns."""
        self._unreachable_until = 0.0
        self._listen_again()
        self._back.set()

    def _listen_again(self) -> None:
        with self._lock:
            if not self._listens and not self.is_unreachable():
                self.socket.listen(self.request_queue_size)
                self._listens = True

    def get_request(self) -> Any:
        """Accept a connection; while unreachable, wait for a moment instead, and listen again when that is over."""
        if not self._listens:
            self._back.wait(min(_LOOK_S, max(0.0, self._unreachable_until - time.monotonic())))
            self._listen_again()
            raise BlockingIOError("nobody is accepted now")
        return super().get_request()

    def is_unreachable(self) -> bool:
        """Return whether nobody is answered now."""
        return time.monotonic() < self._unreachable_until

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse connections while unreachable."""
        return not self.is_unreachable()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what broke a connection: clients that leave, and those that refuse the certificate, are no news."""
        _log.debug("a connection from %s ended", client_address, exc_info=True)

    def track(self, connection: socket.socket) -> None:
        """Note an open connection."""
        with self._lock:
            self._connections.add(connection)

    def untrack(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._connections.discard(connection)


def server_tls(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and later. Raises OSError for files that cannot be read or do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
