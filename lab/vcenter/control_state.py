"""What the control port shows of a VM."""

from typing import Any

from lab.vcenter.virtual_machine import VirtualMachine
from lab.vcenter.vm_properties import extra_config


def vm_state(vm: VirtualMachine) -> Any:
    """Return a VM's state as JSON values; `lab.vcenter.control_views.VmState` reads it."""
    return {
        "moref": vm.moref,
        "name": vm.name,
        "instance_uuid": vm.identity.instance_uuid,
        "host": vm.host.name,
        "power": vm.power,
        "annotation": vm.settings.annotation,
        "change_tracking": vm.settings.change_tracking,
        "consolidation_needed": vm.consolidation_needed,
        "extra_config": extra_config(vm),
        "snapshots": [{"moref": item.moref, "name": item.name} for item in vm.snapshots()],
        "disks": [
            {
                "key": item.key,
                "label": item.label,
                "capacity_bytes": item.disk.capacity_bytes,
                "file_name": item.backing_name(item.disk.file_name),
                "tracking_uuid": item.disk.tracking.uuid,
                "allocated_bytes": item.disk.allocated_bytes,
                "controller": f"{item.controller.kind} {item.controller.bus}",
            }
            for item in vm.disks.values()
        ],
        "nics": [
            {
                "key": nic.key,
                "network": nic.network.name,
                "connected": nic.connected,
                "start_connected": nic.start_connected,
                "kind": nic.kind,
            }
            for nic in vm.nics.values()
        ],
    }
