"""Reading a managed disk's snapshot through its signature, with the methods of a disk that is read over NBD."""

from collections.abc import Iterable

from deltaferry.blocks.blob_http import BlobClient, HttpLimits, Role
from deltaferry.blocks.pacing import Pacer
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import BLOCK
from deltaferry.ports.access import SnapshotAccess


class SnapshotReader:
    """One snapshot, read within the rate that one blob takes. Safe to use from several threads.

    Errors are those of a storage account; STORE_ACCESS_DENIED for a signature that expired or was revoked, AZURE_NOT_FOUND
    for a snapshot that is gone.
    """

    def __init__(self, access: SnapshotAccess, limits: HttpLimits, bytes_per_s: float) -> None:
        """Take access to a snapshot; nothing is connected yet."""
        self._name = access.name
        self._client = BlobClient(access.place, Role.LOG, limits)
        self._pacer = Pacer(bytes_per_s)

    def __repr__(self) -> str:
        """Say which blob, without the signature."""
        return f"SnapshotReader({self._client!r})"

    def read_many(self, reads: Iterable[tuple[int, memoryview]]) -> None:
        """Fill several buffers, each from its own offset."""
        for offset_bytes, buffer in reads:
            for start in range(0, len(buffer), BLOCK):
                self._read(offset_bytes + start, buffer[start : start + BLOCK])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read(self, offset_bytes: int, buffer: memoryview) -> None:
        try:
            self._client.read_range(self._name, offset_bytes, buffer, self._pacer)
        except DeltaferryError as error:
            if error.kind is ErrorKind.STORE_OBJECT_MISSING:
                raise DeltaferryError(ErrorKind.AZURE_NOT_FOUND, "the managed disk's snapshot is gone") from None
            raise
