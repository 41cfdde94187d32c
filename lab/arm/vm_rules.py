"""What Compute checks of a virtual machine before it accepts it: a specialised one, made of existing disks."""

from dataclasses import dataclass

from lab.arm.disk_rules import check_tags
from lab.arm.errors import ArmError, Json, bad_parameter, required
from lab.arm.networks import missing_reference
from lab.arm.resource_ids import ResourceId, same, upper_group
from lab.arm.vm_sizes import SIZES, VmSize
from lab.arm.world import Resource, World

_LICENSES = {"Windows_Server", "Windows_Client", "RHEL_BYOS", "SLES_BYOS", "None"}


@dataclass(frozen=True, slots=True)
class VmParts:
    """The resources that a VM is made of."""

    size: VmSize
    os_disk: Resource
    data_disks: tuple[Resource, ...]
    nics: tuple[Resource, ...]

    @property
    def disks(self) -> tuple[Resource, ...]:
        """All disks, the OS disk first."""
        return (self.os_disk, *self.data_disks)


def check_vm(world: World, vm_id: ResourceId, body: Json, location: str) -> VmParts:
    """Return the parts of a VM as a PUT describes it, or refuse it."""
    properties: Json = body.get("properties") or {}
    check_tags(body.get("tags"))
    size = _size(properties)
    storage: Json = properties.get("storageProfile") or {}
    os_profile_disk = storage.get("osDisk") or {}
    if not os_profile_disk:
        raise required("storageProfile.osDisk")
    if properties.get("osProfile") is not None:
        raise bad_parameter("Parameter 'osProfile' is not allowed.", "osProfile")
    if storage.get("imageReference") is not None:
        raise bad_parameter("Parameter 'imageReference' is not allowed with an attached OS disk.", "imageReference")
    if properties.get("licenseType") not in {None, *_LICENSES}:
        raise bad_parameter(f"The value '{properties['licenseType']}' of parameter 'licenseType' is invalid.", "licenseType")
    zones = body.get("zones") or []
    data = storage.get("dataDisks") or []
    os_disk = _disk(world, vm_id, os_profile_disk, "osDisk", size, location, zones)
    _check_os_disk(os_disk, os_profile_disk, size)
    if len(data) > size.max_data_disks:
        raise ArmError(
            409, "OperationNotAllowed",
            f"The maximum number of data disks allowed to be attached to a VM of this size is {size.max_data_disks}.",
            target="dataDisks",
        )  # fmt: skip
    luns = [disk.get("lun") for disk in data]
    if any(not isinstance(lun, int) or not 0 <= lun < 64 for lun in luns):
        raise bad_parameter("The value of parameter 'dataDisk.lun' is missing or out of range.", "dataDisk.lun")
    if len(set(luns)) != len(luns):
        raise bad_parameter("A logical unit number (lun) is used by more than one data disk.", "dataDisk.lun")
    data_disks = tuple(_disk(world, vm_id, disk, "dataDisks", size, location, zones) for disk in data)
    keys = [disk.id.key for disk in (os_disk, *data_disks)]
    if len(set(keys)) != len(keys):
        raise bad_parameter("A disk is attached more than once.", "dataDisk.managedDisk.id")
    return VmParts(size, os_disk, data_disks, _nics(world, vm_id, properties, size, location))


def check_quota(world: World, size: VmSize, vm_id: ResourceId, location: str) -> None:
    """Refuse a VM that needs more cores than the region's quota leaves."""
    quota = world.faults.cores_quota
    if quota is None:
        return
    used = sum(
        SIZES[vm.properties["hardwareProfile"]["vmSize"].lower()].cores
        for vm in world.of_kind("virtualmachines")
        if vm.id.key != vm_id.key and vm.body["location"] == location
    )
    if used + size.cores > quota:
        raise ArmError(
            409, "OperationNotAllowed",
            "Operation could not be completed as it results in exceeding approved Total Regional Cores quota. Additional details - "
            f"Location: {location}, Current Limit: {quota}, Current Usage: {used}, Additional Required: {size.cores}.",
        )  # fmt: skip


def _size(properties: Json) -> VmSize:
    name = (properties.get("hardwareProfile") or {}).get("vmSize")
    if not name:
        raise required("hardwareProfile.vmSize")
    size = SIZES.get(str(name).lower())
    if size is None:
        raise bad_parameter(
            f"The value {name} provided for the VM size is not valid. The valid sizes in the current region are: {', '.join(s.name for s in SIZES.values())}.",
            "vmSize",
        )
    return size


