"""Reads a page blob over the blob endpoint, by the storage account's key, into a raw file: what Import does.

Only the allocated page ranges are read, a few at a time, through preallocated buffers. Every read carries
`If-Match` with the ETag seen first: a blob that changes meanwhile fails the import, as it fails a copy of a blob.
Shared Key: learn.microsoft.com, "Authorize with Shared Key".
"""

import base64
import hashlib
import hmac
import http.client
import os
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree

from lab.arm import disk_bytes
from lab.arm.errors import ArmError
from lab.arm.vhd import FOOTER_BYTES, check_footer
from lab.arm.world import StorageAccount

_API_VERSION = "2025-11-05"
_READ_BYTES = 64 << 20
"""The most that one request asks for. Azurite's cost is by the request, about 40 ms, far more than by the byte."""
_MERGE_GAP_BYTES = 1 << 20
"""Ranges closer than this are read as one, for the same reason; the zeros between them are not written."""
_BUFFER_BYTES = 1 << 20
_ZEROS = bytes(_BUFFER_BYTES)
_READERS = 3
_ATTEMPTS = 3


Sink = Callable[[int, memoryview], None]
"""Takes a part of a body: its offset in the body, and its bytes, which are only lent."""


class _Connection:
    """One connection to the account, opened again when it breaks. Not to be shared by threads."""

    def __init__(self, account: StorageAccount, path: str, tls: ssl.SSLContext) -> None:
        self._account, self._path, self._tls = account, path, tls
        self._target = urlsplit(account.url)
        self._http: http.client.HTTPConnection | None = None
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def request(
        self, method: str, query: str, headers: dict[str, str], sink: Sink | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one request; the body of a success goes to `sink` if that is given.

        After a broken connection the request is made again, and `sink` is given the body from its beginning.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._once(method, query, headers, sink)
            except (OSError, http.client.HTTPException):
                self.close()
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _once(self, method: str, query: str, headers: dict[str, str], sink: Sink | None) -> tuple[int, dict[str, str], bytes]:
        if self._http is None:
            self._http = self._open()
        signed = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _API_VERSION, **headers}
        signed["Authorization"] = self._authorization(method, query, signed)
        self._http.request(method, self._path + (f"?{query}" if query else ""), headers=signed)
        response = self._http.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        if sink is None or response.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            return response.status, found, response.read()
        position, end = 0, int(found["content-length"])
        while position < end:
            part = self._fill(response, min(_BUFFER_BYTES, end - position))
            sink(position, part)
            position += len(part)
        response.read()
        return response.status, found, b""

    def _fill(self, response: http.client.HTTPResponse, wanted: int) -> memoryview:
        filled = 0
        while filled < wanted:
            count = response.readinto(self._buffer[filled:wanted])
            if not count:
                raise http.client.IncompleteRead(b"", wanted - filled)
            filled += count
        return self._buffer[:wanted]

    def _open(self) -> http.client.HTTPConnection:
        host, port = self._target.hostname or "", self._target.port
        if self._target.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=30, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=30)

    def _authorization(self, method: str, query: str, headers: dict[str, str]) -> str:
        lowered = {name.lower(): value for name, value in headers.items()}
        standard = ["", "", "", "", "", "", "", lowered.get("if-match", ""), "", "", lowered.get("range", "")]
        own = [f"{name}:{value}" for name, value in sorted(lowered.items()) if name.startswith("x-ms-")]
        resource = f"/{self._account.name}{self._path}"
        parameters = [f"{name.lower()}:{value}" for name, value in sorted(parse_qsl(query))]
        text = "\n".join([method, *standard, *own, resource, *parameters])
        digest = hmac.new(base64.b64decode(self._account.key), text.encode(), hashlib.sha256).digest()
        return f"SharedKey {self._account.name}:{base64.b64encode(digest).decode()}"


