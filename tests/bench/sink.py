"""A blob service that does as little as possible: takes HTTPS requests, answers each after a fixed latency, counts them.

Run as `python -m tests.bench.sink`. Two processes share the listening socket. Objects under `/kept/` are stored as files and
can be read back; everything else is thrown away. The counters are a memory-mapped file that the bench reads.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

from deltaferry.model.units import MIB
from tests.bench.sink_counters import GET, HEAD, PAGE, PUT, SinkCounters

PROCESSES = 2
_BUFFER_BYTES = 6 * MIB
_BACKLOG = 256


class _Connection:
    """One client's connection, served by one thread until the client goes."""

    def __init__(self, connection: ssl.SSLSocket, objects: Path, latency_s: float, counters: SinkCounters) -> None:
        self._connection = connection
        self._objects = objects
        self._latency_s = latency_s
        self._counters = counters
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0

    def serve(self) -> None:
        """Answer requests, one after the other."""
        while (head := self._head()) is not None:
            request, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = request.split(" ", 2)
            length = next((int(line[15:]) for line in lines if line[:15].lower() == "content-length:"), 0)
            path, _, query = target.partition("?")
            kept = self._objects / hashlib.sha256(path.encode()).hexdigest() if path.startswith("/kept/") else None
            page = query.startswith("comp=page")
            body = self._body(length)
            if method == "PUT" and kept is not None and not page:
                kept.write_bytes(body)
            self._counters.count({"GET": GET, "HEAD": HEAD}.get(method, PAGE if page else PUT), length)
            if self._latency_s:
                time.sleep(self._latency_s)
            self._answer(method, kept)
            self._consume(length)

    def _head(self) -> bytes | None:
        """Take a request's head out of the buffer; None at the end of the connection."""
        while (end := bytes(self._buffer[: self._filled]).find(b"\r\n\r\n") if self._filled else -1) < 0:
            if not self._receive():
                return None
        head = bytes(self._buffer[:end])
        self._consume(end + 4)
        return head

    def _body(self, length: int) -> memoryview:
        """Return a body that stays at the front of the buffer until it is consumed."""
        while self._filled < length:
            if not self._receive():
                raise ConnectionResetError
        return self._buffer[:length]

    def _receive(self) -> int:
        count = self._connection.recv_into(self._buffer[self._filled :])
        self._filled += count
        return count

    def _consume(self, length: int) -> None:
        rest = self._filled - length
        if rest:
            self._buffer[:rest] = bytes(self._buffer[length : self._filled])
        self._filled = rest

    def _answer(self, method: str, kept: Path | None) -> None:
        common = "x-ms-blob-sequence-number: 1\r\n"
        if method == "GET" and kept is not None:
            if not kept.exists():
                self._connection.sendall(b"HTTP/1.1 404 Not Found\r\nx-ms-error-code: BlobNotFound\r\nContent-Length: 0\r\n\r\n")
                return
            content = kept.read_bytes()
            self._connection.sendall(f"HTTP/1.1 200 OK\r\n{common}Content-Length: {len(content)}\r\n\r\n".encode())
            self._connection.sendall(content)
            return
        status = "201 Created" if method == "PUT" else "200 OK"
        self._connection.sendall(f"HTTP/1.1 {status}\r\n{common}Content-Length: 0\r\n\r\n".encode())


def _serve_one(
    listening: socket.socket, context: ssl.SSLContext, objects: Path, latency_s: float, counters: SinkCounters
) -> None:
    """Accept connections for ever, each with a thread of its own."""

    def carry(raw: socket.socket) -> None:
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_side=True) as connection:
                _Connection(connection, objects, latency_s, counters).serve()
        except OSError:
            raw.close()

    while True:
        raw, _ = listening.accept()
        threading.Thread(target=carry, args=(raw,), daemon=True).start()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--latency-ms", type=float, required=True)
    options = parser.parse_args()
    objects = options.directory / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    counters_file = options.directory / "counters"
    SinkCounters.create(counters_file, PROCESSES)
    listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    alive, held = os.pipe()
    for number in range(PROCESSES):
        if os.fork() == 0:
            os.close(held)
            threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
            _serve_one(listening, context, objects, options.latency_ms / 1000, SinkCounters(counters_file, number))
    sys.stdout.write(json.dumps({"port": listening.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()


def _end_with_parent(alive: int) -> None:
    """End this process when the parent's end of the pipe closes."""
    os.read(alive, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
