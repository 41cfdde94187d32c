"""A VM's state: its settings, disks, network adapters, power, and tree of snapshots."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from lab.vcenter.controllers import BUILT_IN, USUAL, Controller
from lab.vcenter.disk import VirtualDisk
from lab.vcenter.disk_frozen import FrozenDisk
from lab.vcenter.entities import Datastore, Host, ManagedEntity, Network
from lab.vcenter.quiescing import GuestQuiesce
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import LabObject, World, now

PERSISTENT = "persistent"


class ToolsState(StrEnum):
    """`guest.toolsRunningStatus`."""

    RUNNING = "guestToolsRunning"
    NOT_RUNNING = "guestToolsNotRunning"
    EXECUTING_SCRIPTS = "guestToolsExecutingScripts"
    """Tools are starting: they can neither quiesce nor shut down yet."""


@dataclass(slots=True)
class AttachedDisk:
    """A disk at its place in a VM."""

    key: int
    label: str
    unit_number: int
    mode: str
    datastore: Datastore
    folder: str
    """The VM's directory on the datastore."""
    stem: str
    """How the names of the disk's files begin."""
    disk: VirtualDisk
    controller: Controller = USUAL

    def backing_name(self, file_name: str) -> str:
        """Return a file of the disk as vSphere writes it: `[ds1] web-01/web-01.vmdk`."""
        return f"[{self.datastore.name}] {self.folder}/{file_name}"

    def is_delta(self, file_name: str) -> bool:
        """Return whether a descriptor of the disk is a redo log's."""
        return file_name != f"{self.stem}.vmdk"

    @property
    def in_snapshots(self) -> bool:
        """False for an independent disk."""
        return self.mode == PERSISTENT


@dataclass(slots=True)
class Nic:
    """A network adapter."""

    key: int
    label: str
    unit_number: int
    network: Network
    mac: str
    connected: bool
    start_connected: bool
    kind: str = "VirtualVmxnet3"
    """The name of its class in the API."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change while a VM lives."""

    name: str
    instance_uuid: str
    bios_uuid: str
    guest_id: str
    guest_full_name: str
    firmware: str
    hardware_version: int
    cpus: int
    memory_mib: int
    change_tracking_supported: bool
    template: bool = False
    attributes: tuple[tuple[int, str], ...] = ()
    """Custom attributes: (key of the name, value)."""
    cores_per_socket: int = 1
    secure_boot: bool = False


@dataclass(frozen=True, slots=True)
class FrozenAttachment:
    """A disk as a snapshot holds it."""

    attached: AttachedDisk
    frozen: FrozenDisk


class Snapshot(LabObject):
    """One snapshot in a VM's tree."""

    def __init__(self, world: World, vm: "VirtualMachine", name: str, description: str, power: str, *, quiesced: bool) -> None:
        self.number = world.number()
        super().__init__(vim.vm.Snapshot(f"snapshot-{self.number}"))
        self.vm = vm
        self.name = name
        self.description = description
        self.power = power
        self.quiesced = quiesced
        self.created_at: datetime = now()
        self.parent: Snapshot | None = None
        self.children: list[Snapshot] = []
        self.disks: dict[int, FrozenAttachment] = {}
        self.nics: list[Nic] = [replace(nic) for nic in vm.nics.values()]
        self.readers["vm"] = lambda: vm.reference
        self.readers["childSnapshot"] = lambda: [child.reference for child in self.children]

    def with_descendants(self) -> Iterator["Snapshot"]:
        """Yield this snapshot and all below it, children before parents."""
        for child in self.children:
            yield from child.with_descendants()
        yield self


@dataclass(slots=True)
class Settings:
    """What ReconfigVM may change."""

    annotation: str = ""
    change_tracking: bool = False
    extra_config: dict[str, str] = field(default_factory=dict)
    change_version: int = 1


class VirtualMachine(ManagedEntity):
    """A VM. All fields are guarded by the world's lock; disks guard themselves."""

    def __init__(self, world: World, moref: str, identity: Identity, host: Host, home: Datastore, parent: ManagedEntity) -> None:
        super().__init__(vim.VirtualMachine(moref), identity.name, parent)
        self.world = world
        self.identity = identity
        self.host = host
        self.home = home
        self.home_folder = identity.name
        """The VM's directory on its datastore: its name, or a longer one where that was taken."""
        self.settings = Settings()
        self.controllers: list[Controller] = [USUAL]
        """Beside those that every VM has."""
        self.disks: dict[int, AttachedDisk] = {}
        self.nics: dict[int, Nic] = {}
        self.power = "poweredOff"
        self.tools = True
        self.tools_state = ToolsState.RUNNING
        """What Tools do while the VM runs, if they are installed."""
        self.quiesce = GuestQuiesce(self._set_guest_variable)
        self.clean_power_off = True
        self.loses_tracking_at_power_off = False
        """True makes the next hard power-off reset change tracking, as a crash may."""
        self.boot_time: datetime | None = None
        self.modified: datetime = now()
        self.roots: list[Snapshot] = []
        self.current: Snapshot | None = None

    def _set_guest_variable(self, key: str, value: str) -> None:
        with self.world.lock:
            self.settings.extra_config[key] = value
            self.touch()

    @property
    def running(self) -> bool:
        """True while powered on."""
        return self.power == "poweredOn"

    @property
    def tools_running(self) -> bool:
        """True while a guest with VMware Tools is up."""
        return self.tools_status is ToolsState.RUNNING

    @property
    def tools_status(self) -> "ToolsState":
        """What Tools do now."""
        return self.tools_state if self.tools and self.running else ToolsState.NOT_RUNNING

    @property
    def datastores(self) -> list[Datastore]:
        """All datastores that files of the VM are on."""
        return list(dict.fromkeys([self.home, *(attached.datastore for attached in self.disks.values())]))

    @property
    def networks(self) -> list[Network]:
        """All networks that adapters of the VM are on."""
        return list(dict.fromkeys(nic.network for nic in self.nics.values()))

    def controller(self, key: int) -> Controller | None:
        """Return a controller by its key, or None."""
        return next((one for one in (*BUILT_IN, *self.controllers) if one.key == key), None)

    @property
    def consolidation_needed(self) -> bool:
        """True while a disk has a delta that no snapshot needs."""
        return any(attached.disk.needs_consolidation for attached in self.disks.values())

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, parents before children."""
        found: list[Snapshot] = []
        for root in self.roots:
            found.extend(reversed(list(root.with_descendants())))
        return found

    def snapshot(self, moref: str) -> Snapshot | None:
        """Return one of the VM's snapshots, or None."""
        return next((item for item in self.snapshots() if item.moref == moref), None)

    def insert_snapshot(self, made: Snapshot) -> None:
        """Put a new snapshot below the current one and make it current."""
        made.parent = self.current
        (self.roots if self.current is None else self.current.children).append(made)
        self.current = made

    def drop_snapshot(self, gone: Snapshot) -> None:
        """Take a snapshot out of the tree: its children become its parent's."""
        siblings = self.roots if gone.parent is None else gone.parent.children
        index = siblings.index(gone)
        siblings[index : index + 1] = gone.children
        for child in gone.children:
            child.parent = gone.parent
        if self.current is gone:
            self.current = gone.parent

    def touch(self) -> None:
        """Note that the configuration changed."""
        self.settings.change_version += 1
        self.modified = now()
        self.world.changed()
