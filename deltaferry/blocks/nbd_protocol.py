"""The NBD protocol as far as the client speaks it: constants, the fixed newstyle handshake, and the shape of replies.

Source: the NBD project's `doc/proto.md`. Everything is big-endian.
"""

import socket
import struct
from dataclasses import dataclass

from deltaferry.model.errors import DeltaferryError, ErrorKind

_INIT_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

REQUEST = struct.Struct(">IHHQQI")
SIMPLE_REPLY_REST = struct.Struct(">IQ")
STRUCTURED_REPLY_REST = struct.Struct(">HHQI")

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_WRITE_ZEROES = 0, 1, 2, 3, 6
FLAG_REPLY_DONE = 1
REPLY_NONE, REPLY_OFFSET_DATA, REPLY_OFFSET_HOLE = 0, 1, 2
REPLY_ERROR_BIT = 1 << 15

_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_GO, _OPT_STRUCTURED_REPLY = 7, 8
_REP_ACK, _REP_INFO = 1, 3
_INFO_EXPORT = 0
_MAX_OPTION_REPLY = 64 * 1024
_MAX_OPTION_REPLIES = 256
"""To one option: far more than servers send, so that a handshake ends whatever a server does."""
_READ_ONLY = 2


@dataclass(frozen=True, slots=True)
class Export:
    """What a server said of an export."""

    size_bytes: int
    read_only: bool
    structured: bool


def read_failed(detail: str) -> DeltaferryError:
    """Return the error of everything that goes wrong on an NBD connection."""
    return DeltaferryError(ErrorKind.DISK_READ_FAILED, detail)


def receive_into(connection: socket.socket, buffer: memoryview) -> None:
    """Fill a buffer from a connection. Raises DISK_READ_FAILED if it closes before; OSError as the socket does."""
    while buffer:
        count = connection.recv_into(buffer)
        if count == 0:
            raise read_failed("the NBD server closed the connection")
        buffer = buffer[count:]


def receive(connection: socket.socket, length: int) -> bytes:
    """Return so many bytes from a connection."""
    buffer = bytearray(length)
    receive_into(connection, memoryview(buffer))
    return bytes(buffer)


def negotiate(connection: socket.socket, export: str) -> Export:
    """Carry out the handshake up to the transmission phase. Raises DISK_READ_FAILED."""
    magic, option_magic, flags = struct.unpack(">QQH", receive(connection, 18))
    if magic != _INIT_MAGIC or option_magic != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
        raise read_failed("the server does not speak NBD's fixed newstyle handshake")
    connection.sendall(struct.pack(">I", flags & (_FIXED_NEWSTYLE | _NO_ZEROES)))
    structured = _offer_structured(connection)
    name = export.encode()
    request = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    _send_option(connection, _OPT_GO, request)
    size = transmission_flags = None
    for _ in range(_MAX_OPTION_REPLIES):
        kind, body = _receive_option_reply(connection, _OPT_GO)
        if kind == _REP_INFO and len(body) >= 2:
            if struct.unpack_from(">H", body)[0] == _INFO_EXPORT and len(body) == 12:
                size, transmission_flags = struct.unpack_from(">QH", body, 2)
        elif kind == _REP_ACK:
            break
        else:
            raise read_failed(f"the NBD server refused the export (option reply {kind:#x})")
    else:
        raise read_failed("the NBD server's handshake does not end")
    if size is None or transmission_flags is None or size >> 63:
        raise read_failed("the NBD server did not say how large the export is")
    return Export(size, bool(transmission_flags & _READ_ONLY), structured)


def _offer_structured(connection: socket.socket) -> bool:
    _send_option(connection, _OPT_STRUCTURED_REPLY, b"")
    kind, _ = _receive_option_reply(connection, _OPT_STRUCTURED_REPLY)
    return kind == _REP_ACK


def _send_option(connection: socket.socket, option: int, body: bytes) -> None:
    connection.sendall(struct.pack(">QII", _OPTION_MAGIC, option, len(body)) + body)


def _receive_option_reply(connection: socket.socket, option: int) -> tuple[int, bytes]:
    magic, answered, kind, length = struct.unpack(">QIII", receive(connection, 20))
    if magic != _OPTION_REPLY_MAGIC or answered != option or length > _MAX_OPTION_REPLY:
        raise read_failed("the NBD server's handshake is malformed")
    return kind, receive(connection, length)
