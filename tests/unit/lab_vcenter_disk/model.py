"""A reference model of a disk: plain bytes, one copy for each snapshot, and every write since each change id."""

from dataclasses import dataclass, field


@dataclass
class ModelState:
    content: bytes
    written: bytes
    """One byte for each sector: 1 where it was ever written."""
    change_id: str | None


@dataclass
class ModelDisk:
    capacity: int
    content: bytearray = field(init=False)
    written: bytearray = field(init=False)
    snapshots: dict[str, ModelState] = field(default_factory=dict)
    past: dict[str, bytes] = field(default_factory=dict)
    """Content at each change id that is still of the present tracking."""

    def __post_init__(self) -> None:
        self.content = bytearray(self.capacity)
        self.written = bytearray(self.capacity // 512)

    def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data
        self.written[offset // 512 : (offset + len(data)) // 512] = b"\1" * (len(data) // 512)

    def freeze(self, snapshot_id: str, change_id: str | None) -> None:
        self.snapshots[snapshot_id] = ModelState(bytes(self.content), bytes(self.written), change_id)
        if change_id is not None:
            self.past[change_id] = bytes(self.content)

    def revert(self, snapshot_id: str) -> None:
        self.content[:] = self.snapshots[snapshot_id].content
        self.written[:] = self.snapshots[snapshot_id].written


def sectors_that_differ(before: bytes, after: bytes) -> set[int]:
    return {
        sector
        for sector in range(len(after) // 512)
        if before[sector * 512 : (sector + 1) * 512] != after[sector * 512 : (sector + 1) * 512]
    }
