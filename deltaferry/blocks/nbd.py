"""A blocking NBD client on a plain socket: one connection per disk, shared by the disk's threads.

Requests are pipelined by handle: each thread submits its own and waits for them, while one receiver thread takes the
replies straight into the buffers that they are for. At most 4 MiB are in flight: each connection is a VDDK handle with
NFC memory of that size on the ESXi host, and larger reads than 2 MiB fail through vCenter (facts B4).
"""

import os
import socket
import threading
from collections.abc import Iterable
from types import TracebackType

from deltaferry.blocks import nbd_protocol as wire
from deltaferry.blocks.nbd_protocol import Export, read_failed, receive
from deltaferry.blocks.nbd_requests import MAX_REQUEST_BYTES, Request, malformed
from deltaferry.model.errors import DeltaferryError
from deltaferry.model.units import MIB
from deltaferry.ports.access import NbdAddress

MAX_IN_FLIGHT_BYTES = 4 * MIB
MAX_IN_FLIGHT_REQUESTS = 64
MAX_ZERO_BYTES = 1 << 31
"""Zeroes are asked for 2 GiB at a time: a request's length has 32 bits."""
DEFAULT_TIMEOUT_S = 60.0


class NbdClient:
    """One connection to one export. All methods may be called from several threads; errors are DISK_READ_FAILED.

    No call hangs: a server that does not answer within `timeout_s` fails every waiting call, and the connection with it.
    """

    def __init__(self, address: NbdAddress, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connect and negotiate."""
        self._where = address.unix_path or f"{address.host}:{address.port}"
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        try:
            self._socket = _connect(address, timeout_s)
            self.export: Export = wire.negotiate(self._socket, address.export)
        except OSError as error:
            self._close_socket()
            raise read_failed(f"the NBD server at {self._where} cannot be reached: {_reason(error)}") from error
        except DeltaferryError:
            self._close_socket()
            raise
        self._send_lock = threading.Lock()
        self._changed = threading.Condition()
        self._pending: dict[int, Request] = {}
        self._next_handle = 1
        self._in_flight_bytes = 0
        self._failure: DeltaferryError | None = None
        self._closed = False
        self._receiver = threading.Thread(target=self._receive_replies, name=f"nbd-{address.export}", daemon=True)
        self._receiver.start()

    def __repr__(self) -> str:
        """Say where the connection leads."""
        return f"NbdClient({self._where}, {self.size_bytes} bytes)"

    def __enter__(self) -> "NbdClient":
        """Return the open client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    @property
    def size_bytes(self) -> int:
        """The export's size."""
        return self.export.size_bytes

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes at an offset."""
        self.read_many(((offset_bytes, buffer),))

    def read_many(self, reads: Iterable[tuple[int, memoryview]]) -> None:
        """Fill several buffers, each from its own offset, all in flight together."""
        self._run(
            Request(wire.CMD_READ, offset_bytes + start, len(part), part)
            for offset_bytes, buffer in reads
            for start in range(0, len(buffer), MAX_REQUEST_BYTES)
            for part in (buffer[start : start + MAX_REQUEST_BYTES],)
        )

    def write(self, offset_bytes: int, data: memoryview | bytes) -> None:
        """Write bytes at an offset."""
        view = memoryview(data)
        self._run(
            Request(wire.CMD_WRITE, offset_bytes + start, len(part), part)
            for start in range(0, len(view), MAX_REQUEST_BYTES)
            for part in (view[start : start + MAX_REQUEST_BYTES],)
        )

    def zero(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range read as zero."""
        self._run(
            Request(wire.CMD_WRITE_ZEROES, offset_bytes + start, min(MAX_ZERO_BYTES, length_bytes - start))
            for start in range(0, length_bytes, MAX_ZERO_BYTES)
        )

    def flush(self) -> None:
        """Wait until everything that was acknowledged is on stable storage."""
        self._run([Request(wire.CMD_FLUSH, 0, 0)])

    def close(self) -> None:
        """Say good-bye to the server and close the connection; waiting calls fail."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            idle = not self._pending and self._failure is None
            self._changed.notify_all()
        if idle and self._socket is not None:
            try:
                with self._send_lock:
                    self._socket.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_DISC, 0, 0, 0))
            except OSError as error:
                self._fail(read_failed(f"the NBD connection to {self._where} ended: {_reason(error)}"))
        self._fail(read_failed(f"the NBD connection to {self._where} was closed"))
        self._receiver.join()
        self._close_socket()

    # --- sending

    def _run(self, requests: Iterable[Request]) -> None:
        """Submit requests as far as the limits allow, and wait for all of them. Raises the first error."""
        submitted: list[Request] = []
        try:
            for request in requests:
                if request.offset_bytes < 0 or request.offset_bytes + request.length_bytes > self.size_bytes:
                    raise read_failed(
                        f"{request.length_bytes} bytes at {request.offset_bytes} lie outside the export of {self.size_bytes} bytes"
                    )
                self._submit(request)
                submitted.append(request)
        finally:
            done = 0
            with self._changed:
                while done < len(submitted) and self._failure is None:
                    if submitted[done].done:
                        done += 1
                    else:
                        self._changed.wait()
        for request in submitted:
            if request.error is not None:
                raise request.error
            if not request.done:
                raise self._failure or read_failed(f"the NBD connection to {self._where} failed")

    def _submit(self, request: Request) -> None:
        with self._changed:
            while self._failure is None and not self._closed and self._is_full(request):
                self._changed.wait()
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise read_failed(f"the NBD connection to {self._where} is closed")
            handle = self._next_handle
            self._next_handle += 1
            self._pending[handle] = request
            self._in_flight_bytes += request.in_flight_bytes
            self._changed.notify_all()
        header = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, request.command, handle, request.offset_bytes, request.length_bytes)
        connection = self._socket
        if connection is None:
            raise read_failed(f"the NBD connection to {self._where} is closed")
        try:
            with self._send_lock:
                connection.sendall(header)
                if request.command == wire.CMD_WRITE and request.buffer is not None:
                    connection.sendall(request.buffer)
        except OSError as error:
            self._fail(read_failed(f"sending to the NBD server at {self._where} failed: {_reason(error)}"))

    def _is_full(self, request: Request) -> bool:
        if not self._pending:
            return False
        over = self._in_flight_bytes + request.in_flight_bytes > MAX_IN_FLIGHT_BYTES
        return over or len(self._pending) >= MAX_IN_FLIGHT_REQUESTS

    # --- receiving

    def _receive_replies(self) -> None:
        """Take replies until the connection fails or is closed; runs in the receiver thread."""
        while True:
            with self._changed:
                while not self._pending and not self._closed and self._failure is None:
                    self._changed.wait()
                if self._failure is not None or not self._pending:
                    return
            try:
                self._receive_reply()
            except TimeoutError:
                self._fail(read_failed(f"the NBD server at {self._where} did not answer within {self._timeout_s:g} s"))
            except OSError as error:
                self._fail(read_failed(f"the NBD connection to {self._where} failed: {_reason(error)}"))
            except DeltaferryError as error:
                self._fail(error)

    def _receive_reply(self) -> None:
        connection = self._socket
        if connection is None:
            raise read_failed(f"the NBD connection to {self._where} is closed")
        magic = int.from_bytes(receive(connection, 4), "big")
        if magic == wire.SIMPLE_REPLY_MAGIC:
            code, handle = wire.SIMPLE_REPLY_REST.unpack(receive(connection, wire.SIMPLE_REPLY_REST.size))
            request = self._find(handle)
            if code:
                request.refused(code)
            else:
                request.take_simple(connection, self.export.structured)
            self._finish(handle, request)
        elif magic == wire.STRUCTURED_REPLY_MAGIC and self.export.structured:
            rest = receive(connection, wire.STRUCTURED_REPLY_REST.size)
            flags, kind, handle, length = wire.STRUCTURED_REPLY_REST.unpack(rest)
            request = self._find(handle)
            request.take_chunk(connection, kind, length)
            if flags & wire.FLAG_REPLY_DONE:
                self._finish(handle, request)
        else:
            raise malformed(f"magic number {magic:#x}")

    def _find(self, handle: int) -> Request:
        with self._changed:
            request = self._pending.get(handle)
        if request is None:
            raise malformed("handle of no request")
        return request

    def _finish(self, handle: int, request: Request) -> None:
        request.check_complete()
        with self._changed:
            del self._pending[handle]
            self._in_flight_bytes -= request.in_flight_bytes
            request.done = True
            self._changed.notify_all()

    def _fail(self, failure: DeltaferryError) -> None:
        """End the connection for everyone who waits, once."""
        with self._changed:
            if self._failure is None:
                self._failure = failure
            self._changed.notify_all()
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._socket.close()

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _connect(address: NbdAddress, timeout_s: float) -> socket.socket:
    if address.unix_path is not None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(address.unix_path)
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((address.host or "", address.port or 0), timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__
