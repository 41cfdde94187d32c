"""A disk's content as a snapshot froze it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lab.vcenter.disk_backing import FileRange, Run, View, check_bounds, locate, read_view, runs_of
from lab.vcenter.faults_disk import SnapshotGone
from lab.vcenter.tracking import ChangeMark


class ReadGate:
    """Lets readers in until it is shut; shutting it waits for those inside."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._shut = False
        self._interruptions: set[Callable[[], None]] = set()

    def add_interruption(self, interrupt: Callable[[], None]) -> None:
        """Have `interrupt` called when the gate is shut, to free a reader that waits for its client. Raises SnapshotGone."""
        with self._condition:
            if self._shut:
                raise SnapshotGone("the snapshot was removed")
            self._interruptions.add(interrupt)

    def remove_interruption(self, interrupt: Callable[[], None]) -> None:
        """Forget an interruption; no-op if it is not known."""
        with self._condition:
            self._interruptions.discard(interrupt)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the content unchanged while the context lasts. Raises SnapshotGone."""
        with self._condition:
            if self._shut:
                raise SnapshotGone("the snapshot was removed")
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                if self._shut:
                    self._condition.notify_all()

    def shut(self) -> None:
        """Let no reader in any more, interrupt those inside, and wait until they have left."""
        with self._condition:
            self._shut = True
            interruptions = list(self._interruptions)
            self._interruptions.clear()
        for interrupt in interruptions:
            interrupt()
        with self._condition:
            self._condition.wait_for(lambda: self._readers == 0)


class FrozenDisk:
    """One disk of a snapshot: never changes, and is readable until the snapshot is removed.

    Reading takes no lock of the disk, so that neither a stun nor a busy guest slows it down.
    """

    def __init__(self, snapshot_id: str, capacity_bytes: int, view: View, mark: ChangeMark | None) -> None:
        self.snapshot_id = snapshot_id
        self.capacity_bytes = capacity_bytes
        self.mark = mark
        self.gate = ReadGate()
        self._view = view

    def __repr__(self) -> str:
        return f"FrozenDisk({self.snapshot_id}, {self.file_name})"

    @property
    def change_id(self) -> str | None:
        """`<tracking uuid>/<epoch>`; None if tracking was off when the snapshot was taken."""
        return None if self.mark is None else self.mark.change_id

    @property
    def file_name(self) -> str:
        """The descriptor of the topmost frozen backing, without its folder."""
        return self._view[0].descriptor.name

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on. Raises SnapshotGone, OutOfBounds, OSError."""
        check_bounds(offset, len(target), self.capacity_bytes)
        with self.gate.reading():
            read_view(self._view, offset, target)

    def locate(self, offset: int, length: int) -> list[FileRange]:
        """Return which files hold a range. Use inside `gate.reading()`. Raises OutOfBounds."""
        check_bounds(offset, length, self.capacity_bytes)
        return locate(self._view, offset, length)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Yield a range's allocated parts and holes (never written in any backing), in order and without gaps."""
        check_bounds(offset, length, self.capacity_bytes)
        return runs_of(self._view, offset, length)

    def extents(self, offset: int, length: int) -> list[Run]:
        """Return what `runs` yields. Raises SnapshotGone, OutOfBounds."""
        with self.gate.reading():
            return list(self.runs(offset, length))

    def rebase(self, view: View) -> None:
        """Read from now on through another view of the same content: backings below were merged."""
        self._view = view
