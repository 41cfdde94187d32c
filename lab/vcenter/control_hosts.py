"""What the control port does with datastores and with the hosts' NBD servers."""

from typing import Any

from lab.vcenter.control_lookup import ControlError, Lookup
from lab.vcenter.control_routes import Route
from lab.vcenter.nbd_protocol import WireError
from lab.vcenter.vcenter import VCenter


class HostControls:
    """Every public method but `routes` is one route; its keyword arguments are the request's fields."""

    def __init__(self, vcenter: VCenter, find: Lookup) -> None:
        self._vcenter = vcenter
        self._find = find

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            ("POST", "/datastores/([^/]+)/fill", self.fill_datastore),
            ("POST", "/datastores/([^/]+)", self.set_datastore),
            ("POST", "/hosts/([^/]+)/nbd", self.set_nbd),
            ("DELETE", "/hosts/([^/]+)/nbd", self.clear_nbd),
            ("POST", "/hosts/([^/]+)/nbd/crash", self.crash_nbd),
        ]

    def fill_datastore(self, name: str, free_bytes: int | None = None) -> None:
        """Let a datastore have this much room now; without a number its filler is taken away."""
        datastore = self._find.datastore(name)
        datastore.filler_bytes = 0
        if free_bytes is not None:
            datastore.filler_bytes = max(0, datastore.capacity_bytes - datastore.used_bytes() - free_bytes)
        self._vcenter.world.changed()

    def set_datastore(self, name: str, capacity_bytes: int | None = None, accessible: bool | None = None) -> None:
        """Give a datastore another size, or let all hosts lose it and find it again; what is not given stays.

        vCenter tells a new size, as it does new room, when it is refreshed.
        """
        datastore = self._find.datastore(name)
        if capacity_bytes is not None:
            if capacity_bytes <= 0:
                raise ControlError(400, "a datastore has a capacity above zero")
            datastore.capacity_bytes = capacity_bytes
        if accessible is not None:
            datastore.accessible = accessible
        self._vcenter.world.changed()

    def set_nbd(
        self,
        host: str,
        max_connections: int | None = None,
        max_read_bytes: int | None = None,
        refuse_next: int | None = None,
        cut_after_bytes: int | None = None,
        cut_times: int = 1,
        cut_after_written_bytes: int | None = None,
        delay_s: float | None = None,
        reorder_replies: bool | None = None,
        fail_offset: int | None = None,
        fail_length: int = 512,
        fail_times: int | None = None,
        fail_error: str = WireError.EIO.name,
        fail_writes: bool = False,
        fail_export: str = "",
        hold_offset: int | None = None,
        hold_length: int = 512,
        hold_export: str = "",
        hold_writes: bool = False,
        volatile_writes: bool | None = None,
    ) -> None:
        """Set limits and faults of a host's NBD server; what is not given stays.

        Ranges to fail or to hold are of reads unless `fail_writes` or `hold_writes` says otherwise, and of exports whose names
        begin with `fail_export` or `hold_export`. After `cut_after_written_bytes` to `writable` exports, the write at hand is
        carried out and its connection reset. With `volatile_writes`, writers that connect from now on lose what they have not
        flushed when the server crashes.
        """
        server = self._find.server(host)
        if max_connections is not None:
            server.max_connections = max_connections
        if max_read_bytes is not None:
            server.max_read_bytes = max_read_bytes
        if refuse_next is not None:
            server.faults.refuse_next(refuse_next)
        if cut_after_bytes is not None:
            server.faults.cut_after(cut_after_bytes, cut_times)
        if cut_after_written_bytes is not None:
            server.faults.cut_after_writing(cut_after_written_bytes, cut_times)
        if volatile_writes is not None:
            server.faults.volatile_writes = volatile_writes
        if delay_s is not None:
            server.faults.delay_s = delay_s
        if reorder_replies is not None:
            server.faults.reorder_replies = reorder_replies
        if fail_offset is not None:
            error = WireError[fail_error]
            server.faults.fail_range(
                fail_offset, fail_length, error=error, times=fail_times, export=fail_export, writing=fail_writes
            )
        if hold_offset is not None:
            server.faults.hold_range(hold_offset, hold_length, hold_export, writing=hold_writes)

    def crash_nbd(self, host: str) -> Any:
        """Let a host's NBD service crash and start again: connections are cut, unflushed volatile writes lost; guests go on."""
        return {"lost_sectors": self._vcenter.exports.crash(self._find.host(host).name)}

    def clear_nbd(self, host: str) -> None:
        """Forget the faults of a host's NBD server; its limits stay."""
        self._find.server(host).faults.clear()
