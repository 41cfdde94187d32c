"""A VM's virtual disk: real files in a datastore's folder, guest I/O, snapshots with redo logs, consolidation, tracking.

Guest I/O, snapshots and tracking of one disk share a lock; reading a snapshot's disk does not take it. Offsets and
lengths are in bytes and whole 512-byte sectors.
"""

import secrets
import threading
import time
import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.sectors import SECTOR
from lab.vcenter.disk_backing import Run, check_bounds, read_view, runs_of
from lab.vcenter.disk_frozen import FrozenDisk
from lab.vcenter.disk_merge import Beat, Merge
from lab.vcenter.disk_tree import BackingTree
from lab.vcenter.faults_disk import DiskBusy, DiskClosed, DiskHasSnapshots, DiskLocked
from lab.vcenter.out_of_band import OutOfBandWrites
from lab.vcenter.tracking import ChangeTracking


class VirtualDisk:
    """One virtual disk. Every method may be called from any thread."""

    def __init__(self, tree: BackingTree, stem: str, directory: Path, capacity_bytes: int, uuid: str) -> None:
        self.tracking = ChangeTracking()
        self.consolidation_locked = False
        """While true, `consolidate` is refused as if a backing were locked: a test's way to leave it pending."""
        self.uuid = uuid
        self._tree = tree
        self._tracking_file = directory / f"{stem}-ctk.vmdk"
        self._capacity = capacity_bytes
        self._lock = threading.Condition(threading.RLock())
        self._stuns = 0
        self._changing = False
        self._merge: Merge | None = None
        self._closed = False
        self._content_id: str | None = None

    @classmethod
    def create(
        cls, directory: Path, stem: str, capacity_bytes: int, content: Path | None = None, *, move: bool = False
    ) -> "VirtualDisk":
        """Create a disk's files in a datastore's folder, which must exist.

        `content` is a raw image, not larger than the disk; it is copied hole for hole, or moved there with `move`.
        Raises ValueError for a capacity that is not whole sectors, FileExistsError for a stem that is in use.
        """
        if capacity_bytes <= 0 or capacity_bytes % SECTOR:
            raise ValueError(f"a disk of {capacity_bytes} bytes is not made of whole sectors")
        octets = uuids.uuid4().hex
        uuid = f"6000C29{octets[0]}-{octets[1:5]}-{octets[5:9]}-{octets[9:13]}-{octets[13:25]}"
        tree = BackingTree(directory, stem, capacity_bytes, uuid, content, move=move)
        return cls(tree, stem, directory, capacity_bytes, uuid)

    def __repr__(self) -> str:
        return f"VirtualDisk({self.file_name}, {self._capacity} bytes)"

    # --- what the configuration shows ---

    @property
    def capacity_bytes(self) -> int:
        """The disk's size."""
        return self._capacity

    @property
    def content_id(self) -> str:
        """What stands for the present content: it changes with every write, and is kept by snapshots and consolidation."""
        with self._lock:
            if self._content_id is None:
                self._content_id = secrets.token_hex(16)
            return self._content_id

    @property
    def file_name(self) -> str:
        """The descriptor of the backing that is written now, without its folder."""
        return self._tree.top.descriptor.name

    @property
    def is_delta(self) -> bool:
        """Whether the disk runs on a redo log."""
        return self._tree.top.parent is not None

    @property
    def snapshot_ids(self) -> tuple[str, ...]:
        """The snapshots that hold the disk, oldest first."""
        with self._lock:
            return self._tree.snapshot_ids

    @property
    def needs_consolidation(self) -> bool:
        """Whether a redo log is left that no snapshot needs."""
        with self._lock:
            return self._tree.next_collapse() is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """The disk's files, descriptors before extents, the base's first, the change-tracking file last."""
        with self._lock:
            paths = [path for backing in self._tree.backings for path in (backing.descriptor, backing.extent)]
        return (*paths, self._tracking_file) if self._tracking_file.exists() else tuple(paths)

    @property
    def allocated_bytes(self) -> int:
        """The room that the files take on the datastore."""
        return sum(path.stat().st_blocks * 512 for path in self.files if path.exists())

    # --- guest I/O ---

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the present content; waits while stunned. Raises OutOfBounds, DiskClosed, OSError."""
        with self._guest_access(offset, len(target)):
            read_view(self._tree.view(), offset, target)

    def write(self, offset: int, data: memoryview | bytes | bytearray, *, from_guest: bool = True) -> None:
        """Write data; waits while stunned. What is not the guest's may escape tracking. Raises OutOfBounds, DiskClosed, OSError."""
        view = memoryview(data).cast("B")
        with self._guest_access(offset, len(view)):
            self._track(offset, len(view), from_guest)
            self._tree.top.write(offset, view)
            self._note_written(offset, len(view))

    def zero(self, offset: int, length: int, *, allocate: bool = True, from_guest: bool = True) -> None:
        """Make a range read as zero; without `allocate` as a guest's UNMAP does, which gives space back."""
        with self._guest_access(offset, length):
            self._track(offset, length, from_guest)
            self._tree.top.zero(offset, length, allocate=allocate)
            self._note_written(offset, length)

    def extents(self, offset: int, length: int) -> list[Run]:
        """Return a range's allocated parts and holes as they are now, in order and without gaps."""
        with self._guest_access(offset, length):
            return list(runs_of(self._tree.view(), offset, length))

    # --- stun ---

    def stun(self) -> None:
        """Make guest I/O wait until `unstun`, once what runs has ended. Stuns nest."""
        with self._lock:
            self._stuns += 1

    def unstun(self) -> None:
        """End one stun."""
        with self._lock:
            self._stuns -= 1
            self._lock.notify_all()

    @contextmanager
    def stunned(self) -> Iterator[None]:
        """Stun the disk for as long as the context lasts."""
        self.stun()
        try:
            yield
        finally:
            self.unstun()

    # --- snapshots ---

    def freeze(self, snapshot_id: str) -> FrozenDisk:
        """Keep the present content for a snapshot; the guest writes to a new redo log. The VM has to be stunned.

        Raises DiskBusy while a consolidation runs, ValueError for an id that is in use.
        """
        with self._change(), self._lock:
            self._apply_tracking()
            return self._tree.freeze(snapshot_id, self.tracking.end_epoch())

    def frozen(self, snapshot_id: str) -> FrozenDisk:
        """Return a snapshot's disk. Raises SnapshotGone."""
        with self._lock:
            return self._tree.frozen(snapshot_id)

    def release(self, snapshot_id: str) -> None:
        """Drop a snapshot: its disk is not readable any more, its redo log stays until `consolidate`.

        Raises SnapshotGone, DiskBusy.
        """
        with self._change():
            self.frozen(snapshot_id).gate.shut()
            with self._lock:
                self._apply_tracking()
                self._tree.forget(snapshot_id)

    def revert(self, snapshot_id: str) -> None:
        """Go back to a snapshot's content, with the VM stunned or off; tracking begins a new UUID. Raises SnapshotGone, DiskBusy."""
        with self._change(), self._lock:
            self._tree.revert(snapshot_id)
            self._content_id = None
            self.tracking.reset()
            self._apply_tracking()

    def consolidate(self, beat: Beat = lambda: None, seconds: float = 0.0) -> None:
        """Merge every redo log that no snapshot needs, in at least `seconds` if there is any; the guest goes on meanwhile.

        `beat` is called a few times a second; what it raises ends the merge, which then is still needed. Raises
        DiskLocked, DiskBusy.
        """
        if self.consolidation_locked:
            raise DiskLocked(f"a backing of {self.file_name} is locked")
        deadline = time.monotonic() + seconds
        with self._change():
            try:
                while (merge := self._begin_merge()) is not None:
                    merge.copy(beat, deadline)
                    with self._lock:
                        merge.finish()
                        self._merge = None
                        self._tree.splice(merge.collapse)
            finally:
                with self._lock:
                    self._merge = None

    def grow(self, capacity_bytes: int) -> None:
        """Make the disk larger. Raises DiskHasSnapshots, DiskBusy, ValueError for less than now or a broken sector."""
        with self._change(), self._lock:
            if len(self._tree.backings) > 1:
                raise DiskHasSnapshots(f"{self.file_name} has snapshots or redo logs")
            if capacity_bytes < self._capacity or capacity_bytes % SECTOR:
                raise ValueError(f"cannot grow from {self._capacity} to {capacity_bytes} bytes")
            with self._tree.base.extent.open("r+b") as file:
                file.truncate(capacity_bytes)
            self._capacity = capacity_bytes
            self._tree.grow(capacity_bytes)

    def relocate(self, directory: Path) -> None:
        """Move the files to another datastore's folder, with all snapshots; tracking goes on. Raises DiskBusy."""
        with self._change(), self._lock:
            self._tree.relocate(directory)
            if self._tracking_file.exists():
                self._tracking_file.rename(directory / self._tracking_file.name)
            self._tracking_file = directory / self._tracking_file.name

    # --- power and life ---

    def on_power_on(self) -> None:
        """Make a change of tracking effective; for a resume too."""
        with self._lock:
            self._apply_tracking()

    def on_power_off(self, *, hard: bool, reset_tracking: bool) -> None:
        """Keep tracking, or lose it as a crash may."""
        with self._lock:
            self.tracking.on_power_off(hard=hard, reset=reset_tracking)
            self._apply_tracking_file()

    def reset_tracking(self) -> None:
        """Begin a new tracking UUID at once."""
        with self._lock:
            self.tracking.reset()
            self._apply_tracking_file()

    def close(self) -> None:
        """Refuse all further guest I/O, and end all reading of snapshots."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            frozen = [self._tree.frozen(snapshot_id) for snapshot_id in self._tree.snapshot_ids]
        for disk in frozen:
            disk.gate.shut()

    def delete(self) -> None:
        """Close the disk and remove its files."""
        self.close()
        for path in self.files:
            path.unlink(missing_ok=True)

    # --- inside ---

    @contextmanager
    def _guest_access(self, offset: int, length: int) -> Iterator[None]:
        with self._lock:
            while self._stuns and not self._closed:
                self._lock.wait()
            if self._closed:
                raise DiskClosed(f"{self.file_name} is closed")
            check_bounds(offset, length, self._capacity)
            yield

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Be the only one who changes the chain; the guest is not held up by it."""
        with self._lock:
            if self._changing:
                raise DiskBusy(f"a snapshot operation or consolidation of {self.file_name} runs")
            self._changing = True
        try:
            yield
        finally:
            with self._lock:
                self._changing = False

    def _begin_merge(self) -> Merge | None:
        """Return the next merge that is due; from now on it learns of the guest's writes."""
        with self._lock:
            collapse = self._tree.next_collapse()
            if collapse is not None:
                self._merge = Merge(collapse, self._capacity, self._lock, live=collapse.child is self._tree.top)
            return self._merge

    def _track(self, offset: int, length: int, from_guest: bool) -> None:
        """Mark a range as changed, before it is: a write that fails half-way has changed something too."""
        if length:
            self._content_id = None
            if from_guest or self.tracking.behaviour.out_of_band is not OutOfBandWrites.UNSEEN:
                self.tracking.mark(offset, length)

    def _note_written(self, offset: int, length: int) -> None:
        if self._merge is not None:
            self._merge.note(offset, length)

    def _apply_tracking(self) -> None:
        self.tracking.apply_pending()
        self._apply_tracking_file()

    def _apply_tracking_file(self) -> None:
        """Keep a `-ctk.vmdk` beside the disk while tracking is active, naming its UUID."""
        if self.tracking.uuid is None:
            self._tracking_file.unlink(missing_ok=True)
        else:
            self._tracking_file.write_text(f"{self.tracking.uuid}\n", encoding="ascii")
