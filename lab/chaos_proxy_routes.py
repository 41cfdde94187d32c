"""The chaos proxy's routes: traffic that passes through, and what an ordered fault does to it.

A `tcp` route relays bytes. An `https` route ends TLS with the lab's own certificate, relays whole HTTP messages, and
connects on with TLS that it verifies. Without a fault a route changes nothing.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass

from lab.chaos_proxy_faults import Direction, Faults, ProxyAction, ProxyFault
from lab.chaos_proxy_http import STREAM_LIMIT, BrokenMessageError, Message, read_request, read_response, refusal

_PIECE = 64 * 1024
GONE = (OSError, BrokenMessageError, asyncio.IncompleteReadError, ssl.SSLError)
"""How a connection ends that somebody cut: the ordinary business of this process."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way through the proxy."""

    name: str
    host: str
    port: int
    """Where the server is."""
    https: bool
    """Whether HTTP messages are relayed, over TLS on both sides; else bytes are."""


class ChaosProxy:
    """The routes and what happens on them. Everything runs on one event loop."""

    def __init__(self, seed: int, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
        self.faults = Faults(seed)
        self.met: Counter[str] = Counter()
        """How often each action was met, by `route action`; `route passed` counts what passed untouched."""
        self.late: list[int] = []
        """Statuses that the servers gave to requests that were kept back or sent twice."""
        self.held = 0
        self._server_tls, self._client_tls = server_tls, client_tls
        self._release = asyncio.Event()
        self._down: set[str] = set()
        self._open: dict[asyncio.StreamWriter, str] = {}
        self._kept: set[asyncio.Task[None]] = set()

    async def listen(self, route: Route) -> int:
        """Serve a route on a free port; return the port."""
        carry = self._carry_http if route.https else self._carry_tcp

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._is_down(route.name):
                _cut(writer)
                return
            self._open[writer] = route.name
            try:
                await carry(route, reader, writer)
            except GONE:
                self.met[f"{route.name} broken"] += 1
            finally:
                self._open.pop(writer, None)
                writer.close()

        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=self._server_tls if route.https else None, limit=STREAM_LIMIT
        )
        return int(server.sockets[0].getsockname()[1])

    def release(self) -> None:
        """Let all that is held go on; what comes after is held anew."""
        self._release.set()
        self._release = asyncio.Event()

    def take_down(self, routes: list[str]) -> None:
        """Cut every connection of these routes, by name or beginning, and refuse new ones until `bring_up`."""
        self._down.update(routes)
        for writer, name in list(self._open.items()):
            if self._is_down(name):
                _cut(writer)

    def bring_up(self) -> None:
        """Let all routes serve again."""
        self._down.clear()

    def _is_down(self, name: str) -> bool:
        return any(name.startswith(down) for down in self._down)

    async def _held(self) -> None:
        self.held += 1
        try:
            await self._release.wait()
        finally:
            self.held -= 1

    async def _connect(self, route: Route) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls = self._client_tls if route.https else None
        return await asyncio.open_connection(route.host, route.port, ssl=tls, limit=STREAM_LIMIT)

    # --- HTTP

    async def _carry_http(self, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay a client's requests, one after the other, over a connection of its own to the server."""
        server = await self._connect(route)
        try:
            while (request := await read_request(reader, writer)) is not None:
                fault = self.faults.of_request(route.name, request.method, request.path, request.head)
                self.met[f"{route.name} {fault.action.value if fault else 'passed'}"] += 1
                response = await self._answer(route, request, fault, server)
                if response is None:
                    _cut(writer)
                    return
                writer.write(response)
                await writer.drain()
                if fault is not None and fault.action is ProxyAction.CUT:
                    return
                if not request.keeps_alive or b"connection: close" in response[:4096].lower().partition(b"\r\n\r\n")[0]:
                    return
        finally:
            server[1].close()

    async def _answer(
        self, route: Route, request: Message, fault: ProxyFault | None, server: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> bytes | None:
        """Return what the client gets, or None where its connection is cut."""
        if fault is None:
            return (await _exchange(server, request)).encode()
        to_server = fault.direction is Direction.TO_SERVER
        match fault.action:
            case ProxyAction.UNAVAILABLE:
                return refusal("503 Server Busy", "ServerBusy", (("Retry-After", str(fault.retry_after_s)),)).encode()
            case ProxyAction.TIMED_OUT:
                return refusal("500 Operation Timed Out", "OperationTimedOut").encode()
            case ProxyAction.DELAY:
                await asyncio.sleep(fault.delay_s)
            case ProxyAction.HOLD:
                await self._held()
            case ProxyAction.LATE:
                self._keep(self._send_late(route, request))
                return None
            case ProxyAction.FLIP if to_server:
                request = request if not request.body else _replaced(request, self.faults.flipped(request.body))
            case ProxyAction.TRUNCATE if to_server:
                request = request.with_body(request.body[: fault.after_bytes])
            case ProxyAction.CUT if to_server:
                server[1].write(request.encode()[: fault.after_bytes])
                await server[1].drain()
                _cut(server[1])
                return None
        response = await _exchange(server, request)
        match fault.action:
            case ProxyAction.DROP:
                return None
            case ProxyAction.DUPLICATE:
                await self._send_again(route, request)
            case ProxyAction.FLIP if not to_server and response.body:
                return _replaced(response, self.faults.flipped(response.body)).encode()
            case ProxyAction.TRUNCATE if not to_server and response.body:
                return response.with_body(response.body[: fault.after_bytes]).encode()
            case ProxyAction.CUT:
                return response.encode()[: fault.after_bytes]
        return response.encode()

    def _keep(self, work: Awaitable[None]) -> None:
        async def carry() -> None:
            with contextlib.suppress(*GONE):
                await work

        task = asyncio.create_task(carry())
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    async def _send_late(self, route: Route, request: Message) -> None:
        await self._held()
        await self._send_again(route, request)

    async def _send_again(self, route: Route, request: Message) -> None:
        """Send a request over a connection of its own, and note what the server answers."""
        server = await self._connect(route)
        try:
            self.late.append((await _exchange(server, request)).status)
        finally:
            server[1].close()

    # --- TCP

    async def _carry_tcp(self, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.faults.of_connection(route.name)
        self.met[f"{route.name} {fault.action.value if fault else 'passed'}"] += 1
        server_reader, server_writer = await self._connect(route)
        try:
            ways = (
                asyncio.create_task(self._relay(reader, server_writer, fault, Direction.TO_SERVER)),
                asyncio.create_task(self._relay(server_reader, writer, fault, Direction.TO_CLIENT)),
            )
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            server_writer.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: ProxyFault | None, way: Direction
    ) -> None:
        passed = 0
        while data := await reader.read(_PIECE):
            if fault is not None:
                if fault.action is ProxyAction.DELAY:
                    await asyncio.sleep(fault.delay_s)
                elif fault.action is ProxyAction.HOLD and passed + len(data) > fault.after_bytes:
                    await self._held()
                elif fault.direction is way and passed + len(data) > fault.after_bytes >= passed:
                    place = fault.after_bytes - passed
                    if fault.action is ProxyAction.CUT:
                        writer.write(data[:place])
                        await writer.drain()
                        return
                    if fault.action is ProxyAction.FLIP:
                        data = data[:place] + self.faults.flipped(data[place : place + 1]) + data[place + 1 :]
            writer.write(data)
            await writer.drain()
            passed += len(data)


def _replaced(message: Message, body: bytes) -> Message:
    """Return a message with a body of the same length in the same framing."""
    return Message(message.start, message.headers, body)


async def _exchange(server: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: Message) -> Message:
    reader, writer = server
    writer.write(request.encode())
    await writer.drain()
    return await read_response(reader, request.method)


def _cut(writer: asyncio.StreamWriter) -> None:
    """End a connection at once, as a cut cable or a reset does: what was not sent yet is lost."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
