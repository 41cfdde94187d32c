"""ReconfigVM: change tracking, extraConfig, annotation, and devices: added, edited, removed.

Change tracking is switched in the configuration at once and takes effect on the disks at the next stun or power-on
(facts B1). Switching it on while snapshots exist is refused with InvalidState in the task (facts B1, F8).
"""

from collections.abc import Callable
from typing import Any

from lab.vcenter.controllers import Controller
from lab.vcenter.device_specs import NewDevices, invalid_device, new_devices
from lab.vcenter.faults_disk import DiskBusy, DiskHasSnapshots
from lab.vcenter.inventory import Inventory
from lab.vcenter.virtual_machine import Nic, VirtualMachine
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import World


class Reconfiguration:
    """Applies ConfigSpecs."""

    def __init__(self, world: World, inventory: Inventory, held_disks: Callable[[VirtualMachine], tuple[int, ...]]) -> None:
        """`held_disks` returns which of a powered-off VM's disks somebody has open."""
        self._world, self._inventory = world, inventory
        self._held_disks = held_disks

    def apply(self, vm: VirtualMachine, spec: Any) -> None:
        """Apply a ConfigSpec in a task: all of it, or nothing and a fault.

        Raises ConcurrentAccess for a stale changeVersion, NotSupported, InvalidState, InvalidDeviceSpec,
        InvalidDeviceBacking, and FileLocked for a disk that somebody has open.
        """
        self._world.pause(self._world.times.reconfigure_s)
        with self._world.lock:
            self._check(vm, spec)
            added = [(number, change) for number, change in enumerate(spec.deviceChange or ()) if _operation(change) == "add"]
            self._add_devices(vm, new_devices(self._inventory, added, vm.home.name, vm.controllers, vm.disks))
            for change in spec.deviceChange or ():
                if _operation(change) == "edit":
                    self._change_device(vm, change.device)
                elif _operation(change) == "remove":
                    self._remove_device(vm, change)
            if spec.changeTrackingEnabled is not None:
                self._track(vm, bool(spec.changeTrackingEnabled))
            if spec.annotation is not None:
                vm.settings.annotation = spec.annotation
            for option in spec.extraConfig or ():
                self._set_option(vm, option.key, str(option.value) if option.value is not None else "")
            vm.touch()

    def _check(self, vm: VirtualMachine, spec: Any) -> None:
        if spec.changeVersion and spec.changeVersion != str(vm.settings.change_version):
            raise vim.fault.ConcurrentAccess(msg="The configuration was changed by another operation.")
        if spec.changeTrackingEnabled and not vm.settings.change_tracking:
            if not vm.identity.change_tracking_supported:
                raise vmodl.fault.NotSupported(msg="Change tracking is not supported by this virtual machine.")
            if vm.roots:
                raise vim.fault.InvalidState(msg="Change tracking cannot be enabled while the virtual machine has snapshots.")
        for number, change in enumerate(spec.deviceChange or ()):
            key = change.device.key
            if _operation(change) == "add":
                continue
            known = vm.nics if isinstance(change.device, vim.vm.device.VirtualEthernetCard) else vm.disks
            if key not in known:
                raise invalid_device(number, f"The lab can only edit and remove disks and adapters that it has, not {key}.")
            if known is vm.disks and key in self._held_disks(vm):
                raise vim.fault.FileLocked(file=vm.disks[key].disk.file_name, msg="Failed to lock the file")

    def _add_devices(self, vm: VirtualMachine, devices: NewDevices) -> None:
        vm.controllers += [Controller(one.kind, one.bus) for one in devices.controllers]
        for disk in devices.disks:
            self._inventory.add_disk(vm, disk).disk.on_power_on()
        for nic in devices.nics:
            made = self._inventory.add_nic(vm, nic)
            made.connected = made.start_connected and vm.running

    def _remove_device(self, vm: VirtualMachine, change: Any) -> None:
        """Take a device away; a disk's files go only with fileOperation destroy."""
        if isinstance(change.device, vim.vm.device.VirtualEthernetCard):
            del vm.nics[change.device.key]
        elif str(change.fileOperation) == "destroy":
            self._inventory.remove_disk(vm, change.device.key)
        else:
            vm.disks.pop(change.device.key).disk.close()

    @staticmethod
    def _track(vm: VirtualMachine, enabled: bool) -> None:
        vm.settings.change_tracking = enabled
        for attached in vm.disks.values():
            if enabled:
                attached.disk.tracking.enable()
            else:
                attached.disk.tracking.disable()

    @staticmethod
    def _set_option(vm: VirtualMachine, key: str, value: str) -> None:
        """Set an extraConfig entry; an empty value removes it, as in vSphere."""
        if value:
            vm.settings.extra_config[key] = value
        else:
            vm.settings.extra_config.pop(key, None)

    def _change_device(self, vm: VirtualMachine, device: Any) -> None:
        if isinstance(device, vim.vm.device.VirtualEthernetCard):
            self._change_nic(vm, vm.nics[device.key], device)
            return
        try:
            vm.disks[device.key].disk.grow(device.capacityInBytes or device.capacityInKB * 1024)
        except (DiskHasSnapshots, DiskBusy) as error:
            raise vim.fault.InvalidState(msg="A disk with snapshots cannot be resized.") from error
        except ValueError as error:
            raise vim.fault.InvalidDeviceSpec(deviceIndex=0, msg=str(error)) from error

    def _change_nic(self, vm: VirtualMachine, nic: Nic, device: Any) -> None:
        if device.connectable is not None:
            nic.start_connected = bool(device.connectable.startConnected)
            nic.connected = bool(device.connectable.connected) and vm.running
        network = getattr(device.backing, "network", None)
        if network is not None:
            nic.network = self._world.get(network)  # type: ignore[assignment]


def _operation(change: Any) -> str:
    return str(change.operation)
