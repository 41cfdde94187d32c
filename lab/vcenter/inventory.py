"""Building the inventory: the tree of entities from its specification, and VMs with their disks."""

import uuid
from pathlib import Path
from typing import TypeVar

from lab.vcenter.controllers import BUILT_IN, CLASSES, Controller
from lab.vcenter.disk import VirtualDisk
from lab.vcenter.entities import Cluster, Datacenter, Datastore, Folder, Host, ManagedEntity, Network
from lab.vcenter.inventory_file import DiskSpec, InventorySpec, NicSpec, VmSpec
from lab.vcenter.service_content import CUSTOM_FIELDS_MANAGER
from lab.vcenter.tasks import TaskManager
from lab.vcenter.virtual_machine import AttachedDisk, Identity, Nic, VirtualMachine
from lab.vcenter.vm_properties import publish
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import LabObject, World, data_object, now

_FIRST_NIC_KEY = 4000

_Entity = TypeVar("_Entity", bound=ManagedEntity)
_Item = TypeVar("_Item")


class InventoryError(ValueError):
    """The inventory names a host, datastore, network or folder that it does not have, or puts two VMs of a name in a folder."""


class Inventory:
    """The entities by name, and the making of VMs and disks."""

    def __init__(self, world: World, tasks: TaskManager, directory: Path, spec: InventorySpec) -> None:
        self._world = world
        self._tasks = tasks
        self._directory = directory
        self.root = self._add(Folder(world, "group-d1", "Datacenters", None, [vim.Folder, vim.Datacenter]))
        centre = self.datacenter = self._add(Datacenter(world, "datacenter-2", spec.datacenter, self.root))
        for folder in (centre.vm_folder, centre.host_folder, centre.datastore_folder, centre.network_folder):
            self._add(folder)
        self.cluster = self._add(Cluster(world, "domain-c7", spec.cluster, centre.host_folder))
        self._add(self.cluster.pool)
        self.hosts = {item.name: self._host(item.name) for item in spec.hosts}
        self.datastores = {item.name: self._datastore(item.name, item.capacity_bytes) for item in spec.datastores}
        self.networks = {name: self._network(name) for name in spec.networks}
        self.folders: dict[str, Folder] = {}
        for path in spec.folders:
            self._folder(path)
        self._attributes = {name: number for number, name in enumerate(spec.attributes, start=1)}
        self._add_attributes()
        for vm_spec in spec.vms:
            self.add_vm(vm_spec)

    @property
    def vms(self) -> list[VirtualMachine]:
        """All VMs, in the order in which they were made."""
        return [item for item in self._world.all() if isinstance(item, VirtualMachine)]

    def find_by_path(self, path: str) -> ManagedEntity | None:
        """Return the entity at an inventory path such as `Lab/vm/web-01`, or None."""
        wanted = path.strip("/")
        return next((item for item in self._world.all() if isinstance(item, ManagedEntity) and item.path() == wanted), None)

    def add_vm(self, spec: VmSpec) -> VirtualMachine:
        """Make a VM with its disks. Raises InventoryError, OSError, ValueError."""
        parent = self._named(self.folders, spec.folder, "folder") if spec.folder else self.datacenter.vm_folder
        if any(vm.name == spec.name and vm.parent is parent for vm in self.vms):
            raise InventoryError(f"folder {parent.name} already has a VM called {spec.name}")
        home = self._named(self.datastores, spec.datastore, "datastore")
        vm = VirtualMachine(
            self._world,
            f"vm-{self._world.number()}",
            _identity(spec, self._attributes_of(spec)),
            self._named(self.hosts, spec.host, "host"),
            home,
            parent,
        )
        vm.home_folder = _free_name(home.directory, spec.name)
        vm.settings.annotation = spec.annotation
        vm.settings.change_tracking = spec.change_tracking
        vm.settings.extra_config.update(spec.extra_config)
        vm.tools = spec.tools
        if spec.controllers is not None:
            vm.controllers = [_controller(one.kind, one.bus) for one in spec.controllers]
        for disk in spec.disks:
            self.add_disk(vm, disk)
        for nic in spec.nics:
            self.add_nic(vm, nic)
        vm.power = spec.power
        if vm.running:
            vm.boot_time = now()
        for attached in vm.disks.values():
            attached.disk.on_power_on()
        publish(vm)
        return self._add(vm)

    def add_disk(self, vm: VirtualMachine, spec: DiskSpec) -> AttachedDisk:
        """Make a disk on the VM's home datastore, or on the one that is named, and attach it. Raises OSError, ValueError."""
        controller, unit = _free_slot(vm, spec)
        number = next(n for n in range(len(vm.disks) + 1) if _stem(vm, n) not in {held.stem for held in vm.disks.values()})
        datastore = self._named(self.datastores, spec.datastore, "datastore") if spec.datastore else vm.home
        directory = datastore.directory / vm.home_folder
        directory.mkdir(parents=True, exist_ok=True)
        stem = _stem(vm, number)
        disk = VirtualDisk.create(directory, stem, spec.capacity_bytes, spec.content)
        if vm.settings.change_tracking:
            disk.tracking.enable()
        attached = AttachedDisk(
            key=controller.disk_key(unit),
            label=spec.label or f"Hard disk {number + 1}",
            unit_number=unit,
            mode=spec.mode,
            datastore=datastore,
            folder=vm.home_folder,
            stem=stem,
            disk=disk,
            controller=controller,
        )
        with self._world.lock:
            vm.disks[attached.key] = attached
        return attached

    def relocate(self, vm: VirtualMachine, target: Datastore) -> None:
        """Move all files of a VM to a folder of its name on another datastore. Raises DiskBusy while a disk is consolidated."""
        folder = _free_name(target.directory, vm.name)
        directory = target.directory / folder
        directory.mkdir()
        for attached in vm.disks.values():
            attached.disk.relocate(directory)
        left = vm.home.directory / vm.home_folder
        if not any(left.iterdir()):
            left.rmdir()
        with self._world.lock:
            for attached in vm.disks.values():
                attached.datastore, attached.folder = target, folder
            vm.home, vm.home_folder = target, folder
            vm.touch()

    def remove_disk(self, vm: VirtualMachine, key: int) -> None:
        """Detach a disk and delete its files; snapshots that hold it lose it. Raises KeyError."""
        with self._world.lock:
            attached = vm.disks.pop(key)
            for snapshot in vm.snapshots():
                snapshot.disks.pop(key, None)
            vm.touch()
        attached.disk.delete()

    def remove_vm(self, vm: VirtualMachine) -> None:
        """Delete a VM with its snapshots, its disks and its folder."""
        with self._world.lock:
            for snapshot in vm.snapshots():
                self._world.remove(snapshot.moref)
            for attached in vm.disks.values():
                attached.disk.delete()
            directory = vm.home.directory / vm.home_folder
            if directory.exists() and not any(directory.iterdir()):
                directory.rmdir()
            self._world.remove(vm.moref)

    def add_nic(self, vm: VirtualMachine, spec: NicSpec) -> Nic:
        """Give a VM an adapter; it is connected when the VM is next powered on. Raises InventoryError."""
        number = next(n for n in range(len(vm.nics) + 1) if _FIRST_NIC_KEY + n not in vm.nics)
        tail = uuid.uuid4().hex
        made = Nic(
            key=_FIRST_NIC_KEY + number,
            label=f"Network adapter {number + 1}",
            unit_number=7 + number,
            network=self._named(self.networks, spec.network, "network"),
            mac=spec.mac or f"00:50:56:{tail[:2]}:{tail[2:4]}:{tail[4:6]}",
            connected=spec.connected,
            start_connected=spec.connected,
            kind=spec.kind,
        )
        vm.nics[made.key] = made
        return made

    def _add(self, entity: _Entity) -> _Entity:
        entity.tasks = lambda: [task.reference for task in self._tasks.recent(entity)]
        self._world.add(entity)
        return entity

    def _host(self, name: str) -> Host:
        return self._add(Host(self._world, f"host-{self._world.number()}", name, self.cluster))

    def _datastore(self, name: str, capacity_bytes: int) -> Datastore:
        directory = self._directory / "datastores" / name
        directory.mkdir(parents=True, exist_ok=True)
        moref = f"datastore-{self._world.number()}"
        return self._add(Datastore(self._world, moref, name, self.datacenter.datastore_folder, directory, capacity_bytes))

    def _network(self, name: str) -> Network:
        return self._add(Network(self._world, f"network-{self._world.number()}", name, self.datacenter.network_folder))

    def _folder(self, path: str) -> Folder:
        """Make a folder by its path below the vm folder, and those above it; return it."""
        if path not in self.folders:
            above, _, name = path.rpartition("/")
            parent = self._folder(above) if above else self.datacenter.vm_folder
            moref = f"group-v{self._world.number()}"
            self.folders[path] = self._add(Folder(self._world, moref, name, parent, [vim.Folder, vim.VirtualMachine]))
        return self.folders[path]

    def _add_attributes(self) -> None:
        manager = LabObject(CUSTOM_FIELDS_MANAGER)
        manager.readers["field"] = lambda: [
            data_object(vim.CustomFieldsManager.FieldDef, key=key, name=name, type=str, managedObjectType=vim.VirtualMachine)
            for name, key in self._attributes.items()
        ]
        self._world.add(manager)

    def _attributes_of(self, spec: VmSpec) -> tuple[tuple[int, str], ...]:
        return tuple((self._named(self._attributes, name, "custom attribute"), value) for name, value in spec.attributes.items())

    @staticmethod
    def _named(items: dict[str, _Item], name: str, what: str) -> _Item:
        if name not in items:
            raise InventoryError(f"the inventory has no {what} called {name}")
        return items[name]


