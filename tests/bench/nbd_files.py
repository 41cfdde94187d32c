"""An NBD server that costs next to nothing: reads go from the page cache to the socket by `sendfile`.

Run as `python -m tests.bench.nbd_files SOCKET FILE`. An export's name is its size in bytes: a disk larger than the file is
the file over and over, so that a disk of any size costs no memory.
"""

import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path

_OPTION_MAGIC = 0x49484156454F5054
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE_REPLY = struct.Struct(">IIQ")
_OPT_GO = 7
_REP_ACK, _REP_INFO, _REP_UNSUPPORTED = 1, 3, 0x80000001
_CMD_READ, _CMD_DISCONNECT = 0, 2


class _Session:
    """One client."""

    def __init__(self, connection: socket.socket, file: int, file_bytes: int) -> None:
        self._connection = connection
        self._file = file
        self._file_bytes = file_bytes

    def serve(self) -> None:
        """Negotiate, then answer reads until the client disconnects."""
        self._connection.sendall(struct.pack(">QQH", 0x4E42444D41474943, _OPTION_MAGIC, 3))
        self._take(4)
        while True:
            _, option, length = struct.unpack(">QII", self._take(16))
            body = self._take(length)
            if option == _OPT_GO:
                name_length = struct.unpack_from(">I", body)[0]
                size_bytes = int(body[4 : 4 + name_length])
                self._reply(option, _REP_INFO, struct.pack(">HQH", 0, size_bytes, 3))
                self._reply(option, _REP_ACK)
                break
            self._reply(option, _REP_UNSUPPORTED)
        while True:
            _, _, command, handle, offset, length = _REQUEST.unpack(self._take(_REQUEST.size))
            if command == _CMD_DISCONNECT:
                return
            refused = 0 if command == _CMD_READ else 22
            self._connection.sendall(_SIMPLE_REPLY.pack(0x67446698, refused, handle))
            if not refused:
                self._send(offset, length)

    def _send(self, offset: int, length: int) -> None:
        while length:
            start = offset % self._file_bytes
            count = os.sendfile(self._connection.fileno(), self._file, start, min(length, self._file_bytes - start))
            offset += count
            length -= count

    def _reply(self, option: int, kind: int, body: bytes = b"") -> None:
        self._connection.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, kind, len(body)) + body)

    def _take(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self._connection.recv(length - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return bytes(data)


def main() -> None:
    """Serve until killed."""
    path, file = Path(sys.argv[1]), os.open(sys.argv[2], os.O_RDONLY)
    file_bytes = os.fstat(file).st_size
    path.unlink(missing_ok=True)

    def carry(connection: socket.socket) -> None:
        with connection:
            try:
                _Session(connection, file, file_bytes).serve()
            except OSError:
                return

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(64)
        sys.stdout.write(json.dumps({"ready": True}) + "\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=carry, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
