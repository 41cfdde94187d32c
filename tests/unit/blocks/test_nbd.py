"""The NBD client over a real socket: right bytes, right errors, never a hang."""

import os
import random
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltaferry.blocks.nbd import MAX_IN_FLIGHT_BYTES, NbdClient
from deltaferry.blocks.nbd_requests import MAX_REQUEST_BYTES
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import MIB, SECTOR
from deltaferry.ports.access import NbdAddress

Serve = Callable[[Any], NbdAddress]


def read(client: NbdClient, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    client.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def assert_read_failed(call: Callable[[], object]) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        call()
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED
    return caught.value


@pytest.mark.parametrize("structured", [True, False])
def test_reads_bring_the_right_bytes_from_any_place(serve_nbd: Serve, make_nbd_disk: Any, structured: bool) -> None:
    disk = make_nbd_disk(bytearray(os.urandom(3 * MIB) + bytes(3 * MIB) + os.urandom(5 * SECTOR)), structured=structured)
    with NbdClient(serve_nbd(disk)) as client:
        assert client.size_bytes == len(disk.content)
        assert client.export.structured is structured
        for offset, length in ((0, SECTOR), (MIB, 4 * MIB), (len(disk.content) - SECTOR, SECTOR), (0, len(disk.content))):
            assert read(client, offset, length) == disk.content[offset : offset + length]
    assert max(length for _, _, length in disk.requests) <= MAX_REQUEST_BYTES


def test_threads_share_one_connection(serve_nbd: Serve, make_nbd_disk: Any) -> None:
    disk = make_nbd_disk(bytearray(os.urandom(8 * MIB)))
    wrong: list[int] = []
    with NbdClient(serve_nbd(disk)) as client:

        def work(seed: int) -> None:
            source = random.Random(seed)
            for _ in range(20):
                offset = source.randrange(4 * MIB)
                length = source.choice((SECTOR, 70_000, 3 * MIB))
                if read(client, offset, length) != disk.content[offset : offset + length]:
                    wrong.append(offset)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(disk.requests) >= 80


def test_no_more_than_four_mebibytes_are_asked_for_at_once(serve_nbd: Serve, make_nbd_disk: Any) -> None:
    disk = make_nbd_disk(bytearray(16 * MIB), silent=True)
    with NbdClient(serve_nbd(disk), timeout_s=0.3) as client:
        assert_read_failed(lambda: read(client, 0, 16 * MIB))
        assert client._in_flight_bytes <= MAX_IN_FLIGHT_BYTES


def test_writes_zeroes_and_flush_reach_the_disk(serve_nbd: Serve, make_nbd_disk: Any) -> None:
    disk = make_nbd_disk(bytearray(os.urandom(6 * MIB)))
    data = os.urandom(5 * MIB)
    with NbdClient(serve_nbd(disk)) as client:
        client.write(SECTOR, data)
        client.zero(MIB, 2 * MIB)
        client.flush()
        expected = bytearray(data)
        expected[MIB - SECTOR : 3 * MIB - SECTOR] = bytes(2 * MIB)
        assert read(client, SECTOR, 5 * MIB) == expected
        assert disk.content[SECTOR : SECTOR + 5 * MIB] == expected


@pytest.mark.parametrize("structured", [True, False])
def test_an_unreadable_sector_is_named_and_the_connection_lives_on(
    serve_nbd: Serve, make_nbd_disk: Any, structured: bool
) -> None:
    disk = make_nbd_disk(bytearray(os.urandom(MIB)), structured=structured, bad_sectors=frozenset({5}))
    with NbdClient(serve_nbd(disk)) as client:
        assert "EIO" in assert_read_failed(lambda: read(client, 0, 8 * SECTOR)).detail
        assert read(client, 6 * SECTOR, SECTOR) == disk.content[6 * SECTOR : 7 * SECTOR]


def test_a_closed_connection_fails_every_waiting_and_every_later_call(serve_nbd: Serve, make_nbd_disk: Any) -> None:
    disk = make_nbd_disk(bytearray(MIB), hang_up_at_request=2)
    with NbdClient(serve_nbd(disk)) as client:
        read(client, 0, SECTOR)
        for _ in range(2):
            assert_read_failed(lambda: read(client, 0, MIB))


def test_a_server_that_does_not_answer_is_not_waited_for(serve_nbd: Serve, make_nbd_disk: Any) -> None:
    with NbdClient(serve_nbd(make_nbd_disk(bytearray(MIB), silent=True)), timeout_s=0.2) as client:
        assert "did not answer" in assert_read_failed(lambda: read(client, 0, SECTOR)).detail


def test_a_server_that_is_not_there_is_a_failed_read() -> None:
    assert_read_failed(lambda: NbdClient(NbdAddress("x", host="127.0.0.1", port=1), timeout_s=1))
    assert_read_failed(lambda: NbdClient(NbdAddress("x", unix_path="/nonexistent/socket"), timeout_s=1))


def test_a_range_outside_the_export_is_not_asked_for(serve_nbd: Serve, make_nbd_disk: Any) -> None:
    disk = make_nbd_disk(bytearray(MIB))
    with NbdClient(serve_nbd(disk)) as client:
        assert_read_failed(lambda: read(client, MIB - SECTOR, 2 * SECTOR))
    assert disk.requests == []


def chunk(flags: int, kind: int, body: bytes) -> bytes:
    return struct.pack(">IHH8sI", 0x668E33EF, flags, kind, b"HANDLE!!", len(body)) + body


@pytest.mark.parametrize(
    "reply",
    [
        b"\0" * 64,
        chunk(1, 0, b""),
        chunk(1, 1, struct.pack(">Q", 0) + b"x" * 100),
        chunk(0, 1, struct.pack(">Q", 0) + b"x" * 512) + chunk(1, 1, struct.pack(">Q", 0) + b"x" * 512),
        chunk(0, 1, struct.pack(">Q", 100) + b"x" * 312) + chunk(1, 1, struct.pack(">Q", 0) + b"x" * 200),
        chunk(1, 1, struct.pack(">Q", 1 << 40) + b"x" * 512),
        chunk(1, 2, struct.pack(">QI", 0, 1 << 31)),
        chunk(1, 5, struct.pack(">III", 5, 512, 0)),
        chunk(1, 77, b"abc"),
        struct.pack(">II8s", 0x67446698, 0, b"HANDLE!!") + b"x" * 512,
        struct.pack(">II8s", 0x67446698, 0, b"nobody's") + b"x" * 512,
    ],
)
def test_a_malformed_reply_never_passes_for_data(serve_nbd: Serve, make_nbd_disk: Any, reply: bytes) -> None:
    disk = make_nbd_disk(bytearray(MIB), reply_override=reply)
    with NbdClient(serve_nbd(disk), timeout_s=1) as client:
        assert_read_failed(lambda: read(client, 0, SECTOR))


numbers = st.integers(0, (1 << 32) - 1)
noise = st.one_of(
    st.binary(min_size=4, max_size=200),
    st.builds(
        lambda flags, kind, length, body: struct.pack(">IHH8sI", 0x668E33EF, flags, kind, b"HANDLE!!", length) + body,
        st.integers(0, 3), st.sampled_from((0, 1, 2, 5, 32769, 32770, 9)), st.one_of(st.integers(0, 600), numbers), st.binary(max_size=100),
    ),
)  # fmt: skip


@given(reply=noise)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_reply_makes_the_client_hang_or_fail_otherwise(serve_nbd: Serve, make_nbd_disk: Any, reply: bytes) -> None:
    disk = make_nbd_disk(bytearray(MIB), reply_override=reply, closes_after_reply=True)
    with NbdClient(serve_nbd(disk), timeout_s=1) as client:
        buffer = bytearray(b"?" * SECTOR)
        try:
            client.read_into(0, memoryview(buffer))
        except DeltaferryError as error:
            assert error.kind is ErrorKind.DISK_READ_FAILED
        else:
            assert buffer == bytes(SECTOR), "the only reply of this kind that is right is a hole of the whole range"


@given(greeting=st.one_of(st.binary(max_size=120), st.binary(max_size=60).map(lambda rest: b"NBDMAGICIHAVEOPT\x00\x03" + rest)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_greeting_makes_the_client_hang_or_fail_otherwise(serve_nbd: Serve, make_nbd_disk: Any, greeting: bytes) -> None:
    address = serve_nbd(make_nbd_disk(bytearray(MIB), greeting=greeting))
    assert_read_failed(lambda: NbdClient(address, timeout_s=1))
