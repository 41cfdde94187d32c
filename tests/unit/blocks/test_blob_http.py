"""The hot path to blob storage, against Azurite, and against a scripted server for what Azurite never does."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deltaferry.blocks.blob_http import BlobClient, HttpLimits, Role
from deltaferry.blocks.pacing import Pacer
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR
from deltaferry.ports.access import BlobAccess

FAST = Pacer(1 << 40)


def refused(call: Callable[[], object]) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        call()
    return caught.value


@pytest.fixture
def container(storage: Any) -> str:
    return str(storage.container())


@pytest.fixture
def client(storage: Any, container: str) -> Iterator[BlobClient]:
    made = BlobClient(storage.access(container), Role.LOG)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["cycles/1-a/2000/0000000001", "a b/%41+ü?&#'.bin"])
def test_an_object_is_stored_once_and_read_back(client: BlobClient, storage: Any, container: str, name: str) -> None:
    data = os.urandom(BLOCK)
    digest = blake3(data).digest()
    assert client.put_new(name, memoryview(data), digest)
    assert not client.put_new(name, memoryview(b"other"), bytes(32))
    assert client.stored(name) == (digest, len(data))
    buffer = memoryview(bytearray(BLOCK + 5))
    assert client.get_into(name, buffer) == len(data)
    assert buffer[:BLOCK] == data
    assert [blob.name for blob in storage.service().get_container_client(container).list_blobs()] == [name]


def test_an_object_larger_than_the_buffer_is_damaged(client: BlobClient) -> None:
    client.put_new("big", memoryview(bytes(100)), bytes(32))
    assert refused(lambda: client.get_into("big", memoryview(bytearray(99)))).kind is ErrorKind.SEGMENT_DAMAGED
    assert client.get_into("big", memoryview(bytearray(100))) == 100


def test_an_object_that_does_not_say_its_digest_is_damaged(client: BlobClient, storage: Any, container: str) -> None:
    storage.service().get_blob_client(container, "bare").upload_blob(b"x")
    assert refused(lambda: client.stored("bare")).kind is ErrorKind.SEGMENT_DAMAGED


def test_pages_are_put_and_cleared_under_their_number_only(client: BlobClient, storage: Any, container: str) -> None:
    storage.create_seed(container, "seed", MIB, 3)
    data = os.urandom(GRANULE)
    client.put_page("seed", SECTOR, memoryview(data), 3, FAST)
    client.clear_page("seed", 2 * SECTOR, SECTOR, 3, FAST)
    expected = bytearray(SECTOR) + data
    expected[2 * SECTOR : 3 * SECTOR] = bytes(SECTOR)
    assert storage.read(container, "seed", len(expected)) == expected
    for number in (2, 4):
        for call in (
            lambda number=number: client.put_page("seed", 0, memoryview(data), number, FAST),
            lambda number=number: client.clear_page("seed", 0, MIB, number, FAST),
        ):
            error = refused(call)
            assert (error.kind, error.number) == (ErrorKind.FENCED, 3)
    assert storage.read(container, "seed", len(expected)) == expected


def test_a_missing_blob_is_named_by_what_it_is(storage: Any, container: str) -> None:
    access = storage.access(container)
    buffer = memoryview(bytearray(10))
    assert refused(lambda: BlobClient(access, Role.LOG).get_into("x", buffer)).kind is ErrorKind.STORE_OBJECT_MISSING
    assert refused(lambda: BlobClient(access, Role.LOG).stored("x")).kind is ErrorKind.STORE_OBJECT_MISSING
    assert refused(lambda: BlobClient(access, Role.SEED).clear_page("x", 0, SECTOR, 1, FAST)).kind is ErrorKind.SEED_MISSING


def test_an_expired_signature_is_denied_and_not_shown(storage: Any, container: str) -> None:
    access = storage.access(container, valid_for=timedelta(hours=-1))
    error = refused(lambda: BlobClient(access, Role.LOG).get_into("x", memoryview(bytearray(10))))
    assert error.kind is ErrorKind.STORE_ACCESS_DENIED
    assert "sig=" not in str(error)


def test_a_url_that_is_not_http_is_a_wrong_configuration() -> None:
    assert refused(lambda: BlobClient(BlobAccess("ftp://x/y", ""), Role.LOG)).kind is ErrorKind.BAD_CONFIGURATION


# --- a server that does as it is told


@dataclass
class Script:
    """Answers in order, the last one for ever: a status with headers, or None to hang up."""

    answers: list[tuple[int, dict[str, str]] | None]
    seen: list[tuple[str, int]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    """The clients' ports."""


