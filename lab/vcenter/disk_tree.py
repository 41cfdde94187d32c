"""The backings of one disk: which is written, which snapshots keep which, and what consolidation has to merge.

Not synchronised: `VirtualDisk` calls it under its lock.
"""

from dataclasses import dataclass
from pathlib import Path

from lab.vcenter.disk_backing import Backing, View
from lab.vcenter.disk_frozen import FrozenDisk
from lab.vcenter.faults_disk import SnapshotGone
from lab.vcenter.tracking import ChangeMark


@dataclass(frozen=True, slots=True)
class _Kept:
    frozen: FrozenDisk
    backing: Backing


@dataclass(frozen=True, slots=True)
class Collapse:
    """A merge that is due: nothing but `child` is left above `parent`, and no snapshot needs `parent`."""

    parent: Backing
    child: Backing


class BackingTree:
    """A base, redo logs above it, and the snapshots that hold some of them."""

    def __init__(self, directory: Path, stem: str, capacity: int, uuid: str, content: Path | None, *, move: bool) -> None:
        self._directory = directory
        self._stem = stem
        self._uuid = uuid
        self.base = Backing(directory, stem, capacity, uuid, None, content, move=move)
        self.top = self.base
        self._backings = [self.base]
        self._kept: dict[str, _Kept] = {}
        self._capacity = capacity

    @property
    def backings(self) -> tuple[Backing, ...]:
        """All backings, the base first."""
        return tuple(self._backings)

    @property
    def snapshot_ids(self) -> tuple[str, ...]:
        """The snapshots, oldest first."""
        return tuple(self._kept)

    def frozen(self, snapshot_id: str) -> FrozenDisk:
        """Return a snapshot's disk. Raises SnapshotGone."""
        return self._keep_of(snapshot_id).frozen

    def view(self) -> View:
        """Return the present chain."""
        return self._view_of(self.top)

    def freeze(self, snapshot_id: str, mark: ChangeMark | None) -> FrozenDisk:
        """Keep the top for a snapshot, and put a new redo log above it. Raises ValueError for an id that is in use."""
        if snapshot_id in self._kept:
            raise ValueError(f"snapshot {snapshot_id} exists on this disk")
        above = self._new_delta(self.top)
        frozen = FrozenDisk(snapshot_id, self._capacity, self.view(), mark)
        self._kept[snapshot_id] = _Kept(frozen, self.top)
        self.top = above
        return frozen

    def forget(self, snapshot_id: str) -> None:
        """Drop a snapshot; its redo logs stay until they are merged, save those that nothing is left above."""
        self._keep_of(snapshot_id)
        del self._kept[snapshot_id]
        self._prune()

    def revert(self, snapshot_id: str) -> None:
        """Discard what was written since a snapshot, if no other snapshot needs it, and write above it from now on."""
        self.top = self._new_delta(self._keep_of(snapshot_id).backing)
        self._prune()

    def grow(self, capacity: int) -> None:
        """Note a new capacity, for the base and what comes after."""
        self._capacity = capacity
        self.base.describe(capacity)

    def relocate(self, directory: Path) -> None:
        """Move all files to another directory of the same file system, and have the descriptors say so."""
        self._directory = directory
        for backing in self._backings:
            backing.relocate(directory)
        for backing in self._backings:
            backing.describe(self._capacity)

    def next_collapse(self) -> Collapse | None:
        """Return a merge that is due, the lowest first."""
        needed = {kept.backing for kept in self._kept.values()} | {self.top}
        for parent in self._backings:
            children = self._children(parent)
            if parent not in needed and len(children) == 1:
                return Collapse(parent, children[0])
        return None

    def splice(self, collapse: Collapse) -> None:
        """Take a merged child out of the tree: its parent stands in for it."""
        parent, child = collapse.parent, collapse.child
        parent.absorb(child)
        for grandchild in self._children(child):
            grandchild.parent = parent
            grandchild.describe(self._capacity)
        if self.top is child:
            self.top = parent
        for snapshot_id, kept in self._kept.items():
            if kept.backing is child:
                self._kept[snapshot_id] = _Kept(kept.frozen, parent)
        self._backings.remove(child)
        for kept in self._kept.values():
            kept.frozen.rebase(self._view_of(kept.backing))
        child.remove_files()

    def _keep_of(self, snapshot_id: str) -> _Kept:
        try:
            return self._kept[snapshot_id]
        except KeyError:
            raise SnapshotGone(f"the disk has no snapshot {snapshot_id}") from None

    def _children(self, backing: Backing) -> list[Backing]:
        return [other for other in self._backings if other.parent is backing]

    def _view_of(self, backing: Backing) -> View:
        chain = [backing]
        while (parent := chain[-1].parent) is not None:
            chain.append(parent)
        return tuple(chain)

    def _new_delta(self, parent: Backing) -> Backing:
        taken = {backing.descriptor.name for backing in self._backings}
        number = next(n for n in range(1, 1_000_000) if f"{self._stem}-{n:06d}.vmdk" not in taken)
        delta = Backing(self._directory, f"{self._stem}-{number:06d}", self._capacity, self._uuid, parent)
        self._backings.append(delta)
        return delta

    def _prune(self) -> None:
        """Delete the backings that neither the present disk nor a snapshot reads through."""
        needed = set(self.view())
        for kept in self._kept.values():
            needed.update(self._view_of(kept.backing))
        for backing in [backing for backing in self._backings if backing not in needed]:
            self._backings.remove(backing)
            backing.remove_files()
