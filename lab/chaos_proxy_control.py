"""Starts the chaos proxy as a child process and orders its faults."""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from lab.certificates import Certificates
from lab.chaos_proxy import CONTROL_TOKEN_VARIABLE
from lab.chaos_proxy_faults import ProxyFault
from lab.chaos_proxy_routes import Route
from lab.configuration import Endpoints
from lab.control_client import ControlClient
from lab.processes import LabError, ManagedProcess, ProcessSpec, Readiness, python_command

TEMPORAL, VCENTER, ARM, BLOBS, NBD = "temporal", "vcenter", "arm", "blobs", "nbd/"
"""The routes' names; those of NBD go on with the host's name."""


@dataclass(frozen=True, slots=True)
class ProxyReport:
    """What the proxy has seen so far."""

    ordered: int
    held: int
    met: Mapping[str, int]
    """How often each `route action` was met."""
    late: tuple[int, ...]
    """Statuses that servers gave to requests that were kept back or sent twice."""


class ProxyControl(ControlClient):
    """The control port of the chaos proxy."""

    def order(self, fault: ProxyFault) -> None:
        """Order a fault."""
        self.call("POST", "/faults", asdict(fault))

    def clear(self) -> None:
        """Forget all faults, bring every route up, and let go of what is held."""
        self.call("DELETE", "/faults")

    def release(self) -> None:
        """Let go of what is held; faults stay ordered."""
        self.call("POST", "/release")

    def take_down(self, *routes: str) -> None:
        """Cut these routes (names or their beginnings): connections end, new ones are refused."""
        self.call("POST", "/down", routes)

    def bring_up(self) -> None:
        """Let all routes serve again."""
        self.call("DELETE", "/down")

    def report(self) -> ProxyReport:
        """Return what was seen."""
        seen = self.call("GET", "/faults")
        return ProxyReport(
            ordered=cast("int", seen["ordered"]),
            held=cast("int", seen["held"]),
            met=cast("Mapping[str, int]", seen["met"]),
            late=tuple(cast("list[int]", seen["late"])),
        )

    def met(self, action: str, route: str = "") -> int:
        """Return how often an action was met on the routes whose names begin so."""
        seen = self.report().met.items()
        return sum(count for name, count in seen if name.startswith(route) and name.rpartition(" ")[2] == action)


class ChaosProxyService:
    """The proxy's process. `start` needs to know where the servers are; `endpoints` then says where to go instead."""

    def __init__(self, directory: Path, log_directory: Path, certificates: Certificates, seed: int) -> None:
        self.seed = seed
        self._directory = directory
        self._token = secrets.token_urlsafe(24)
        self._routes_file = directory / "chaos-routes.json"
        self.process = ManagedProcess(
            ProcessSpec(
                name="chaos-proxy",
                command=python_command(
                    *("-m", "lab.chaos_proxy", "--routes", str(self._routes_file), "--seed", str(seed)),
                    *("--certificate", str(certificates.certificate_file), "--key", str(certificates.key_file)),
                    *("--ca", str(certificates.ca_file)),
                ),
                log_directory=log_directory,
                environment={CONTROL_TOKEN_VARIABLE: self._token},
                readiness=Readiness.JSON_LINE,
            )
        )

    def start(self, routes: Iterable[Route]) -> None:
        """Write the routes down and serve them."""
        self._routes_file.write_text(json.dumps([asdict(route) for route in routes]), encoding="utf-8")
        self.process.start()

    @property
    def control(self) -> ProxyControl:
        """The control endpoint; known once the process is ready."""
        return ProxyControl(cast("int", self._ready("control_port")), self._token)

    def port(self, route: str) -> int:
        """Return where a route is served."""
        return cast("Mapping[str, int]", self._ready("ports"))[route]

    def between(self, direct: Endpoints) -> Endpoints:
        """Return the endpoints with the proxy before each of them."""
        return Endpoints(
            temporal=f"127.0.0.1:{self.port(TEMPORAL)}",
            namespace=direct.namespace,
            vcenter=f"https://127.0.0.1:{self.port(VCENTER)}",
            nbd={host: f"127.0.0.1:{self.port(NBD + host)}" for host in direct.nbd},
            arm=f"https://127.0.0.1:{self.port(ARM)}",
            accounts={
                store: f"https://127.0.0.1:{self.port(BLOBS)}{urlsplit(url).path}" for store, url in direct.accounts.items()
            },
            ca_file=direct.ca_file,
        )

    def _ready(self, name: str) -> object:
        if name not in self.process.ready:
            raise LabError("The chaos proxy has not said yet where it serves.")
        return self.process.ready[name]


def routes_to(direct: Endpoints) -> tuple[Route, ...]:
    """Return a route to every server that workers speak with."""

    def route(name: str, address: str, *, https: bool) -> Route:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return Route(name, parts.hostname or "", parts.port or 0, https)

    return (
        route(TEMPORAL, direct.temporal, https=False),
        route(VCENTER, direct.vcenter, https=True),
        route(ARM, direct.arm, https=True),
        route(BLOBS, next(iter(direct.accounts.values())), https=True),
        *(route(NBD + host, address, https=False) for host, address in direct.nbd.items()),
    )
