"""What a bare loop is told to do, and what it says that it did."""

from dataclasses import dataclass, field

from deltaferry.ports.access import BlobAccess, NbdAddress

Area = tuple[int, int]
"""Offset and length in bytes."""


@dataclass(frozen=True, slots=True)
class BareDisk:
    """A disk: where to read it, what to read cut into blocks, and the page blob that it goes to."""

    source: NbdAddress | None
    blocks: tuple[tuple[Area, ...], ...]
    seed_name: str = "seed"
    objects: tuple[str, ...] = ()
    """What an earlier `send` stored, for `apply`."""


@dataclass(frozen=True, slots=True)
class BareJob:
    """What to do. `steps` is `send`, `apply`, or `carry`: both, block by block."""

    steps: str
    disks: tuple[BareDisk, ...]
    log: BlobAccess
    seed: BlobAccess
    data_key: bytes = field(repr=False)
    threads: int
    page_writers: int
    """How many pages of one block are written at a time, where it has more than a few."""


@dataclass(frozen=True, slots=True)
class BareResult:
    """What was stored, disk by disk, and how large it was."""

    objects: tuple[tuple[str, ...], ...]
    bytes_sent: int
