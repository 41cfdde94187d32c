"""A VM in Azure that is failed over: its disks, and its power."""

from collections.abc import Mapping

from azure.mgmt.compute.models import VirtualMachine

from deltaferry.azure.arm import ArmClients, carries
from deltaferry.azure.disks import ManagedDisks
from deltaferry.azure.errors import arm_errors
from deltaferry.azure.virtual_machines import VirtualMachines
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat
from deltaferry.ports.failback import TargetDisk, TargetVmDisks

_RUNNING, _DEALLOCATED = "PowerState/running", "PowerState/deallocated"
_GIB = 1 << 30


class FailedOverVms:
    """VMs of one subscription that hold what replications have brought there. Safe to use from several threads."""

    def __init__(self, arm: ArmClients, vms: VirtualMachines, disks: ManagedDisks) -> None:
        self._arm = arm
        self._vms = vms
        self._disks = disks

    def read(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> TargetVmDisks:
        """Return a VM with its disks, the OS disk first, then by LUN. Raises AZURE_NOT_FOUND, AZURE_CONFLICT."""
        vm = self._own(resource_group, name, tags, beat)
        storage = vm.properties.storage_profile if vm.properties else None
        attached: list[tuple[str, int | None]] = []
        if storage is not None and storage.os_disk and storage.os_disk.managed_disk and storage.os_disk.managed_disk.id:
            attached.append((storage.os_disk.managed_disk.id, None))
        for disk in sorted((storage.data_disks or ()) if storage else (), key=lambda disk: disk.lun):
            if disk.managed_disk is not None and disk.managed_disk.id:
                attached.append((disk.managed_disk.id, disk.lun))
        disks = tuple(self._disk(resource_id, lun, tags, beat) for resource_id, lun in attached)
        return TargetVmDisks(vm.id or "", _RUNNING in self._power(resource_group, name), disks)

    def deallocate(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Stop a VM and give its host back; no-op if it is so. Raises AZURE_NOT_FOUND, AZURE_CONFLICT."""
        self._own(resource_group, name, tags, beat)
        if _DEALLOCATED in self._power(resource_group, name):
            return
        self._arm.run(
            f"deallocating VM {name}",
            lambda polling: self._arm.compute.virtual_machines.begin_deallocate(resource_group, name, polling=polling),
            beat,
        )

    def start(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Start a VM and wait until it runs; no-op if it does. Raises AZURE_NOT_FOUND, AZURE_CONFLICT."""
        self._vms.await_running(resource_group, self._own(resource_group, name, tags, beat), beat)

    def _own(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> VirtualMachine:
        vm = self._vms.find_own(resource_group, name, tags, beat)
        if vm is None:
            raise DeltaferryError(ErrorKind.AZURE_NOT_FOUND, f"VM {name} does not exist in resource group {resource_group}")
        return vm

    def _disk(self, resource_id: str, lun: int | None, tags: Mapping[str, str], beat: Beat) -> TargetDisk:
        beat()
        parts = resource_id.strip("/").split("/")  # subscriptions/<id>/resourceGroups/<group>/…: Azure's case varies
        group, name = parts[3], parts[-1]
        disk = self._disks.read(group, name)
        if disk is None or disk.properties is None:
            raise DeltaferryError(ErrorKind.AZURE_NOT_FOUND, f"disk {name} is attached and cannot be read")
        size_bytes = disk.properties.disk_size_bytes or (disk.properties.disk_size_gb or 0) * _GIB
        return TargetDisk(resource_id, lun is None, lun, size_bytes, carries(disk.tags, tags))

    def _power(self, resource_group: str, name: str) -> frozenset[str]:
        with arm_errors(f"reading the power state of VM {name}"):
            view = self._arm.compute.virtual_machines.instance_view(resource_group, name)
        return frozenset(status.code for status in view.statuses or () if status.code)
