"""Buffered reading and unbuffered writing of one NBD connection's socket."""

import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Final

from lab.vcenter.disk_backing import FileRange

_BUFFER_BYTES: Final = 256 * 1024


class Disconnected(Exception):
    """The peer is gone, or the connection was cut."""


class Stream:
    """One connection's bytes. Used by one thread, save `cut`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0
        self._end = 0

    def set_timeout(self, seconds: float | None) -> None:
        """Give up waiting for the peer after some time; None waits for ever."""
        self._socket.settimeout(seconds)

    def take(self, length: int) -> memoryview:
        """Return the next bytes, valid until the next call. Raises Disconnected."""
        if self._end - self._start < length:
            if length > len(self._buffer):
                return self._take_large(length)
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
            while self._end < length:
                self._end += self._receive(self._buffer[self._end :])
        self._start += length
        return self._buffer[self._start - length : self._start]

    def has_buffered(self, length: int) -> bool:
        """Whether bytes can be taken without waiting for the peer."""
        return self._end - self._start >= length

    def fill(self) -> None:
        """Take in what the peer has sent already, if there is room, without waiting."""
        if self._end < len(self._buffer):
            try:
                self._end += self._socket.recv_into(self._buffer[self._end :], 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                raise Disconnected from error

    def send(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> None:
        """Send all; `more` says that more follows at once. Raises Disconnected."""
        try:
            self._socket.sendall(data, socket.MSG_MORE if more else 0)
        except OSError as error:
            raise Disconnected from error

    def send_files(self, parts: Sequence[FileRange]) -> None:
        """Send ranges of files straight from the page cache. Raises Disconnected.

        The kernel queues references to the cached pages, not copies: the files must not change until the peer has
        read, hence `Export.reading`, and the cut of connections whose snapshot is removed.
        """
        target = self._socket.fileno()
        for part in parts:
            offset, end = part.offset, part.offset + part.length
            while offset < end:
                try:
                    sent = os.sendfile(target, part.fd, offset, end - offset)
                except OSError as error:
                    raise Disconnected from error
                if sent == 0:
                    raise Disconnected("a backing file ended early")
                offset += sent

    def is_hung_up(self) -> bool:
        """Return whether the peer has ended the connection, or it was cut, even if not all that was sent has been read."""
        look = select.poll()
        look.register(self._socket, select.POLLRDHUP)
        return bool(look.poll(0))

    def cut(self) -> None:
        """End the connection for both sides, waking the thread that uses it; from any thread, any number of times."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def reset(self) -> None:
        """Close at once with a TCP reset, as a crashing host or a firewall would."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _take_large(self, length: int) -> memoryview:
        target = memoryview(bytearray(length))
        done = self._end - self._start
        target[:done] = self._buffer[self._start : self._end]
        self._start = self._end = 0
        while done < length:
            done += self._receive(target[done:])
        return target

    def _receive(self, target: memoryview) -> int:
        try:
            count = self._socket.recv_into(target)
        except OSError as error:
            raise Disconnected from error
        if count == 0:
            raise Disconnected
        return count
