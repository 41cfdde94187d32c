"""The VM in Azure: managed disks from sealed seeds, NIC and VM."""

from collections.abc import Mapping
from dataclasses import dataclass

from temporalio import activity

from activities.adapters import Target, TargetDefaults
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import INSTALLATION_TAG, JOB_TAG, REPLICATION_TAG, seed_container, seed_name
from deltaferry.model.replication import ReplicationRef
from deltaferry.ports.target_cloud import DiskImport, ImportedDisk, TargetCloud, TargetVmSpec, VmNetwork
from workflows.messages.dr import ImportCopiesInput
from workflows.messages.operator_input import TargetProperties
from workflows.messages.step import CreatedVm, CreateVmInput, DeleteTargetInput, ImportedDisks, ImportInput


@dataclass(frozen=True, slots=True)
class ResolvedTarget:
    """Target properties with the target's defaults filled in."""

    name: str
    size: str
    resource_group: str
    network: str
    subnet: str
    zone: str | None
    disk_sku: str
    license_type: str | None


def resolve(properties: TargetProperties, defaults: TargetDefaults, source_name: str) -> ResolvedTarget:
    """Return what a migration uses: the property, else the target's default, else the source's name."""
    return ResolvedTarget(
        name=properties.vm_name or source_name,
        size=properties.size or defaults.vm_size,
        resource_group=properties.resource_group or defaults.resource_group,
        network=properties.network or defaults.network,
        subnet=properties.subnet or defaults.subnet,
        zone=properties.zone,
        disk_sku=properties.disk_sku or defaults.disk_sku,
        license_type=properties.license_type,
    )


def ownership_tags(ref: ReplicationRef) -> dict[str, str]:
    """Return the tags by which everything that we create in Azure is known as ours."""
    return {INSTALLATION_TAG: ref.installation, REPLICATION_TAG: ref.replication_id}


def _job_tags(ref: ReplicationRef, job: str) -> dict[str, str]:
    """Return the tags of what one migration makes; an input of before jobs were named has none."""
    return ownership_tags(ref) | ({JOB_TAG: job} if job else {})


def _require_isolated(cloud: TargetCloud, test: ResolvedTarget, production: ResolvedTarget) -> None:
    """Raise OPERATION_REFUSED where a test's VM would be in the network of the VM that it is a copy of."""
    if cloud.same_network(VmNetwork(test.resource_group, test.network), VmNetwork(production.resource_group, production.network)):
        raise DeltaferryError(
            ErrorKind.OPERATION_REFUSED,
            f"The virtual network {test.network} is the one that the migrated VM will be in: name an isolated one for the test.",
        )


def disk_name(vm_name: str, disk_key: int, *, is_boot: bool) -> str:
    """Return a managed disk's name."""
    return f"{vm_name}-os" if is_boot else f"{vm_name}-data-{disk_key}"


