"""Making and deleting VMs by the API: CreateVM_Task and Destroy_Task, as a failback to another location needs them."""

from collections.abc import Callable
from typing import Any

from lab.vcenter.device_specs import new_devices
from lab.vcenter.dispatch import Call, Handler
from lab.vcenter.entities import Folder, Host
from lab.vcenter.inventory import Inventory
from lab.vcenter.inventory_file import VmSpec
from lab.vcenter.power_operations import check_power
from lab.vcenter.snapshot_operations import NAME_LIMIT
from lab.vcenter.tasks import TaskManager
from lab.vcenter.virtual_machine import VirtualMachine
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import World

_NEWEST_HARDWARE = 19
_MEMORY_STEP_MIB = 4


class VmLifecycle:
    """Handlers by WSDL name."""

    def __init__(
        self, world: World, tasks: TaskManager, inventory: Inventory, held_disks: Callable[[VirtualMachine], tuple[int, ...]]
    ) -> None:
        """`held_disks` returns which of a powered-off VM's disks somebody has open."""
        self._world, self._tasks, self._inventory = world, tasks, inventory
        self._held_disks = held_disks

    def handlers(self) -> dict[str, Handler]:
        """Return the table."""
        return {"CreateVM_Task": self._create, "Destroy_Task": self._destroy}

    def _create(self, call: Call) -> Any:
        folder, config = call.target, call.argument("config")
        if not isinstance(folder, Folder):
            raise vmodl.fault.InvalidRequest(msg="A VM is made in a folder.")
        host = call.world.get(call.argument("host")) if call.argument("host") is not None else None
        if call.argument("pool") is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="pool", msg="A required parameter is missing.")
        call.world.get(call.argument("pool"))
        for name in ("name", "files"):
            if not getattr(config, name):
                raise vmodl.fault.InvalidArgument(invalidProperty=f"configSpec.{name}", msg="A required parameter is missing.")
        if (config.memoryMB or _MEMORY_STEP_MIB) % _MEMORY_STEP_MIB:
            raise vmodl.fault.InvalidArgument(invalidProperty="configSpec.memoryMB", msg="Memory comes in steps of 4 MB.")
        if (config.numCPUs or 1) % (config.numCoresPerSocket or 1):
            raise vmodl.fault.InvalidArgument(
                invalidProperty="configSpec.numCoresPerSocket", msg="CPUs must be a multiple of the cores of a socket."
            )

        def work(_: Any) -> Any:
            self._world.pause(self._world.times.reconfigure_s)
            return self._make(folder, config, host).reference

        return self._tasks.start(call.method, folder, folder.name, call.caller.user, work)

    def _make(self, folder: Folder, config: Any, host: Any) -> VirtualMachine:
        inventory = self._inventory
        if len(config.name) > NAME_LIMIT:
            raise vim.fault.InvalidName(name=config.name, msg=f"A VM's name has 1 to {NAME_LIMIT} characters.")
        with self._world.lock:
            siblings = [*inventory.vms, *inventory.folders.values()]
            twin = next((one for one in siblings if one.name.casefold() == config.name.casefold() and one.parent is folder), None)
            if twin is not None:
                raise vim.fault.DuplicateName(
                    name=config.name, object=twin.reference, msg=f"The name '{config.name}' already exists."
                )
            place = (config.files.vmPathName or "").partition("]")[0].removeprefix("[")
            if place not in inventory.datastores:
                raise vim.fault.InvalidDatastorePath(
                    datastorePath=config.files.vmPathName or "", name=place, msg=f"Invalid datastore path '[{place}]'."
                )
            if not inventory.datastores[place].accessible:
                raise vim.fault.InvalidDatastoreState(
                    datastorePath=config.files.vmPathName, name=place, msg=f"The datastore {place} is not accessible."
                )
            if not inventory.datastores[place].free_bytes():
                raise vim.fault.NoDiskSpace(file=config.files.vmPathName, datastore=place, msg=f"No space is left on {place}.")
            devices = new_devices(inventory, self._added(config), place)
            spec = VmSpec(
                name=config.name,
                host=host.name if isinstance(host, Host) else next(iter(inventory.hosts)),
                datastore=place,
                folder=self._path(folder),
                guest_id=config.guestId or "otherGuest64",
                guest_full_name=config.guestId or "Other (64-bit)",
                firmware=config.firmware or "bios",
                hardware_version=int(config.version.removeprefix("vmx-")) if config.version else _NEWEST_HARDWARE,
                cpus=config.numCPUs or 1,
                memory_mib=config.memoryMB or 1024,
                power="poweredOff",
                annotation=config.annotation or "",
                instance_uuid=self._free_uuid(config.instanceUuid or ""),
                change_tracking=bool(config.changeTrackingEnabled),
                controllers=devices.controllers,
                cores_per_socket=config.numCoresPerSocket or 1,
                secure_boot=bool(config.bootOptions is not None and config.bootOptions.efiSecureBootEnabled),
                disks=devices.disks,
                nics=devices.nics,
                extra_config={option.key: str(option.value) for option in config.extraConfig or ()},
            )
            return inventory.add_vm(spec)

    def _free_uuid(self, wanted: str) -> str:
        """Return the instance UUID that is wanted, or none where another VM has it: then vCenter gives a new one."""
        taken = {vm.identity.instance_uuid.lower() for vm in self._inventory.vms}
        return "" if wanted.lower() in taken else wanted

    @staticmethod
    def _added(config: Any) -> list[tuple[int, Any]]:
        return list(enumerate(config.deviceChange or ()))

    def _path(self, folder: Folder) -> str:
        if folder is self._inventory.datacenter.vm_folder:
            return ""
        for path, known in self._inventory.folders.items():
            if known is folder:
                return path
        raise vmodl.fault.InvalidArgument(invalidProperty="_this", msg="VMs are made in folders of VMs.")

    def _destroy(self, call: Call) -> Any:
        vm = call.target
        if not isinstance(vm, VirtualMachine):
            raise vmodl.fault.NotSupported(msg="The lab deletes VMs only.")

        def work(_: Any) -> None:
            check_power(vm, "poweredOff", wanted_now="poweredOff")
            self._world.pause(self._world.times.reconfigure_s)
            with self._world.lock:
                if self._held_disks(vm):
                    raise vim.fault.FileLocked(file=f"[{vm.home.name}] {vm.home_folder}", msg="Failed to lock the file")
                self._inventory.remove_vm(vm)

        return self._tasks.start(call.method, vm, vm.name, call.caller.user, work)
