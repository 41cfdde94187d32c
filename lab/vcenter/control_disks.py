"""What the control port does with snapshots and disks."""

from base64 import b64decode
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lab.vcenter.control_lookup import ControlError, Lookup
from lab.vcenter.control_routes import Route
from lab.vcenter.disk_content import digest, dump
from lab.vcenter.faults_disk import DiskFault
from lab.vcenter.inventory_file import DiskSpec
from lab.vcenter.vcenter import VCenter
from lab.vcenter.virtual_machine import Snapshot

_VM, _DISK = r"/vms/(vm-\d+)", r"/vms/(vm-\d+)/disks/(\d+)"
_SNAPSHOT = rf"{_VM}/snapshots/(snapshot-\d+)"


class DiskControls:
    """Every public method but `routes` is one route; its keyword arguments are the request's fields."""

    def __init__(self, vcenter: VCenter, find: Lookup) -> None:
        self._vcenter = vcenter
        self._find = find

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            ("POST", f"{_VM}/snapshots", self.take_snapshot),
            ("DELETE", _SNAPSHOT, self.remove_snapshot),
            ("POST", f"{_SNAPSHOT}/revert", self.revert),
            ("POST", f"{_VM}/disks", self.add_disk),
            ("DELETE", _DISK, self.remove_disk),
            ("POST", f"{_DISK}/grow", self.grow_disk),
            ("POST", f"{_DISK}/write", self.write_disk),
            ("POST", f"{_DISK}/dump", self.dump_disk),
            ("GET", f"{_DISK}/digest", self.digest_disk),
        ]

    def take_snapshot(self, moref: str, name: str, description: str = "") -> Any:
        """Take a snapshot as another product would, and return its moref."""
        vm = self._find.vm(moref)
        made: list[Snapshot] = []
        self._find.run(
            "CreateSnapshot_Task",
            vm,
            lambda task: made.append(self._vcenter.snapshots.create(vm, name, description, None, task)),
        )
        return {"moref": made[0].moref}

    def remove_snapshot(self, moref: str, snapshot: str, children: bool = False) -> None:
        """Remove a snapshot and merge."""
        vm, gone = self._find.vm(moref), self._find.snapshot(moref, snapshot)
        self._find.run("RemoveSnapshot_Task", vm, lambda task: self._vcenter.snapshots.remove(vm, gone, children, True, task))

    def revert(self, moref: str, snapshot: str) -> None:
        """Revert a VM to a snapshot."""
        vm, target = self._find.vm(moref), self._find.snapshot(moref, snapshot)
        self._find.run("RevertToSnapshot_Task", vm, lambda _: self._vcenter.snapshots.revert(vm, target))

    def add_disk(self, moref: str, **values: Any) -> Any:
        """Attach a new disk and return its key."""
        vm = self._find.vm(moref)
        attached = self._vcenter.inventory.add_disk(vm, TypeAdapter(DiskSpec).validate_python(values))
        attached.disk.on_power_on()
        vm.touch()
        return {"key": attached.key}

    def remove_disk(self, moref: str, key: str) -> None:
        """Detach a disk and delete it."""
        self._find.disk(moref, key)
        self._vcenter.inventory.remove_disk(self._find.vm(moref), int(key))

    def grow_disk(self, moref: str, key: str, capacity_bytes: int) -> None:
        """Make a disk larger; it must have no snapshots."""
        try:
            self._find.disk(moref, key).disk.grow(capacity_bytes)
        except DiskFault as error:
            raise ControlError(409, str(error)) from error
        self._find.vm(moref).touch()

    def write_disk(self, moref: str, key: str, offset: int, data: str) -> None:
        """Write base64 data at an offset, as the guest would."""
        self._find.disk(moref, key).disk.write(offset, b64decode(data, validate=True))

    def dump_disk(self, moref: str, key: str, path: str, snapshot: str | None = None) -> Any:
        """Write a disk's present content, or a snapshot's, to a sparse raw file."""
        return {"bytes_written": dump(self._find.readable(moref, key, snapshot), Path(path))}

    def digest_disk(self, moref: str, key: str) -> Any:
        """Return size and BLAKE3 digest of a disk's present content."""
        disk = self._find.readable(moref, key, None)
        return {"capacity_bytes": disk.capacity_bytes, "blake3": digest(disk)}
