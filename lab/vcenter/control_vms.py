"""What the control port does with VMs: as an administrator, as bad luck, or as the guest itself."""

from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter

from lab.vcenter.control_lookup import Lookup
from lab.vcenter.control_routes import Route
from lab.vcenter.control_state import vm_state
from lab.vcenter.inventory_file import VmSpec
from lab.vcenter.out_of_band import OutOfBandWrites
from lab.vcenter.quiescing import QuiesceBehaviour
from lab.vcenter.tracking import StarAnswer
from lab.vcenter.vcenter import VCenter
from lab.vcenter.virtual_machine import ToolsState

_VM = r"/vms/(vm-\d+)"


class VmControls:
    """Every public method but `routes` is one route; its keyword arguments are the request's fields."""

    def __init__(self, vcenter: VCenter, find: Lookup) -> None:
        self._vcenter = vcenter
        self._world = vcenter.world
        self._find = find

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            ("POST", "/vms", self.add_vm),
            ("POST", f"{_VM}/delete", self.delete),
            ("POST", f"{_VM}/move", self.move),
            ("POST", f"{_VM}/relocate", self.relocate),
            ("POST", f"{_VM}/power-on", self.power_on),
            ("POST", f"{_VM}/power-off", self.power_off),
            ("POST", f"{_VM}/tracking-lost-at-power-off", self.lose_tracking_at_power_off),
            ("POST", f"{_VM}/shutdown", self.shut_down),
            ("POST", f"{_VM}/fail-over", self.fail_over),
            ("POST", f"{_VM}/tools", self.set_tools),
            ("POST", f"{_VM}/quiesce", self.set_quiesce),
            ("GET", f"{_VM}/quiesces", self.quiesces),
            ("POST", f"{_VM}/tracking", self.set_tracking),
            ("POST", f"{_VM}/consolidation-lock", self.lock_consolidation),
        ]

    def add_vm(self, **values: Any) -> Any:
        """Make a VM."""
        return vm_state(self._vcenter.inventory.add_vm(TypeAdapter(VmSpec).validate_python(values)))

    def delete(self, moref: str) -> None:
        """Delete a VM with its disks, as somebody at the site does by mistake; it is powered off first."""
        vm = self._find.vm(moref)
        if vm.running:
            self._vcenter.power.stop(vm, hard=True)
        self._vcenter.inventory.remove_vm(vm)

    def move(self, moref: str, host: str) -> None:
        """Move a VM to another host; who reads its disks through the old one is cut off."""
        vm = self._find.vm(moref)
        target = self._find.host(host)
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
        vm = self._find.vm(moref)
        target = self._find.datastore(datastore)
        self._find.run("RelocateVM_Task", vm, lambda _: self._vcenter.inventory.relocate(vm, target))
        self._vcenter.exports.cut_readers(vm)

    def power_on(self, moref: str) -> None:
        """Power a VM on."""
        self._find.run("PowerOnVM_Task", self._find.vm(moref), lambda _: self._vcenter.power.power_on(self._find.vm(moref)))

    def power_off(self, moref: str, reset_tracking: bool = False) -> None:
        """Let a VM lose power, now; with `reset_tracking` its change tracking begins anew, as after a crash."""
        vm = self._find.vm(moref)
        vm.loses_tracking_at_power_off = reset_tracking
        if vm.running:
            self._vcenter.power.stop(vm, hard=True)

    def lose_tracking_at_power_off(self, moref: str) -> None:
        """Let change tracking begin anew when the VM is next powered off hard, whoever does it, as after a crash."""
        with self._world.lock:
            self._find.vm(moref).loses_tracking_at_power_off = True

    def shut_down(self, moref: str) -> None:
        """Have a guest shut down, as an administrator asks for it in vCenter; it goes off a moment later."""
        self._vcenter.power.shut_down_guest(self._find.vm(moref), "lab")

    def fail_over(self, moref: str, host: str) -> None:
        """Let a running VM's host die, and vSphere HA start the VM again on another one."""
        target = self._find.host(host)
        self._vcenter.power.fail_over(self._find.vm(moref), target)

    def set_tools(self, moref: str, installed: bool, state: str = ToolsState.RUNNING.value) -> None:
        """Give a guest VMware Tools, or take them away, and say what they do while the VM runs."""
        with self._world.lock:
            vm = self._find.vm(moref)
            vm.tools, vm.tools_state = installed, ToolsState(state)
            self._world.changed()

    def set_quiesce(self, moref: str, **values: Any) -> None:
        """Set how a guest answers when it is to be quiesced; what is not given is as in a guest without trouble."""
        with self._world.lock:
            wanted = TypeAdapter(QuiesceBehaviour).validate_python(values)
            present = self._find.vm(moref).quiesce.behaviour
            for item in fields(wanted):
                setattr(present, item.name, getattr(wanted, item.name))

    def quiesces(self, moref: str) -> Any:
        """Return the quiesced snapshots that were asked for."""
        with self._world.lock:
            return {"records": [asdict(record) for record in self._find.vm(moref).quiesce.records]}

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
        out_of_band: str = OutOfBandWrites.UNSEEN.value,
    ) -> None:
        """Set how some or all of a VM's disks answer QueryChangedDiskAreas; with `reset` their tracking begins anew first."""
        vm = self._find.vm(moref)
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
            behaviour.out_of_band = OutOfBandWrites(out_of_band)
            behaviour.omitted = None if omitted is None else (omitted[0], omitted[1])

    def lock_consolidation(self, moref: str, locked: bool) -> None:
        """Let every consolidation of a VM's disks fail as if a backing were locked, until it is unlocked."""
        for attached in self._find.vm(moref).disks.values():
            attached.disk.consolidation_locked = locked
