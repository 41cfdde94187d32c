"""A plain NBD client that speaks the wire format by hand, so that the server is not tested against its own reading of it."""

import socket
import struct
from dataclasses import dataclass


class OptionError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(hex(code))
        self.code = code


class RequestError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


@dataclass
class Reply:
    handle: int
    data: bytes


class WireClient:
    def __init__(self, host: str, port: int, flags: int = 3) -> None:
        self.sock = socket.create_connection((host, port), timeout=20)
        self.size = self.flags = 0
        self.structured = False
        self.lengths: dict[int, int] = {}
        magic, opt, server_flags = struct.unpack(">8s8sH", self.exactly(18))
        assert (magic, opt, server_flags) == (b"NBDMAGIC", b"IHAVEOPT", 3)
        self.sock.sendall(struct.pack(">I", flags))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        view, done = memoryview(buffer), 0
        while done < count:
            got = self.sock.recv_into(view[done:])
            if not got:
                raise EOFError
            done += got
        return bytes(buffer)

    def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        self.sock.sendall(struct.pack(">8sII", b"IHAVEOPT", number, len(data)) + data)
        replies = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.exactly(20))
            assert (magic, option) == (0x3E889045565A9, number)
            payload = self.exactly(length)
            if kind & 1 << 31:
                raise OptionError(kind & 0xFFFF)
            if kind == 1:
                return replies
            replies.append((kind, payload))

    def negotiate_structured(self, name: str | None = None) -> None:
        assert self.option(8) == []
        self.structured = True
        if name is not None:
            query = self.text(name) + struct.pack(">I", 1) + self.text("base:allocation")
            ((kind, payload),) = self.option(10, query)
            assert kind == 4
            assert payload[4:] == b"base:allocation"
            self.context_id = struct.unpack(">I", payload[:4])[0]

    def go(self, name: str, *infos: int, option: int = 7) -> dict[int, bytes]:
        data = self.text(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)
        answers = {struct.unpack(">H", payload[:2])[0]: payload[2:] for kind, payload in self.option(option, data) if kind == 3}
        self.size, self.flags = struct.unpack(">QH", answers[0])
        return answers

    @staticmethod
    def text(value: str) -> bytes:
        return struct.pack(">I", len(value.encode())) + value.encode()

    def request(self, command: int, handle: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> None:
        self.lengths[handle] = length if command == 0 else 0
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, handle, offset, length) + data)

    def reply(self) -> Reply:
        (magic,) = struct.unpack(">I", self.exactly(4))
        if magic == 0x67446698:
            error, handle = struct.unpack(">IQ", self.exactly(12))
            if error:
                raise RequestError(error)
            return Reply(handle, self.exactly(self.lengths.pop(handle)))
        assert magic == 0x668E33EF
        flags, kind, handle, length = struct.unpack(">HHQI", self.exactly(16))
        payload = self.exactly(length)
        assert flags == 1
        if kind & 1 << 15:
            raise RequestError(struct.unpack(">I", payload[:4])[0])
        self.lengths.pop(handle)
        return Reply(handle, payload[8:] if kind == 1 else payload)

    def call(self, command: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> bytes:
        self.request(command, 7, offset, length, data, flags)
        return self.reply().data

    def read(self, offset: int, length: int) -> bytes:
        return self.call(0, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self.call(1, offset, len(data), data)

    def block_status(self, offset: int, length: int, flags: int = 0) -> list[tuple[int, int]]:
        payload = self.call(7, offset, length, flags=flags)
        assert struct.unpack(">I", payload[:4])[0] == self.context_id
        return list(struct.iter_unpack(">II", payload[4:]))
