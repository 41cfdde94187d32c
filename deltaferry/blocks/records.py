"""The envelope of everything small that is stored: plan, manifest, sector set, granule updates, checksum map chunk.

`magic (4) · version (2) · zero (2) · length of the rest (8) · BLAKE3-256 (32)`, then the body. The checksum covers
every other byte of the record. It guards against damage and truncation, not against forgery: who can write to the
gateway store can write a record; what such a record names is still authenticated segment by segment.
Numbers are little-endian throughout.
"""

import struct
import sys
from array import array
from collections.abc import Iterable

import zstandard
from blake3 import blake3

from deltaferry.model.errors import DeltaferryError, ErrorKind

_HEAD = struct.Struct("<4sHHQ")
_DIGEST = 32
_WORD = 8
_COUNT = struct.Struct("<QI")
_MAX_WORDS = 1 << 28
"""2 GiB of words: more than any record of an 8 TiB disk needs, so that a hostile length cannot exhaust memory."""

MAX_DISK_BYTES = 1 << 46
"""64 TiB, above vSphere's 62: what a stored record names beyond it is damage. Sets of ranges take memory by their extent."""
_MAX_WINDOW_BYTES = 8 << 20
"""What a decoder may take for a frame's window; `put_words` needs 2 MiB."""
_PIECE_BYTES = 1 << 20

RECORD_OVERHEAD = _HEAD.size + _DIGEST


def seal_record(magic: bytes, version: int, body: bytes) -> bytes:
    """Return a record with `body` in it."""
    head = _HEAD.pack(magic, version, 0, len(body))
    return b"".join((head, blake3(head).update(body).digest(), body))


def open_record(magic: bytes, version: int, data: bytes, kind: ErrorKind, what: str) -> memoryview:
    """Return a record's body. Raises `kind` for anything that `seal_record` did not make, byte for byte."""
    view = memoryview(data)
    if len(view) < RECORD_OVERHEAD:
        raise DeltaferryError(kind, f"the {what} is cut off after {len(view)} bytes")
    found_magic, found_version, reserved, length = _HEAD.unpack_from(view)
    if found_magic != magic:
        raise DeltaferryError(kind, f"the record is not a {what}")
    if found_version != version:
        raise DeltaferryError(kind, f"the {what} has version {found_version}; this release reads version {version}")
    body = view[RECORD_OVERHEAD:]
    if reserved or len(body) != length:
        raise DeltaferryError(kind, f"the {what} has {len(body)} bytes where its header says {length}")
    if blake3(view[: _HEAD.size]).update(body).digest() != view[_HEAD.size : RECORD_OVERHEAD]:
        raise DeltaferryError(kind, f"the {what} does not match its checksum")
    return body


class BodyReader:
    """Reads a record's body from front to back; every step past its end raises the record's error kind."""

    def __init__(self, body: memoryview, kind: ErrorKind, what: str) -> None:
        self._body = body
        self._position = 0
        self._kind = kind
        self._what = what

    def damaged(self, detail: str) -> DeltaferryError:
        """Return the error for a body that contradicts itself."""
        return DeltaferryError(self._kind, f"the {self._what} contradicts itself: {detail}")

    def take(self, length: int) -> memoryview:
        """Return the next bytes."""
        if length > len(self._body) - self._position:
            raise self.damaged("it ends too early")
        part = self._body[self._position : self._position + length]
        self._position += length
        return part

    def number(self) -> int:
        """Return the next 64-bit number, which is not negative."""
        return int.from_bytes(self.take(_WORD), "little")

    def text(self) -> str:
        """Return the next length-prefixed string."""
        raw = bytes(self.take(self.number()))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.damaged("a name is not UTF-8") from error

    def words(self) -> "array[int]":
        """Return the next list of 64-bit numbers."""
        count, packed = _COUNT.unpack(self.take(_COUNT.size))
        frame = self.take(packed)
        if count > _MAX_WORDS:
            raise self.damaged("a list is longer than any disk needs")
        words = array("Q")
        if count == 0:
            return words
        raw = self._decompressed(bytes(frame), count * _WORD)
        words.frombytes(raw)
        if sys.byteorder == "big":
            words.byteswap()
        return words

    def _decompressed(self, frame: bytes, length: int) -> bytearray:
        """Return a frame's content, piece by piece: memory is taken for what is there, not for what the frame claims."""
        raw = bytearray()
        try:
            if zstandard.frame_content_size(frame) != length:
                raise self.damaged("a list has another length than it says")
            with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(frame) as content:
                while piece := content.read(min(_PIECE_BYTES, length + 1 - len(raw))):
                    raw += piece
        except zstandard.ZstdError as error:
            raise self.damaged("a list cannot be decompressed") from error
        if len(raw) != length:
            raise self.damaged("a list has another length than it says")
        return raw

    def end(self) -> None:
        """Check that nothing is left."""
        if self._position != len(self._body):
            raise self.damaged("bytes follow its end")


def put_number(number: int) -> bytes:
    """Return a number as `BodyReader.number` reads it."""
    return number.to_bytes(_WORD, "little")


def put_text(text: str) -> bytes:
    """Return a string as `BodyReader.text` reads it."""
    raw = text.encode()
    return put_number(len(raw)) + raw


def put_words(values: Iterable[int]) -> bytes:
    """Return a list of 64-bit numbers as `BodyReader.words` reads it: one zstd frame."""
    words = values if isinstance(values, array) else array("Q", values)
    if not words:
        return _COUNT.pack(0, 0)
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    frame = zstandard.ZstdCompressor(level=3).compress(words.tobytes())
    return _COUNT.pack(len(words), len(frame)) + frame
