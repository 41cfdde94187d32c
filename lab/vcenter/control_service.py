"""What the control port does with vCenter as a whole: state, times, faults, denials, sessions, reachability."""

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from lab.vcenter.control_hosts import HostControls
from lab.vcenter.control_lookup import ControlError
from lab.vcenter.control_routes import Route
from lab.vcenter.control_state import vm_state
from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.named_faults import NBD_FAULTS, RECOVERY_NBD_FAULTS, request_of
from lab.vcenter.vcenter import VCenter


class ServiceControls:
    """Every public method but `routes` is one route; its keyword arguments are the request's fields."""

    def __init__(self, vcenter: VCenter, hosts: HostControls) -> None:
        self._vcenter = vcenter
        self._world = vcenter.world
        self._hosts = hosts

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            ("GET", "/state", self.state),
            ("GET", "/calls", self.calls),
            ("GET", "/occupancy", self.occupancy),
            ("GET", "/times", self.times),
            ("POST", "/times", self.set_times),
            ("GET", "/faults", self.faults),
            ("POST", "/faults", self.ask_fault),
            ("POST", "/named-faults", self.ask_named),
            ("DELETE", "/faults", self.clear_faults),
            ("POST", "/denials", self.deny),
            ("POST", "/answers", self.set_answers),
            ("POST", "/sessions/expire", self.expire_sessions),
            ("POST", "/unreachable", self.be_unreachable),
            ("DELETE", "/unreachable", self.be_reachable),
        ]

    def state(self) -> Any:
        """Return VMs, datastores, hosts' connections and the number of sessions."""
        servers = self._vcenter.exports.servers
        with self._world.lock:
            return {
                "sessions": self._vcenter.sessions.count(),
                "vms": [vm_state(vm) for vm in self._vcenter.inventory.vms],
                "datastores": [
                    {"name": item.name, "capacity_bytes": item.capacity_bytes, "free_bytes": item.free_bytes()}
                    for item in self._vcenter.inventory.datastores.values()
                ],
                "hosts": [
                    {
                        "name": name,
                        "nbd_port": server.port,
                        "refused_for_budget": server.refused_for_budget,
                        "held_reads": server.faults.held,
                        "connections": [asdict(item) for item in server.connections()],
                    }
                    for name, server in servers.items()
                ],
            }

    def calls(self) -> Any:
        """Return how often each SOAP method was called."""
        return self._vcenter.dispatcher.counts()

    def occupancy(self) -> Any:
        """Return what was in use, each time that something more came into use."""
        return {"readers": self._vcenter.occupancy.readers(), "snapshots": self._vcenter.occupancy.snapshots()}

    def times(self) -> Any:
        """Return the times."""
        return asdict(self._world.times)

    def faults(self) -> Any:
        """Return the faults that are not used up."""
        return {"faults": [asdict(item) for item in self._world.faults.pending()]}

    def set_times(self, **values: float) -> None:
        """Change some times."""
        self._world.times = self._world.times.changed(values)

    def ask_fault(self, **values: Any) -> None:
        """Ask for a fault."""
        self._world.faults.ask(TypeAdapter(FaultRequest).validate_python(values))

    def ask_named(self, name: str, vm: str = "", host: str = "") -> None:
        """Ask for a fault by name: on a VM (moref, or any), or of a host's NBD server."""
        of_nbd = {**NBD_FAULTS, **RECOVERY_NBD_FAULTS}
        if name not in of_nbd:
            self._world.faults.ask(request_of(name, vm))
            return
        settings: dict[str, Any] = dict(of_nbd[name].settings)
        self._hosts.set_nbd(host, **settings)

    def clear_faults(self, name: str | None = None) -> None:
        """Forget faults."""
        self._world.faults.clear(None if name is None else FaultName(name))

    def deny(self, privileges: list[str] | None = None, properties: list[str] | None = None) -> None:
        """Replace what users may not do or see."""
        if privileges is not None:
            self._world.denials.privileges = set(privileges)
        if properties is not None:
            self._world.denials.properties = set(properties)

    def set_answers(self, page_limit_areas: int) -> None:
        """Change how many areas a page of QueryChangedDiskAreas has at most."""
        self._world.answers.page_limit_areas = page_limit_areas

    def expire_sessions(self) -> Any:
        """End all sessions."""
        return {"ended": self._vcenter.sessions.end_all()}

    def be_unreachable(self, seconds: float | None = None, hosts: bool = False) -> None:
        """Drop and refuse connections of the SOAP port for a while, or until told; with `hosts`, of the ESXi hosts too.

        Everything else goes on: VMs run, guests write, tasks end, sessions and state stay. `be_reachable` ends it for vCenter
        and hosts alike; hosts know no other end.
        """
        if hosts and seconds is not None:
            raise ControlError(400, "the hosts stay unreachable until told otherwise: give no seconds")
        self._vcenter.web.be_unreachable(seconds)
        if hosts:
            self._vcenter.exports.be_unreachable(True)

    def be_reachable(self) -> None:
        """Answer again."""
        self._vcenter.exports.be_unreachable(False)
        self._vcenter.web.be_reachable()
