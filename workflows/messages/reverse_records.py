"""What is known of the way back: what the disks at the site hold, and how the last pass went."""

from dataclasses import dataclass
from datetime import datetime

from deltaferry.model.replication import ReplicatedDisk
from workflows.messages.site import Placement


@dataclass(frozen=True, slots=True)
class ReverseBase:
    """What the disks at the site hold: the snapshots of the last pass that was written, read back and verified."""

    number: int
    """Of the last pass, committed or not: the next one's is higher."""
    taken_at: datetime
    """When the snapshots were taken: what the copy's age is measured from."""
    snapshots: tuple[tuple[int, str], ...]
    """(disk key, name of the managed disk's snapshot)."""
    disks: tuple[tuple[int, str], ...]
    """(disk key, resource id of the managed disk)."""


@dataclass(frozen=True, slots=True)
class MadeVm:
    """The VM that was made at another place of the site, for a VM that comes home there."""

    instance_uuid: str
    name: str
    disks: tuple[ReplicatedDisk, ...]
    """With the keys of the disks that they are the counterparts of, and UUIDs of their own."""
    placement: Placement
    pristine: bool
    """Its disks are as they were made: nobody has written to them."""
    information: tuple[str, ...] = ()
    """Sentences: what differs from the VM that it came from, and what became of that one."""


@dataclass(frozen=True, slots=True)
class PassRecord:
    """A finished pass."""

    number: int
    full: bool
    final: bool
    started_at: datetime
    ended_at: datetime
    committed: bool
    compared_bytes: int = 0
    """Hashed on both sides; 0 for a delta."""
    changed_bytes: int = 0
    """Of the site's disks: what was written, zeros included."""
    bytes_sent: int = 0
    """As they travelled: compressed and encrypted."""
    verified_blocks: int = 0
    failure: str = ""
