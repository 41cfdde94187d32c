"""Which pages a managed disk's snapshot holds, or changed: Get Page Ranges, answer by answer, to the last one.

The SDK's convenience call for managed disks drops the continuation marker and with it every range behind the first answer
(facts 0.6), so these are plain calls through azure-core's pipeline. Memory holds one answer, whatever the disk's size. Source:
"Get Page Ranges" (learn.microsoft.com/rest/api/storageservices/get-page-ranges).
"""

from collections.abc import Iterator
from urllib.parse import quote
from xml.etree.ElementTree import ParseError, XMLParser

from azure.core import PipelineClient
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.policies import RetryPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse

from deltaferry.azure.accounts import DEFAULT_API_VERSION
from deltaferry.azure.errors import store_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR
from deltaferry.ports.recovery import PageRange

MAX_RESULTS = 10_000
"""The most ranges that one answer may have."""

MAX_ANSWER_BYTES = 16 * MIB
"""An answer of that many ranges takes about a megabyte; what is longer is no answer of the service."""

WINDOW_BYTES = 16 * 1024 * MIB
"""How much of a disk is asked for at once: an answer for a disk in many pieces can take the service longer than it allows itself."""

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_PREVIOUS_URL = "x-ms-previous-snapshot-url"
_INCOMPARABLE = frozenset(
    {
        "BlobGenerationMismatch",
        "PreviousSnapshotCannotBeNewer",
        "PreviousSnapshotNotFound",
        "PreviousSnapshotOperationNotSupported",
    }
)
"""Why two snapshots have no differences to list: not of one disk, or a resize beyond 4 TiB lies between (facts A2)."""

_WHAT = "listing the pages of a disk's snapshot"


