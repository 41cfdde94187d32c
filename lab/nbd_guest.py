"""The little of an NBD client that a guest needs to write to its disk.

Source of the protocol: the NBD project's doc/proto.md, fixed newstyle handshake, simple replies.
"""

import errno
import socket
import struct
from types import TracebackType

_NBD_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_REPLY_MAGIC = 0x67446698
_FIXED_NEWSTYLE_NO_ZEROES = 0b11
_OPT_GO = 7
_REP_ACK = 1
_REP_INFO = 3
_INFO_EXPORT = 0
_CMD_WRITE = 1
_CMD_DISC = 2
_CMD_FLUSH = 3
_CMD_TRIM = 4
_CMD_WRITE_ZEROES = 6
_ESHUTDOWN = 108


class DiskGone(Exception):
    """The server ended the connection, or said that it is shutting down: the VM stopped."""


class GuestDisk:
    """One writable export. Each call returns once the server has acknowledged it; one call at a time."""

    def __init__(self, host: str, port: int, export: str) -> None:
        self.export = export
        self._socket = socket.create_connection((host, port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._cookie = 0
        self.size_bytes = self._negotiate()

    def __enter__(self) -> "GuestDisk":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Write bytes. Raises DiskGone when it is not known whether they were written; OSError when they were not."""
        self._command(_CMD_WRITE, offset_bytes, len(data), data)

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range read as zero. Raises as `write`."""
        self._command(_CMD_WRITE_ZEROES, offset_bytes, length_bytes)

    def unmap(self, offset_bytes: int, length_bytes: int) -> None:
        """Give a range's space back, as a guest's UNMAP does; it reads as zero from then on. Raises as `write`."""
        self._command(_CMD_TRIM, offset_bytes, length_bytes)

    def flush(self) -> None:
        """Make acknowledged writes durable. Raises as `write`."""
        self._command(_CMD_FLUSH, 0, 0)

    def close(self) -> None:
        """End the connection; no-op if the server already has."""
        try:
            self._socket.sendall(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, _CMD_DISC, 0, 0, 0))
        except OSError:
            return
        finally:
            self._socket.close()

    def _negotiate(self) -> int:
        magic, options, _ = struct.unpack(">QQH", self._receive(18))
        if (magic, options) != (_NBD_MAGIC, _OPTION_MAGIC):
            raise OSError(errno.EPROTO, "the server does not speak NBD's newstyle handshake")
        name = self.export.encode()
        request = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._send(
            struct.pack(">I", _FIXED_NEWSTYLE_NO_ZEROES) + struct.pack(">QII", _OPTION_MAGIC, _OPT_GO, len(request)) + request
        )
        size_bytes: int | None = None
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._receive(20))
            if magic != _OPTION_REPLY_MAGIC:
                raise OSError(errno.EPROTO, "the server broke the NBD handshake")
            content = self._receive(length)
            if kind == _REP_INFO and struct.unpack(">H", content[:2])[0] == _INFO_EXPORT:
                size_bytes = struct.unpack(">Q", content[2:10])[0]
            elif kind == _REP_ACK and size_bytes is not None:
                return size_bytes
            elif kind != _REP_INFO:
                raise OSError(errno.ENOENT, f"the server refuses the export {self.export} with reply {kind:#x}")

    def _command(self, command: int, offset_bytes: int, length_bytes: int, data: bytes = b"") -> None:
        self._cookie += 1
        self._send(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, command, self._cookie, offset_bytes, length_bytes) + data)
        magic, error, cookie = struct.unpack(">IIQ", self._receive(16))
        if (magic, cookie) != (_SIMPLE_REPLY_MAGIC, self._cookie):
            raise OSError(errno.EPROTO, "the server broke the NBD transmission phase")
        if error == _ESHUTDOWN:
            raise DiskGone("the server is shutting down")
        if error:
            raise OSError(error, f"the server refused a command on {self.export}")

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except ConnectionError as error:
            raise DiskGone("the server closed the connection") from error

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            try:
                part = self._socket.recv(length - len(received))
            except ConnectionError as error:
                raise DiskGone("the server closed the connection") from error
            if not part:
                raise DiskGone("the server closed the connection")
            received += part
        return bytes(received)
