"""One segment: a write-once object of at most 4 MiB of plaintext. The bytes are described in docs/format.md.

`header · AES-256-GCM ciphertext · tag (16)`. The key is derived from a random salt of the object's own, so it encrypts
exactly one message: that is why a fixed nonce is safe, and why an object's name and header cannot be lent to another.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from deltaferry.blocks.checksums import CHECKSUM_BYTES
from deltaferry.blocks.plan import MAX_ENTRIES
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.naming import segment_name
from deltaferry.model.units import BLOCK, GRANULE, SECTOR

MAGIC = b"DFSG"
VERSION = 1
NONCE = bytes(12)
TAG_BYTES = 16
RAW, ZSTD = 0, 1

_FIXED = struct.Struct("<4sHBBI32sqQQIIIIIHH")
_MAX_NAME = 255
_ENTRY_BYTES = 16
_GRANULE_BYTES = 8 + CHECKSUM_BYTES
_MAX_GRANULES = 2 * MAX_ENTRIES
"""An area touches at most two granules without covering them: one at each end."""
MAX_HEADER_BYTES = _FIXED.size + 2 * _MAX_NAME + MAX_ENTRIES * (_ENTRY_BYTES + CHECKSUM_BYTES) + _MAX_GRANULES * _GRANULE_BYTES
MAX_SEGMENT_BYTES = MAX_HEADER_BYTES + BLOCK + TAG_BYTES


@dataclass(frozen=True, slots=True)
class SegmentIdentity:
    """Which segment of which disk's cycle: in the header of each object, and checked when it is read."""

    replication_id: str
    cycle_key: str
    disk_key: int
    number: int
    capacity_bytes: int

    @property
    def name(self) -> str:
        """The object's name in the log container."""
        return segment_name(self.cycle_key, self.disk_key, self.number)


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """A range of the disk: its bytes are in the payload, or all are zero and it has no payload."""

    extent: Extent
    zero: bool


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What stands before the ciphertext, authenticated with it."""

    identity: SegmentIdentity
    salt: bytes
    codec: int
    plaintext_bytes: int
    payload_bytes: int
    """Length of the encrypted payload, without its tag."""
    entries: tuple[SegmentEntry, ...]
    checksums: tuple[bytes, ...]
    """One for each piece: the data entries, cut where granules of the disk meet."""
    granules: tuple[tuple[int, bytes], ...]
    """(index, checksum of the whole granule on the source) for each granule that the areas cover only in part."""

    @property
    def object_bytes(self) -> int:
        """Size of the stored object."""
        return header_size(self) + self.payload_bytes + TAG_BYTES


def pieces_in(extent: Extent) -> int:
    """Return into how many pieces a range is cut where granules meet."""
    return (extent.end_bytes - 1) // GRANULE - extent.offset_bytes // GRANULE + 1


def header_size(header: SegmentHeader) -> int:
    """Return how many bytes a header takes."""
    names = len(header.identity.replication_id.encode()) + len(header.identity.cycle_key.encode())
    tables = len(header.entries) * _ENTRY_BYTES + len(header.checksums) * CHECKSUM_BYTES + len(header.granules) * _GRANULE_BYTES
    return _FIXED.size + names + tables


def encode_header(header: SegmentHeader) -> bytes:
    """Return a header's bytes. Raises ValueError for names longer than 255 bytes."""
    identity = header.identity
    replication, cycle = identity.replication_id.encode(), identity.cycle_key.encode()
    if len(replication) > _MAX_NAME or len(cycle) > _MAX_NAME:
        raise ValueError("a replication id or cycle key is longer than 255 bytes")
    fixed = _FIXED.pack(
        MAGIC, VERSION, header.codec, 0, header_size(header), header.salt, identity.disk_key, identity.number, identity.capacity_bytes,
        header.plaintext_bytes, header.payload_bytes, len(header.entries), len(header.checksums), len(header.granules),
        len(replication), len(cycle),
    )  # fmt: skip
    table: list[int] = []
    for entry in header.entries:
        table += entry.extent.offset_bytes // SECTOR, entry.extent.length_bytes // SECTOR << 1 | entry.zero
    return b"".join((
        fixed, replication, cycle,
        struct.pack(f"<{len(table)}Q", *table),
        *header.checksums,
        struct.pack(f"<{len(header.granules)}Q", *(index for index, _ in header.granules)),
        *(checksum for _, checksum in header.granules),
    ))  # fmt: skip


