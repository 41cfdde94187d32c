"""Target VMs: made from imported disks, without an OS profile, because the disks hold an installed system."""

from collections.abc import Mapping

from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.compute.models import (
    CachingTypes,
    DataDisk,
    DiskCreateOptionTypes,
    HardwareProfile,
    ManagedDiskParameters,
    NetworkInterfaceReference,
    NetworkInterfaceReferenceProperties,
    NetworkProfile,
    OSDisk,
    StorageProfile,
    VirtualMachine,
    VirtualMachineProperties,
)

from deltaferry.azure.arm import ArmClients, carries, failed, require_tags, same_id
from deltaferry.azure.errors import VM_CREATION_CODES, arm_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat
from deltaferry.ports.target_cloud import TargetVm, TargetVmSpec

_RUNNING = "PowerState/running"
_OFF = frozenset({"PowerState/stopped", "PowerState/deallocated"})


class VirtualMachines:
    """Virtual machines of one subscription."""

    def __init__(self, arm: ArmClients) -> None:
        self._arm = arm

    def read(self, resource_group: str, name: str) -> VirtualMachine | None:
        """Return a VM, or None."""
        with arm_errors(f"reading VM {name}"):
            try:
                return self._arm.compute.virtual_machines.get(resource_group, name)
            except ResourceNotFoundError:
                return None

    def group_exists(self, resource_group: str) -> bool:
        """Return whether a resource group exists. Compute tells, so that no right on the group itself is needed."""
        with arm_errors(f"reading resource group {resource_group}"):
            try:
                next(iter(self._arm.compute.virtual_machines.list(resource_group)), None)
            except ResourceNotFoundError:
                return False
            return True

    def find_own(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> VirtualMachine | None:
        """Return the VM of that name once nothing is changing it, or None. Raises AZURE_CONFLICT if it is not ours."""
        existing = self._arm.settled(lambda: self.read(resource_group, name), _state, beat)
        if existing is not None:
            require_tags(f"VM {name}", existing.tags, tags)
        return existing

    def create(
        self, resource_group: str, spec: TargetVmSpec, os_type: str, nic_id: str, tags: Mapping[str, str], beat: Beat
    ) -> VirtualMachine:
        """Return the VM, creating it unless an earlier attempt has. Raises AZURE_CONFLICT, AZURE_QUOTA."""
        existing = self.find_own(resource_group, spec.name, tags, beat)
        if existing is not None and not failed(_state(existing)):
            if not same_id(_os_disk_id(existing), spec.os_disk.resource_id):
                raise DeltaferryError(ErrorKind.AZURE_CONFLICT, f"VM {spec.name} exists and boots from another disk")
            return existing
        return self._arm.run(
            f"creating VM {spec.name}",
            lambda polling: self._arm.compute.virtual_machines.begin_create_or_update(
                resource_group, spec.name, self._request(spec, os_type, nic_id, tags), polling=polling
            ),
            beat,
            VM_CREATION_CODES,
        )

    def await_running(self, resource_group: str, vm: VirtualMachine, beat: Beat) -> TargetVm:
        """Wait until a VM runs, starting it if it is off. The caller's time limit bounds the wait, by what `beat` raises."""
        name = vm.name or ""
        while True:
            codes = self._power_codes(resource_group, name)
            if _RUNNING in codes:
                if not vm.id:
                    raise DeltaferryError(ErrorKind.AZURE_FAILED, f"VM {name} came without an id")
                return TargetVm(resource_id=vm.id, running=True)
            if codes & _OFF:
                self._arm.run(
                    f"starting VM {name}",
                    lambda polling: self._arm.compute.virtual_machines.begin_start(resource_group, name, polling=polling),
                    beat,
                )
            else:
                self._arm.pause(beat)

    def delete(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a VM if it carries the tags; no-op if it does not, or is gone. Its disks stay."""
        vm = self._arm.settled(lambda: self.read(resource_group, name), _state, beat)
        if vm is None or not carries(vm.tags, tags):
            return
        self._arm.run(
            f"deleting VM {name}",
            lambda polling: self._arm.compute.virtual_machines.begin_delete(resource_group, name, polling=polling),
            beat,
        )

    def _power_codes(self, resource_group: str, name: str) -> frozenset[str]:
        with arm_errors(f"reading the power state of VM {name}"):
            view = self._arm.compute.virtual_machines.instance_view(resource_group, name)
        return frozenset(status.code for status in view.statuses or () if status.code)

    def _request(self, spec: TargetVmSpec, os_type: str, nic_id: str, tags: Mapping[str, str]) -> VirtualMachine:
        """Describe the VM. Deleting it later takes its NIC along and never its disks: they hold the migrated data."""
        storage = StorageProfile(
            os_disk=OSDisk(
                os_type=os_type,
                create_option=DiskCreateOptionTypes.ATTACH,
                managed_disk=ManagedDiskParameters(id=spec.os_disk.resource_id),
                caching=CachingTypes.READ_WRITE,
                delete_option="Detach",
            ),
            data_disks=[
                DataDisk(
                    lun=lun,
                    create_option=DiskCreateOptionTypes.ATTACH,
                    managed_disk=ManagedDiskParameters(id=disk.resource_id),
                    caching=CachingTypes.NONE,
                    delete_option="Detach",
                )
                for lun, disk in enumerate(spec.data_disks)
            ],
        )
        nic = NetworkInterfaceReference(
            id=nic_id, properties=NetworkInterfaceReferenceProperties(primary=True, delete_option="Delete")
        )
        return VirtualMachine(
            location=self._arm.settings.location,
            tags=dict(tags),
            zones=[spec.zone] if spec.zone else None,
            properties=VirtualMachineProperties(
                hardware_profile=HardwareProfile(vm_size=spec.size),
                storage_profile=storage,
                network_profile=NetworkProfile(network_interfaces=[nic]),
                license_type=spec.license_type,
            ),
        )


def _state(vm: VirtualMachine) -> str | None:
    return vm.properties.provisioning_state if vm.properties else None


def _os_disk_id(vm: VirtualMachine) -> str | None:
    storage = vm.properties.storage_profile if vm.properties else None
    managed = storage.os_disk.managed_disk if storage and storage.os_disk else None
    return managed.id if managed else None