def _identity(spec: VmSpec, attributes: tuple[tuple[int, str], ...]) -> Identity:
    return Identity(
        name=spec.name,
        instance_uuid=spec.instance_uuid or str(uuid.uuid4()),
        bios_uuid=str(uuid.uuid4()),
        guest_id=spec.guest_id,
        guest_full_name=spec.guest_full_name,
        firmware=spec.firmware,
        hardware_version=spec.hardware_version,
        cpus=spec.cpus,
        memory_mib=spec.memory_mib,
        change_tracking_supported=spec.change_tracking_supported,
        template=spec.template,
        attributes=attributes,
        cores_per_socket=spec.cores_per_socket,
        secure_boot=spec.secure_boot,
    )


def _controller(kind: str, bus: int) -> Controller:
    known = CLASSES.get(kind)
    if known is None or bus not in range(known.buses):
        raise InventoryError(f"there is no controller {kind} {bus}")
    return Controller(kind, bus)


def _free_slot(vm: VirtualMachine, spec: DiskSpec) -> tuple[Controller, int]:
    """Return the controller and the slot for a new disk. Raises InventoryError where there is none, or it is taken."""
    usual = vm.controllers[0] if vm.controllers else BUILT_IN[0]
    controller = usual if spec.controller is None else vm.controller(spec.controller)
    if controller is None:
        raise InventoryError(f"the VM {vm.name} has no controller {spec.controller}")
    free = [unit for unit in CLASSES[controller.kind].units() if controller.disk_key(unit) not in vm.disks]
    if not free or (spec.unit is not None and spec.unit not in free):
        raise InventoryError(f"the slot {spec.unit} of controller {controller.key} is taken, or there is none")
    return controller, free[0] if spec.unit is None else spec.unit


def _stem(vm: VirtualMachine, number: int) -> str:
    return vm.home_folder if number == 0 else f"{vm.home_folder}_{number}"


def _free_name(directory: Path, name: str) -> str:
    """Return a directory name for a VM that is not taken on the datastore."""
    candidates = [name, *(f"{name}_{number}" for number in range(1, 1000))]
    return next(candidate for candidate in candidates if not (directory / candidate).exists())
