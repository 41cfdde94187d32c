"""The data plane of managed disks: what the URLs of beginGetAccess answer, as a page blob.

Put Page and Clear Page for uploads; ranged GET, HEAD and Get Page Ranges, with differences between snapshots, for
reading. Limits and error codes: learn.microsoft.com, "Put Page", "Get Page Ranges".
The differences are found by comparing bytes: a page that was rewritten with what it held is not in them.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from email.utils import formatdate
from itertools import islice
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from lab.arm import disk_bytes
from lab.arm.calls import Call, Reply
from lab.arm.crc64 import crc64
from lab.arm.disk_access import DiskAccess, Grant

_MAX_UPDATE_BYTES = 4 << 20
_MAX_READ_BYTES = 64 << 20
_MAX_RANGES = 5_000
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(
            status,
            f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>'.encode(),
            {"Content-Type": "application/xml", "x-ms-error-code": code},
        )


class PagePlane:
    """Serves the signatures that `access` gave out."""

    def __init__(self, access: DiskAccess) -> None:
        self._access = access

    def serves(self, path: str) -> bool:
        """Return whether a path belongs here."""
        return path.startswith("/md-")

    def handle(self, call: Call) -> Reply:
        """Answer one request."""
        try:
            return self._handle(call)
        except _Refused as refusal:
            return refusal.reply

    def _handle(self, call: Call) -> Reply:
        grant = self._access.find(call.path, call.query.get("sig", ""))
        if grant is None:
            raise _Refused(
                403,
                "AuthenticationFailed",
                "Server failed to authenticate the request. The signature is wrong, expired or revoked.",
            )
        component = call.query.get("comp", "")
        if call.method == "PUT" and component == "page":
            if not grant.writable:
                raise _Refused(
                    403,
                    "AuthorizationPermissionMismatch",
                    "This request is not authorized to perform this operation using this permission.",
                )
            return self._put_page(grant, call)
        if call.method == "GET" and component == "pagelist":
            return self._page_list(grant, call)
        if call.method in {"GET", "HEAD"} and component == "":
            return self._read(grant, call)
        raise _Refused(400, "InvalidQueryParameterValue", "This operation is not known for managed disks.")

    def _put_page(self, grant: Grant, call: Call) -> Reply:
        start, end = _requested(call, grant.blob_bytes, needed=True)
        if start % 512 or end % 512 or end > grant.blob_bytes:
            raise _Refused(416, "InvalidPageRange", "The page range specified is invalid.")
        headers = {"ETag": '"0x8DB0000000000000"', "Last-Modified": formatdate(usegmt=True), "x-ms-blob-sequence-number": "0"}
        if call.headers.get("x-ms-page-write", "").lower() == "clear":
            if call.body:
                raise _Refused(400, "InvalidHeaderValue", "A clear has no body.")
            disk_bytes.clear(grant.file, start, end)
            return Reply(201, None, headers)
        if end - start > _MAX_UPDATE_BYTES:
            raise _Refused(413, "RequestBodyTooLarge", "The request body is too large and exceeds the maximum permissible limit.")
        if len(call.body) != end - start:
            raise _Refused(400, "InvalidHeaderValue", "Content-Length differs from the range.")
        _check_integrity(call)
        descriptor = os.open(grant.file, os.O_WRONLY)
        try:
            view = memoryview(call.body)
            while view:
                written = os.pwrite(descriptor, view, start)
                start, view = start + written, view[written:]
        finally:
            os.close(descriptor)
        return Reply(201, None, {**headers, "Content-MD5": _md5(call.body)})

    def _read(self, grant: Grant, call: Call) -> Reply:
        asked = call.headers.get("x-ms-range") or call.headers.get("range")
        start, end = _requested(call, grant.blob_bytes, needed=False)
        end = min(end, grant.blob_bytes)
        if start >= end:
            raise _Refused(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
        headers = {
            "Content-Type": "application/octet-stream",
            "x-ms-blob-type": "PageBlob",
            "x-ms-blob-sequence-number": "0",
            "Accept-Ranges": "bytes",
            "ETag": '"0x8DB0000000000000"',
            "Last-Modified": formatdate(usegmt=True),
        }
        if call.method == "HEAD":
            return Reply(200, None, {**headers, "Content-Length": str(grant.blob_bytes)})
        if end - start > _MAX_READ_BYTES:
            raise _Refused(416, "InvalidRange", f"The lab answers reads of at most {_MAX_READ_BYTES} bytes: ask for a range.")
        data = self._bytes(grant, start, end)
        if not asked:
            return Reply(200, data, headers)
        if call.headers.get("x-ms-range-get-content-md5", "").lower() == "true" and end - start <= _MAX_UPDATE_BYTES:
            headers["Content-MD5"] = _md5(data)
        return Reply(206, data, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{grant.blob_bytes}"})

    @staticmethod
    def _bytes(grant: Grant, start: int, end: int) -> bytes:
        with grant.file.open("rb") as file:
            data = os.pread(file.fileno(), end - start, start)
        if len(data) < end - start:
            after = start + len(data) - grant.size_bytes
            data += grant.footer[after : after + end - start - len(data)]
        return data

    def _page_list(self, grant: Grant, call: Call) -> Reply:
        previous_url = call.headers.get("x-ms-previous-snapshot-url")
        ranges: Iterator[tuple[int, int, bool]]
        if previous_url:
            url = urlsplit(previous_url)
            previous = self._access.find(url.path, parse_qs(url.query).get("sig", [""])[0])
            if previous is None:
                raise _Refused(
                    403, "AuthenticationFailed", "The signature of the previous snapshot is wrong, expired or revoked."
                )
            ranges = (
                (start, end, _is_zero(grant, start, end)) for start, end in disk_bytes.changed_ranges(grant.file, previous.file)
            )
        else:
            footer = iter([(grant.size_bytes, grant.blob_bytes, False)] if grant.footer else [])
            data = ((start, end, False) for start, end in disk_bytes.allocated_ranges(grant.file))
            ranges = (entry for part in (data, footer) for entry in part)
        first, last = _requested(call, grant.blob_bytes, needed=False)
        chosen = ((max(start, first), min(end, last), cleared) for start, end, cleared in ranges if start < last and end > first)
        offset = int(call.query.get("marker") or 0)
        limit = min(int(call.query.get("maxresults") or _MAX_RANGES), _MAX_RANGES)
        page = list(islice(chosen, offset, offset + limit + 1))
        marker = str(offset + limit) if len(page) > limit else ""
        entries = "".join(_entry(*entry) for entry in page[:limit])
        body = f'<?xml version="1.0" encoding="utf-8"?><PageList>{entries}<NextMarker>{marker}</NextMarker></PageList>'
        return Reply(200, body.encode(), {"Content-Type": "application/xml", "x-ms-blob-content-length": str(grant.blob_bytes)})


def _entry(start: int, end: int, cleared: bool) -> str:
    name = "ClearRange" if cleared else "PageRange"
    return f"<{name}><Start>{start}</Start><End>{end - 1}</End></{name}>"


def _is_zero(grant: Grant, start: int, end: int) -> bool:
    with grant.file.open("rb") as file:
        return all(not any(os.pread(file.fileno(), min(1 << 20, end - at), at)) for at in range(start, end, 1 << 20))


def _requested(call: Call, blob_bytes: int, *, needed: bool) -> tuple[int, int]:
    text = call.headers.get("x-ms-range") or call.headers.get("range")
    if text is None:
        if needed:
            raise _Refused(400, "MissingRequiredHeader", "An HTTP header that's mandatory for this request is not specified.")
        return 0, blob_bytes
    match = _RANGE.fullmatch(text)
    if match is None or (needed and not match[2]):
        raise _Refused(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")
    end = int(match[2]) + 1 if match[2] else blob_bytes
    if end <= int(match[1]):
        raise _Refused(416, "InvalidRange", "The range specified is invalid.")
    return int(match[1]), end


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _check_integrity(call: Call) -> None:
    md5, crc = call.headers.get("content-md5"), call.headers.get("x-ms-content-crc64")
    if md5 is not None and md5 != _md5(call.body):
        raise _Refused(
            400,
            "Md5Mismatch",
            "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
        )
    if crc is not None and crc != base64.b64encode(crc64(call.body).to_bytes(8, "little")).decode():
        raise _Refused(
            400,
            "Crc64Mismatch",
            "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.",
        )