class _Scripted(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _answer(self) -> None:
        script: Script = self.server.script
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        script.seen.append((self.command, len(body)))
        script.connections.add(self.client_address[1])
        answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
        if answer is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        status, headers = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        payload = json.dumps({}).encode()
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    do_PUT = do_GET = do_HEAD = _answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[BlobClient, Script]]]:
    servers = []

    def make(*answers: tuple[int, dict[str, str]] | None, retry_for_s: float = 20) -> tuple[BlobClient, Script]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
        server.daemon_threads = True
        script = Script(list(answers))
        server.script = script  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        access = BlobAccess(f"http://127.0.0.1:{server.server_address[1]}/c", "sig=secret")
        return BlobClient(access, Role.SEED, HttpLimits(timeout_s=5, retry_for_s=retry_for_s)), script

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


BUSY = (503, {"x-ms-error-code": "ServerBusy", "Retry-After": "0"})
TIMED_OUT = (500, {"x-ms-error-code": "OperationTimedOut"})
DONE: tuple[int, dict[str, str]] = (201, {})
PAGE = memoryview(bytes(3 * GRANULE))


def test_threads_share_the_connections_that_are_idle(scripted: Callable[..., tuple[BlobClient, Script]]) -> None:
    client, script = scripted(DONE)

    def put() -> None:
        client.put_page("seed", 0, PAGE, 1, FAST)

    for _ in range(3):
        thread = threading.Thread(target=put)
        thread.start()
        thread.join()
    assert len(script.seen) == 3
    assert len(script.connections) == 1
    client.close()
    put()
    assert len(script.connections) == 2


def test_a_connection_that_ends_takes_those_that_are_idle_along(scripted: Callable[..., tuple[BlobClient, Script]]) -> None:
    client, script = scripted(DONE)
    both = threading.Barrier(2, timeout=30)

    class Together:
        """Sends the last byte when the other request is under way too."""

        waited_s = 0.0

        def take(self, remaining_bytes: int) -> int:
            if remaining_bytes == 1:
                both.wait()
            return 1

    objects = [
        threading.Thread(target=client.put_new, args=(name, memoryview(b"xy"), bytes(32), Together())) for name in ("a", "b")
    ]
    for thread in objects:
        thread.start()
    for thread in objects:
        thread.join()
    assert len(script.connections) == 2
    script.answers[:] = [None, DONE]
    client.put_page("seed", 0, PAGE, 1, FAST)
    assert len(script.connections) == 3, "it was sent again on a new connection"


@pytest.mark.parametrize("passing", [BUSY, TIMED_OUT, None])
def test_what_may_pass_is_tried_again(scripted: Callable[..., tuple[BlobClient, Script]], passing: Any) -> None:
    client, script = scripted(passing, passing, DONE)
    client.put_page("seed", 0, PAGE, 1, FAST)
    assert script.seen == [("PUT", len(PAGE))] * 3


def test_an_object_whose_first_reply_was_lost_counts_as_existing(scripted: Callable[..., tuple[BlobClient, Script]]) -> None:
    client, _ = scripted(None, (409, {"x-ms-error-code": "BlobAlreadyExists"}))
    assert not client.put_new("x", PAGE, bytes(32))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (BUSY, ErrorKind.STORE_THROTTLED),
        (TIMED_OUT, ErrorKind.STORE_UNREACHABLE),
        (None, ErrorKind.STORE_UNREACHABLE),
        ((403, {"x-ms-error-code": "AuthenticationFailed"}), ErrorKind.STORE_ACCESS_DENIED),
        ((401, {}), ErrorKind.STORE_ACCESS_DENIED),
        ((409, {"x-ms-error-code": "MemoryExtentStoreAtSizeLimit"}), ErrorKind.STORE_FULL),
        ((404, {"x-ms-error-code": "ContainerNotFound"}), ErrorKind.SEED_MISSING),
        ((409, {"x-ms-error-code": "ContainerBeingDeleted"}), ErrorKind.SEED_MISSING),
        ((412, {"x-ms-error-code": "SequenceNumberConditionNotMet"}), ErrorKind.FENCED),
        ((416, {"x-ms-error-code": "InvalidPageRange"}), ErrorKind.AZURE_FAILED),
    ],
)
def test_a_refusal_becomes_its_kind_by_status_and_code(
    scripted: Callable[..., tuple[BlobClient, Script]], answer: Any, kind: ErrorKind
) -> None:
    client, _ = scripted(answer, retry_for_s=0.3)
    error = refused(lambda: client.put_page("seed", 0, PAGE, 1, FAST))
    assert error.kind is kind
    assert "secret" not in str(error)


