"""Power of a VM: on, off, reset, and the guest's own shutdown."""

import threading
from collections.abc import Callable
from typing import Any

from lab.vcenter.entities import Host
from lab.vcenter.events import RESTARTED_BY_HA, EventLog
from lab.vcenter.faults import FaultName
from lab.vcenter.virtual_machine import VirtualMachine
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import World, now


class PowerOperations:
    """Switches VMs; `on_power_off` is told of every VM that went off, to cut what its guest had open."""

    def __init__(
        self,
        world: World,
        events: EventLog,
        on_power_off: Callable[[VirtualMachine], None],
        held_disks: Callable[[VirtualMachine], tuple[int, ...]],
    ) -> None:
        self._world = world
        self._events = events
        self._on_power_off = on_power_off
        self._held_disks = held_disks

    def power_on(self, vm: VirtualMachine, user: str = "") -> None:
        """Power on, in a task. Raises InvalidPowerState, and GenericVmConfigFault while somebody has a disk open."""
        check_power(vm, "poweredOn", wanted_now="poweredOff")
        self._world.pause(self._world.times.power_s)
        with self._world.lock:
            held = self._held_disks(vm)
            if held:
                raise _disk_locked(vm, held)
            self._start(vm)
        self._events.write(vim.event.VmPoweredOnEvent, vm, f"{vm.name} is powered on", user)

    def _start(self, vm: VirtualMachine) -> None:
        with self._world.lock:
            for attached in vm.disks.values():
                attached.disk.on_power_on()
            for nic in vm.nics.values():
                nic.connected = nic.start_connected
            vm.power = "poweredOn"
            vm.boot_time = now()
            self._world.changed()

    def power_off(self, vm: VirtualMachine, user: str = "") -> None:
        """Pull the plug, in a task. Raises InvalidPowerState."""
        check_power(vm, "poweredOff", wanted_now="poweredOn")
        self._events.write(vim.event.VmStoppingEvent, vm, f"{vm.name} is stopping", user)
        self._world.pause(self._world.times.power_s)
        self.stop(vm, hard=True, user=user)

    def reset(self, vm: VirtualMachine, user: str = "") -> None:
        """Reset, in a task: the VM stays on. Raises InvalidPowerState."""
        check_power(vm, "poweredOn", wanted_now="poweredOn")
        self._events.write(vim.event.VmResettingEvent, vm, f"{vm.name} is reset", user)
        self._world.pause(self._world.times.power_s)
        with self._world.lock:
            vm.boot_time = now()
            self._world.changed()

    def shut_down_guest(self, vm: VirtualMachine, user: str = "") -> None:
        """Ask the guest to shut down and return; it goes off later. Raises InvalidPowerState, ToolsUnavailable."""
        check_power(vm, "poweredOff", wanted_now="poweredOn")
        if not vm.tools_running:
            raise vim.fault.ToolsUnavailable(msg="Cannot complete operation because VMware Tools is not running.")
        self._events.write(vim.event.VmGuestShutdownEvent, vm, f"Guest OS shut down for {vm.name}", user)
        if self._world.faults.take(FaultName.SHUTDOWN_NEVER_FINISHES, vm=vm.moref):
            return
        threading.Thread(target=self._shut_down, args=(vm,), name=f"shutdown {vm.moref}", daemon=True).start()

    def _shut_down(self, vm: VirtualMachine) -> None:
        self._world.pause(self._world.times.shutdown_s)
        if vm.running:
            self.stop(vm, hard=False)

    def stop(self, vm: VirtualMachine, *, hard: bool, user: str = "") -> None:
        """Make a VM be off now."""
        self._halt(vm, hard=hard)
        self._events.write(vim.event.VmPoweredOffEvent, vm, f"{vm.name} is powered off", user)

    def fail_over(self, vm: VirtualMachine, host: Host) -> None:
        """Let a running VM's host die, and vSphere HA start the VM again on another one: nothing says that it was off."""
        self._halt(vm, hard=True)
        with self._world.lock:
            vm.host = host
            vm.touch()
        self._start(vm)
        self._events.write(
            vim.event.EventEx, vm, f"vSphere HA restarted {vm.name}", eventTypeId=RESTARTED_BY_HA, severity="warning"
        )

    def _halt(self, vm: VirtualMachine, *, hard: bool) -> None:
        with self._world.lock:
            vm.power, vm.boot_time = "poweredOff", None
            vm.clean_power_off = not hard
            reset_tracking = hard and vm.loses_tracking_at_power_off
            vm.loses_tracking_at_power_off = False
        self._on_power_off(vm)
        for attached in vm.disks.values():
            attached.disk.on_power_off(hard=hard, reset_tracking=reset_tracking)
        self._world.changed()


def _disk_locked(vm: VirtualMachine, keys: tuple[int, ...]) -> Any:
    """Return the fault that vCenter gives when the host cannot lock a disk's file: told by its messages' keys, as vic does it.

    Source: vmware/vic, pkg/vsphere/disk (the messages of a real GenericVmConfigFault).
    """
    messages: list[tuple[str, str, str]] = []
    for key in keys:
        attached = vm.disks[key]
        path = f"/vmfs/volumes/{attached.datastore.name}/{attached.folder}/{attached.disk.file_name}"
        messages += [
            ("msg.fileio.lock", "", "Failed to lock the file"),
            ("msg.disk.noBackEnd", path, f"Cannot open the disk '{path}' or one of the snapshot disks it depends on."),
            ("msg.moduletable.powerOnFailed", "Disk", "Module 'Disk' power on failed."),
        ]
    messages += [
        ("msg.vmx.poweron.failed", "", "Failed to start the virtual machine."),
        (
            "vpxd.vm.poweron.unexpectedfailure",
            vm.name,
            f"An error was received from the ESX host while powering on VM {vm.name}.",
        ),
    ]
    return vim.fault.GenericVmConfigFault(
        reason="Failed to lock the file",
        msg=messages[-1][2],
        faultMessage=[
            vmodl.LocalizableMessage(key=name, arg=[vmodl.KeyAnyValue(key="1", value=value)] if value else [], message=sentence)
            for name, value, sentence in messages
        ],
    )


def check_power(vm: VirtualMachine, requested: str, *, wanted_now: str) -> None:
    """Raise vim.fault.InvalidPowerState unless the VM's power is `wanted_now`."""
    if vm.power != wanted_now:
        raise vim.fault.InvalidPowerState(
            requestedState=requested,
            existingState=vm.power,
            msg=f"The attempted operation cannot be performed in the current state ({vm.power}).",
        )
