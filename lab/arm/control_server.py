"""The control endpoint: HTTP and JSON on loopback, with a token of its own; for tests and the demo's oracle.

It shows what no Azure API shows (where a disk's bytes are, which requests came), and takes times and faults.
"""

import hmac
import json
import logging
from base64 import b64decode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deltaferry.model.extents import Extent
from lab.arm.assembly import Parts
from lab.arm.disk_content import Content, DiskContent
from lab.arm.errors import Json
from lab.arm.guests import GuestWish
from lab.arm.limits import Limits
from lab.arm.named_faults import ask_for
from lab.arm.world import Resource

_log = logging.getLogger(__name__)


class ControlServer(ThreadingHTTPServer):
    """Listens on a free loopback port."""

    daemon_threads = True

    def __init__(self, parts: Parts, token: str) -> None:
        self.parts, self.token = parts, token
        self.posts: dict[str, Callable[[Json], Json]] = {
            "/times": self._times,
            "/failures": self._failure,
            "/quota": self._quota,
            "/throttling": self._throttling,
            "/drops": self._drops,
            "/unreachable": self._unreachable,
            "/named": self._named,
            "/limits": self._limits,
            "/disk/write": self._write,
            "/disk/discard": self._discard,
            "/disk/dump": self._dump,
            "/guest": self._switch_guest,
            "/clear": self._clear,
        }
        super().__init__(("127.0.0.1", 0), _Handler)

    def get(self, path: str, query: dict[str, list[str]]) -> Json | None:
        """Answer a GET, or return None for an unknown path or resource."""
        parts = self.parts
        with parts.world.lock:
            match path:
                case "/resources":
                    return {"resources": [self._resource(key) for key in parts.world.resources]}
                case "/disk":
                    disk = parts.world.find(query.get("id", [""])[0])
                    if disk is None or not isinstance(disk.content, DiskContent):
                        return None
                    return {"path": str(disk.content.path.absolute()), "size_bytes": disk.properties.get("diskSizeBytes", 0)}
                case "/requests":
                    return {
                        "requests": [{"method": r.method, "path": r.path, "status": r.status} for r in list(parts.server.served)]
                    }
                case "/guest":
                    return self._guest(query.get("vm", [""])[0])
                case "/operations":
                    return {
                        "operations": [
                            {
                                "action": o.action,
                                "resource": o.resource_key,
                                "status": o.status,
                                "code": o.error.code if o.error else None,
                                "seconds": o.seconds,
                            }
                            for o in parts.operations.all()
                        ]
                    }
        return None

    def _resource(self, key: str) -> Json:
        resource = self.parts.world.resources[key]
        is_vm = resource.id.kind == "virtualmachines"
        return {
            "id": str(resource.id),
            "kind": resource.id.kind,
            "provisioning_state": resource.properties.get("provisioningState"),
            "tags": resource.body.get("tags") or {},
            "disk_state": resource.properties.get("diskState"),
            "power_state": self.parts.vms.power(resource.id) if is_vm else None,
        }

    def _times(self, body: Json) -> Json:
        times = self.parts.world.faults.times
        if body.get("retry_after_s") is not None:
            times.retry_after_s = float(body["retry_after_s"])
        if body.get("operation_s") is not None:
            times.operation_s = float(body["operation_s"])
        return {"retry_after_s": times.retry_after_s, "operation_s": times.operation_s}

    def _failure(self, body: Json) -> Json:
        self.parts.world.faults.fail_next(body["action"], body["code"], body["message"], int(body["count"]))
        return {}

    def _quota(self, body: Json) -> Json:
        faults = self.parts.world.faults
        faults.cores_quota, faults.disks_quota = body["cores"], body["disks"]
        return {}

    def _throttling(self, body: Json) -> Json:
        if body.get("count") is not None:
            self.parts.world.faults.throttle_next(int(body["count"]), float(body["retry_after_s"]))
        if body.get("scale") is not None:
            self.parts.buckets.set_scale(float(body["scale"]))
        return {}

    def _drops(self, body: Json) -> Json:
        self.parts.world.faults.drop_responses(int(body["count"]), body["method"], body["path_contains"])
        return {}

    def _unreachable(self, body: Json) -> Json:
        self.parts.world.faults.make_unreachable(float(body["seconds"]))
        return {}

    def _named(self, body: Json) -> Json:
        ask_for(str(body["name"]), self.parts.world.faults)
        return {}

    def _limits(self, body: Json) -> Json:
        world = self.parts.world
        with world.lock:
            world.limits = Limits().changed(body)
        return {}

    def _write(self, body: Json) -> Json:
        content = self._content(body)
        if isinstance(content, DiskContent):
            content.write(int(body["offset"]), b64decode(body["data"], validate=True))
        return {}

    def _discard(self, body: Json) -> Json:
        content = self._content(body)
        if isinstance(content, DiskContent):
            content.discard(int(body["offset"]), int(body["offset"]) + int(body["length"]))
        return {}

    def _dump(self, body: Json) -> Json:
        self._content(body).copy_to(Path(body["path"]))
        return {}

    def _switch_guest(self, body: Json) -> Json:
        parts, name = self.parts, str(body["vm"])
        wish = None
        if body["on"]:
            ranges = {int(key): tuple(Extent(*pair) for pair in pairs) for key, pairs in body["ranges"].items()}
            wish = GuestWish(int(body["bytes_per_second"]), int(body["seed"]), ranges)
        with parts.world.lock:
            parts.guests.switch(name, wish)
            vm = self._vm(name)
            if vm is not None:
                parts.guests.stop(vm, "switched")
                parts.vms.start_guest(vm)
        return {}

    def _guest(self, name: str) -> Json | None:
        vm = self._vm(name)
        if vm is None:
            return None
        guests = self.parts.guests
        return {"journal": str(guests.journal(vm)), "writes": guests.runs(vm), "last_sequence": guests.writes(vm)}

    def _vm(self, name: str) -> Resource | None:
        found = (vm for vm in self.parts.world.of_kind("virtualmachines") if vm.id.leaf.lower() == name.lower())
        return next(found, None)

    def _content(self, body: Json) -> Content:
        with self.parts.world.lock:
            found = self.parts.world.find(body["id"])
        if found is None or found.content is None:
            raise KeyError(body["id"])
        return found.content

    def _clear(self, body: Json) -> Json:
        self.parts.world.faults.clear()
        return {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120
    server: BaseServer

    def do_GET(self) -> None:
        """Answer a GET."""
        self._serve(b"")

    def do_POST(self) -> None:
        """Answer a POST."""
        self._serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _serve(self, body: bytes) -> None:
        server = self.server
        if not isinstance(server, ControlServer):
            raise TypeError("the handler belongs to ControlServer")
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {server.token}".encode()):
            self._send(401, {"error": "the token is missing or wrong"})
            return
        url = urlsplit(self.path)
        try:
            if self.command == "GET":
                found = server.get(url.path, parse_qs(url.query))
            else:
                action = server.posts.get(url.path)
                found = action(json.loads(body or b"{}")) if action else None
        except (KeyError, TypeError, ValueError) as error:
            self._send(400, {"error": f"the request is not understood: {type(error).__name__}"})
            return
        self._send(404, {"error": f"{url.path} was not found"}) if found is None else self._send(200, found)

    def _send(self, status: int, document: Json) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log at debug level what the base class reports."""
        _log.debug(format, *args)