def test_a_retry_after_beyond_our_patience_is_handed_on_at_once(scripted: Callable[..., tuple[BlobClient, Script]]) -> None:
    client, script = scripted((503, {"x-ms-error-code": "ServerBusy", "Retry-After": "600"}))
    error = refused(lambda: client.put_page("seed", 0, PAGE, 1, FAST))
    assert (error.kind, error.retry_after) == (ErrorKind.STORE_THROTTLED, timedelta(minutes=10))
    assert len(script.seen) == 1


def test_a_503_slows_the_pace_of_that_blob(scripted: Callable[..., tuple[BlobClient, Script]]) -> None:
    client, _ = scripted(BUSY, BUSY, DONE)
    pacer = Pacer(1 << 30)
    client.put_page("seed", 0, PAGE, 1, pacer)
    assert (1 << 30) * 0.6 < pacer.bytes_per_s < (1 << 30) * 0.75


def test_requests_are_spread_over_time_by_their_size_and_number() -> None:
    pacer = Pacer(4 * MIB, clock=lambda: 100.0)
    assert [pacer.reserve(MIB) for _ in range(3)] == [0, 0.25, 0.5]
    assert [round(pacer.reserve(0), 6) for _ in range(3)] == [0.75, 0.752, 0.754]


def test_a_throttled_blob_recovers_and_is_not_cut_twice_in_twenty_seconds() -> None:
    now = [0.0]
    pacer = Pacer(100, clock=lambda: now[0])
    pacer.throttled()
    pacer.throttled()
    assert pacer.bytes_per_s == 65
    now[0] = 10.0
    pacer.reserve(0)
    assert round(pacer.bytes_per_s, 1) == 75.4
    now[0] = 20.0
    pacer.throttled()
    assert pacer.bytes_per_s < 60
    now[0] = 1000.0
    pacer.reserve(0)
    assert pacer.bytes_per_s == 100


def test_a_refusal_before_the_body_was_read_is_still_understood() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):  # the write, and the question for the number that fences it off
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(
                    b"HTTP/1.1 412 no\r\nx-ms-error-code: SequenceNumberConditionNotMet\r\nContent-Length: 0\r\n\r\n"
                )
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        client = BlobClient(BlobAccess(f"http://127.0.0.1:{listener.getsockname()[1]}/c", ""), Role.SEED, HttpLimits(5, 0.1))
        assert refused(lambda: client.put_page("seed", 0, memoryview(bytes(BLOCK)), 1, FAST)).kind is ErrorKind.FENCED
        thread.join()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[BlobAccess, BlobAccess]]:
    """A scripted server over TLS: access that trusts its certificate, and access that does not."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, key_file = tmp_path / "ca.pem", tmp_path / "key.pem"
    authority.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key_file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.script = Script([DONE])  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_address[1]}/c"
    yield BlobAccess(url, "", str(authority)), BlobAccess(url, "")
    server.shutdown()
    server.server_close()


def test_tls_is_spoken_with_a_server_that_is_verified_and_with_no_other(tls_server: tuple[BlobAccess, BlobAccess]) -> None:
    trusting, doubting = tls_server
    client = BlobClient(trusting, Role.SEED, HttpLimits(5, 5))
    client.put_page("seed", 0, memoryview(os.urandom(BLOCK)), 1, FAST)
    client.close()
    assert (
        refused(lambda: BlobClient(doubting, Role.SEED).clear_page("seed", 0, SECTOR, 1, FAST)).kind
        is ErrorKind.BAD_CONFIGURATION
    )


def test_nobody_listening_is_a_store_that_cannot_be_reached() -> None:
    client = BlobClient(BlobAccess("http://127.0.0.1:1/c", ""), Role.LOG, HttpLimits(1, 0.5))
    assert refused(lambda: client.get_into("x", memoryview(bytearray(1)))).kind is ErrorKind.STORE_UNREACHABLE
