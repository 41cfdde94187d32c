"""The transmission phase of an NBD connection: requests in, replies out, one thread for each connection.

A client may have any number of requests in flight; they wait in the socket, and are answered in order unless the
`reorder_replies` fault is set. Reads go out by sendfile wherever whole runs of a backing hold them, so that a reading
connection hardly needs the interpreter.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from lab.sectors import SECTOR
from lab.vcenter import nbd_protocol as p
from lab.vcenter.disk_backing import FileRange
from lab.vcenter.faults_disk import DiskFault, DiskFull
from lab.vcenter.nbd_faults import NbdFaults
from lab.vcenter.nbd_negotiation import Session
from lab.vcenter.nbd_stream import Disconnected, Stream

_PIECE: Final = 1024 * 1024
_SMALL_READ: Final = 64 * 1024
_SHORTEST_RUN: Final = 16 * 1024
"""Where runs are shorter on average, reading into a buffer is cheaper than one sendfile for each."""
_MOST_DESCRIPTORS: Final = 8192
_MOST_REORDERED: Final = 16


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, error: p.WireError) -> None:
        super().__init__(error.name)
        self.error = error


@dataclass(frozen=True, slots=True)
class Limits:
    """How a connection may be served."""

    max_read_bytes: int
    """A longer read gets ENOMEM, as NFC fails to allocate."""
    zero_copy: bool
    """Whether reads may be sent by sendfile."""


@dataclass(frozen=True, slots=True)
class _Request:
    flags: int
    command: int
    handle: int
    offset: int
    length: int
    data: memoryview | None


class Transmission:
    """Serves one connection after its handshake."""

    def __init__(
        self, stream: Stream, session: Session, faults: NbdFaults, limits: Limits, wait: Callable[[float], object]
    ) -> None:
        self._stream = stream
        self._name = session.name
        self._export = session.export
        self._structured = session.structured
        self._allocation = session.allocation
        self._faults = faults
        self._limits = limits
        self._wait = wait
        self._buffer = memoryview(bytearray(p.CHUNK_WITH_OFFSET.size + _PIECE))
        self.bytes_read = 0
        """Read data sent so far."""

    def run(self) -> None:
        """Answer requests until the client disconnects in the protocol's way. Raises Disconnected when it just goes."""
        while True:
            request = self._receive()
            if request.command == p.Command.DISC:
                return
            if not self._faults.reorder_replies:
                self._answer(request)
                continue
            for pending in reversed(self._with_pending(request)):
                if pending.command == p.Command.DISC:
                    return
                self._answer(pending)

    def _with_pending(self, request: _Request) -> list[_Request]:
        """Return a read and the reads that were sent right behind it."""
        requests = [request]
        while requests[-1].command == p.Command.READ and len(requests) < _MOST_REORDERED:
            self._stream.fill()
            if not self._stream.has_buffered(p.REQUEST.size):
                break
            requests.append(self._receive())
        return requests

    def _receive(self) -> _Request:
        magic, flags, command, handle, offset, length = p.REQUEST.unpack(self._stream.take(p.REQUEST.size))
        if magic != p.REQUEST_MAGIC:
            raise Disconnected("not a request")
        data = None
        if command == p.Command.WRITE:
            if length > p.MAX_REQUEST_BYTES:
                raise Disconnected("a write is longer than a request may be")
            data = self._stream.take(length)
        return _Request(flags, command, handle, offset, length, data)

    def _answer(self, request: _Request) -> None:
        try:
            self._check(request)
            match request.command:
                case p.Command.READ:
                    self._read(request)
                    return
                case p.Command.BLOCK_STATUS:
                    self._block_status(request)
                    return
                case p.Command.WRITE | p.Command.WRITE_ZEROES | p.Command.TRIM:
                    self._write(request)
                case p.Command.FLUSH:
                    self._export.flush()
                case _:
                    raise _Refused(p.WireError.EINVAL)
        except (_Refused, DiskFault, OSError) as error:
            self._send_error(request, _wire_error(error))
            return
        self._stream.send(p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, request.handle))

    def _check(self, request: _Request) -> None:
        """Refuse what the export does not take. Raises _Refused."""
        if request.command == p.Command.FLUSH:
            return
        writes = request.command in (p.Command.WRITE, p.Command.WRITE_ZEROES, p.Command.TRIM)
        if writes and self._export.read_only:
            raise _Refused(p.WireError.EPERM)
        if request.command == p.Command.TRIM and self._export.exclusive:
            raise _Refused(p.WireError.EINVAL)
        if request.offset + request.length > self._export.size:
            raise _Refused(p.WireError.ENOSPC if writes else p.WireError.EINVAL)
        if request.length == 0 or request.offset % SECTOR or request.length % SECTOR:
            raise _Refused(p.WireError.EINVAL)
        if request.command == p.Command.READ:
            if request.length > p.MAX_REQUEST_BYTES:
                raise _Refused(p.WireError.EOVERFLOW)
            if request.length > self._limits.max_read_bytes:
                raise _Refused(p.WireError.ENOMEM)
        if request.command == p.Command.BLOCK_STATUS and not self._allocation:
            raise _Refused(p.WireError.EINVAL)

    def _write(self, request: _Request) -> None:
        """Carry a write out. A fault that cuts the connection does so afterwards: the client does not learn that it was."""
        self._faults.pass_hold(self._name, request.offset, request.length, self._wait, writing=True)
        error = self._faults.take_error(self._name, request.offset, request.length, writing=True)
        if error is not None:
            raise _Refused(error)
        if request.command == p.Command.WRITE and request.data is not None:
            self._export.write(request.offset, request.data)
        else:
            self._export.zero(request.offset, request.length, allocate=request.command == p.Command.WRITE_ZEROES)
        if request.flags & p.CommandFlag.FUA:
            self._export.flush(request.offset, request.length)
        if self._faults.take_write_cut(self._name, request.length):
            self._stream.reset()
            raise Disconnected("cut on purpose")

    def _read(self, request: _Request) -> None:
        if self._faults.delay_s:
            self._wait(self._faults.delay_s)
        self._faults.pass_hold(self._name, request.offset, request.length, self._wait)
        error = self._faults.take_error(self._name, request.offset, request.length)
        if error is not None:
            raise _Refused(error)
        with self._export.reading():
            by_file = self._limits.zero_copy and request.length > _SMALL_READ
            parts = self._export.locate(request.offset, request.length) if by_file else None
            allowed = self._faults.take_cut(request.length)
            if allowed is not None:
                self._send_and_reset(request, allowed)
            elif parts is not None and len(parts) * _SHORTEST_RUN <= request.length:
                self._send_parts(request, parts)
            else:
                self._send_buffered(request)
        self.bytes_read += request.length

    def _send_parts(self, request: _Request, parts: Sequence[FileRange]) -> None:
        self._stream.send(self._read_header(request), more=True)
        self._stream.send_files(parts)

    def _send_buffered(self, request: _Request) -> None:
        """Read before the reply begins as far as the buffer goes, since an error can be told only until then."""
        header = self._read_header(request)
        first = min(_PIECE, request.length)
        reply = self._buffer[: len(header) + first]
        reply[: len(header)] = header
        self._export.read_into(request.offset, reply[len(header) :])
        self._stream.send(reply, more=first < request.length)
        for done in range(first, request.length, _PIECE):
            piece = self._buffer[: min(_PIECE, request.length - done)]
            try:
                self._export.read_into(request.offset + done, piece)
            except (DiskFault, OSError) as error:
                raise Disconnected("reading failed in the middle of a reply") from error
            self._stream.send(piece)

    def _send_and_reset(self, request: _Request, allowed: int) -> None:
        """Send the beginning of a reply, whole sectors or not, and break the connection."""
        self._stream.send(self._read_header(request))
        for done in range(0, allowed, _PIECE):
            piece = self._buffer[: min(_PIECE, request.length - done)]
            self._export.read_into(request.offset + done, piece)
            self._stream.send(piece[: min(len(piece), allowed - done)])
        self._stream.reset()
        raise Disconnected("cut on purpose")

    def _read_header(self, request: _Request) -> bytes:
        if not self._structured:
            return p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, request.handle)
        length = 8 + request.length
        kind = p.ChunkType.OFFSET_DATA
        return p.CHUNK_WITH_OFFSET.pack(p.STRUCTURED_REPLY_MAGIC, p.CHUNK_DONE, kind, request.handle, length, request.offset)

    def _block_status(self, request: _Request) -> None:
        limit = 1 if request.flags & p.CommandFlag.REQ_ONE else _MOST_DESCRIPTORS
        with self._export.reading():
            runs = list(islice(self._export.extents(request.offset, request.length), limit))
        unallocated = p.Allocation.HOLE | p.Allocation.ZERO
        descriptors = b"".join(p.BLOCK_DESCRIPTOR.pack(run.length, 0 if run.allocated else unallocated) for run in runs)
        self._send_chunk(request, p.ChunkType.BLOCK_STATUS, p.U32.pack(p.BASE_ALLOCATION_ID) + descriptors)

    def _send_error(self, request: _Request, error: p.WireError) -> None:
        if self._structured and request.command in (p.Command.READ, p.Command.BLOCK_STATUS):
            message = error.name.encode()
            self._send_chunk(request, p.ChunkType.ERROR, p.CHUNK_ERROR.pack(error, len(message)) + message)
        else:
            self._stream.send(p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, error, request.handle))

    def _send_chunk(self, request: _Request, kind: p.ChunkType, payload: bytes) -> None:
        header = p.CHUNK.pack(p.STRUCTURED_REPLY_MAGIC, p.CHUNK_DONE, kind, request.handle, len(payload))
        self._stream.send(header + payload)


def _wire_error(error: _Refused | DiskFault | OSError) -> p.WireError:
    if isinstance(error, _Refused):
        return error.error
    if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return p.WireError.ENOSPC
    return p.WireError.EIO
