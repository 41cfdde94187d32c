"""Get Page Ranges of what a signature shows: all ranges, or the differences from an earlier snapshot of the family.

The differences are asked for by the header `x-ms-previous-snapshot-url`, a signature of the earlier snapshot. They are
true ones: what was written or given back between the two, also where it holds what it held. From service version
2020-10-02 on they come in pages; whoever does not follow NextMarker loses the rest.
Sources: learn.microsoft.com, "Get Page Ranges" and "Blob service error codes".
"""

from collections.abc import Iterator
from itertools import islice
from urllib.parse import parse_qs, urlsplit

from lab.arm.calls import Call, Reply
from lab.arm.disk_access import DiskAccess, Grant
from lab.arm.disk_content import SnapshotContent
from lab.arm.page_requests import PageRefused, requested_range
from lab.arm.world import World

_PAGED_SINCE = "2020-10-02"
_NO_DIFFERENCES_ACROSS_BYTES = 4 << 40
"""No differences between snapshots from before and after a disk grew over 4 TiB."""

_Range = tuple[int, int, bool]
"""Start, end, and whether it was cleared."""


class PageLists:
    """Answers Get Page Ranges."""

    def __init__(self, world: World, access: DiskAccess) -> None:
        self._world, self._access = world, access

    def answer(self, grant: Grant, call: Call) -> Reply:
        """Answer one request. Raises PageRefused."""
        first, last = requested_range(call, grant.blob_bytes, needed=False)
        last = min(last, grant.blob_bytes)
        limit = self._limit(call)
        after = _marker(call) if limit is not None else 0
        ranges = self._ranges(grant, call, max(first, after), last)
        page = list(ranges if limit is None else islice(ranges, limit + 1))
        marker = ""
        if limit is not None and len(page) > limit:
            marker = f"{page.pop()[0]:x}"
        entries = "".join(_entry(*entry) for entry in page)
        body = f'<?xml version="1.0" encoding="utf-8"?><PageList>{entries}<NextMarker>{marker}</NextMarker></PageList>'
        return Reply(200, body.encode(), {"Content-Type": "application/xml", "x-ms-blob-content-length": str(grant.blob_bytes)})

    def _limit(self, call: Call) -> int | None:
        """Return how many ranges a page has; None for a client of a version that does not know pages."""
        if call.headers.get("x-ms-version", "") < _PAGED_SINCE:
            return None
        most, asked = self._world.limits.ranges_per_page, call.query.get("maxresults")
        if asked is None:
            return most
        if not asked.isdecimal() or int(asked) < 1:
            raise PageRefused(
                400,
                "OutOfRangeQueryParameterValue",
                "A query parameter specified in the request URI is outside the permissible range.",
            )
        return min(int(asked), most)

    def _ranges(self, grant: Grant, call: Call, first: int, last: int) -> Iterator[_Range]:
        """Return the ranges inside a window, cut off at its edges, in order."""
        previous_url = call.headers.get("x-ms-previous-snapshot-url")
        found: Iterator[_Range]
        if previous_url:
            newer, older = self._pair(grant, previous_url)
            found = newer.changed_since(older, first, last)
        else:
            found = ((start, end, False) for start, end in _allocated(grant, first, last))
        return ((max(start, first), min(end, last), cleared) for start, end, cleared in found if start < last and end > first)

    def _pair(self, grant: Grant, previous_url: str) -> tuple[SnapshotContent, SnapshotContent]:
        url = urlsplit(previous_url)
        previous = self._access.find(url.path, parse_qs(url.query).get("sig", [""])[0])
        if previous is None:
            raise PageRefused(403, "AuthenticationFailed", "The signature of the previous snapshot is wrong, expired or revoked.")
        newer, older = grant.content, previous.content
        if not (
            isinstance(newer, SnapshotContent)
            and isinstance(older, SnapshotContent)
            and grant.incremental
            and previous.incremental
        ):
            raise PageRefused(
                409,
                "PreviousSnapshotOperationNotSupported",
                "Differential Get Page Ranges is supported between incremental snapshots only.",
            )
        if newer.disk is not older.disk:
            raise PageRefused(409, "BlobGenerationMismatch", "The previous snapshot is from a different blob generation.")
        if older.is_newer_than(newer):
            raise PageRefused(400, "PreviousSnapshotCannotBeNewer", "The previous snapshot cannot be newer than the snapshot.")
        if older.size_bytes <= _NO_DIFFERENCES_ACROSS_BYTES < newer.size_bytes:
            raise PageRefused(
                409,
                "PreviousSnapshotOperationNotSupported",
                "Differential Get Page Ranges is not supported across a resize over 4 TiB.",
            )
        return newer, older


def _allocated(grant: Grant, first: int, last: int) -> Iterator[tuple[int, int]]:
    yield from grant.content.allocated(first, min(last, grant.size_bytes))
    if grant.footer:
        yield grant.size_bytes, grant.blob_bytes


def _marker(call: Call) -> int:
    """Return where the page that a marker asks for begins; clients take a marker as it is."""
    text = call.query.get("marker") or "0"
    try:
        return int(text, 16)
    except ValueError as error:
        raise PageRefused(400, "InvalidQueryParameterValue", "Value for one of the query parameters is invalid.") from error


def _entry(start: int, end: int, cleared: bool) -> str:
    name = "ClearRange" if cleared else "PageRange"
    return f"<{name}><Start>{start}</Start><End>{end - 1}</End></{name}>"
