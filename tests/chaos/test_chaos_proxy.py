"""The chaos proxy itself: what it does to a real server's traffic, by order, and that it changes nothing without one."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.certificates import Certificates, make_certificates
from lab.chaos_proxy_control import ChaosProxyService, ProxyControl
from lab.chaos_proxy_faults import Direction, ProxyAction, ProxyFault
from lab.chaos_proxy_routes import Route

_LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def whole_lab() -> None:
    """These tests need no lab."""


class _Store(BaseHTTPRequestHandler):
    """Keeps what is put, and counts."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, list[bytes]] = {}  # noqa: RUF012  # one for all connections

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        self.kept.setdefault(self.path, []).append(body)
        self._reply(201, b"")

    def do_GET(self) -> None:
        self._reply(200, self.kept[self.path][-1])

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Way:
    """A server, and the proxy before it."""

    def __init__(self, certificates: Certificates, proxy: ChaosProxyService) -> None:
        self._context = ssl.create_default_context(cafile=certificates.ca_file)
        self._port = proxy.port("store")
        self.raw_port = proxy.port("raw")
        self.control: ProxyControl = proxy.control
        self.kept = _Store.kept

    def request(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = _LIMIT_S) -> tuple[int, bytes]:
        with closing(
            http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=timeout_s)
        ) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder: Path = tmp_path_factory.mktemp("proxy")
    certificates = make_certificates(folder / "certificates")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate_file, certificates.key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    echo = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=_echo, args=(echo,), daemon=True).start()
    service = ChaosProxyService(folder, folder, certificates, seed=7)
    routes = (
        Route("store", "127.0.0.1", server.server_address[1], https=True),
        Route("raw", "127.0.0.1", echo.getsockname()[1], https=False),
    )
    try:
        service.start(routes)
        yield Way(certificates, service)
    finally:
        service.process.stop()
        server.shutdown()
        server.server_close()
        echo.close()


def _echo(listener: socket.socket) -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


@pytest.fixture
def way(proxied: Way, request: pytest.FixtureRequest) -> Iterator[Way]:
    _Store.kept.clear()
    yield proxied
    proxied.control.clear()


def cut(way: Way, method: str, path: str, body: bytes | None = None) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        way.request(method, path, body)


def eventually(condition: object) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_an_order_nothing_changes(way: Way) -> None:
    body = bytes(range(256)) * 4096
    assert way.request("PUT", "/a", body) == (201, b"")
    assert way.request("GET", "/a") == (200, body)


def test_a_refusal_has_no_effect_and_says_when_to_come_again(way: Way) -> None:
    way.control.order(ProxyFault(ProxyAction.UNAVAILABLE, method="PUT", retry_after_s=3))
    way.control.order(ProxyFault(ProxyAction.TIMED_OUT, path_contains="/a"))
    assert [way.request("PUT", "/a", b"x")[0] for _ in range(3)] == [503, 500, 201]
    assert way.kept == {"/a": [b"x"]}


def test_a_dropped_response_follows_the_effect(way: Way) -> None:
    way.control.order(ProxyFault(ProxyAction.DROP))
    cut(way, "PUT", "/a", b"x")
    assert way.kept == {"/a": [b"x"]}


def test_a_duplicated_request_is_carried_out_twice_and_answered_once(way: Way) -> None:
    way.control.order(ProxyFault(ProxyAction.DUPLICATE))
    assert way.request("PUT", "/a", b"x")[0] == 201
    eventually(lambda: way.control.report().late[-1:] == (201,))
    assert way.kept == {"/a": [b"x", b"x"]}


def test_a_late_request_arrives_when_it_is_released_though_its_client_is_gone(way: Way) -> None:
    way.control.order(ProxyFault(ProxyAction.LATE))
    cut(way, "PUT", "/a", b"old")
    assert way.request("PUT", "/a", b"new")[0] == 201
    assert way.kept == {"/a": [b"new"]}
    way.control.release()
    eventually(lambda: way.kept == {"/a": [b"new", b"old"]})


def test_a_held_request_goes_on_when_it_is_released(way: Way) -> None:
    way.control.order(ProxyFault(ProxyAction.HOLD))
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(way.request("PUT", "/a", b"x")[0]))
    thread.start()
    eventually(lambda: way.control.report().held == 1)
    assert way.kept == {}
    way.control.release()
    thread.join(_LIMIT_S)
    assert (done, way.kept) == ([201], {"/a": [b"x"]})


@pytest.mark.parametrize("direction", list(Direction))
def test_one_bit_is_flipped(way: Way, direction: Direction) -> None:
    body = bytes(1000)
    way.control.order(
        ProxyFault(ProxyAction.FLIP, method="PUT" if direction is Direction.TO_SERVER else "GET", direction=direction)
    )
    way.request("PUT", "/a", body)
    received = way.request("GET", "/a")[1]
    assert sum(byte.bit_count() for byte in received) == 1
    assert len(received) == len(body)


def test_a_truncated_body_is_well_formed_and_a_cut_one_is_not(way: Way) -> None:
    way.request("PUT", "/a", bytes(1000))
    way.control.order(ProxyFault(ProxyAction.TRUNCATE, method="GET", after_bytes=10))
    way.control.order(ProxyFault(ProxyAction.CUT, method="GET", after_bytes=200))
    assert way.request("GET", "/a") == (200, bytes(10))
    cut(way, "GET", "/a")
    way.control.order(ProxyFault(ProxyAction.CUT, method="PUT", after_bytes=300, direction=Direction.TO_SERVER))
    cut(way, "PUT", "/b", bytes(1000))
    assert "/b" not in way.kept


def test_a_share_of_the_requests_meets_a_fault_the_same_ones_for_a_seed(way: Way) -> None:
    way.control.order(ProxyFault(ProxyAction.UNAVAILABLE, share=0.3, count=1000))
    statuses = [way.request("PUT", "/a", b"x")[0] for _ in range(60)]
    assert 5 < statuses.count(503) < 35
    assert way.control.met("unavailable", "store") >= statuses.count(503)


def test_a_route_that_is_down_ends_connections_and_refuses_new_ones(way: Way) -> None:
    with socket.create_connection(("127.0.0.1", way.raw_port), timeout=_LIMIT_S) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
        way.control.take_down("raw")
        with pytest.raises(OSError):  # which one depends on where the reset meets it
            while True:
                connection.sendall(b"more")
                if not connection.recv(100):
                    raise ConnectionResetError
    assert way.request("PUT", "/a", b"x")[0] == 201
    way.control.bring_up()
    with socket.create_connection(("127.0.0.1", way.raw_port), timeout=_LIMIT_S) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"


def test_a_byte_stream_is_cut_or_changed_at_its_byte(way: Way) -> None:
    way.control.order(ProxyFault(ProxyAction.CUT, route="raw", after_bytes=5))
    way.control.order(ProxyFault(ProxyAction.FLIP, route="raw", after_bytes=5))
    received = []
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", way.raw_port), timeout=_LIMIT_S) as connection:
            connection.sendall(bytes(10))
            data = b""
            while len(data) < 10 and (part := connection.recv(10)):
                data += part
            received.append(data)
    assert received[0] == bytes(5)
    assert len(received[1]) == 10
    assert [index for index, byte in enumerate(received[1]) if byte] == [5]


def test_the_control_port_wants_its_token(way: Way) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", way.control.port, timeout=_LIMIT_S)) as connection:
        connection.request("GET", "/faults", headers={"Authorization": "Bearer wrong"})
        assert connection.getresponse().status == 401
