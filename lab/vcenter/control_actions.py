"""What the control port can do: set times, ask for faults, act as an administrator or as bad luck, and read state."""

from base64 import b64decode
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lab.vcenter.control_state import vm_state
from lab.vcenter.disk_content import digest, dump
from lab.vcenter.disk_present import PresentDisk
from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.faults_disk import DiskFault
from lab.vcenter.inventory_file import DiskSpec, VmSpec
from lab.vcenter.named_faults import NBD_FAULTS, request_of
from lab.vcenter.nbd_protocol import WireError
from lab.vcenter.tasks import Work
from lab.vcenter.tracking import StarAnswer
from lab.vcenter.vcenter import VCenter
from lab.vcenter.virtual_machine import AttachedDisk, Snapshot, VirtualMachine


class ControlError(Exception):
    """A request that names something that does not exist, or that cannot be done now."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ControlActions:
    """Every public method is one route; its keyword arguments are the request's fields."""

    def __init__(self, vcenter: VCenter) -> None:
        self._vcenter = vcenter
        self._world = vcenter.world

    # --- reading ---

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

    def times(self) -> Any:
        """Return the times."""
        return asdict(self._world.times)

    def faults(self) -> Any:
        """Return the faults that are not used up."""
        return {"faults": [asdict(item) for item in self._world.faults.pending()]}

    # --- settings and faults ---

    def set_times(self, **values: float) -> None:
        """Change some times."""
        self._world.times = self._world.times.changed(values)

    def ask_fault(self, **values: Any) -> None:
        """Ask for a fault."""
        self._world.faults.ask(TypeAdapter(FaultRequest).validate_python(values))

    def ask_named(self, name: str, vm: str = "", host: str = "") -> None:
        """Ask for the fault of a row of the fault table: on a VM (moref, or any), or of a host's NBD server."""
        if name not in NBD_FAULTS:
            self._world.faults.ask(request_of(name, vm))
            return
        settings: dict[str, Any] = dict(NBD_FAULTS[name].settings)
        self.set_nbd(host, **settings)

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

    def be_unreachable(self, seconds: float) -> None:
        """Drop and refuse connections of the SOAP port for a while."""
        self._vcenter.web.be_unreachable(seconds)

    # --- VMs ---

    def add_vm(self, **values: Any) -> Any:
        """Make a VM."""
        return vm_state(self._vcenter.inventory.add_vm(TypeAdapter(VmSpec).validate_python(values)))

    def move(self, moref: str, host: str) -> None:
        """Move a VM to another host; who reads its disks through the old one is cut off."""
        vm = self._vm(moref)
        target = self._vcenter.inventory.hosts.get(host)
        if target is None:
            raise ControlError(404, f"there is no host {host}")
        with self._world.lock:
            vm.host = target
            vm.touch()
        self._vcenter.exports.cut_readers(vm)

    def relocate(self, moref: str, datastore: str) -> None:
        """Move a VM's files to another datastore while it runs (Storage vMotion), in a task: refused while another one runs.

        File names and datastore change; disks, their UUIDs, snapshots and change tracking stay, as with ESXi 5.5 and later.
        Before, a Storage vMotion reset change tracking (facts F7 (c), KB 1020128): add `set_tracking(reset=True)` for that.
        Whoever reads the VM's disks is cut off: the files that it has open are gone.
        """
        vm = self._vm(moref)
        target = self._vcenter.inventory.datastores.get(datastore)
        if target is None:
            raise ControlError(404, f"there is no datastore {datastore}")
        self._task("RelocateVM_Task", vm, lambda _: self._vcenter.inventory.relocate(vm, target))
        self._vcenter.exports.cut_readers(vm)

    def power_on(self, moref: str) -> None:
        """Power a VM on."""
        self._task("PowerOnVM_Task", self._vm(moref), lambda _: self._vcenter.power.power_on(self._vm(moref)))

    def power_off(self, moref: str, reset_tracking: bool = False) -> None:
        """Let a VM lose power, now; with `reset_tracking` its change tracking begins anew, as after a crash."""
        vm = self._vm(moref)
        vm.loses_tracking_at_power_off = reset_tracking
        if vm.running:
            self._vcenter.power.stop(vm, hard=True)

    def lose_tracking_at_power_off(self, moref: str) -> None:
        """Let change tracking begin anew when the VM is next powered off hard, whoever does it, as after a crash."""
        with self._world.lock:
            self._vm(moref).loses_tracking_at_power_off = True

    def shut_down(self, moref: str) -> None:
        """Have a guest shut down, as an administrator asks for it in vCenter; it goes off a moment later."""
        self._vcenter.power.shut_down_guest(self._vm(moref), "lab")

    def fail_over(self, moref: str, host: str) -> None:
        """Let a running VM's host die, and vSphere HA start the VM again on another one."""
        target = self._vcenter.inventory.hosts.get(host)
        if target is None:
            raise ControlError(404, f"there is no host {host}")
        self._vcenter.power.fail_over(self._vm(moref), target)

    def set_tools(self, moref: str, installed: bool) -> None:
        """Give a guest VMware Tools, or take them away."""
        with self._world.lock:
            self._vm(moref).tools = installed
            self._world.changed()

    def set_tracking(
        self,
        moref: str,
        keys: list[int] | None = None,
        reset: bool = False,
        page_cover_bytes: int | None = None,
        reverse_areas: bool = False,
        star: str = StarAnswer.ALLOCATED.value,
        corrupt: bool = False,
        omitted: tuple[int, int] | None = None,
    ) -> None:
        """Set how some or all of a VM's disks answer QueryChangedDiskAreas; with `reset` their tracking begins anew first."""
        vm = self._vm(moref)
        for attached in vm.disks.values():
            if keys is not None and attached.key not in keys:
                continue
            if reset:
                attached.disk.reset_tracking()
            behaviour = attached.disk.tracking.behaviour
            behaviour.page_cover_bytes = page_cover_bytes
            behaviour.reverse_areas = reverse_areas
            behaviour.star = StarAnswer(star)
            behaviour.corrupt = corrupt
            behaviour.omitted = None if omitted is None else (omitted[0], omitted[1])

    def lock_consolidation(self, moref: str, locked: bool) -> None:
        """Let every consolidation of a VM's disks fail as if a backing were locked, until it is unlocked."""
        for attached in self._vm(moref).disks.values():
            attached.disk.consolidation_locked = locked

    # --- snapshots ---

    def take_snapshot(self, moref: str, name: str, description: str = "") -> Any:
        """Take a snapshot as another product would, and return its moref."""
        vm = self._vm(moref)
        made: list[Snapshot] = []
        self._task(
            "CreateSnapshot_Task",
            vm,
            lambda task: made.append(self._vcenter.snapshots.create(vm, name, description, False, task)),
        )
        return {"moref": made[0].moref}

    def remove_snapshot(self, moref: str, snapshot: str, children: bool = False) -> None:
        """Remove a snapshot and merge."""
        vm, gone = self._vm(moref), self._snapshot(moref, snapshot)
        self._task("RemoveSnapshot_Task", vm, lambda task: self._vcenter.snapshots.remove(vm, gone, children, True, task))

    def revert(self, moref: str, snapshot: str) -> None:
        """Revert a VM to a snapshot."""
        vm, target = self._vm(moref), self._snapshot(moref, snapshot)
        self._task("RevertToSnapshot_Task", vm, lambda _: self._vcenter.snapshots.revert(vm, target))

    # --- disks ---

    def add_disk(self, moref: str, **values: Any) -> Any:
        """Attach a new disk and return its key."""
        vm = self._vm(moref)
        attached = self._vcenter.inventory.add_disk(vm, TypeAdapter(DiskSpec).validate_python(values))
        attached.disk.on_power_on()
        vm.touch()
        return {"key": attached.key}

    def remove_disk(self, moref: str, key: str) -> None:
        """Detach a disk and delete it."""
        self._disk(moref, key)
        self._vcenter.inventory.remove_disk(self._vm(moref), int(key))

    def grow_disk(self, moref: str, key: str, capacity_bytes: int) -> None:
        """Make a disk larger; it must have no snapshots."""
        try:
            self._disk(moref, key).disk.grow(capacity_bytes)
        except DiskFault as error:
            raise ControlError(409, str(error)) from error
        self._vm(moref).touch()

    def write_disk(self, moref: str, key: str, offset: int, data: str) -> None:
        """Write base64 data at an offset, as the guest would."""
        self._disk(moref, key).disk.write(offset, b64decode(data, validate=True))

    def dump_disk(self, moref: str, key: str, path: str, snapshot: str | None = None) -> Any:
        """Write a disk's present content, or a snapshot's, to a sparse raw file."""
        return {"bytes_written": dump(self._readable(moref, key, snapshot), Path(path))}

    def digest_disk(self, moref: str, key: str) -> Any:
        """Return size and BLAKE3 digest of a disk's present content."""
        disk = self._readable(moref, key, None)
        return {"capacity_bytes": disk.capacity_bytes, "blake3": digest(disk)}

    # --- datastores and hosts ---

    def fill_datastore(self, name: str, free_bytes: int | None = None) -> None:
        """Let a datastore have this much room now; without a number its filler is taken away."""
        datastore = self._vcenter.inventory.datastores.get(name)
        if datastore is None:
            raise ControlError(404, f"there is no datastore {name}")
        datastore.filler_bytes = 0
        if free_bytes is not None:
            datastore.filler_bytes = max(0, datastore.capacity_bytes - datastore.used_bytes() - free_bytes)
        self._world.changed()

    def set_nbd(
        self,
        host: str,
        max_connections: int | None = None,
        max_read_bytes: int | None = None,
        refuse_next: int | None = None,
        cut_after_bytes: int | None = None,
        cut_times: int = 1,
        delay_s: float | None = None,
        reorder_replies: bool | None = None,
        fail_offset: int | None = None,
        fail_length: int = 512,
        fail_times: int | None = None,
        fail_error: str = WireError.EIO.name,
        hold_offset: int | None = None,
        hold_length: int = 512,
        hold_export: str = "",
    ) -> None:
        """Set limits and faults of a host's NBD server; what is not given stays."""
        server = self._server(host)
        if max_connections is not None:
            server.max_connections = max_connections
        if max_read_bytes is not None:
            server.max_read_bytes = max_read_bytes
        if refuse_next is not None:
            server.faults.refuse_next(refuse_next)
        if cut_after_bytes is not None:
            server.faults.cut_after(cut_after_bytes, cut_times)
        if delay_s is not None:
            server.faults.delay_s = delay_s
        if reorder_replies is not None:
            server.faults.reorder_replies = reorder_replies
        if fail_offset is not None:
            server.faults.fail_range(fail_offset, fail_length, error=WireError[fail_error], times=fail_times)
        if hold_offset is not None:
            server.faults.hold_range(hold_offset, hold_length, hold_export)

    def clear_nbd(self, host: str) -> None:
        """Forget the faults of a host's NBD server; its limits stay."""
        self._server(host).faults.clear()

    # --- inside ---

    def _vm(self, moref: str) -> VirtualMachine:
        found = self._world.find(moref)
        if not isinstance(found, VirtualMachine):
            raise ControlError(404, f"there is no VM {moref}")
        return found

    def _snapshot(self, moref: str, snapshot: str) -> Snapshot:
        found = self._vm(moref).snapshot(snapshot)
        if found is None:
            raise ControlError(404, f"{moref} has no snapshot {snapshot}")
        return found

    def _disk(self, moref: str, key: str) -> AttachedDisk:
        found = self._vm(moref).disks.get(int(key))
        if found is None:
            raise ControlError(404, f"{moref} has no disk {key}")
        return found

    def _readable(self, moref: str, key: str, snapshot: str | None) -> Any:
        if snapshot is None:
            return PresentDisk(self._disk(moref, key).disk)
        held = self._snapshot(moref, snapshot).disks.get(int(key))
        if held is None:
            raise ControlError(404, f"{snapshot} has no disk {key}")
        return held.frozen

    def _server(self, host: str) -> Any:
        server = self._vcenter.exports.servers.get(host)
        if server is None:
            raise ControlError(404, f"there is no host {host}")
        return server

    def _task(self, method: str, vm: VirtualMachine, work: Work) -> None:
        """Run a task to its end. Raises its fault."""
        task = self._vcenter.tasks.run(method, vm, vm.name, work)
        if task.error is not None:
            raise task.error
