"""Page ranges of snapshots, answer by answer: against the lab's blob service, and a service that answers what it shall not."""

import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4
from xml.sax.saxutils import escape

import pytest
from azure.storage.blob import BlobClient, BlobSasPermissions, ContainerClient, generate_blob_sas

from deltaferry.azure.page_ranges import PageRangeReader
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR
from deltaferry.ports.recovery import PageRange

from .conftest import ACCOUNT, MendedAccount

WHOLE = Extent(0, 64 * MIB)
SIGNATURE = "sv=2025&sig=hush"


# --- the lab's blob service, whose differences are true


@pytest.fixture
def container(mended: MendedAccount) -> Iterator[ContainerClient]:
    client = mended.account.client.create_container(f"df-test-{uuid4().hex[:16]}")
    yield client
    client.delete_container()


def signed(mended: MendedAccount, blob: BlobClient, snapshot: str) -> str:
    """Return a snapshot's URL with a signature, as beginGetAccess gives it."""
    key = mended.account._credential.read()  # type: ignore[union-attr]
    sas = generate_blob_sas(
        ACCOUNT,
        blob.container_name,
        blob.blob_name,
        snapshot=snapshot,
        account_key=key,
        permission=BlobSasPermissions(read=True),
        expiry=datetime.now(UTC) + timedelta(minutes=10),
    )
    return f"{blob.url}?snapshot={snapshot}&{sas}"


def reader(mended: MendedAccount, **options: int) -> PageRangeReader:
    ca_file = mended.account.access("any", write=False, lifetime=timedelta(minutes=1)).ca_file
    return PageRangeReader(ca_file=ca_file, retries=0, **options)


