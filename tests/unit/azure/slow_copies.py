"""A blob service whose copies take as long as a test wants: a proxy before the real one, which does Copy Blob itself.

It answers as the service does (learn.microsoft.com/rest/api/storageservices/copy-blob): 202 and a pending copy, whose destination is
there at once; HEAD tells status and progress; a blob with a pending copy cannot be deleted; Abort Copy Blob ends it.
"""

import http.client
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
from azure.storage.blob import BlobClient

from deltaferry.azure.accounts import StorageAccount

_MINUTE = timedelta(minutes=1)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Copy:
    copy_id: str
    source: tuple[str, str, str]
    """Container, blob, snapshot."""
    size: int
    status: str = "pending"
    copied: int = 0

    def headers(self) -> dict[str, str]:
        return {
            "x-ms-copy-id": self.copy_id,
            "x-ms-copy-status": self.status,
            "x-ms-copy-progress": f"{self.copied}/{self.size}",
        }


class SlowCopies:
    """The proxy, running while the context is open. `account` is the real one's twin behind it."""

    def __init__(self, real: StorageAccount) -> None:
        self.real = real
        self.at_once = False
        self.begun = 0
        self.aborted = 0
        self._copies: dict[str, Copy] = {}
        self._lock = threading.RLock()
        self._context = ssl.create_default_context(cafile=real.access("x", write=False, lifetime=_MINUTE).ca_file)
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, content = service.answer(self.command, self.path, dict(self.headers.items()), body)
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                said = {name.lower(): value for name, value in headers.items()}.get("content-length", "0")
                length = said if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_DELETE = handle_any

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the test's output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.account = StorageAccount(
            f"http://127.0.0.1:{self._server.server_address[1]}/{real.name}", real._credential, retries=0
        )

    def __enter__(self) -> "SlowCopies":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.account.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # --- what a test does with it

    def pending(self) -> list[Copy]:
        with self._lock:
            return [copy for copy in self._copies.values() if copy.status == "pending"]

    def advance(self, size: int) -> None:
        for copy in self.pending():
            copy.copied += size

    def finish(self) -> None:
        with self._lock:
            for path, copy in self._copies.items():
                if copy.status == "pending":
                    self._fill(path, copy)

    def fail(self) -> None:
        for copy in self.pending():
            copy.status = "failed"

    # --- the service

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        folded = {name.lower(): value for name, value in headers.items()}
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            copy = self._copies.get(parts.path)
            if method == "PUT" and "x-ms-copy-source" in folded:
                return self._begin(parts.path, folded)
            if method == "PUT" and query.get("comp") == "copy":
                if copy is None or copy.status != "pending" or query.get("copyid") != copy.copy_id:
                    return _refused(409, "NoPendingCopyOperation")
                copy.status, self.aborted = "aborted", self.aborted + 1
                return 204, {}, b""
            if method == "DELETE" and copy is not None and copy.status == "pending":
                return _refused(409, "PendingCopyOperation")
            status, answered, content = self._forward(method, path, headers, body)
            if method == "DELETE" and status < 300:
                self._copies.pop(parts.path, None)
            elif method == "HEAD" and copy is not None and status < 300 and "snapshot" not in query:
                answered |= copy.headers()
            return status, answered, content

    def _begin(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        source_parts = urlsplit(headers["x-ms-copy-source"])
        _, _, container, name = unquote(source_parts.path).split("/", 3)
        source = (container, name, parse_qs(source_parts.query)["snapshot"][0])
        size = self.real.client.get_blob_client(*source).get_blob_properties().size
        metadata = {key.removeprefix("x-ms-meta-"): value for key, value in headers.items() if key.startswith("x-ms-meta-")}
        try:
            made = self._destination(path).create_page_blob(size, metadata=metadata, match_condition=MatchConditions.IfMissing)
        except (ResourceExistsError, ResourceModifiedError):
            return _refused(409, "BlobAlreadyExists")
        copy = self._copies[path] = Copy(str(uuid4()), source, size)
        self.begun += 1
        if self.at_once:
            self._fill(path, copy)
        return 202, {**copy.headers(), "ETag": str(made["etag"]), "Last-Modified": "Sun, 22 Nov 2026 12:00:00 GMT"}, b""

    def _fill(self, path: str, copy: Copy) -> None:
        data = self.real.client.get_blob_client(*copy.source).download_blob().readall()
        self._destination(path).upload_page(data, 0, len(data))
        copy.status, copy.copied = "success", copy.size

    def _destination(self, path: str) -> BlobClient:
        _, _, container, name = unquote(path).split("/", 3)
        return self.real.client.get_blob_client(container, name)

    def _forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        real = urlsplit(self.real.url)
        connection = http.client.HTTPSConnection(real.hostname or "", real.port, context=self._context, timeout=30)
        try:
            sent = {name: value for name, value in headers.items() if name.lower() not in ("host", "connection")}
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            content = reply.read()
            return reply.status, dict(reply.getheaders()), content
        finally:
            connection.close()


def _refused(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return status, {"x-ms-error-code": code, "Content-Type": "application/xml"}, body.encode()
