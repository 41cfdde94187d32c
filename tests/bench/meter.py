"""A blob service that throws away what it gets, and notes when it arrived: a hundred times a second, how much from whom.

Run as `python -m tests.bench.meter`. Who sends is the first part of the path. The notes are a file of JSON lines.
"""

import argparse
import asyncio
import json
import signal
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_NOTE_EVERY_S = 0.01
_ANSWER = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One client's connection: counts the bytes of bodies as they come, not when a request is complete."""

    def __init__(self, arrived: Counter[str]) -> None:
        self._arrived = arrived
        self._head = b""
        self._left_bytes = 0
        self._sender = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        while data:
            if self._left_bytes:
                taken = min(self._left_bytes, len(data))
                self._arrived[self._sender] += taken
                self._left_bytes -= taken
                data = data[taken:]
                if not self._left_bytes:
                    self._transport.write(_ANSWER)
                continue
            head, end, rest = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._head, data = b"", rest
            request, *lines = head.decode("latin-1").split("\r\n")
            self._sender = request.split("/")[1]
            self._left_bytes = next((int(line[15:]) for line in lines if line[:15].lower() == "content-length:"), 0)
            if not self._left_bytes:
                self._transport.write(_ANSWER)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What had arrived by when: (seconds of the monotonic clock, bytes by sender), in order."""

    notes: tuple[tuple[float, dict[str, int]], ...]

    @classmethod
    def read(cls, path: Path) -> "Arrivals":
        """Read a meter's file; a line that is being written is left out."""
        lines = path.read_text().splitlines(keepends=True)
        return cls(tuple((at, counts) for at, counts in (json.loads(line) for line in lines if line.endswith("\n"))))

    def between(self, begin_s: float, end_s: float) -> "Arrivals":
        """Return the notes of a stretch of time."""
        return Arrivals(tuple(note for note in self.notes if begin_s <= note[0] <= end_s))

    def arrived(self, sender: str | None = None) -> list[tuple[float, int]]:
        """Return when how much had arrived, from one sender or from all."""
        return [(at, sum(counts.values()) if sender is None else counts.get(sender, 0)) for at, counts in self.notes]


async def _note(arrived: Counter[str], path: Path) -> None:
    with path.open("w") as file:
        while True:
            file.write(json.dumps([time.monotonic(), arrived]) + "\n")
            file.flush()
            await asyncio.sleep(_NOTE_EVERY_S)


async def _serve(options: argparse.Namespace) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    arrived: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: _Connection(arrived), "127.0.0.1", 0, ssl=context)
    noting = asyncio.create_task(_note(arrived, options.notes))
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    noting.cancel()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
