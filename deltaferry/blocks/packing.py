"""Making and opening segments in buffers that a thread owns for its whole life.

Packing: zero test, checksums, squeezing zeros out, compressing, encrypting. Opening: the same backwards, and not one
byte is handed out before every checksum was compared (spec §4).
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import zstandard
from cryptography.exceptions import InvalidTag

from deltaferry.blocks.checksums import SALT_BYTES, Hasher, object_cipher
from deltaferry.blocks.extents import split
from deltaferry.blocks.plan import PlanEntry
from deltaferry.blocks.segment import (
    MAX_SEGMENT_BYTES,
    NONCE,
    RAW,
    TAG_BYTES,
    ZSTD,
    SegmentEntry,
    SegmentHeader,
    SegmentIdentity,
    encode_header,
    parse_header,
)
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import BLOCK, GRANULE

LEVEL = 1
"""zstd's level: the CPU budget is compression (facts 3.2), and level 1 is the best of it for a saturated CPU."""
_ZERO_BLOCK = bytes(BLOCK)


class SegmentBuffers:
    """The memory of one thread: a block of plaintext, and one object."""

    __slots__ = ("object", "plaintext", "raw_plaintext")

    def __init__(self) -> None:
        self.raw_plaintext = bytearray(BLOCK)
        """Compared as a whole with zeros: a bytearray compares 20 times as fast as a memoryview (facts 3.4)."""
        self.plaintext = memoryview(self.raw_plaintext)
        self.object = memoryview(bytearray(MAX_SEGMENT_BYTES))


def partial_granules(entries: Iterable[PlanEntry], capacity_bytes: int) -> list[int]:
    """Return the granules that a segment's areas touch and that no single area covers, in order, each once.

    Their checksums cannot be told from the segment's own data; the source reads them whole.
    """
    found: dict[int, None] = {}
    for entry in entries:
        for index in (entry.extent.offset_bytes // GRANULE, (entry.extent.end_bytes - 1) // GRANULE):
            granule_end = min((index + 1) * GRANULE, capacity_bytes)
            if entry.extent.offset_bytes > index * GRANULE or entry.extent.end_bytes < granule_end:
                found[index] = None
    return list(found)


class SegmentPacker:
    """Turns what was read into `buffers.plaintext` into an object in `buffers.object`. Belongs to one thread."""

    def __init__(self, data_key: bytes, hasher: Hasher, buffers: SegmentBuffers) -> None:
        self._data_key = data_key
        self._hasher = hasher
        self._buffers = buffers
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False, write_content_size=True)

    def pack(self, identity: SegmentIdentity, areas: Sequence[PlanEntry], granules: tuple[tuple[int, bytes], ...]) -> memoryview:
        """Return the finished object. The areas' data stands in `buffers.plaintext`, end to end, in the areas' order."""
        entries, checksums, length = self._squeeze(areas)
        payload, codec = self._compress(length)
        header = SegmentHeader(
            identity, os.urandom(SALT_BYTES), codec, length, len(payload), tuple(entries), tuple(checksums), granules
        )
        head = encode_header(header)
        stored = self._buffers.object[: header.object_bytes]
        stored[: len(head)] = head
        object_cipher(self._data_key, header.salt, identity.name).encrypt_into(NONCE, payload, head, stored[len(head) :])
        return stored

    def _squeeze(self, areas: Sequence[PlanEntry]) -> tuple[list[SegmentEntry], list[bytes], int]:
        """Return entries and checksums, having moved the data that is not zero to the front of the plaintext."""
        if len(areas) == 1 and areas[0].extent.length_bytes == BLOCK and self._buffers.raw_plaintext == _ZERO_BLOCK:
            return [SegmentEntry(areas[0].extent, True)], [], 0
        plaintext = self._buffers.plaintext
        entries: list[SegmentEntry] = []
        checksums: list[bytes] = []
        source = target = 0
        for area in areas:
            if area.hole:
                _append(entries, area.extent, True)
                continue
            for piece in split(area.extent, GRANULE):
                length = piece.length_bytes
                checksum = self._hasher.checksum(plaintext[source : source + length])
                zero = checksum == self._hasher.zero_checksum(length)
                if not zero:
                    if source != target:
                        plaintext[target : target + length] = plaintext[source : source + length]
                    checksums.append(checksum)
                    target += length
                _append(entries, piece, zero)
                source += length
        return entries, checksums, target

    def _compress(self, length: int) -> tuple[memoryview, int]:
        """Return the payload before encryption: one zstd frame, or the plaintext itself where that does not shrink it.

        The one step that allocates: zstd's one-shot call is 15 % faster than its stream into a buffer of ours, and
        zstd is the whole CPU budget (facts 0).
        """
        plaintext = self._buffers.plaintext[:length]
        frame = self._compressor.compress(plaintext)
        return (memoryview(frame), ZSTD) if len(frame) < length else (plaintext, RAW)


