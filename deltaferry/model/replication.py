"""Identity of a replication, references to what it stores, and the pieces of a cycle that travel between the sides."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class ReplicationRef:
    """Which replication: everything that is written on either side is named from these."""

    installation: str
    """The installation's id, `[a-z0-9-]{1,12}`."""
    site: str
    target: str
    instance_uuid: str
    replication_id: str
    """16 hexadecimal digits, fresh for every enabling."""


class Store(StrEnum):
    """Which storage account an object is in."""

    LOG = "log"
    GATEWAY = "gateway"
    SEED = "seed"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A stored object: never a URL with a signature. `key` is `<container>/<name>`."""

    store: Store
    key: str
    etag: str

    @property
    def container(self) -> str:
        """The container's name."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """The object's name inside its container."""
        return self.key.partition("/")[2]


class CycleKind(StrEnum):
    """Why a cycle runs; decides its priority and whether it counts for the schedule (spec §2.3, §3)."""

    INITIAL = "initial"
    DELTA = "delta"
    ON_DEMAND = "on-demand"
    FINAL = "final"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class ReplicatedDisk:
    """A disk under replication. What differs from the VM's present disks parks the replication (DISKS_CHANGED)."""

    key: int
    uuid: str
    label: str
    capacity_bytes: int
    is_boot: bool


@dataclass(frozen=True, slots=True)
class DiskBase:
    """From where a cycle continues on one disk.

    `change_id` is that of the last committed cycle; for an unfinished initial replication, that of the snapshot under
    which everything below `copied_up_to_bytes` was copied (None and 0 when nothing was).
    """

    disk_key: int
    change_id: str | None
    copied_up_to_bytes: int
    """The capacity, once the initial replication is done: then only changed areas are planned."""


@dataclass(frozen=True, slots=True)
class PlanRef:
    """A stored plan and its totals."""

    ref: ObjectRef
    segments: int
    data_bytes: int
    """Bytes that have to be read from the source."""
    covered_bytes: int
    """Bytes of the source's sector set: data and holes."""


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment object that is in the log store, or, if it is tiny, in the manifest that lists it."""

    number: int
    digest: bytes
    """BLAKE3-256 of the stored object's bytes."""
    size_bytes: int
    inline: bytes = field(default=b"", compare=False, repr=False)
    """The object itself where the manifest carries it: a way to travel, and no part of what it is."""

    def without_bytes(self) -> "StoredSegment":
        """Return what says which object it is, and nothing more."""
        return StoredSegment(self.number, self.digest, self.size_bytes) if self.inline else self


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A consistent point of all seed disks: one blob snapshot each, all carrying the seal's number."""

    cycle_key: str
    taken_at: datetime
    """When the source snapshot was taken: what the point's age is measured from."""
    seal: int
    snapshots: tuple[tuple[int, str], ...]
    """(disk key, blob snapshot id) for each disk, in disk order."""
