"""How replies of a storage account become errors of the taxonomy: each comes from a real server, through the real SDK."""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

from deltaferry.azure.accounts import StorageAccount, account_name
from deltaferry.azure.credentials import AccountKey, CheckedCredential, ServicePrincipal, StaticToken
from deltaferry.azure.errors import ARM_BY_CODE, ARM_BY_STATUS, arm_error, retry_after
from deltaferry.azure.fault_table import BEING_DELETED
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.model.errors import CATALOGUE, DeltaferryError, ErrorKind
from deltaferry.model.replication import Store
from deltaferry.model.store_faults import STORE_FAULTS

from .conftest import RunningAzurite

HERE = [row for row in (*STORE_FAULTS, BEING_DELETED) if row.kind and row.name != "seed-missing"]
STORE_BY_CODE = {code: row.kind for row in HERE for code in row.codes}
STORE_BY_STATUS = {status: row.kind for row in HERE for status in row.statuses}
SECRET = "c2VjcmV0IGFjY291bnQga2V5"


@dataclass
class Scripted:
    """A server that gives one answer to everything."""

    url: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    requests: int = 0

    def store(self) -> BlobObjectStore:
        return BlobObjectStore(StorageAccount(self.url, AccountKey(lambda: SECRET), retries=0), Store.LOG)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.requests += 1
            self.send_response(script.status)
            for name, value in {"Content-Length": str(len(script.body)), **script.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(script.body)
            self.close_connection = "Content-Length" in script.headers

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Scripted(f"http://127.0.0.1:{server.server_port}/account")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


def failure(script: Scripted) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        script.store().get("container/name")
    return caught.value


@pytest.mark.parametrize(("code", "kind"), STORE_BY_CODE.items())
def test_a_storage_error_code_decides_the_kind(scripted: Scripted, code: str, kind: ErrorKind) -> None:
    scripted.status, scripted.headers = 409, {"x-ms-error-code": code}
    error = failure(scripted)
    assert (error.kind, code in error.detail) == (kind, True)


@pytest.mark.parametrize(("status", "kind"), STORE_BY_STATUS.items())
def test_without_a_code_the_status_decides_the_kind(scripted: Scripted, status: int, kind: ErrorKind) -> None:
    scripted.status = status
    assert failure(scripted).kind is kind


def test_a_busy_account_says_when_to_come_back(scripted: Scripted) -> None:
    scripted.status, scripted.headers = 503, {"x-ms-error-code": "ServerBusy", "Retry-After": "7"}
    error = failure(scripted)
    assert (error.kind, error.retry_after) == (ErrorKind.STORE_THROTTLED, timedelta(seconds=7))


def test_the_sdks_own_retries_are_as_many_as_asked_for_and_beat(scripted: Scripted) -> None:
    scripted.status = 503
    beats: list[int] = []
    account = StorageAccount(scripted.url, AccountKey(lambda: SECRET), retries=1, beat=lambda: beats.append(scripted.requests))
    with pytest.raises(DeltaferryError):
        BlobObjectStore(account, Store.LOG).get("container/name")
    assert scripted.requests == 2
    assert beats == [0, 1]


def test_a_reply_that_is_none_of_these_is_a_failure_of_azures_and_no_reason_for_a_repair(scripted: Scripted) -> None:
    scripted.status, scripted.headers = 418, {"x-ms-error-code": "Teapot"}
    assert failure(scripted).kind is ErrorKind.AZURE_FAILED


def test_a_reply_that_breaks_off_is_unreachable(scripted: Scripted) -> None:
    scripted.status, scripted.body = 206, b"half of it"
    scripted.headers = {"Content-Length": "20", "Content-Range": "bytes 0-19/20", "ETag": '"1"'}
    error = failure(scripted)
    assert error.kind is ErrorKind.STORE_UNREACHABLE
    assert "container/name" in error.detail


def test_the_services_text_never_becomes_part_of_the_error(scripted: Scripted) -> None:
    scripted.status = 403
    scripted.headers = {"x-ms-error-code": "AuthenticationFailed", "Content-Type": "application/xml"}
    scripted.body = b"<Error><Code>AuthenticationFailed</Code><Message>The MAC signature 'abcdef=' is wrong</Message></Error>"
    error = failure(scripted)
    assert "abcdef" not in str(error) and SECRET not in str(error)
    assert error.__cause__ is None and error.__suppress_context__


def test_no_key_signature_or_token_is_logged(azurite: RunningAzurite, container: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = BlobObjectStore(azurite.account(), Store.LOG)
    store.put(f"{container}/x", b"x")
    signature = store.access(container, write=True, lifetime=timedelta(minutes=1)).query.partition("sig=")[2].partition("&")[0]
    assert list(store.list(container, ""))
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "PUT" in logged
    assert azurite.key not in logged and signature not in logged and "SharedKey " not in logged


def test_an_http_date_is_a_retry_after_too() -> None:
    class Reply:
        status_code, reason = 429, "Too Many Requests"
        headers = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)}  # noqa: RUF012

        def text(self) -> str:
            return "{}"

    wait = retry_after(HttpResponseError(response=Reply()))
    assert wait is not None and timedelta(seconds=60) < wait <= timedelta(seconds=90)