def _append(entries: list[SegmentEntry], extent: Extent, zero: bool) -> None:
    """Add a range to entries, joined to the last one where it goes on with the same kind."""
    if entries and entries[-1].zero == zero and entries[-1].extent.end_bytes == extent.offset_bytes:
        first = entries[-1].extent
        entries[-1] = SegmentEntry(Extent(first.offset_bytes, first.length_bytes + extent.length_bytes), zero)
    else:
        entries.append(SegmentEntry(extent, zero))


@dataclass(frozen=True, slots=True)
class OpenedSegment:
    """An authenticated segment whose every checksum was compared."""

    header: SegmentHeader
    plaintext: memoryview
    """The data entries, end to end; a part of the opener's buffers, valid until the next segment is opened."""


class SegmentOpener:
    """Turns a stored object into verified data. Belongs to one thread."""

    def __init__(self, data_key: bytes, hasher: Hasher, buffers: SegmentBuffers) -> None:
        self._data_key = data_key
        self._hasher = hasher
        self._buffers = buffers
        self._packed = memoryview(bytearray(BLOCK))
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2 * BLOCK)

    def open(self, stored: memoryview, expected: SegmentIdentity) -> OpenedSegment:
        """Return an object's content.

        Raises SEGMENT_DAMAGED where it is not what was stored under that identity, or cannot be decoded;
        CHECKSUM_MISMATCH where it decodes to something else than the source read.
        """
        header, size = parse_header(stored)
        where = f"segment {expected.number} of disk {expected.disk_key} in cycle {expected.cycle_key}"
        if header.identity != expected:
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"the object stored as {where} is another segment")
        plaintext = self._buffers.plaintext[: header.plaintext_bytes]
        payload = plaintext if header.codec == RAW else self._packed[: header.payload_bytes]
        cipher = object_cipher(self._data_key, header.salt, expected.name)
        try:
            cipher.decrypt_into(NONCE, stored[size : size + header.payload_bytes + TAG_BYTES], stored[:size], payload)
        except InvalidTag as error:
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"{where} cannot be authenticated") from error
        if header.codec == ZSTD:
            self._decompress(payload, plaintext, where)
        self._compare(header, plaintext, where)
        return OpenedSegment(header, plaintext)

    def _decompress(self, payload: memoryview, plaintext: memoryview, where: str) -> None:
        filled = 0
        try:
            sized = zstandard.frame_content_size(payload) == len(plaintext)
            with self._decompressor.stream_reader(payload) as frame:
                while sized and filled < len(plaintext):
                    count = frame.readinto(plaintext[filled:])
                    if count == 0:
                        break
                    filled += count
        except zstandard.ZstdError as error:
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"{where} cannot be decompressed") from error
        if filled != len(plaintext):
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"{where} decompresses to another length than it says")

    def _compare(self, header: SegmentHeader, plaintext: memoryview, where: str) -> None:
        position = 0
        checksums = iter(header.checksums)
        for entry in header.entries:
            if entry.zero:
                continue
            for piece in split(entry.extent, GRANULE):
                part = plaintext[position : position + piece.length_bytes]
                if self._hasher.checksum(part) != next(checksums):
                    raise DeltaferryError(
                        ErrorKind.CHECKSUM_MISMATCH,
                        f"{where}: {piece.length_bytes} bytes at offset {piece.offset_bytes} do not match their checksum",
                    )
                position += piece.length_bytes
