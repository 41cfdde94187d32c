"""Seed disks: page blobs with a fence, a record of their first pass, and snapshots as recovery points.

The fence is the page blob's sequence number. It is set with action `max`, so that it never falls and a repeated call
is harmless; every page write of a data process is conditional on it being exactly the writer's own number.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobProperties, SequenceNumberAction

from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.containers import BlobContainers
from deltaferry.azure.vhd import fixed_footer
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR, VHD_FOOTER, round_up, seed_blob_size
from deltaferry.ports.stores import SeedState, StoredBlob

FIRST_PASS = "first_pass"
"""The blob's metadata entry that names the first pass that wrote to it."""

_RANGES_WINDOW = 16 * 1024 * MIB
_RANGES_PER_PAGE = 10_000
"""The most that Get Page Ranges gives at once."""

_ATTEMPTS = 20
"""How often an optimistic change is tried against other writers before it is given up for Temporal to repeat."""


class PageBlobSeeds(BlobContainers):
    """`SeedStore` on a standard storage account."""

    def __init__(self, account: StorageAccount) -> None:
        super().__init__(account)

    def create_seed(self, container: str, name: str, size_bytes: int) -> SeedState:
        """Create a page blob that reads as zero; if it exists with that size, return it as it is.

        Raises DISKS_CHANGED if it exists with another size, BAD_INPUT unless the size is a multiple of 512.
        """
        if size_bytes <= 0 or size_bytes % SECTOR:
            raise DeltaferryError(ErrorKind.BAD_INPUT, f"{container}/{name}: {size_bytes} bytes is not a whole number of sectors")
        blob = self._blob(container, name)
        with self.account.errors(f"creating seed {container}/{name}"), suppress(ResourceExistsError, ResourceModifiedError):
            blob.create_page_blob(size_bytes, sequence_number=0, match_condition=MatchConditions.IfMissing)
        state = self.read_seed(container, name)
        if state.size_bytes != size_bytes:
            raise DeltaferryError(
                ErrorKind.DISKS_CHANGED, f"seed {container}/{name} has {state.size_bytes} bytes, the disk needs {size_bytes}"
            )
        return state

    def resize_seed(self, container: str, name: str, size_bytes: int) -> None:
        """Give an existing seed the size that its disk has now; no-op if it has it, or does not exist.

        What is added reads as zero. Its snapshots keep the size that they were taken with.
        """
        with self.account.errors(f"resizing seed {container}/{name}"):
            blob = self._blob(container, name)
            try:
                if blob.get_blob_properties().size != size_bytes:
                    blob.resize_blob(size_bytes)
            except ResourceNotFoundError:
                return

    def list_seeds(self, container: str) -> tuple[str, ...]:
        """Return the names of a container's seeds; none for a container that does not exist."""
        with self.account.errors(f"listing the seeds of {container}"):
            try:
                return tuple(str(name) for name in self.account.client.get_container_client(container).list_blob_names())
            except ResourceNotFoundError:
                return ()

    def describe_blobs(self, container: str) -> tuple[StoredBlob, ...]:
        """Return all blobs of a container, seeds and others; none for a container that does not exist."""
        with self.account.errors(f"listing the blobs of {container}"):
            try:
                listed = self.account.client.get_container_client(container).list_blobs()
                return tuple(StoredBlob(str(item.name), item.last_modified) for item in listed)
            except ResourceNotFoundError:
                return ()

    def delete_seed(self, container: str, name: str) -> None:
        """Delete a seed with all its snapshots; no-op if it is gone."""
        with self.account.errors(f"deleting seed {container}/{name}"):
            try:
                self._blob(container, name).delete_blob(delete_snapshots="include")
            except ResourceNotFoundError:
                return

    def read_seed(self, container: str, name: str) -> SeedState:
        """Return a seed's state. Raises SEED_MISSING."""
        properties = self._properties(container, name)
        return SeedState(
            size_bytes=properties.size,
            sequence_number=_sequence_number(properties),
            first_pass=_metadata(properties).get(FIRST_PASS),
        )

    def raise_fence(self, container: str, name: str, number: int) -> None:
        """Set the sequence number with action `max`. Raises FENCED (with the number found) unless the reply is `number`."""
        with self.account.errors(f"fencing seed {container}/{name}", ErrorKind.SEED_MISSING):
            reply = self._blob(container, name).set_sequence_number(SequenceNumberAction.MAX, str(number))
        found = int(str(reply["blob_sequence_number"]))
        if found != number:
            raise _fenced(container, name, found, number)

    def mark_first_pass(self, container: str, name: str, cycle_key: str) -> str:
        """Record the first pass unless one is recorded; return the one that is recorded."""
        for _ in range(_ATTEMPTS):
            properties = self._properties(container, name)
            metadata = _metadata(properties)
            recorded = metadata.get(FIRST_PASS)
            if recorded is not None:
                return recorded
            with self.account.errors(f"marking seed {container}/{name}", ErrorKind.SEED_MISSING):
                try:
                    self._blob(container, name).set_blob_metadata(
                        metadata | {FIRST_PASS: cycle_key},
                        etag=properties.etag,
                        match_condition=MatchConditions.IfNotModified,
                    )
                except ResourceModifiedError:
                    continue
            return cycle_key
        raise DeltaferryError(ErrorKind.STORE_THROTTLED, f"marking seed {container}/{name}: other writers kept changing it")

    def snapshot(self, container: str, name: str, seal: int, metadata: Mapping[str, str]) -> str:
        """Return the id of the blob's snapshot with exactly that metadata, taking it if there is none.

        The snapshot is taken on the condition that the blob is as it was when its number was the seal, and its own
        number is read back. Raises FENCED unless that is `seal`, SEED_MISSING.
        """
        wanted = _folded(metadata)
        found = [str(item.snapshot) for item in self._list(container, name) if _folded(_metadata(item)) == wanted]
        taken = found[0] if found else self._take_snapshot(container, name, seal, metadata)
        number = _sequence_number(self._properties(container, name, taken))
        if number != seal:
            raise _fenced(container, f"{name}, snapshot {taken}", number, seal)
        return taken

    def _take_snapshot(self, container: str, name: str, seal: int, metadata: Mapping[str, str]) -> str:
        for _ in range(_ATTEMPTS):
            properties = self._properties(container, name)
            if _sequence_number(properties) != seal:
                raise _fenced(container, name, _sequence_number(properties), seal)
            with self.account.errors(f"snapshotting seed {container}/{name}", ErrorKind.SEED_MISSING):
                try:
                    reply = self._blob(container, name).create_snapshot(
                        dict(metadata), etag=properties.etag, match_condition=MatchConditions.IfNotModified
                    )
                except ResourceModifiedError:
                    continue
            return str(reply["snapshot"])
        raise DeltaferryError(ErrorKind.STORE_THROTTLED, f"snapshotting seed {container}/{name}: other writers kept changing it")

    def list_snapshots(self, container: str, name: str) -> tuple[str, ...]:
        """Return the ids of the blob's snapshots, oldest first."""
        return tuple(str(item.snapshot) for item in self._list(container, name))

    def delete_snapshot(self, container: str, name: str, snapshot: str) -> None:
        """Delete one snapshot of a blob, and only that; no-op if it is gone."""
        if not snapshot:
            raise DeltaferryError(ErrorKind.BAD_INPUT, f"deleting a snapshot of {container}/{name}: no snapshot is named")
        with self.account.errors(f"deleting snapshot {snapshot} of {container}/{name}"):
            try:
                self._blob(container, name, snapshot).delete_blob()
            except ResourceNotFoundError:
                return

    def write_footer(self, container: str, name: str, capacity_bytes: int, fence: int) -> None:
        """Write the fixed VHD footer in the blob's last sector, fenced.

        The footer is the same each time: its id comes from the blob's URL and its time stamp is when the blob was made.
        Raises FENCED, SEED_MISSING, and DISKS_CHANGED where the blob was not made for a disk of that capacity.
        """
        properties = self._properties(container, name)
        if properties.size != seed_blob_size(capacity_bytes):
            raise DeltaferryError(
                ErrorKind.DISKS_CHANGED,
                f"seed {container}/{name} has {properties.size} bytes, a disk of {capacity_bytes} needs {seed_blob_size(capacity_bytes)}",
            )
        data_bytes = round_up(capacity_bytes, MIB)
        footer = fixed_footer(data_bytes, uuid5(NAMESPACE_URL, self.url(container, name)), properties.creation_time)
        blob = self._blob(container, name)
        try:
            with self.account.errors(f"writing the footer of seed {container}/{name}", ErrorKind.SEED_MISSING):
                blob.upload_page(footer, data_bytes, VHD_FOOTER, if_sequence_number_eq=fence, validate_content="md5")
        except DeltaferryError as error:
            if error.kind is not ErrorKind.FENCED:
                raise
            raise _fenced(container, name, self.read_seed(container, name).sequence_number, fence) from None

    def read_range(self, container: str, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Return bytes of a seed. Raises SEED_MISSING."""
        with self.account.errors(f"reading seed {container}/{name}", ErrorKind.SEED_MISSING):
            return self._blob(container, name).download_blob(offset_bytes, length_bytes).readall()

    def present_ranges(self, container: str, name: str, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """Yield the parts of a range of a seed that hold pages, in order; everything else reads as zero. Raises SEED_MISSING.

        Asked for in windows, because one answer for a blob in many pieces can take the service longer than it allows
        itself; every page of an answer is fetched, also where the service cuts it.
        """
        blob = self._blob(container, name)
        end_bytes = offset_bytes + length_bytes
        for start in range(offset_bytes, end_bytes, _RANGES_WINDOW):
            length = min(_RANGES_WINDOW, end_bytes - start)
            with self.account.errors(f"listing the pages of seed {container}/{name}", ErrorKind.SEED_MISSING):
                for found in blob.list_page_ranges(offset=start, length=length, results_per_page=_RANGES_PER_PAGE):
                    if found.start is None or found.end is None or found.cleared:
                        continue
                    first, last = max(found.start, start), min(found.end, start + length - 1)
                    if first <= last:
                        yield Extent(first, last + 1 - first)

    def url(self, container: str, name: str) -> str:
        """Return a seed's URL without signature, as Azure's disk import wants it."""
        return f"{self.account.url}/{container}/{quote(name)}"

    def _blob(self, container: str, name: str, snapshot: str | None = None) -> BlobClient:
        return self.account.client.get_blob_client(container, name, snapshot)

    def _properties(self, container: str, name: str, snapshot: str | None = None) -> BlobProperties:
        with self.account.errors(f"reading seed {container}/{name}", ErrorKind.SEED_MISSING):
            return self._blob(container, name, snapshot).get_blob_properties()

    def _list(self, container: str, name: str) -> list[BlobProperties]:
        """Return the blob's snapshots with metadata, oldest first: their ids are times that sort as text."""
        with self.account.errors(f"listing snapshots of seed {container}/{name}", ErrorKind.SEED_MISSING):
            client = self.account.client.get_container_client(container)
            listed = client.list_blobs(name_starts_with=name, include=["snapshots", "metadata"])
            return sorted((item for item in listed if item.name == name and item.snapshot), key=lambda item: str(item.snapshot))


def _sequence_number(properties: BlobProperties) -> int:
    if properties.page_blob_sequence_number is None:
        raise DeltaferryError(ErrorKind.SEED_MISSING, f"{properties.container}/{properties.name} is not a page blob")
    return int(properties.page_blob_sequence_number)


def _metadata(properties: BlobProperties) -> dict[str, str]:
    return {str(key): str(value) for key, value in (properties.metadata or {}).items()}


def _folded(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata with lower-case names: HTTP headers carry them, and proxies may change their case."""
    return {key.lower(): value for key, value in metadata.items()}


def _fenced(container: str, name: str, found: int, own: int) -> DeltaferryError:
    return DeltaferryError(ErrorKind.FENCED, f"seed {container}/{name} has number {found}, not {own}", number=found)
