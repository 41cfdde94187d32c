"""The NBD server of one ESXi host: its exports, its NFC budget, its connections."""

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from lab.vcenter import nbd_protocol as p
from lab.vcenter.faults_disk import DiskLocked, SnapshotGone
from lab.vcenter.nbd_exports import Export
from lab.vcenter.nbd_faults import NbdFaults
from lab.vcenter.nbd_negotiation import Negotiation, OpenRefused, Resolver
from lab.vcenter.nbd_stream import Disconnected, Stream
from lab.vcenter.nbd_transmission import Limits, Transmission

DEFAULT_MAX_CONNECTIONS: Final = 8
"""32 MB of NFC memory at 4 MB a disk (spec §3)."""
_HANDSHAKE_TIMEOUT_S: Final = 30.0

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Connection:
    stream: Stream
    thread: threading.Thread | None = None
    name: str = ""
    export: Export | None = None
    transmission: Transmission | None = None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection that has an export open."""

    export: str
    bytes_read: int
    uses_nfc_budget: bool


class NbdServer:
    """Serves exports on one port, one thread for each connection.

    `resolver` finds an export by name at connect time, None for an unknown one; it is called from connections'
    threads. A snapshot export above `max_connections` is refused with NBD_REP_ERR_POLICY, as an ESXi host refuses
    with NFC error 5; longer reads than `max_read_bytes` get ENOMEM. A change of either counts for later connections.

    `opened` is called whenever one more connection has an export open.

    With `zero_copy`, long reads of snapshots are sent by sendfile. Its price: the kernel queues references to the page
    cache, so a client that goes on emptying its socket after its snapshot was removed may find sectors there as a
    consolidation made them since. Up to the removal, replies are exact either way.
    """

    def __init__(
        self,
        resolver: Resolver,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        max_read_bytes: int = p.MAX_REQUEST_BYTES,
        zero_copy: bool = True,
        names: Callable[[], Iterable[str]] = tuple,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        self.faults = NbdFaults()
        self.max_connections = max_connections
        self.max_read_bytes = max_read_bytes
        self.refused_for_budget = 0
        """How many connections were refused because of `max_connections`."""
        self.unreachable_for: tuple[str, ...] = ()
        """Exports whose names begin so get no answer: the connection is closed when they are asked for."""
        self._resolver = resolver
        self._names = names
        self._opened = opened
        self._zero_copy = zero_copy
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._closing = threading.Event()
        self._listener = socket.create_server((host, port), backlog=64)
        address = self._listener.getsockname()
        self.host: str = address[0]
        self.port: int = address[1]
        self._acceptor = threading.Thread(target=self._accept, name=f"nbd-{self.port}", daemon=True)
        self._acceptor.start()

    def __repr__(self) -> str:
        return f"NbdServer({self.host}:{self.port}, {len(self._connections)} connections)"

    def connections(self) -> tuple[ConnectionInfo, ...]:
        """Return the connections that have an export open."""
        with self._lock:
            return tuple(
                ConnectionInfo(
                    connection.name,
                    connection.transmission.bytes_read if connection.transmission else 0,
                    connection.export.uses_nfc_budget,
                )
                for connection in self._connections
                if connection.export is not None
            )

    def readers(self) -> tuple[str, ...]:
        """Return the exports, each once, that use the host's NFC memory for somebody who is still there."""
        with self._lock:
            connections = [c for c in self._connections if c.export is not None and c.export.uses_nfc_budget]
            return tuple(sorted({c.name for c in connections if not c.stream.is_hung_up()}))

    def disconnect(self, prefix: str) -> int:
        """Cut the connections of exports whose names begin with `prefix`; return how many.

        When it returns, nothing is written through them any more: what a powered-off VM's disk holds is final.
        Waits for a write that a stun holds up.
        """
        return self.cut_all((prefix,))

    def cut_all(self, prefixes: tuple[str, ...], end: Callable[[Export], None] = lambda export: export.close()) -> int:
        """Cut the connections of exports whose names begin with one of the prefixes, and `end` the exports; return how many."""
        with self._lock:
            chosen = [(c.stream, c.export) for c in self._connections if c.export is not None and c.name.startswith(prefixes)]
        for stream, export in chosen:
            stream.cut()
            end(export)
        return len(chosen)

    def close(self) -> None:
        """Stop listening, cut all connections, and wait until their threads have ended."""
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.stream.cut()
        for connection in connections:
            connection.done.wait()

    def __enter__(self) -> "NbdServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._closing.is_set():
                    return
                _log.exception("accepting an NBD connection failed")
                self._closing.wait(0.1)
                continue
            stream = Stream(sock)
            if self.faults.take_refusal():
                stream.reset()
                continue
            connection = _Connection(stream)
            with self._lock:
                self._connections.add(connection)
            connection.thread = threading.Thread(target=self._serve, args=(connection,), name=f"nbd-{self.port}", daemon=True)
            connection.thread.start()

    def _serve(self, connection: _Connection) -> None:
        stream = connection.stream
        try:
            stream.set_timeout(_HANDSHAKE_TIMEOUT_S)
            session = Negotiation(stream, _Catalogue(self, connection)).run()
            stream.set_timeout(None)
            limits = Limits(self.max_read_bytes, self._zero_copy)
            transmission = Transmission(stream, session, self.faults, limits, self._closing.wait)
            connection.transmission = transmission
            transmission.run()
        except Disconnected as error:
            _log.debug("NBD connection to %r ended: %s", connection.name, error)
        except Exception:
            _log.exception("serving an NBD connection to %r failed", connection.name)
        finally:
            with self._lock:
                self._connections.discard(connection)
            if connection.export is not None:
                connection.export.close()
            stream.close()
            connection.done.set()

    def _look(self, name: str) -> Export:
        if self.unreachable_for and name.startswith(self.unreachable_for):
            raise Disconnected("the host does not answer")
        if self._closing.is_set():
            raise OpenRefused(p.OptionReply.ERR_SHUTDOWN, "the server shuts down")
        export = self._resolver(name)
        if export is None:
            raise OpenRefused(p.OptionReply.ERR_UNKNOWN, "no such export")
        return export

    def _open(self, connection: _Connection, name: str) -> Export:
        export = self._look(name)
        with self._lock:
            used = sum(1 for c in self._connections if c.export is not None and c.export.uses_nfc_budget)
            if export.uses_nfc_budget and used >= self.max_connections:
                self.refused_for_budget += 1
                raise OpenRefused(p.OptionReply.ERR_POLICY, "NFC error 5: failed to allocate the requested bytes")
            connection.name = name
            connection.export = export
        try:
            self._look(name)  # once more: a `disconnect` that came before the lines above has not seen this connection
            export.open(connection.stream.cut)
        except DiskLocked as error:
            connection.export = None
            raise OpenRefused(p.OptionReply.ERR_POLICY, str(error)) from error
        except (OpenRefused, SnapshotGone) as error:
            connection.export = None
            raise OpenRefused(p.OptionReply.ERR_UNKNOWN, "the export is gone") from error
        self._opened()
        return export


class _Catalogue:
    """The server's exports as one connection sees them."""

    def __init__(self, server: NbdServer, connection: _Connection) -> None:
        self._server = server
        self._connection = connection

    def names(self) -> Iterable[str]:
        return self._server._names()

    def look(self, name: str) -> Export:
        return self._server._look(name)

    def open(self, name: str) -> Export:
        return self._server._open(self._connection, name)
