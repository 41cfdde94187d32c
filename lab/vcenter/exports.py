"""The ESXi hosts' NBD servers, and which export name stands for what.

    snapshot=<snapshot moref>;disk=<key>    a snapshot's disk, read-only
    present=<vm moref>;disk=<key>           a powered-off VM's disk as it is, read-only; while it is open the VM cannot be powered on
    guest=<vm moref>;disk=<key>             a running VM's disk for its guest, read and write

A VM's exports are served by the host that the VM is on, and by no other.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lab.vcenter.disk_backing import FileRange, Run
from lab.vcenter.disk_present import PresentDisk
from lab.vcenter.entities import Host
from lab.vcenter.faults_disk import DiskClosed, SnapshotGone
from lab.vcenter.inventory import Inventory
from lab.vcenter.nbd_exports import Export, GuestExport, SnapshotExport
from lab.vcenter.nbd_negotiation import Resolver
from lab.vcenter.nbd_server import NbdServer
from lab.vcenter.virtual_machine import Snapshot, VirtualMachine
from lab.vcenter.world import World

_NAME = re.compile(r"(snapshot|present|guest)=([a-z]+-\d+);disk=(\d+)")


class PresentExport:
    """A powered-off VM's disk, read-only. Its connections are cut when the VM is powered on after all."""

    read_only = True
    uses_nfc_budget = True

    def __init__(self, disk: PresentDisk) -> None:
        self._disk = disk
        self._closed = False

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self._disk.capacity_bytes

    def open(self, interrupt: Callable[[], None]) -> None:
        """Need nothing: the VM cannot be powered on meanwhile."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Check that the connection was not closed."""
        if self._closed:
            raise DiskClosed("the connection was closed")
        yield

    def locate(self, offset: int, length: int) -> Sequence[FileRange] | None:
        """Return None: a consolidation may run meanwhile."""
        return None

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""
        self._disk.read_into(offset, target)

    def extents(self, offset: int, length: int) -> Iterator[Run]:
        """Yield a range's allocated parts and holes."""
        return self._disk.runs(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        """Refuse."""
        raise PermissionError("the export is read-only")

    def zero(self, offset: int, length: int, *, allocate: bool) -> None:
        """Refuse."""
        raise PermissionError("the export is read-only")

    def close(self) -> None:
        """End serving the connection."""
        self._closed = True


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

    def __init__(self, world: World, inventory: Inventory) -> None:
        self._world = world
        self.servers = {name: NbdServer(self._resolver(host)) for name, host in inventory.hosts.items()}

    def ports(self) -> dict[str, int]:
        """Return each host's NBD port."""
        return {name: server.port for name, server in self.servers.items()}

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
        prefixes = [f"present={vm.moref};", *(f"snapshot={item.moref};" for item in vm.snapshots())]
        return sum(server.disconnect(prefix) for server in self.servers.values() for prefix in prefixes)

    def holds(self, vm: VirtualMachine) -> bool:
        """Return whether somebody has a powered-off VM's disk open."""
        prefix = f"present={vm.moref};"
        return any(info.export.startswith(prefix) for server in self.servers.values() for info in server.connections())

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
                return _export(self._world, match[1], found, vm, int(match[3]))

        return resolve


def _export(world: World, kind: str, found: object, vm: VirtualMachine, key: int) -> Export | None:
    if kind == "snapshot" and isinstance(found, Snapshot) and key in found.disks:
        try:
            return SnapshotExport(found.disks[key].attached.disk.frozen(found.moref))
        except SnapshotGone:
            return None
    if key not in vm.disks or found is not vm:
        return None
    if kind == "guest" and vm.running:
        return RunningGuestExport(world, vm, key)
    if kind == "present" and not vm.running:
        return PresentExport(PresentDisk(vm.disks[key].disk))
    return None