class PageRangeReader:
    """Reads page ranges over HTTP. Safe to use from several threads. Signatures never leave in an error or a log."""

    def __init__(
        self,
        *,
        ca_file: str | None = None,
        api_version: str = DEFAULT_API_VERSION,
        retries: int = 3,
        max_results: int = MAX_RESULTS,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._api_version = api_version
        self._max_results = max_results
        self._window_bytes = window_bytes
        self._client: PipelineClient[HttpRequest, HttpResponse] = PipelineClient(
            "",
            policies=[RetryPolicy(retry_total=retries, retry_backoff_factor=0.8, retry_backoff_max=10)],
            transport=RequestsTransport(
                connection_verify=ca_file or True, connection_timeout=_CONNECT_TIMEOUT_S, read_timeout=_READ_TIMEOUT_S
            ),
        )

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def of_managed_disk(self, url: str, previous_url: str | None, span: Extent) -> Iterator[PageRange]:
        """Yield the pages inside `span` of a managed disk's snapshot, or what differs from an earlier one. Both URLs carry signatures.

        Ascending, as the service lists them; each answer is sorted here, since clears may stand apart from changes (facts A2).
        Touching ranges of one kind are joined. The service compares only snapshots of one disk, and not across a resize beyond
        4 TiB (facts A2). Raises AZURE_NOT_FOUND for a missing snapshot, or two that cannot be compared, STORE_ACCESS_DENIED for a signature that has expired or was
        revoked, STORE_UNREACHABLE, STORE_THROTTLED, AZURE_FAILED.
        """
        headers = {_PREVIOUS_URL: previous_url} if previous_url else {}
        yield from _joined(self._windows(url, headers, span))

    def _windows(self, url: str, headers: dict[str, str], span: Extent) -> Iterator[PageRange]:
        for start in range(span.offset_bytes, span.end_bytes, self._window_bytes):
            yield from self._answers(url, headers, Extent(start, min(self._window_bytes, span.end_bytes - start)))

    def _answers(self, url: str, headers: dict[str, str], span: Extent) -> Iterator[PageRange]:
        """Yield the ranges of the service's answers, up to the one without a marker."""
        marker = ""
        while True:
            ranges, following = self._answer(url, headers, span, marker)
            yield from ranges
            if not following:
                return
            if following == marker:
                raise DeltaferryError(ErrorKind.AZURE_FAILED, f"{_WHAT}: the service repeats its continuation marker")
            marker = following

    def _answer(self, url: str, headers: dict[str, str], span: Extent, marker: str) -> tuple[list[PageRange], str]:
        more = f"&marker={quote(marker, safe='')}" if marker else ""
        request = HttpRequest(
            "GET",
            f"{url}&comp=pagelist&maxresults={self._max_results}{more}",
            headers={
                "x-ms-version": self._api_version,
                "x-ms-range": f"bytes={span.offset_bytes}-{span.end_bytes - 1}",
                "Accept": "application/xml",
                **headers,
            },
        )
        with store_errors(_WHAT):
            response = self._client.send_request(request, stream=True)
            try:
                if response.status_code == 404:
                    raise DeltaferryError(ErrorKind.AZURE_NOT_FOUND, f"{_WHAT}: the snapshot is gone")
                if response.headers.get("x-ms-error-code") in _INCOMPARABLE:
                    raise DeltaferryError(ErrorKind.AZURE_NOT_FOUND, f"{_WHAT}: the earlier snapshot is none to compare it with")
                if response.status_code != 200:
                    response.read()
                    raise HttpResponseError(response=response)
                return _parsed(response, span)
            finally:
                response.close()


class _PageList:
    """Takes a PageList document as the parser reads it, without building a tree of it."""

    def __init__(self, span: Extent) -> None:
        self._span = span
        self._text: list[str] = []
        self._fields: dict[str, str] = {}
        self.found: list[PageRange] = []
        self.marker = ""
        self.is_complete = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        self._text.clear()
        if tag in ("PageRange", "ClearRange"):
            self._fields.clear()

    def data(self, text: str) -> None:
        """Take a part of an element's text."""
        self._text.append(text)

    def end(self, tag: str) -> None:
        """End an element."""
        text = "".join(self._text).strip()
        self._text.clear()
        match tag:
            case "Start" | "End":
                self._fields[tag] = text
            case "PageRange" | "ClearRange":
                self._take(cleared=tag == "ClearRange")
            case "NextMarker":
                self.marker = text
            case "PageList":
                self.is_complete = True

    def close(self) -> None:
        """End the document."""

    def _take(self, *, cleared: bool) -> None:
        """Take a range as far as it lies in the span."""
        start, end = self._fields.get("Start", ""), self._fields.get("End", "")
        if not start.isdecimal() or not end.isdecimal():
            raise DeltaferryError(ErrorKind.AZURE_FAILED, f"{_WHAT}: a range has no start or no end")
        first, behind = int(start), int(end) + 1
        if first >= behind or first % SECTOR or behind % SECTOR:
            raise DeltaferryError(ErrorKind.AZURE_FAILED, f"{_WHAT}: a range from {first} to {behind} is none of whole pages")
        first, behind = max(first, self._span.offset_bytes), min(behind, self._span.end_bytes)
        if first < behind:
            self.found.append(PageRange(Extent(first, behind - first), cleared))


def _parsed(response: HttpResponse, span: Extent) -> tuple[list[PageRange], str]:
    """Return an answer's ranges and its marker. Raises STORE_UNREACHABLE for an answer that is cut off."""
    listed, length = _PageList(span), 0
    parser = XMLParser(target=listed)
    try:
        for part in response.iter_bytes():
            length += len(part)
            if length > MAX_ANSWER_BYTES:
                raise DeltaferryError(ErrorKind.AZURE_FAILED, f"{_WHAT}: an answer is longer than {MAX_ANSWER_BYTES} bytes")
            parser.feed(part)
        parser.close()
    except ParseError:
        listed.is_complete = False
    if not listed.is_complete:
        raise DeltaferryError(ErrorKind.STORE_UNREACHABLE, f"{_WHAT}: an answer is cut off, or is no list of pages")
    return sorted(listed.found, key=lambda entry: entry.extent), listed.marker


def _joined(ranges: Iterator[PageRange]) -> Iterator[PageRange]:
    """Yield ranges with those of one kind joined that touch or overlap."""
    last: PageRange | None = None
    for entry in ranges:
        if (
            last is not None
            and last.cleared == entry.cleared
            and (last.extent.offset_bytes <= entry.extent.offset_bytes <= last.extent.end_bytes)
        ):
            end = max(last.extent.end_bytes, entry.extent.end_bytes)
            last = PageRange(Extent(last.extent.offset_bytes, end - last.extent.offset_bytes), last.cleared)
            continue
        if last is not None:
            yield last
        last = entry
    if last is not None:
        yield last