@pytest.fixture
def two_snapshots(mended: MendedAccount, container: ContainerClient) -> tuple[str, str]:
    """A disk that changed in many places between two snapshots: every other sector of two MiB, and one MiB that was cleared."""
    blob = container.get_blob_client("disk")
    blob.create_page_blob(64 * MIB)
    blob.upload_page(b"a" * MIB, 0, MIB)
    blob.upload_page(b"a" * MIB, 32 * MIB, MIB)
    first = str(blob.create_snapshot()["snapshot"])
    blob.upload_page((b"a" * SECTOR + b"b" * SECTOR) * (MIB // 2 // SECTOR), 0, MIB)
    blob.clear_page(32 * MIB, MIB)
    blob.upload_page(b"c" * SECTOR, 48 * MIB, SECTOR)
    second = str(blob.create_snapshot()["snapshot"])
    return signed(mended, blob, first), signed(mended, blob, second)


EXPECTED = [
    *(PageRange(Extent(sector * SECTOR, SECTOR), False) for sector in range(1, MIB // SECTOR, 2)),
    PageRange(Extent(32 * MIB, MIB), True),
    PageRange(Extent(48 * MIB, SECTOR), False),
]


@pytest.mark.parametrize(
    ("max_results", "window"), [(10_000, 64 * MIB), (100, 64 * MIB), (333, 16 * MIB), (10_000, 3 * SECTOR * 1000)]
)
def test_every_difference_is_found_however_the_answers_are_cut(
    mended: MendedAccount, two_snapshots: tuple[str, str], max_results: int, window: int
) -> None:
    first, second = two_snapshots
    found = reader(mended, max_results=max_results, window_bytes=window).of_managed_disk(second, first, WHOLE)
    assert list(found) == EXPECTED
    assert len(EXPECTED) > 1000


def test_without_an_earlier_snapshot_the_present_pages_are_listed(mended: MendedAccount, two_snapshots: tuple[str, str]) -> None:
    first, second = two_snapshots
    assert list(reader(mended).of_managed_disk(first, None, WHOLE)) == [
        PageRange(Extent(0, MIB), False),
        PageRange(Extent(32 * MIB, MIB), False),
    ]
    assert list(reader(mended).of_managed_disk(second, None, Extent(32 * MIB, 32 * MIB))) == [
        PageRange(Extent(48 * MIB, SECTOR), False)
    ]


def test_only_what_lies_in_the_span_is_listed(mended: MendedAccount, two_snapshots: tuple[str, str]) -> None:
    first, second = two_snapshots
    span = Extent(32 * MIB + SECTOR, 3 * SECTOR)
    assert list(reader(mended).of_managed_disk(second, first, span)) == [PageRange(span, True)]


def test_a_missing_snapshot_and_a_wrong_signature_are_told_apart_and_no_signature_is_told(
    mended: MendedAccount, two_snapshots: tuple[str, str]
) -> None:
    _, second = two_snapshots
    signature = parse_qs(urlsplit(second).query)["sig"][0]
    wrong = second.replace("sig=", "sig=AAAA")
    with pytest.raises(DeltaferryError) as caught:
        list(reader(mended).of_managed_disk(wrong, None, WHOLE))
    assert caught.value.kind is ErrorKind.STORE_ACCESS_DENIED
    assert signature not in str(caught.value) and "sig=" not in str(caught.value)


# --- a service that answers what a test tells it


@dataclass
class Teller:
    """Answers requests for page ranges with what was put into `answers`, by marker; keeps what was asked."""

    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[dict[str, str], dict[str, str]]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def teller() -> Iterator[Teller]:
    made = Teller()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            made.asked.append((query, {name.lower(): value for name, value in self.headers.items()}))
            status, headers, body = made.answers[query.get("marker", "")]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if headers.get("Content-Length"):
                self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}/md-1/snapshot?{SIGNATURE}"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def page(*ranges: tuple[int, int] | tuple[int, int, str], marker: str = "") -> tuple[int, dict[str, str], bytes]:
    """Return an answer: ranges by first and last sector, `PageRange` unless another element is named."""
    listed = "".join(
        "<{0}><Start>{1}</Start><End>{2}</End></{0}>".format(
            entry[2] if len(entry) == 3 else "PageRange", entry[0] * SECTOR, (entry[1] + 1) * SECTOR - 1
        )
        for entry in ranges
    )
    text = f'<?xml version="1.0" encoding="utf-8"?><PageList>{listed}<NextMarker>{escape(marker)}</NextMarker></PageList>'
    return 200, {"Content-Type": "application/xml"}, text.encode()


def listed(teller: Teller, previous: str | None = None, *, retries: int = 0, span: Extent = WHOLE) -> list[tuple[int, int, bool]]:
    found = PageRangeReader(retries=retries, max_results=5).of_managed_disk(teller.url, previous, span)
    return [(entry.extent.offset_bytes // SECTOR, (entry.extent.end_bytes - 1) // SECTOR, entry.cleared) for entry in found]


def test_an_answer_without_ranges_in_the_middle_does_not_end_the_list(teller: Teller) -> None:
    teller.answers = {"": page((0, 1), marker="a b/&"), "a b/&": page(marker="c"), "c": page((5, 5))}
    assert listed(teller) == [(0, 1, False), (5, 5, False)]
    assert [query.get("marker") for query, _ in teller.asked] == [None, "a b/&", "c"]


def test_ranges_that_touch_across_answers_are_one_and_those_of_another_kind_are_not(teller: Teller) -> None:
    teller.answers = {"": page((0, 1), (2, 3), marker="m"), "m": page((4, 5), (6, 7, "ClearRange"), (8, 9, "ClearRange"))}
    assert listed(teller) == [(0, 5, False), (6, 9, True)]


def test_clears_that_stand_behind_the_changes_are_put_in_order(teller: Teller) -> None:
    teller.answers = {"": page((0, 1), (8, 9), (4, 5, "ClearRange"))}
    assert listed(teller) == [(0, 1, False), (4, 5, True), (8, 9, False)]


def test_the_earlier_snapshot_is_named_in_a_header_and_the_signature_stays_in_the_address(teller: Teller) -> None:
    teller.answers = {"": page()}
    previous = "https://md.example/older?sig=psst"
    assert listed(teller, previous) == []
    ((query, headers),) = teller.asked
    assert headers["x-ms-previous-snapshot-url"] == previous
    assert (query["comp"], query["sig"], query["maxresults"]) == ("pagelist", "hush", "5")
    assert headers["x-ms-range"] == f"bytes=0-{64 * MIB - 1}"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, {}, b"<PageList><PageRange><Start>0</Start>"), ErrorKind.STORE_UNREACHABLE),
        ((200, {"Content-Length": "5000"}, page((0, 1))[2]), ErrorKind.STORE_UNREACHABLE),
        ((200, {}, b""), ErrorKind.STORE_UNREACHABLE),
        ((200, {}, b"<html></html>"), ErrorKind.STORE_UNREACHABLE),
        ((200, {}, b"<PageList><PageRange><Start>0</Start></PageRange></PageList>"), ErrorKind.AZURE_FAILED),
        ((200, {}, b"<PageList><PageRange><Start>7</Start><End>511</End></PageRange></PageList>"), ErrorKind.AZURE_FAILED),
        ((200, {}, b"<PageList><PageRange><Start>1024</Start><End>511</End></PageRange></PageList>"), ErrorKind.AZURE_FAILED),
        (page((0, 0), marker="m"), ErrorKind.AZURE_FAILED),
        ((200, {}, b"<PageList>" + b" " * (17 * MIB) + b"</PageList>"), ErrorKind.AZURE_FAILED),
        ((404, {"x-ms-error-code": "BlobNotFound"}, b""), ErrorKind.AZURE_NOT_FOUND),
        ((403, {"x-ms-error-code": "AuthenticationFailed"}, b""), ErrorKind.STORE_ACCESS_DENIED),
        ((503, {"x-ms-error-code": "ServerBusy", "Retry-After": "7"}, b""), ErrorKind.STORE_THROTTLED),
        ((500, {"x-ms-error-code": "OperationTimedOut"}, b""), ErrorKind.STORE_UNREACHABLE),
    ],
    ids=lambda value: value if isinstance(value, ErrorKind) else None,
)
def test_no_list_that_is_not_whole_passes_for_one(
    teller: Teller, answer: tuple[int, dict[str, str], bytes], kind: ErrorKind
) -> None:
    teller.answers = {"": answer, "m": answer}
    with pytest.raises(DeltaferryError) as caught:
        listed(teller, "https://md.example/older?sig=psst")
    assert caught.value.kind is kind
    assert "hush" not in str(caught.value) and "psst" not in str(caught.value)


def test_a_busy_service_is_asked_again(teller: Teller) -> None:
    class Recovering(dict[str, tuple[int, dict[str, str], bytes]]):
        def __getitem__(self, key: str) -> tuple[int, dict[str, str], bytes]:
            return (503, {"Retry-After": "0"}, b"") if len(teller.asked) == 1 else page((0, 1))

    teller.answers = Recovering()
    assert listed(teller, retries=1) == [(0, 1, False)]


def test_a_disk_in_many_pieces_takes_the_memory_of_one_answer(teller: Teller) -> None:
    class Endless(dict[str, tuple[int, dict[str, str], bytes]]):
        def __getitem__(self, key: str) -> tuple[int, dict[str, str], bytes]:
            number = int(key or 0)
            ranges = [((number * 1000 + n) * 2, (number * 1000 + n) * 2) for n in range(1000)]
            return page(*ranges, marker=str(number + 1) if number < 5 else "")

    teller.answers = Endless()
    found = PageRangeReader(retries=0).of_managed_disk(teller.url, None, WHOLE)
    counts, peaks = 0, []
    tracemalloc.start()
    try:
        for counts, _ in enumerate(found, 1):
            if counts % 2000 == 0:
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert counts == 6 * 1000
    assert peaks[-1] < 1.5 * peaks[0]
