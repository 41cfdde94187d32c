"""What the source side knows of a VM: its identity, disks, snapshots and power."""

from dataclasses import dataclass
from enum import StrEnum


class PowerState(StrEnum):
    """vSphere's VirtualMachinePowerState."""

    ON = "poweredOn"
    OFF = "poweredOff"
    SUSPENDED = "suspended"


class Firmware(StrEnum):
    """How the VM boots; BIOS becomes generation 1 in Azure, EFI generation 2 (facts A3)."""

    BIOS = "bios"
    EFI = "efi"


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """A virtual disk as the VM's configuration has it. Identified by `key` and `uuid`, never by file name (facts F10)."""

    key: int
    """vSphere's device key, e.g. 2000."""
    uuid: str
    """The backing's uuid; empty where the backing has none."""
    label: str
    capacity_bytes: int
    file_name: str
    """The backing of now, e.g. `[ds1] web-01/web-01-000001.vmdk`: changes with every snapshot."""
    datastore: str
    controller_bus: int
    unit_number: int
    independent: bool
    physical_rdm: bool
    shared: bool
    encrypted: bool
    is_delta_backing: bool
    """True while the VM runs on a snapshot's redo log rather than its base disk."""


@dataclass(frozen=True, slots=True)
class SnapshotDisk:
    """A disk as a snapshot froze it."""

    key: int
    uuid: str
    capacity_bytes: int
    file_name: str
    change_id: str | None
    """`<tracking uuid>/<epoch>`; None while change tracking is off on the disk."""
    content_id: str | None = None
    """vSphere's id of the backing's content, where it tells one: equal as long as nobody has written to it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of a VM; `moref` is vSphere's own name for it, e.g. `snapshot-22`.

    Without `moref` it stands for a powered-off VM's disks as they are, of which no snapshot was taken.
    """

    moref: str
    name: str
    description: str
    has_children: bool
    created_at: str
    """ISO 8601, UTC, as vSphere recorded it."""
    disks: tuple[SnapshotDisk, ...] = ()
    """Empty in a VM's list of snapshots; filled where a snapshot was asked for by itself."""
    quiesced: bool = False
    """vSphere says that the guest held its writes back while it was taken."""


@dataclass(frozen=True, slots=True)
class SourceNic:
    """A virtual network adapter of the source VM."""

    key: int
    label: str
    network: str
    mac_address: str
    connected: bool
    start_connected: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The extraConfig entry by which a replication owns a VM, so that no other installation touches it."""

    installation: str
    replication_id: str


@dataclass(frozen=True, slots=True)
class SourceVm:
    """A VM of a site, as of one reading."""

    instance_uuid: str
    moref: str
    name: str
    power: PowerState
    host: str
    hardware_version: int
    firmware: Firmware
    guest_id: str
    guest_full_name: str
    memory_mib: int
    cpus: int
    tools_running: bool
    cbt_supported: bool
    cbt_enabled: bool
    consolidation_needed: bool
    disks: tuple[SourceDisk, ...]
    nics: tuple[SourceNic, ...]
    snapshots: tuple[Snapshot, ...]
    """All snapshots of the tree, oldest first."""
    claim: Claim | None
    annotation: str = ""
    freeze_mark: str = ""
    """What a freeze script of the guest has set last (`FREEZE_MARK`); empty where none ever did."""
    made_for: Claim | None = None
    """The replication for whose failback to another place the VM was made, until that is committed; None for any other VM."""


@dataclass(frozen=True, slots=True)
class DatastoreSpace:
    """A datastore's size and room."""

    name: str
    capacity_bytes: int
    free_bytes: int
