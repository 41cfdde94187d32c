"""What the control port's actions share: finding what a request names, and running a task to its end."""

from typing import Any

from lab.vcenter.disk_present import PresentDisk
from lab.vcenter.entities import Datastore, Host
from lab.vcenter.tasks import Work
from lab.vcenter.vcenter import VCenter
from lab.vcenter.virtual_machine import AttachedDisk, Snapshot, VirtualMachine


class ControlError(Exception):
    """A request that names something that does not exist, or that cannot be done now."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Lookup:
    """Finds by moref, key or name. Every method raises ControlError with status 404 for what there is not."""

    def __init__(self, vcenter: VCenter) -> None:
        self._vcenter = vcenter

    def vm(self, moref: str) -> VirtualMachine:
        """Return a VM."""
        found = self._vcenter.world.find(moref)
        if not isinstance(found, VirtualMachine):
            raise ControlError(404, f"there is no VM {moref}")
        return found

    def snapshot(self, moref: str, snapshot: str) -> Snapshot:
        """Return a VM's snapshot."""
        found = self.vm(moref).snapshot(snapshot)
        if found is None:
            raise ControlError(404, f"{moref} has no snapshot {snapshot}")
        return found

    def disk(self, moref: str, key: str) -> AttachedDisk:
        """Return a VM's disk."""
        found = self.vm(moref).disks.get(int(key))
        if found is None:
            raise ControlError(404, f"{moref} has no disk {key}")
        return found

    def readable(self, moref: str, key: str, snapshot: str | None) -> Any:
        """Return a disk as it is, or as a snapshot holds it."""
        if snapshot is None:
            return PresentDisk(self.disk(moref, key).disk)
        held = self.snapshot(moref, snapshot).disks.get(int(key))
        if held is None:
            raise ControlError(404, f"{snapshot} has no disk {key}")
        return held.frozen

    def host(self, name: str) -> Host:
        """Return an ESXi host."""
        found = self._vcenter.inventory.hosts.get(name)
        if found is None:
            raise ControlError(404, f"there is no host {name}")
        return found

    def datastore(self, name: str) -> Datastore:
        """Return a datastore."""
        found = self._vcenter.inventory.datastores.get(name)
        if found is None:
            raise ControlError(404, f"there is no datastore {name}")
        return found

    def server(self, host: str) -> Any:
        """Return a host's NBD server."""
        return self._vcenter.exports.servers[self.host(host).name]

    def run(self, method: str, vm: VirtualMachine, work: Work) -> None:
        """Run a task to its end. Raises its fault."""
        task = self._vcenter.tasks.run(method, vm, vm.name, work)
        if task.error is not None:
            raise task.error
