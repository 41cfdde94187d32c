"""A powered-off VM's disk, read and asked without a snapshot."""

from collections.abc import Iterator

from lab.vcenter.disk import VirtualDisk
from lab.vcenter.disk_backing import Run
from lab.vcenter.tracking import ChangeMark


class PresentDisk:
    """A powered-off VM's disk as it is now, in a frozen disk's form: QueryChangedDiskAreas without a snapshot."""

    def __init__(self, disk: VirtualDisk) -> None:
        self._disk = disk

    @property
    def capacity_bytes(self) -> int:
        """The disk's size."""
        return self._disk.capacity_bytes

    @property
    def mark(self) -> ChangeMark | None:
        """The disk's present place in its tracking."""
        return self._disk.tracking.present_mark()

    @property
    def change_id(self) -> str | None:
        """`<tracking uuid>/<present epoch>`; None while tracking is inactive."""
        return None if self.mark is None else self.mark.change_id

    @property
    def file_name(self) -> str:
        """The descriptor of the present backing."""
        return self._disk.file_name

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""
        self._disk.read_into(offset, target)

    def extents(self, offset: int, length: int) -> list[Run]:
        """Return a range's allocated parts and holes."""
        return self._disk.extents(offset, length)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Yield a range's allocated parts and holes."""
        return iter(self._disk.extents(offset, length))
