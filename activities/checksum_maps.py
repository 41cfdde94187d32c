"""Reading the checksum map of a disk: what each granule of the seed held at the last commit."""

from collections.abc import Callable

from activities.adapters import Stores
from deltaferry.blocks.checksum_map import CHUNK_GRANULES, ChecksumChunk, decode_chunk, empty_chunk, encode_chunk, sized
from deltaferry.blocks.granules import granules_of
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import checksum_map_prefix, gateway_container
from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
from deltaferry.ports.access import Beat

CHECKSUM_BYTES = 16


def chunk_key(ref: ReplicationRef, disk_key: int, number: int) -> str:
    """Return the key of a chunk of a disk's map."""
    return f"{gateway_container(ref)}/{checksum_map_prefix(disk_key)}{number:06d}"


def read_chunk(stores: Stores, ref: ReplicationRef, disk_key: int, number: int, capacity_bytes: int) -> ChecksumChunk:
    """Return a chunk of a disk's map, as long as the disk is now; unknown where none is stored. Raises CHECKSUM_MISMATCH."""
    stored = stores.gateway.get_if_exists(chunk_key(ref, disk_key, number))
    if stored is None:
        return empty_chunk(number, capacity_bytes)
    return sized(decode_chunk(stored, number), capacity_bytes)


def mended_chunk(stores: Stores, ref: ReplicationRef, disk_key: int, number: int, capacity_bytes: int) -> ChecksumChunk:
    """Return a chunk of a disk's map; a damaged one is replaced by one that knows nothing, so that all of it is compared."""
    try:
        return read_chunk(stores, ref, disk_key, number, capacity_bytes)
    except DeltaferryError as error:
        if error.kind is not ErrorKind.CHECKSUM_MISMATCH:
            raise
    unknown = empty_chunk(number, capacity_bytes)
    stores.gateway.put(chunk_key(ref, disk_key, number), encode_chunk(unknown))
    return unknown


ReadChunk = Callable[[Stores, ReplicationRef, int, int, int], ChecksumChunk]


def read_checksums(
    stores: Stores,
    ref: ReplicationRef,
    disk: ReplicatedDisk,
    granules: range,
    beat: Beat,
    read: ReadChunk = read_chunk,
) -> bytes:
    """Return the map's checksums of consecutive granules, 16 bytes for each. Raises CHECKSUM_MISMATCH for a damaged map."""
    if not granules:
        return b""
    first, end = granules.start, min(granules.stop, granules_of(disk.capacity_bytes))
    parts = []
    for number in range(first // CHUNK_GRANULES, (end - 1) // CHUNK_GRANULES + 1):
        beat()
        start = number * CHUNK_GRANULES
        checksums = memoryview(read(stores, ref, disk.key, number, disk.capacity_bytes).checksums)
        parts.append(checksums[max(0, first - start) * CHECKSUM_BYTES : (end - start) * CHECKSUM_BYTES])
    return b"".join(parts)