class PageBlob:
    """A page blob that is to be imported."""

    def __init__(self, account: StorageAccount, source_uri: str, tls: ssl.SSLContext) -> None:
        self._account, self._tls = account, tls
        self._uri = source_uri
        self._path = urlsplit(source_uri).path
        self._name = unquote(self._path).rsplit("/", 1)[-1]
        self._etag = ""

    def copy_to(self, target: Path) -> int:
        """Write the blob's disk to a new sparse file; return the disk's size. Raises ArmError with Compute's code."""
        connection = _Connection(self._account, self._path, self._tls)
        try:
            container_bytes = self._properties(connection)
            size_bytes = self._footer(connection, container_bytes)
            pieces: SimpleQueue[tuple[int, int]] = SimpleQueue()
            for piece in _pieces(self._page_ranges(connection), size_bytes):
                pieces.put(piece)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken() from error
        finally:
            connection.close()
        disk_bytes.create_sparse(target, size_bytes)
        descriptor = os.open(target, os.O_WRONLY)
        try:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="import") as readers:
                for done in [readers.submit(self._read_pieces, pieces, descriptor) for _ in range(_READERS)]:
                    done.result()
        except (OSError, http.client.HTTPException) as error:
            raise self._broken() from error
        finally:
            os.close(descriptor)
        return size_bytes

    def _properties(self, connection: _Connection) -> int:
        status, headers, _ = connection.request("HEAD", "", {})
        if status == HTTPStatus.NOT_FOUND:
            raise ArmError(404, "DiskBlobNotFound", f"Unable to find VHD blob with URI {self._uri} for disk '{self._name}'.")
        self._check(status, HTTPStatus.OK)
        if headers.get("x-ms-blob-type") != "PageBlob":
            raise ArmError(
                400, "BadRequest", f"The blob {self._uri} is not a page blob. Only page blobs can be imported as disks."
            )
        self._etag = headers["etag"]
        return int(headers["content-length"])

    def _footer(self, connection: _Connection, container_bytes: int) -> int:
        footer = bytes(FOOTER_BYTES)
        if container_bytes >= FOOTER_BYTES:
            span = f"bytes={container_bytes - FOOTER_BYTES}-{container_bytes - 1}"
            status, _, footer = connection.request("GET", "", {"x-ms-range": span, "If-Match": self._etag})
            self._check(status, HTTPStatus.PARTIAL_CONTENT)
        return check_footer(footer, container_bytes, self._name)

    def _page_ranges(self, connection: _Connection) -> Iterator[tuple[int, int]]:
        marker = ""
        while True:
            query = "comp=pagelist" + (f"&marker={marker}" if marker else "")
            status, _, body = connection.request("GET", query, {"If-Match": self._etag})
            self._check(status, HTTPStatus.OK)
            page = ElementTree.fromstring(body)
            for entry in page.iter("PageRange"):
                yield int(entry.findtext("Start", "")), int(entry.findtext("End", "")) + 1
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return

    def _read_pieces(self, pieces: "SimpleQueue[tuple[int, int]]", descriptor: int) -> None:
        connection = _Connection(self._account, self._path, self._tls)
        try:
            while True:
                start, end = pieces.get_nowait()
                headers = {"x-ms-range": f"bytes={start}-{end - 1}", "If-Match": self._etag}
                status, _, _ = connection.request("GET", "", headers, partial(_write, descriptor, start))
                self._check(status, HTTPStatus.PARTIAL_CONTENT)
        except Empty:
            return
        finally:
            connection.close()

    def _check(self, status: int, wanted: HTTPStatus) -> None:
        if status == wanted:
            return
        if status == HTTPStatus.PRECONDITION_FAILED:
            raise ArmError(409, "Conflict", f"The blob {self._uri} was changed while it was being imported.")
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise ArmError(403, "StorageAccountAccessDenied", f"Access to the blob {self._uri} was denied ({status}).")
        raise ArmError(500, "InternalServerError", f"The storage account answered {status} for {self._uri}.")

    def _broken(self) -> ArmError:
        return ArmError(500, "InternalServerError", f"The storage account of {self._uri} could not be reached.")


def _write(descriptor: int, start: int, offset: int, part: memoryview) -> None:
    """Write a part of a piece unless it is zero, which the new file reads as anyway."""
    if part == _ZEROS[: len(part)]:
        return
    position = start + offset
    while part:
        written = os.pwrite(descriptor, part, position)
        position, part = position + written, part[written:]


def _pieces(ranges: Iterator[tuple[int, int]], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut page ranges into reads: near ones merged, long ones split, the footer left out."""
    run: tuple[int, int] | None = None
    for start, end in sorted(ranges):
        end = min(end, size_bytes)
        if start >= end:
            continue
        if run is not None and start - run[1] <= _MERGE_GAP_BYTES:
            run = (run[0], max(run[1], end))
            continue
        if run is not None:
            yield from _split(*run)
        run = (start, end)
    if run is not None:
        yield from _split(*run)


def _split(start: int, end: int) -> Iterator[tuple[int, int]]:
    for position in range(start, end, _READ_BYTES):
        yield position, min(position + _READ_BYTES, end)