class TargetVmActivities:
    """Imports seed disks and creates the target VM."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def import_disks(self, request: ImportInput) -> ImportedDisks:
        """Import every sealed seed into a managed disk. A disk that an earlier attempt imported is taken as it is.

        Raises FENCED where the seed is no longer at the seal that was verified.
        """
        beats = Heartbeats("importing the seed disks into managed disks")
        ref = request.replication.ref
        target = self._targets[ref.target]
        vm = resolve(request.target, target.defaults, request.replication.vm_name)
        container = seed_container(ref)
        tags = {**request.target.tags, **_job_tags(ref, request.job)}
        imported = []
        for disk in request.replication.disks:
            name = seed_name(disk.key)
            target.stores.seeds.raise_fence(container, name, request.seal)
            target.stores.seeds.write_footer(container, name, disk.capacity_bytes, request.seal)
            spec = DiskImport(
                disk_key=disk.key,
                name=disk_name(vm.name, disk.key, is_boot=disk.is_boot),
                source_url=target.stores.seeds.url(container, name),
                capacity_bytes=disk.capacity_bytes,
                is_boot=disk.is_boot,
                generation=request.replication.generation,
                os_type=request.target.os_type or request.replication.os_type,
                sku=vm.disk_sku,
            )
            made = target.cloud.import_disk(vm.resource_group, spec, {**tags, "deltaferry-seal": str(request.seal)}, beats.beat)
            imported.append((disk.key, made.resource_id))
        return ImportedDisks(tuple(imported))

    @activity.defn
    @translated
    def import_copies(self, request: ImportCopiesInput) -> ImportedDisks:
        """Import the copies of a recovery point's disks. A disk that an earlier attempt imported is taken as it is.

        Raises OPERATION_REFUSED where a test is to be in the network that the migrated VM would be in.
        """
        beats = Heartbeats("importing the recovery point's disks into managed disks")
        ref = request.replication.ref
        target = self._targets[ref.target]
        vm = resolve(request.target, target.defaults, request.replication.vm_name)
        if request.isolated_from is not None:
            production = resolve(request.isolated_from, target.defaults, request.replication.vm_name)
            _require_isolated(target.cloud, vm, production)
        boot = {disk.key for disk in request.replication.disks if disk.is_boot}
        capacities = {disk.disk_key: disk.capacity_bytes for disk in request.point.disks}
        tags = {**request.target.tags, **_job_tags(ref, request.job)}
        imported = []
        for copy in request.copies:
            is_boot = copy.disk_key in boot
            spec = DiskImport(
                disk_key=copy.disk_key,
                name=disk_name(vm.name, copy.disk_key, is_boot=is_boot),
                source_url=target.stores.seeds.url(seed_container(ref), copy.name),
                capacity_bytes=capacities[copy.disk_key],
                is_boot=is_boot,
                generation=request.replication.generation,
                os_type=request.target.os_type or request.replication.os_type,
                sku=vm.disk_sku,
            )
            point = {"deltaferry-point": request.point.cycle_key}
            made = target.cloud.import_disk(vm.resource_group, spec, {**tags, **point}, beats.beat)
            imported.append((copy.disk_key, made.resource_id))
        return ImportedDisks(tuple(imported))

    @activity.defn
    @translated
    def create_target_vm(self, request: CreateVmInput) -> CreatedVm:
        """Create NIC and VM from the imported disks, and wait until the VM runs."""
        beats = Heartbeats("creating the target VM")
        ref = request.replication.ref
        target = self._targets[ref.target]
        vm = resolve(request.target, target.defaults, request.replication.vm_name)
        boot = {disk.key for disk in request.replication.disks if disk.is_boot}
        disks = [ImportedDisk(key, resource_id) for key, resource_id in request.disks]
        spec = TargetVmSpec(
            name=vm.name,
            size=vm.size,
            os_disk=next(disk for disk in disks if disk.disk_key in boot),
            data_disks=tuple(disk for disk in disks if disk.disk_key not in boot),
            network=vm.network,
            subnet=vm.subnet,
            zone=vm.zone,
            license_type=vm.license_type,
        )
        created = target.cloud.create_vm(
            vm.resource_group, spec, {**request.target.tags, **_job_tags(ref, request.job)}, beats.beat
        )
        return CreatedVm(created.resource_id)

    @activity.defn
    @translated
    def delete_target(self, request: DeleteTargetInput) -> None:
        """Delete what a migration that failed has made in Azure; what is not ours is left alone."""
        beats = Heartbeats("deleting what the failed migration made")
        ref = request.replication.ref
        target = self._targets[ref.target]
        vm = resolve(request.target, target.defaults, request.replication.vm_name)
        boot = {disk.key for disk in request.replication.disks if disk.is_boot}
        keys = {*request.disk_keys, *(disk.key for disk in request.replication.disks)}
        names = [disk_name(vm.name, key, is_boot=key in boot) for key in sorted(keys)]
        target.cloud.delete_vm(vm.resource_group, vm.name, names, _job_tags(ref, request.job), beats.beat)
