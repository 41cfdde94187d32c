"""The control port: plain HTTP and JSON on loopback, guarded by a token.

It only routes: what it can do is in the `control_…` modules, one for each subject.
"""

import hmac
import json
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import ValidationError

from lab.vcenter.control_disks import DiskControls
from lab.vcenter.control_hosts import HostControls
from lab.vcenter.control_lookup import ControlError, Lookup
from lab.vcenter.control_routes import Route
from lab.vcenter.control_service import ServiceControls
from lab.vcenter.control_vms import VmControls
from lab.vcenter.vcenter import VCenter
from lab.vcenter.vocabulary import vmodl

_log = logging.getLogger(__name__)
_BODY_LIMIT = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    """One connection. `server` is a ControlServer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    server: "ControlServer"

    def log_message(self, format: str, *args: Any) -> None:
        """Log to the process' log."""
        _log.debug(format, *args)

    def do_GET(self) -> None:
        """Read state."""
        self._answer()

    def do_POST(self) -> None:
        """Do something."""
        self._answer()

    def do_DELETE(self) -> None:
        """Remove something."""
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if not 0 <= length <= _BODY_LIMIT:
            self.close_connection = True
            self._send(413, {"error": "too large"})
            return
        body = self.rfile.read(length)
        wanted = f"Bearer {self.server.token}".encode()
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), wanted):
            self._send(401, {"error": "the control port needs its token"})
            return
        try:
            values = json.loads(body) if body else {}
            self._send(200, self.server.route(self.command, self.path, values))
        except ControlError as error:
            self._send(error.status, {"error": str(error)})
        except (ValidationError, ValueError, TypeError) as error:
            self._send(400, {"error": str(error)})
        except vmodl.MethodFault as fault:
            self._send(409, {"error": fault.msg, "fault": type(fault)._wsdlName})
        except Exception as error:
            _log.exception("%s %s failed", self.command, self.path)
            self._send(500, {"error": type(error).__name__})

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class ControlServer(ThreadingHTTPServer):
    """Serves the actions on a free port of the loopback address."""

    daemon_threads = True

    def __init__(self, vcenter: VCenter, token: str) -> None:
        self.token = token
        self._routes = [(verb, re.compile(pattern), action) for verb, pattern, action in _routes(vcenter)]
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="control", daemon=True).start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def route(self, verb: str, path: str, values: dict[str, Any]) -> Any:
        """Carry out a request: the path's parts are positional arguments, the body's fields keyword arguments."""
        for known, pattern, action in self._routes:
            match = pattern.fullmatch(path)
            if known == verb and match is not None:
                return action(*match.groups(), **values) or {}
        raise ControlError(404, f"there is no {verb} {path}")

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()


def _routes(vcenter: VCenter) -> list[Route]:
    find = Lookup(vcenter)
    hosts = HostControls(vcenter, find)
    parts = (ServiceControls(vcenter, hosts), VmControls(vcenter, find), DiskControls(vcenter, find), hosts)
    return [route for part in parts for route in part.routes()]
