"""The hot path to blob storage: put, get, Put Page and Clear Page over keep-alive `http.client`.

The SDK's cost per request is a whole core at 500 requests a second, and its downloads cost ten times ours (facts 3.6);
everything that is not hot stays with the SDK. Source of headers and codes: the Blob service REST reference.
"""

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from deltaferry.blocks.allowance import SLICE_BYTES, UNPACED, BodyPace
from deltaferry.blocks.blob_errors import DIGEST_HEADER, ERROR_CODE_HEADER, Refused, Unanswered, error_of
from deltaferry.blocks.killpoints import KillPoint, pass_point
from deltaferry.blocks.manifest import DIGEST_BYTES
from deltaferry.blocks.pacing import Pacer
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import BLOCK, MIB
from deltaferry.ports.access import BlobAccess

API_VERSION = "2023-11-03"
_SEQUENCE_NUMBER = "x-ms-blob-sequence-number"
_LONGEST_IDLE_S = 30.0
"""A connection that was not used for longer is made anew: the server may have given it up, and what is sent over it is lost.
On a slow line minutes pass between two objects."""


class Role(StrEnum):
    """What a container holds: decides what a missing blob means."""

    LOG = "log"
    SEED = "seed"


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Time limits of one request, and of one call with its retries."""

    timeout_s: float = 15.0
    retry_for_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: http.client.HTTPMessage
    length: int


class BlobClient:
    """Reads and writes the blobs of one container. Safe to use from several threads; errors are those of the taxonomy."""

    def __init__(self, access: BlobAccess, role: Role, limits: HttpLimits | None = None) -> None:
        """Take access to a container; nothing is connected yet. Raises BAD_CONFIGURATION for a URL that is not HTTP."""
        parts = urlsplit(access.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DeltaferryError(ErrorKind.BAD_CONFIGURATION, "a storage URL is neither http nor https")
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._query = access.query
        self._role = role
        self._limits = limits or HttpLimits()
        self._context = _tls(access.ca_file) if parts.scheme == "https" else None
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        """Connections that no request uses, and since when; the last is the one that was used last."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Say which container, without the signature."""
        return f"BlobClient({self._host}{self._path})"

    def close(self) -> None:
        """Close the connections that no request uses: all of them, when none is under way."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def put_new(self, name: str, data: memoryview, digest: bytes, pace: BodyPace = UNPACED) -> bool:
        """Store an object unless one of that name exists; return whether it was stored.

        `pace` says when the body may be sent; what it raises is passed on. Waiting for it is no part of any time limit, and
        until the first slice may be sent no request is open.
        """
        headers = {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*", DIGEST_HEADER: digest.hex()}
        try:
            self._call("PUT", name, headers, body=data, pace=pace)
        except Refused as refusal:
            if refusal.status in (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED) and refusal.code in (
                "BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite",
            ):  # fmt: skip
                return False
            raise self._error(refusal, name) from None
        return True

    def stored(self, name: str) -> tuple[bytes, int]:
        """Return the digest that an object was stored with, and its size. Raises SEGMENT_DAMAGED where it carries none."""
        reply = self._checked("HEAD", name, {})
        try:
            digest = bytes.fromhex(reply.headers.get(DIGEST_HEADER, ""))
        except ValueError:
            digest = b""
        if len(digest) != DIGEST_BYTES:
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"the stored object {name} does not say its digest")
        return digest, int(reply.headers.get("Content-Length", "0"))

    def get_into(self, name: str, buffer: memoryview) -> int:
        """Read an object into the front of a buffer; return its size. Raises SEGMENT_DAMAGED if it is larger."""
        return self._checked("GET", name, {}, into=buffer).length

    def read_range(self, name: str, offset_bytes: int, buffer: memoryview, pacer: Pacer) -> None:
        """Fill a buffer with a blob's bytes from an offset on. Raises STORE_UNREACHABLE where the blob ends before."""
        headers = {"Range": f"bytes={offset_bytes}-{offset_bytes + len(buffer) - 1}"}
        try:
            length = self._call("GET", name, headers, into=buffer, pacer=pacer).length
        except Refused as refusal:
            raise self._error(refusal, name) from None
        if length != len(buffer):
            raise DeltaferryError(
                ErrorKind.STORE_UNREACHABLE,
                f"{self._host}{self._path}/{name} has {length} of {len(buffer)} bytes at {offset_bytes}",
            )

    def put_page(self, name: str, offset_bytes: int, data: memoryview, fence: int, pacer: Pacer) -> None:
        """Write at most 4 MiB of whole sectors to a page blob that carries this number. Raises FENCED for another."""
        if len(data) > BLOCK:
            raise ValueError(f"Put Page takes at most 4 MiB, not {len(data)} bytes")
        self._page(name, "update", offset_bytes, len(data), fence, pacer, data)

    def clear_page(self, name: str, offset_bytes: int, length_bytes: int, fence: int, pacer: Pacer) -> None:
        """Make whole sectors of a page blob that carries this number read as zero. Raises FENCED for another."""
        self._page(name, "clear", offset_bytes, length_bytes, fence, pacer, None)

    def _page(
        self, name: str, action: str, offset_bytes: int, length_bytes: int, fence: int, pacer: Pacer, data: memoryview | None
    ) -> None:
        headers = {
            "x-ms-page-write": action,
            "x-ms-range": f"bytes={offset_bytes}-{offset_bytes + length_bytes - 1}",
            "x-ms-if-sequence-number-eq": str(fence),
        }
        try:
            self._call("PUT", name, headers, comp="page", body=data, pacer=pacer)
        except Refused as refusal:
            error = self._error(refusal, name)
            if error.kind is ErrorKind.FENCED:
                error.number = self._sequence_number(name)
            raise error from None

    def _sequence_number(self, name: str) -> int | None:
        """Return the number that a page blob carries now, or None if it cannot be told."""
        try:
            number = self._call("HEAD", name, {}).headers.get(_SEQUENCE_NUMBER, "")
        except (Refused, DeltaferryError):
            return None
        return int(number) if number.isdecimal() else None

    # --- one call, with its retries

    def _checked(self, method: str, name: str, headers: Mapping[str, str], *, into: memoryview | None = None) -> _Reply:
        try:
            return self._call(method, name, headers, into=into)
        except Refused as refusal:
            raise self._error(refusal, name) from None

    def _error(self, refusal: Refused, name: str) -> DeltaferryError:
        missing = ErrorKind.SEED_MISSING if self._role is Role.SEED else ErrorKind.STORE_OBJECT_MISSING
        return error_of(refusal, f"{self._host}{self._path}/{name}", missing)

    def _call(
        self,
        method: str,
        name: str,
        headers: Mapping[str, str],
        *,
        comp: str = "",
        body: memoryview | None = None,
        into: memoryview | None = None,
        pacer: Pacer | None = None,
        pace: BodyPace = UNPACED,
    ) -> _Reply:
        """Send a request until it is answered for good. Raises Refused for the service's no, or STORE_UNREACHABLE."""
        target = f"{self._path}/{quote(name)}?{f'comp={comp}&' if comp else ''}{self._query}"
        attempt = partial(self._attempt, method, target, headers, body, into, pacer, pace)
        began_s = time.monotonic()
        try:
            try:
                return attempt()
            except (Refused, Unanswered) as failure:
                if not _may_pass(failure):
                    raise
                spent_s = time.monotonic() - began_s - pace.waited_s
                return self._again(attempt, failure, pace, self._limits.retry_for_s - spent_s)
        except Unanswered as failure:
            raise DeltaferryError(
                ErrorKind.STORE_UNREACHABLE, f"{method} {self._host}{self._path}/{name} was not answered: {failure.reason}"
            ) from None

    @staticmethod
    def _again(attempt: Callable[[], _Reply], failure: Refused | Unanswered, pace: BodyPace, left_s: float) -> _Reply:
        """Repeat an attempt that failed, with its waits. Only here, because they cost as much as sending a small request."""
        failures = [failure]
        waited_s = pace.waited_s

        def patience_is_out(state: RetryCallState) -> bool:
            spent_s = (state.seconds_since_start or 0.0) - (pace.waited_s - waited_s)
            return spent_s + state.upcoming_sleep >= left_s

        def next_attempt() -> _Reply:
            if failures:
                raise failures.pop()
            return attempt()

        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=_wait,
            stop=patience_is_out,
            reraise=True,
        )
        return retrying(next_attempt)

    def _attempt(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: memoryview | None,
        into: memoryview | None,
        pacer: Pacer | None,
        pace: BodyPace,
    ) -> _Reply:
        first_bytes = pace.take(len(body)) if body else 0
        if pacer is not None:
            wait_s = pacer.reserve(len(body) if body is not None else len(into) if into is not None else 0)
            if wait_s > 0:  # even a sleep of nothing gives the processor away
                time.sleep(wait_s)
        connection = self._take()
        complete = False
        try:
            size = str(len(body)) if body is not None else "0"
            length_header = {"Content-Length": size} if method == "PUT" else {}
            sent = True
            try:
                connection.request(
                    method,
                    target,
                    _slices(body, first_bytes, pace, paged=pacer is not None) if body is not None else None,
                    {"x-ms-version": API_VERSION, **length_header, **headers},
                )
            except (BrokenPipeError, ConnectionResetError):
                sent = False  # a server may refuse before it has read the body: its answer is still worth reading
            response = connection.getresponse()
            length = self._receive(response, method, into)
            complete = sent
        except ssl.SSLCertVerificationError:
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION, f"the certificate of {self._host} cannot be verified by the configured authorities"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(type(error).__name__) from None
        finally:
            if complete:
                self._give_back(connection)
            else:
                connection.close()
                self.close()  # what ended one has mostly ended those that were idle too
        if response.status >= HTTPStatus.BAD_REQUEST:
            refusal = Refused(response.status, response.headers.get(ERROR_CODE_HEADER, ""), _retry_after(response.headers))
            if pacer is not None and response.status == HTTPStatus.SERVICE_UNAVAILABLE:
                pacer.throttled()
            raise refusal
        return _Reply(response.status, response.headers, length)

    def _receive(self, response: http.client.HTTPResponse, method: str, into: memoryview | None) -> int:
        """Take a reply's body; return its length."""
        if method == "HEAD" or into is None or response.status >= HTTPStatus.BAD_REQUEST:
            taken = 0
            while part := response.read(SLICE_BYTES):
                taken += len(part)
                if taken > MIB:
                    raise http.client.HTTPException
            return taken
        length = response.length
        if length is None or length > len(into):
            response.close()
            raise DeltaferryError(ErrorKind.SEGMENT_DAMAGED, f"a stored object is larger than a segment can be: {length} bytes")
        filled = 0
        while filled < length:
            count = response.readinto(into[filled:length])
            if count == 0:
                raise http.client.IncompleteRead(b"", length - filled)
            filled += count
        response.read()
        return filled

    def _take(self) -> http.client.HTTPConnection:
        """Return the connection that was used last, or a new one: no more are opened than requests are under way at a time.

        Each costs a TLS handshake and begins slowly; `http.client` connects one again by itself after a close.
        """
        with self._lock:
            connection, since_s = self._idle.pop() if self._idle else (None, 0.0)
        if connection is not None:
            if time.monotonic() - since_s > _LONGEST_IDLE_S:
                connection.close()
            return connection
        if self._context is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._limits.timeout_s, context=self._context)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._limits.timeout_s)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.append((connection, time.monotonic()))


def _slices(body: memoryview, first_bytes: int, pace: BodyPace, *, paged: bool) -> Iterator[memoryview]:
    yield body[:first_bytes]
    if paged:
        pass_point(KillPoint.MID_PUT_PAGE)
    sent = first_bytes
    while sent < len(body):
        size = pace.take(len(body) - sent)
        yield body[sent : sent + size]
        sent += size


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Unanswered) or (isinstance(error, Refused) and error.may_pass)


_backoff = wait_random_exponential(multiplier=0.2, max=2)
"""Some thirty tries in the thirty seconds of a call's patience: with half as many, one of a delta's hundred requests would fail where a
store refuses 80 %, and with it the attempt."""


def _wait(state: RetryCallState) -> float:
    """Wait as long as the service says, or with growing random back-off."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, Refused) and error.retry_after:
        return error.retry_after.total_seconds()
    return _backoff(state)


def _retry_after(headers: http.client.HTTPMessage) -> timedelta | None:
    value = headers.get("Retry-After", "")
    return timedelta(seconds=int(value)) if value.isdecimal() else None


def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies the server, by the given authorities or the system's."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
