"""The data plane of managed disks: what the URLs of beginGetAccess answer, as a page blob.

Put Page and Clear Page for uploads; ranged GET and HEAD for reading; Get Page Ranges is in `page_lists`.
Limits and error codes: learn.microsoft.com, "Put Page".
"""

import base64
import hashlib
from email.utils import formatdate

from lab.arm.calls import Call, Reply
from lab.arm.crc64 import crc64
from lab.arm.disk_access import DiskAccess, Grant
from lab.arm.disk_content import DiskContent
from lab.arm.page_lists import PageLists
from lab.arm.page_requests import PageRefused, requested_range
from lab.arm.world import World

_MAX_UPDATE_BYTES = 4 << 20
_MAX_READ_BYTES = 64 << 20


class PagePlane:
    """Serves the signatures that `access` gave out."""

    def __init__(self, world: World, access: DiskAccess) -> None:
        self._access = access
        self._lists = PageLists(world, access)

    def serves(self, path: str) -> bool:
        """Return whether a path belongs here."""
        return path.startswith("/md-")

    def handle(self, call: Call) -> Reply:
        """Answer one request."""
        try:
            return self._handle(call)
        except PageRefused as refusal:
            return refusal.reply

    def _handle(self, call: Call) -> Reply:
        grant = self._access.find(call.path, call.query.get("sig", ""))
        if grant is None:
            raise PageRefused(
                403,
                "AuthenticationFailed",
                "Server failed to authenticate the request. The signature is wrong, expired or revoked.",
            )
        component = call.query.get("comp", "")
        if call.method == "PUT" and component == "page":
            if not grant.writable:
                raise PageRefused(
                    403,
                    "AuthorizationPermissionMismatch",
                    "This request is not authorized to perform this operation using this permission.",
                )
            return self._put_page(grant, call)
        if call.method == "GET" and component == "pagelist":
            return self._lists.answer(grant, call)
        if call.method in {"GET", "HEAD"} and component == "":
            return self._read(grant, call)
        raise PageRefused(400, "InvalidQueryParameterValue", "This operation is not known for managed disks.")

    def _put_page(self, grant: Grant, call: Call) -> Reply:
        start, end = requested_range(call, grant.blob_bytes, needed=True)
        if start % 512 or end % 512 or end > grant.blob_bytes:
            raise PageRefused(416, "InvalidPageRange", "The page range specified is invalid.")
        headers = {"ETag": '"0x8DB0000000000000"', "Last-Modified": formatdate(usegmt=True), "x-ms-blob-sequence-number": "0"}
        if call.headers.get("x-ms-page-write", "").lower() == "clear":
            if call.body:
                raise PageRefused(400, "InvalidHeaderValue", "A clear has no body.")
            _written(grant).discard(start, end)
            return Reply(201, None, headers)
        if end - start > _MAX_UPDATE_BYTES:
            raise PageRefused(
                413, "RequestBodyTooLarge", "The request body is too large and exceeds the maximum permissible limit."
            )
        if len(call.body) != end - start:
            raise PageRefused(400, "InvalidHeaderValue", "Content-Length differs from the range.")
        _check_integrity(call)
        _written(grant).write(start, call.body)
        return Reply(201, None, {**headers, "Content-MD5": _md5(call.body)})

    def _read(self, grant: Grant, call: Call) -> Reply:
        asked = call.headers.get("x-ms-range") or call.headers.get("range")
        start, end = requested_range(call, grant.blob_bytes, needed=False)
        end = min(end, grant.blob_bytes)
        if start >= end:
            raise PageRefused(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
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
            raise PageRefused(416, "InvalidRange", f"The lab answers reads of at most {_MAX_READ_BYTES} bytes: ask for a range.")
        data = self._bytes(grant, start, end)
        if not asked:
            return Reply(200, data, headers)
        if call.headers.get("x-ms-range-get-content-md5", "").lower() == "true" and end - start <= _MAX_UPDATE_BYTES:
            headers["Content-MD5"] = _md5(data)
        return Reply(206, data, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{grant.blob_bytes}"})

    @staticmethod
    def _bytes(grant: Grant, start: int, end: int) -> bytes:
        if not grant.footer or end <= grant.size_bytes:
            return grant.content.read(start, end)
        data = grant.content.read(start, grant.size_bytes) if start < grant.size_bytes else b""
        return data + grant.footer[max(0, start - grant.size_bytes) : end - grant.size_bytes]


def _written(grant: Grant) -> DiskContent:
    if not isinstance(grant.content, DiskContent):
        raise AssertionError("only a disk can be written")
    return grant.content


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _check_integrity(call: Call) -> None:
    md5, crc = call.headers.get("content-md5"), call.headers.get("x-ms-content-crc64")
    if md5 is not None and md5 != _md5(call.body):
        raise PageRefused(
            400,
            "Md5Mismatch",
            "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
        )
    if crc is not None and crc != base64.b64encode(crc64(call.body).to_bytes(8, "little")).decode():
        raise PageRefused(
            400,
            "Crc64Mismatch",
            "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.",
        )