def test_every_kind_of_the_tables_is_in_the_catalogue() -> None:
    kinds = {*STORE_BY_CODE.values(), *STORE_BY_STATUS.values(), *ARM_BY_CODE.values(), *ARM_BY_STATUS.values()}
    assert kinds <= CATALOGUE.keys()


def test_arms_message_is_kept_without_signatures() -> None:
    class Reply:
        status_code, reason, headers = 409, "Conflict", {}

        def text(self) -> str:
            return json.dumps(
                {"error": {"code": "QuotaExceeded", "message": "blob https://a/b?sv=1&sig=abc%3D&se=2 is too much"}}
            )

    error = arm_error(HttpResponseError(response=Reply()), "importing disk d")
    assert error.kind is ErrorKind.AZURE_QUOTA
    assert error.detail == "importing disk d: QuotaExceeded, HTTP 409: blob https://a/b?sv=1&sig=…&se=2 is too much"


def test_a_refused_log_in_is_told_apart_from_an_unreachable_one() -> None:
    class Broken:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def get_token(self, *scopes: str, **_: object) -> AccessToken:
            raise self.error

    kinds = {}
    for error in (ClientAuthenticationError("secret text"), ServiceRequestError("secret text")):
        with pytest.raises(DeltaferryError) as caught:
            CheckedCredential(Broken(error)).get_token("https://management.azure.com/.default")
        kinds[type(error)] = caught.value.kind
        assert "secret text" not in str(caught.value)
    assert kinds == {
        ClientAuthenticationError: ErrorKind.AZURE_LOGIN_REJECTED,
        ServiceRequestError: ErrorKind.AZURE_UNREACHABLE,
    }


def test_a_static_token_is_read_each_time_and_shows_in_no_repr() -> None:
    tokens = iter(["one", "two"])
    credential = StaticToken(lambda: next(tokens))
    assert [credential.get_token("scope").token for _ in range(2)] == ["one", "two"]
    assert "one" not in repr(credential)
    assert SECRET not in repr(AccountKey(lambda: SECRET))


def test_a_service_principals_secret_is_read_when_it_is_needed() -> None:
    read = []
    ServicePrincipal("tenant", "client", lambda: read.append(1) or SECRET)
    assert read == []


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://acct.blob.core.windows.net", "acct"),
        ("https://acct.privatelink.blob.core.usgovcloudapi.net/", "acct"),
        ("https://127.0.0.1:10000/acct", "acct"),
        ("http://localhost:10000/acct/", "acct"),
    ],
)
def test_the_account_is_known_from_either_style_of_url(url: str, name: str) -> None:
    assert account_name(url) == name


@pytest.mark.parametrize(
    "url", ["", "acct", "ftp://acct.blob", "https://127.0.0.1:10000", "https://a.b/acct/container", "https://a.b?sv=1"]
)
def test_what_is_no_blob_endpoint_is_bad_configuration(url: str) -> None:
    with pytest.raises(DeltaferryError) as caught:
        account_name(url)
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION


def test_a_token_never_travels_over_plain_http() -> None:
    with pytest.raises(DeltaferryError) as caught:
        StorageAccount("http://127.0.0.1:1/acct", StaticToken(lambda: "token"))
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