def _damaged(detail: str) -> DeltaferryError:
    return DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"a stored segment is damaged: {detail}")


def parse_header(stored: memoryview) -> tuple[SegmentHeader, int]:
    """Return an object's header and its length. Nothing in it is authenticated yet. Raises SEGMENT_DAMAGED."""
    if len(stored) < _FIXED.size + TAG_BYTES:
        raise _damaged(f"it ends after {len(stored)} bytes")
    (
        magic, version, codec, reserved, size, salt, disk_key, number, capacity, plaintext, payload,
        entry_count, checksum_count, granule_count, replication_length, cycle_length,
    ) = _FIXED.unpack_from(stored)  # fmt: skip
    if magic != MAGIC or version != VERSION or reserved or codec not in (RAW, ZSTD):
        raise _damaged(f"it is not of format {VERSION}")
    tables = entry_count * _ENTRY_BYTES + checksum_count * CHECKSUM_BYTES + granule_count * _GRANULE_BYTES
    if size != _FIXED.size + replication_length + cycle_length + tables or size + payload + TAG_BYTES != len(stored):
        raise _damaged("its lengths do not add up")
    if plaintext > BLOCK or payload > plaintext or (codec == RAW and payload != plaintext):
        raise _damaged("it claims more data than a segment holds")
    position = _FIXED.size
    try:
        replication = bytes(stored[position : position + replication_length]).decode()
        position += replication_length
        cycle = bytes(stored[position : position + cycle_length]).decode()
    except UnicodeDecodeError as error:
        raise _damaged("a name is not UTF-8") from error
    position += cycle_length
    entries = _parse_entries(struct.unpack_from(f"<{2 * entry_count}Q", stored, position), capacity)
    position += entry_count * _ENTRY_BYTES
    data = [entry.extent for entry in entries if not entry.zero]
    if sum(extent.length_bytes for extent in data) != plaintext or sum(map(pieces_in, data)) != checksum_count:
        raise _damaged("its entries do not match its payload")
    checksums = _parse_checksums(stored[position:size], checksum_count)
    position += checksum_count * CHECKSUM_BYTES
    indices = struct.unpack_from(f"<{granule_count}Q", stored, position)
    position += granule_count * 8
    if any(second <= first for first, second in pairwise(indices)):
        raise _damaged("its granules are not in order")
    if indices and indices[-1] * GRANULE >= capacity:
        raise _damaged("a granule lies outside the disk")
    granules = tuple(zip(indices, _parse_checksums(stored[position:size], granule_count), strict=True))
    identity = SegmentIdentity(replication, cycle, disk_key, number, capacity)
    return SegmentHeader(identity, salt, codec, plaintext, payload, entries, checksums, granules), size


def _parse_entries(table: Sequence[int], capacity_bytes: int) -> tuple[SegmentEntry, ...]:
    entries = []
    end = 0
    for start, length in zip(table[::2], table[1::2], strict=True):
        if start < end or not length >> 1:
            raise _damaged("its entries are not sorted and disjoint")
        end = start + (length >> 1)
        entries.append(SegmentEntry(Extent(start * SECTOR, (length >> 1) * SECTOR), bool(length & 1)))
    if end * SECTOR > capacity_bytes:
        raise _damaged("an entry lies outside the disk")
    return tuple(entries)


def _parse_checksums(raw: memoryview, count: int) -> tuple[bytes, ...]:
    return tuple(bytes(raw[index * CHECKSUM_BYTES : (index + 1) * CHECKSUM_BYTES]) for index in range(count))
