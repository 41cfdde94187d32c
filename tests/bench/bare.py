"""The bare loop: the same library calls as the product, with nothing around them. Run as `python -m tests.bench.bare`.

Threads take one block after the other and carry each through all steps. No retries, no plan, no manifest, no sector set, no
checksum map, no identity in the associated data: what the product adds to this is what the bench shows.
"""

import http.client
import itertools
import os
import pickle
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from deltaferry.blocks.nbd import NbdClient
from deltaferry.model.units import BLOCK, GRANULE
from deltaferry.ports.access import BlobAccess
from tests.bench.bare_job import Area, BareJob, BareResult

_NONCE = bytes(12)
_TAG_BYTES = 16
_CHECKSUM_BYTES = 16
_HEAD = struct.Struct("<32sIII")
_OBJECT_BYTES = BLOCK + (1 << 20)
_VERSION = {"x-ms-version": "2023-11-03"}
_ZEROS = bytes(GRANULE)


class _Http:
    """A keep-alive connection for each thread and store."""

    def __init__(self, access: BlobAccess) -> None:
        parts = urlsplit(access.url)
        self._host, self._port, self._path, self._query = parts.hostname or "", parts.port, parts.path, access.query
        self._context = ssl.create_default_context(cafile=access.ca_file)
        self._local = threading.local()

    def call(
        self, method: str, name: str, headers: dict[str, str], body: memoryview | None = None, comp: str = ""
    ) -> http.client.HTTPResponse:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPSConnection(self._host, self._port, context=self._context)
        target = f"{self._path}/{name}?{comp}{self._query}"
        connection.request(method, target, body, {**_VERSION, **headers})
        response = connection.getresponse()
        if response.status >= 300:
            raise RuntimeError(f"{method} {name}: {response.status} {response.headers.get('x-ms-error-code')}")
        return response

    def put(self, name: str, body: memoryview) -> None:
        self.call("PUT", name, {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*"}, body).read()

    def page(self, name: str, offset: int, body: memoryview) -> None:
        byte_range = {"x-ms-page-write": "update", "x-ms-range": f"bytes={offset}-{offset + len(body) - 1}"}
        self.call("PUT", name, byte_range, body, comp="comp=page&").read()

    def get(self, name: str, buffer: memoryview) -> int:
        response = self.call("GET", name, {})
        length = response.length or 0
        filled = 0
        while filled < length:
            filled += response.readinto(buffer[filled:length])
        response.read()
        return filled


class _Loop:
    """One thread's buffers and steps."""

    def __init__(self, job: BareJob, clients: Sequence[NbdClient | None], log: _Http, seed: _Http) -> None:
        self._job = job
        self._clients = clients
        self._log = log
        self._seed = seed
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"checksum").derive(job.data_key)
        self._zero = blake3(_ZEROS, key=self._key).digest(_CHECKSUM_BYTES)
        self._raw = bytearray(BLOCK)
        self._plain = memoryview(self._raw)
        self._stored = memoryview(bytearray(_OBJECT_BYTES))
        self._packed = memoryview(bytearray(_OBJECT_BYTES))
        self._granules = memoryview(bytearray(16 * GRANULE))
        self._compressor = zstandard.ZstdCompressor(level=1, write_checksum=False, write_content_size=True)
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2 * BLOCK)
        self._zero_block = bytes(BLOCK)

    def _cipher(self, salt: bytes, name: str) -> AESGCM:
        return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=name.encode()).derive(self._job.data_key))

    def send(self, index: int, number: int) -> tuple[str, int] | None:
        """Read a block, and store it unless it is zero; return the object's name and size."""
        areas = self._job.disks[index].blocks[number]
        runs, checksums, length = self._read(index, areas)
        if not runs:
            return None
        name = f"{index}/{number:010}"
        frame = self._compressor.compress(self._plain[:length])
        head = _HEAD.pack(os.urandom(32), length, len(runs), len(checksums))
        head += struct.pack(f"<{2 * len(runs)}Q", *itertools.chain.from_iterable(runs)) + b"".join(checksums)
        size = len(head) + len(frame) + _TAG_BYTES
        stored = self._stored[:size]
        stored[: len(head)] = head
        self._cipher(head[:32], name).encrypt_into(_NONCE, frame, head, stored[len(head) :])
        blake3(stored).digest()
        self._log.put(name, stored)
        return name, size

    def _read(self, index: int, areas: tuple[Area, ...]) -> tuple[list[Area], list[bytes], int]:
        """Read areas; return runs of data, their checksums, and how many bytes of data stand in the buffer."""
        client = self._clients[index]
        assert client is not None
        if any(offset % GRANULE or length % GRANULE for offset, length in areas):
            return self._read_granules(client, areas)
        position = 0
        reads = []
        for offset, length in areas:
            reads.append((offset, self._plain[position : position + length]))
            position += length
        client.read_many(reads)
        if position == BLOCK and self._raw == self._zero_block:
            return [], [], 0
        runs: list[Area] = []
        checksums: list[bytes] = []
        source = target = 0
        for offset, length in areas:
            for piece in range(offset, offset + length, GRANULE):
                part = self._plain[source : source + GRANULE]
                source += GRANULE
                checksum = blake3(part, key=self._key).digest(_CHECKSUM_BYTES)
                if checksum == self._zero:
                    continue
                if source - GRANULE != target:
                    self._plain[target : target + GRANULE] = part
                target += GRANULE
                checksums.append(checksum)
                if runs and sum(runs[-1]) == piece:
                    runs[-1] = (runs[-1][0], runs[-1][1] + GRANULE)
                else:
                    runs.append((piece, GRANULE))
        return runs, checksums, target

    def _read_granules(self, client: NbdClient, areas: tuple[Area, ...]) -> tuple[list[Area], list[bytes], int]:
        """Read the whole granule around each small area: the format wants the checksums of both."""
        runs: list[Area] = []
        checksums: list[bytes] = []
        position = 0
        for first in range(0, len(areas), 16):
            batch = areas[first : first + 16]
            parts = [self._granules[slot * GRANULE : (slot + 1) * GRANULE] for slot in range(len(batch))]
            client.read_many([(offset // GRANULE * GRANULE, part) for (offset, _), part in zip(batch, parts, strict=True)])
            for (offset, length), part in zip(batch, parts, strict=True):
                piece = part[offset % GRANULE : offset % GRANULE + length]
                checksums.append(blake3(part, key=self._key).digest(_CHECKSUM_BYTES))
                checksum = blake3(piece, key=self._key).digest(_CHECKSUM_BYTES)
                if piece == _ZEROS[:length]:
                    continue
                checksums.append(checksum)
                self._plain[position : position + length] = piece
                position += length
                runs.append((offset, length))
        return runs, checksums, position

    def apply(self, index: int, name: str, writers: ThreadPoolExecutor) -> None:
        """Fetch an object and write its pages."""
        size = self._log.get(name, self._stored)
        stored = self._stored[:size]
        blake3(stored).digest()
        salt, length, run_count, checksum_count = _HEAD.unpack_from(stored)
        at = _HEAD.size + 16 * run_count
        end = at + checksum_count * _CHECKSUM_BYTES
        numbers = struct.unpack_from(f"<{2 * run_count}Q", stored, _HEAD.size)
        packed = self._packed[: size - end - _TAG_BYTES]
        self._cipher(salt, name).decrypt_into(_NONCE, stored[end:], stored[:end], packed)
        plain = self._plain[:length]
        filled = 0
        with self._decompressor.stream_reader(packed) as frame:
            while filled < length:
                filled += frame.readinto(plain[filled:])
        pages = []
        position = 0
        for offset, count in zip(numbers[::2], numbers[1::2], strict=True):
            for start in range(position, position + count, GRANULE):
                blake3(plain[start : min(start + GRANULE, position + count)], key=self._key).digest(_CHECKSUM_BYTES)
            pages.append((offset, plain[position : position + count]))
            position += count
        seed = self._job.disks[index].seed_name
        if len(pages) <= 4:
            for offset, part in pages:
                self._seed.page(seed, offset, part)
        else:
            list(writers.map(lambda page: self._seed.page(seed, *page), pages))


def run(job: BareJob) -> BareResult:
    """Do a job."""
    clients = [NbdClient(disk.source) if disk.source is not None else None for disk in job.disks]
    log, seed = _Http(job.log), _Http(job.seed)
    stored: list[list[tuple[str, int]]] = [[] for _ in job.disks]
    failures: list[BaseException] = []
    work: Iterator[tuple[int, int | str]] = iter([
        (index, item)
        for index, disk in enumerate(job.disks)
        for item in (disk.objects if job.steps == "apply" else range(len(disk.blocks)))
    ])  # fmt: skip
    with ThreadPoolExecutor(job.page_writers) as writers:

        def carry() -> None:
            try:
                loop = _Loop(job, clients, log, seed)
                for index, item in work:
                    if isinstance(item, str):
                        loop.apply(index, item, writers)
                    elif (done := loop.send(index, item)) is not None:
                        stored[index].append(done)
                        if job.steps == "carry":
                            loop.apply(index, done[0], writers)
            except BaseException as error:  # raised below, by the thread that waits
                failures.append(error)

        _together(job.threads, carry)
    if failures:
        raise failures[0]
    names = tuple(tuple(sorted(name for name, _ in disk)) for disk in stored)
    return BareResult(names, sum(size for disk in stored for _, size in disk))


def _together(count: int, carry: Callable[[], None]) -> None:
    threads = [threading.Thread(target=carry) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Do the job that stands on standard input."""
    result = run(pickle.load(sys.stdin.buffer))
    sys.stdout.buffer.write(pickle.dumps(result))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
