"""HTTP/1.1 through the chaos proxy: whole messages, so that a request can be refused, repeated, kept back or damaged as one.

Bodies are read whole: the largest that the lab's clients send or fetch at once are some MiB.
"""

import asyncio
from dataclasses import dataclass, replace

_MAX_HEAD_BYTES = 256 * 1024
_MAX_BODY_BYTES = 256 * 1024 * 1024
_WITHOUT_BODY = frozenset({204, 304})


class BrokenMessageError(Exception):
    """The other end closed in the middle of a message, or sent something that is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response, with the framing it came in."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def method(self) -> str:
        """A request's method."""
        return self.start.partition(" ")[0]

    @property
    def path(self) -> str:
        """A request's target without its query: the query may hold a signature."""
        return self.start.split(" ")[1].partition("?")[0] if self.start.count(" ") >= 2 else ""

    @property
    def status(self) -> int:
        """A response's status."""
        return int(self.start.split(" ")[1])

    @property
    def head(self) -> str:
        """Start line and headers in small letters, for matching."""
        return "\n".join((self.start, *(f"{name}: {value}" for name, value in self.headers))).lower()

    def header(self, name: str) -> str:
        """Return a header's value in small letters, or an empty text."""
        return next((value.lower() for key, value in self.headers if key.lower() == name), "")

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection stays open after it."""
        return self.header("connection") != "close" and " HTTP/1.0" not in self.start and not self.start.startswith("HTTP/1.0")

    def with_body(self, body: bytes) -> "Message":
        """Return the message with another body, framed by its length."""
        kept = tuple((name, value) for name, value in self.headers if name.lower() not in ("content-length", "transfer-encoding"))
        return replace(self, headers=(*kept, ("Content-Length", str(len(body)))), body=body)

    def encode(self) -> bytes:
        """Return the bytes to send; a chunked body goes as one chunk."""
        head = "\r\n".join((self.start, *(f"{name}: {value}" for name, value in self.headers), "", ""))
        if self.header("transfer-encoding") != "chunked":
            return head.encode("latin-1") + self.body
        piece = f"{len(self.body):x}\r\n".encode() + self.body + b"\r\n" if self.body else b""
        return head.encode("latin-1") + piece + b"0\r\n\r\n"


def refusal(status: str, code: str, headers: tuple[tuple[str, str], ...] = ()) -> Message:
    """Return a refusal as Azure's services write it: code in a header, and in the body for Resource Manager and for storage."""
    body = f'{{"error":{{"code":"{code}","message":"The chaos proxy says so."}}}}'.encode()
    given = (("Content-Type", "application/json"), ("x-ms-error-code", code), *headers)
    return Message(f"HTTP/1.1 {status}", given, b"").with_body(body)


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message | None:
    """Return the next request, or None where the client has closed. Says 100 Continue by itself where it is asked for."""
    head = await _read_head(reader)
    if head is None:
        return None
    request = _parse_head(head)
    if request.header("expect") == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        request = replace(request, headers=tuple(pair for pair in request.headers if pair[0].lower() != "expect"))
    return replace(request, body=await _read_body(reader, request, until_close=False))


async def read_response(reader: asyncio.StreamReader, method: str) -> Message:
    """Return the response to a request. Raises BrokenMessageError."""
    while True:
        head = await _read_head(reader)
        if head is None:
            raise BrokenMessageError("the server closed before it answered")
        response = _parse_head(head)
        if response.status >= 200:
            break
    if method == "HEAD" or response.status in _WITHOUT_BODY:
        return response
    whole = replace(response, body=await _read_body(reader, response, until_close=True))
    framed = whole.header("content-length") or whole.header("transfer-encoding")
    return whole if framed else whole.with_body(whole.body)


async def _read_head(reader: asyncio.StreamReader) -> str | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise BrokenMessageError("a head is cut off") from None
    except asyncio.LimitOverrunError:
        raise BrokenMessageError(f"a head is longer than {_MAX_HEAD_BYTES} bytes") from None
    return raw.decode("latin-1")


def _parse_head(head: str) -> Message:
    start, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    pairs = [line.partition(":") for line in lines]
    if start.count(" ") < 1 or any(not colon for _, colon, _ in pairs):
        raise BrokenMessageError("a head is not HTTP/1.1")
    return Message(start, tuple((name.strip(), value.strip()) for name, _, value in pairs), b"")


async def _read_body(reader: asyncio.StreamReader, message: Message, *, until_close: bool) -> bytes:
    try:
        if message.header("transfer-encoding") == "chunked":
            return await _read_chunks(reader)
        length = message.header("content-length")
        if length:
            return await reader.readexactly(min(int(length), _MAX_BODY_BYTES))
        return await reader.read(-1) if until_close else b""
    except asyncio.IncompleteReadError:
        raise BrokenMessageError("a body is cut off") from None
    except ValueError:
        raise BrokenMessageError("a body's length is not a number") from None


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass  # trailers: none of the lab's parts means anything by them
            return bytes(body)
        if len(body) + size > _MAX_BODY_BYTES:
            raise BrokenMessageError("a body is too long")
        body += await reader.readexactly(size)
        await reader.readexactly(2)


STREAM_LIMIT = _MAX_HEAD_BYTES
"""What the streams of a route must be opened with."""
