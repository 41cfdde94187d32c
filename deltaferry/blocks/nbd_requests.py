"""One NBD command in flight: what it asked for, and what its reply has brought so far.

A reply may come in chunks, in any order; each must lie inside the range that was asked for, and a read is complete only
when its chunks cover every byte once: a malformed reply must never pass for data.
"""

import errno
import socket
import struct
from dataclasses import dataclass, field

from deltaferry.blocks import nbd_protocol as wire
from deltaferry.blocks.nbd_protocol import read_failed, receive, receive_into
from deltaferry.model.errors import DeltaferryError
from deltaferry.model.units import MIB

MAX_REQUEST_BYTES = 2 * MIB
_MAX_ERROR_BYTES = 64 * 1024
_ZEROS = bytes(MAX_REQUEST_BYTES)
_MAX_CHUNKS = MAX_REQUEST_BYTES // 512 + 16
"""To one request: a chunk for each sector and some without data, so that a reply ends whatever a server sends."""


def malformed(what: str) -> DeltaferryError:
    """Return the error for a reply that the protocol does not allow."""
    return read_failed(f"the NBD server sent a malformed reply: {what}")


@dataclass(slots=True, eq=False)
class Request:
    """A command; `buffer` is what a read fills or a write sends."""

    command: int
    offset_bytes: int
    length_bytes: int
    buffer: memoryview | None = None
    done: bool = False
    error: DeltaferryError | None = None
    _filled: list[tuple[int, int]] = field(default_factory=list)
    _filled_bytes: int = 0
    _chunks: int = 0

    @property
    def in_flight_bytes(self) -> int:
        """What the command counts against the limit of bytes in flight."""
        return self.length_bytes if self.command in (wire.CMD_READ, wire.CMD_WRITE) else 0

    def take_simple(self, connection: socket.socket, structured: bool) -> None:
        """Take what follows a simple reply without error."""
        if self.command != wire.CMD_READ:
            return
        if structured:
            raise malformed("simple reply to a read after structured replies were agreed")
        receive_into(connection, self._part(0, self.length_bytes))

    def take_chunk(self, connection: socket.socket, kind: int, length: int) -> None:
        """Take the body of one chunk of a structured reply."""
        self._chunks += 1
        if self._chunks > _MAX_CHUNKS:
            raise malformed("a reply does not end")
        if kind == wire.REPLY_NONE and length == 0:
            return
        if kind == wire.REPLY_OFFSET_DATA and length > 8:
            start = int.from_bytes(receive(connection, 8), "big") - self.offset_bytes
            receive_into(connection, self._part(start, length - 8))
        elif kind == wire.REPLY_OFFSET_HOLE and length == 12:
            offset, size = struct.unpack(">QI", receive(connection, 12))
            self._part(offset - self.offset_bytes, size)[:] = memoryview(_ZEROS)[:size]
        elif kind & wire.REPLY_ERROR_BIT and 6 <= length <= _MAX_ERROR_BYTES:
            self.refused(int.from_bytes(receive(connection, length)[:4], "big"))
        else:
            raise malformed(f"chunk of type {kind} and length {length}")

    def refused(self, code: int) -> None:
        """Note the server's error number."""
        name = errno.errorcode.get(code, str(code))
        self.error = self.error or read_failed(
            f"the NBD server answered {name} for {self.length_bytes} bytes at offset {self.offset_bytes}"
        )

    def check_complete(self) -> None:
        """Raise unless the reply brought what was asked for: each byte of a read once."""
        if self.error is not None:
            return
        if self.command == wire.CMD_READ:
            position = 0
            for start, length in sorted(self._filled):
                if start != position:
                    raise malformed("chunks of a read overlap or leave a gap")
                position += length
            if position != self.length_bytes:
                raise malformed("chunks of a read leave a gap")

    def _part(self, start: int, length: int) -> memoryview:
        """Return the part of a read's buffer that a chunk is for, and note that it is filled."""
        if self.command != wire.CMD_READ or self.buffer is None or start < 0 or start + length > self.length_bytes:
            raise malformed("data outside the range that was asked for")
        self._filled_bytes += length
        if self._filled_bytes > self.length_bytes:
            raise malformed("chunks of a read overlap")
        self._filled.append((start, length))
        return self.buffer[start : start + length]