def _disk(world: World, vm_id: ResourceId, wanted: Json, target: str, size: VmSize, location: str, zones: list[str]) -> Resource:
    if str(wanted.get("createOption", "")).lower() != "attach":
        raise bad_parameter(
            f"The createOption of {target} is missing or not known here: only Attach is.", f"{target}.createOption"
        )
    if wanted.get("deleteOption") not in {None, "Delete", "Detach"}:
        raise bad_parameter(
            f"The value '{wanted['deleteOption']}' of parameter 'deleteOption' is invalid.", f"{target}.deleteOption"
        )
    reference = str((wanted.get("managedDisk") or {}).get("id", ""))
    if not reference:
        raise required(f"{target}.managedDisk.id")
    disk = world.find(reference)
    if disk is None or disk.id.kind != "disks":
        name = reference.rsplit("/", 1)[-1]
        raise ArmError(404, "ResourceNotFound", f"Disk {name} is not found.", target=target)
    owner = disk.body.get("managedBy")
    if owner and not same(owner, str(vm_id)):
        raise ArmError(
            409, "ConflictingUserInput",
            f"Disk '{disk.id}' cannot be attached as the disk is already owned by VM '{owner}'.", target=str(disk.id),
        )  # fmt: skip
    if disk.properties["provisioningState"] != "Succeeded":
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"Disk {disk.id.leaf} cannot be attached in provisioning state {disk.properties['provisioningState']}.",
        )
    if disk.properties["diskState"] not in {"Unattached", "Attached", "Reserved"}:
        raise ArmError(
            409, "OperationNotAllowed",
            f"Disk {disk.id.leaf} cannot be attached while it is in state {disk.properties['diskState']}.", target=str(disk.id),
        )  # fmt: skip
    if disk.body["location"] != location:
        raise ArmError(400, "BadRequest", f"Disk {disk.id.leaf} is in region {disk.body['location']}, the VM in {location}.")
    if not str(disk.body["sku"]["name"]).endswith("_ZRS") and (disk.body.get("zones") or []) != zones:
        raise ArmError(
            400, "BadRequest",
            f"Disk {disk.id} cannot be attached to the VM because it is not in the same zone as the VM. VM zone: {zones}. Disk zone: {disk.body.get('zones') or []}.",
        )  # fmt: skip
    if disk.body["sku"]["tier"] != "Standard" and not size.premium:
        raise bad_parameter(
            f"Requested operation cannot be performed because VM size {size.name} does not support the storage account type {disk.body['sku']['name']}.",
            target,
        )
    caching = wanted.get("caching", "None")
    if caching not in {"None", "ReadOnly", "ReadWrite"}:
        raise bad_parameter(f"The value '{caching}' of parameter 'caching' is invalid.", f"{target}.caching")
    if caching != "None" and disk.properties["diskSizeGB"] >= 4096:
        raise bad_parameter("Host caching is not supported for disks of 4 TiB and more.", f"{target}.caching")
    return disk


def _check_os_disk(disk: Resource, wanted: Json, size: VmSize) -> None:
    os_type = wanted.get("osType")
    if os_type is None:
        raise required("storageProfile.osDisk.osType")
    if disk.properties.get("osType") is None:
        raise bad_parameter(f"Disk {disk.id.leaf} has no osType and cannot be attached as OS disk.", "osDisk.osType")
    if disk.properties["osType"] != os_type:
        raise bad_parameter(
            f"The osType '{os_type}' does not match the osType '{disk.properties['osType']}' of disk {disk.id.leaf}.",
            "osDisk.osType",
        )
    generation = disk.properties.get("hyperVGeneration", "V1")
    if generation not in size.generations:
        raise ArmError(
            400, "BadRequest", f"The selected VM size '{size.name}' cannot boot Hypervisor Generation '{generation[1:]}'."
        )


def _nics(world: World, vm_id: ResourceId, properties: Json, size: VmSize, location: str) -> tuple[Resource, ...]:
    wanted = (properties.get("networkProfile") or {}).get("networkInterfaces") or []
    if not wanted:
        raise bad_parameter("Virtual Machine must have at least one network interface.", "networkProfile")
    if len(wanted) > size.max_nics:
        raise bad_parameter(
            f"The number of network interfaces exceeds the maximum of {size.max_nics} for VM size {size.name}.", "networkProfile"
        )
    primaries = sum(1 for entry in wanted if (entry.get("properties") or {}).get("primary"))
    if primaries > 1 or (len(wanted) > 1 and primaries != 1):
        raise ArmError(
            400,
            "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary",
            f"Virtual machine {vm_id} must have one network interface set as the primary.",
        )
    found = []
    for entry in wanted:
        reference = str(entry.get("id", ""))
        nic = world.find(reference)
        if nic is None or nic.id.kind != "networkinterfaces" or nic.body["location"] != location:
            raise missing_reference(reference)
        user = nic.properties.get("virtualMachine")
        if user and not same(user["id"], str(vm_id)):
            raise ArmError(
                400, "NicInUse", f"Network Interface {nic.id} is used by existing resource {upper_group(nic.id)}: {user['id']}."
            )
        if nic.properties["provisioningState"] != "Succeeded":
            raise ArmError(
                409, "RetryableError", f"Network interface {nic.id} is being changed by another operation. Try again later."
            )
        found.append(nic)
    return tuple(found)
