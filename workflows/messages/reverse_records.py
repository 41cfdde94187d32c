"""What is known of the way back: what the disks at the site hold, and how the last pass went."""

from dataclasses import dataclass
from datetime import datetime


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
