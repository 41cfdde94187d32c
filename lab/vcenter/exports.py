"""The ESXi hosts' NBD servers, and which export name stands for what.

    snapshot=<snapshot moref>;disk=<key>    a snapshot's disk, read-only
    present=<vm moref>;disk=<key>           a powered-off VM's disk as it is, read-only; while it is open the VM cannot be powered on
    writable=<vm moref>;disk=<key>          a powered-off VM's disk for its one writer, exclusively; likewise
    guest=<vm moref>;disk=<key>             a running VM's disk for its guest, read and write

A VM's exports are served by the host that the VM is on, and by no other.
"""

import re
from collections.abc import Callable

from lab.vcenter.disk_locks import DiskLocks
from lab.vcenter.entities import Host
from lab.vcenter.faults_disk import SnapshotGone
from lab.vcenter.inventory import Inventory
from lab.vcenter.nbd_exports import Export, GuestExport, SnapshotExport
from lab.vcenter.nbd_negotiation import Resolver
from lab.vcenter.nbd_server import NbdServer
from lab.vcenter.offline_exports import PresentExport, WritableExport
from lab.vcenter.virtual_machine import Snapshot, VirtualMachine
from lab.vcenter.world import World

OUTSIDE = ("snapshot=", "present=", "writable=")
"""How the names of exports begin that are not a guest's, which is inside the host."""

_NAME = re.compile(r"(snapshot|present|writable|guest)=([a-z]+-\d+);disk=(\d+)")


class RunningGuestExport(GuestExport):
    """A guest's disk, refused if its VM stopped between being found and being opened."""

    def __init__(self, world: World, vm: VirtualMachine, key: int) -> None:
        super().__init__(vm.disks[key].disk)
        self._world = world
        self._vm = vm

    def open(self, interrupt: Callable[[], None]) -> None:
        """Check once more. The server knows the connection by now, so whoever stops the VM from here on cuts it."""
        with self._world.lock:
            if not self._vm.running:
                raise SnapshotGone("the VM is off")


class HostExports:
    """One NBD server for each host."""

    def __init__(self, world: World, inventory: Inventory, opened: Callable[[], None] = lambda: None) -> None:
        """Open one server for each host; `opened` is called whenever one more connection has an export open."""
        self._world = world
        self.locks = DiskLocks()
        self.servers = {name: NbdServer(self._resolver(host), opened=opened) for name, host in inventory.hosts.items()}

    def ports(self) -> dict[str, int]:
        """Return each host's NBD port."""
        return {name: server.port for name, server in self.servers.items()}

    def readers(self) -> dict[str, tuple[str, ...]]:
        """Return of each host the disks that are open for reading or writing from outside."""
        return {name: server.readers() for name, server in self.servers.items()}

    def close(self) -> None:
        """Stop all servers."""
        for server in self.servers.values():
            server.close()

    def cut_guest(self, vm: VirtualMachine) -> None:
        """Cut a VM's guest connections; when it returns, nothing more is written."""
        for server in self.servers.values():
            server.disconnect(f"guest={vm.moref};")

    def cut_readers(self, vm: VirtualMachine) -> int:
        """Cut who reads a VM's disks, as moving the VM to another host does; return how many connections. Guests move along."""
        prefixes = [f"present={vm.moref};", f"writable={vm.moref};", *(f"snapshot={item.moref};" for item in vm.snapshots())]
        return sum(server.disconnect(prefix) for server in self.servers.values() for prefix in prefixes)

    def holds(self, vm: VirtualMachine) -> bool:
        """Return whether somebody has a powered-off VM's disk open."""
        return bool(self.locks.held(vm.moref))

    def held_disks(self, vm: VirtualMachine) -> tuple[int, ...]:
        """Return which of a powered-off VM's disks somebody has open."""
        return self.locks.held(vm.moref)

    def crash(self, host: str) -> int:
        """Let a host's NBD service crash: connections are cut, and what was written and not flushed is lost; return how many sectors.

        Guests go on; only writers that opened while `volatile_writes` was on lose anything. Raises KeyError.
        """
        lost: list[int] = []

        def end(export: Export) -> None:
            if isinstance(export, WritableExport):
                lost.append(export.crash())
            export.close()

        self.servers[host].cut_all(OUTSIDE, end)
        return sum(lost)

    def be_unreachable(self, unreachable: bool) -> None:
        """Let no host answer anybody but its guests any more, or answer again; who is connected is cut."""
        for server in self.servers.values():
            server.unreachable_for = OUTSIDE if unreachable else ()
            if unreachable:
                server.cut_all(OUTSIDE)

    def _resolver(self, host: Host) -> Resolver:
        def resolve(name: str) -> Export | None:
            match = _NAME.fullmatch(name)
            if match is None:
                return None
            with self._world.lock:
                found = self._world.find(match[2])
                vm = found.vm if isinstance(found, Snapshot) else found
                if not isinstance(vm, VirtualMachine) or vm.host is not host:
                    return None
                return self._export(host, match[1], found, vm, int(match[3]))

        return resolve

    def _export(self, host: Host, kind: str, found: object, vm: VirtualMachine, key: int) -> Export | None:
        if kind == "snapshot" and isinstance(found, Snapshot) and key in found.disks:
            try:
                return SnapshotExport(found.disks[key].attached.disk.frozen(found.moref))
            except SnapshotGone:
                return None
        if key not in vm.disks or found is not vm:
            return None
        match kind, vm.running:
            case "guest", True:
                return RunningGuestExport(self._world, vm, key)
            case "present", False:
                return PresentExport(self._world, self.locks, vm, key)
            case "writable", False:
                volatile = self.servers[host.name].faults.volatile_writes
                return WritableExport(self._world, self.locks, vm, key, volatile=volatile)
        return None
