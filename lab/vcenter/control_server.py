"""The control port: plain HTTP and JSON on loopback, guarded by a token. It only routes; `control_actions` does."""

import hmac
import json
import logging
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import ValidationError

from lab.vcenter.control_actions import ControlActions, ControlError
from lab.vcenter.vocabulary import vmodl

_log = logging.getLogger(__name__)
_BODY_LIMIT = 1 << 20

Action = Callable[..., Any]


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

    def __init__(self, actions: ControlActions, token: str) -> None:
        self.token = token
        self._routes = [(verb, re.compile(pattern), action) for verb, pattern, action in _routes(actions)]
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


def _routes(actions: ControlActions) -> list[tuple[str, str, Action]]:
    vm, disk = r"/vms/(vm-\d+)", r"/vms/(vm-\d+)/disks/(\d+)"
    return [
        ("GET", "/state", actions.state),
        ("GET", "/calls", actions.calls),
        ("GET", "/times", actions.times),
        ("POST", "/times", actions.set_times),
        ("GET", "/faults", actions.faults),
        ("POST", "/faults", actions.ask_fault),
        ("POST", "/named-faults", actions.ask_named),
        ("DELETE", "/faults", actions.clear_faults),
        ("POST", "/denials", actions.deny),
        ("POST", "/answers", actions.set_answers),
        ("POST", "/sessions/expire", actions.expire_sessions),
        ("POST", "/unreachable", actions.be_unreachable),
        ("POST", "/vms", actions.add_vm),
        ("POST", f"{vm}/move", actions.move),
        ("POST", f"{vm}/relocate", actions.relocate),
        ("POST", f"{vm}/power-on", actions.power_on),
        ("POST", f"{vm}/power-off", actions.power_off),
        ("POST", f"{vm}/tracking-lost-at-power-off", actions.lose_tracking_at_power_off),
        ("POST", f"{vm}/shutdown", actions.shut_down),
        ("POST", f"{vm}/fail-over", actions.fail_over),
        ("POST", f"{vm}/tools", actions.set_tools),
        ("POST", f"{vm}/tracking", actions.set_tracking),
        ("POST", f"{vm}/consolidation-lock", actions.lock_consolidation),
        ("POST", f"{vm}/snapshots", actions.take_snapshot),
        ("DELETE", rf"{vm}/snapshots/(snapshot-\d+)", actions.remove_snapshot),
        ("POST", rf"{vm}/snapshots/(snapshot-\d+)/revert", actions.revert),
        ("POST", f"{vm}/disks", actions.add_disk),
        ("DELETE", disk, actions.remove_disk),
        ("POST", f"{disk}/grow", actions.grow_disk),
        ("POST", f"{disk}/write", actions.write_disk),
        ("POST", f"{disk}/dump", actions.dump_disk),
        ("GET", f"{disk}/digest", actions.digest_disk),
        ("POST", "/datastores/([^/]+)/fill", actions.fill_datastore),
        ("POST", "/hosts/([^/]+)/nbd", actions.set_nbd),
        ("DELETE", "/hosts/([^/]+)/nbd", actions.clear_nbd),
    ]
