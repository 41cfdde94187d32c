"""Hostile NBD servers: whatever is answered, the client reads right bytes or fails with its own error, and comes to an end."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltaferry.blocks import nbd_protocol as wire
from deltaferry.blocks.nbd import NbdClient
from deltaferry.blocks.nbd_protocol import Export, negotiate
from deltaferry.blocks.nbd_requests import Request
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import MIB, SECTOR
from deltaferry.ports.access import NbdAddress

Serve = Callable[[Any], NbdAddress]
FEW_OR_MANY = pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.chaos)])
_FROM_FUNCTION = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
_LENGTH, _OFFSET = 8 * SECTOR, 64 * SECTOR

small = st.integers(0, 10 * SECTOR)
wild = st.one_of(small, st.sampled_from((2**15, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1)))
kinds = st.sampled_from((0, 1, 2, 5, 6, 1 << 15 | 1, 1 << 15 | 2, 7777))


@contextmanager
def pipe(data: bytes) -> Iterator[socket.socket]:
    """A connection whose other end has sent some bytes, takes whatever comes, and has nothing more to say."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)

    def serve() -> None:
        try:
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            while theirs.recv(1 << 16):
                pass
        except OSError:
            return  # the client has heard enough and closed

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()
        theirs.close()


def only_read_failed(call: Callable[[], object]) -> bool:
    """Return whether a call came to an end by itself; fails for any error but the client's own."""
    try:
        call()
    except DeltaferryError as error:
        assert error.kind is ErrorKind.DISK_READ_FAILED
        return False
    return True


def option_reply(option: int, kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(body) if length is None else length) + body


def good_handshake(size: int = MIB) -> bytes:
    return b"".join((
        b"NBDMAGICIHAVEOPT\x00\x03",
        option_reply(8, 1, b""),
        option_reply(7, 3, struct.pack(">HQH", 0, size, 1)),
        option_reply(7, 1, b""),
    ))  # fmt: skip


def test_the_handshake_that_is_damaged_below_is_good() -> None:
    with pipe(good_handshake()) as connection:
        assert negotiate(connection, "disk") == Export(MIB, False, True)


@FEW_OR_MANY
def test_a_changed_handshake_is_understood_or_refused(examples: int) -> None:
    good = good_handshake()

    @given(st.integers(0, len(good) - 1), st.binary(max_size=12), st.integers(0, 12))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(place: int, other: bytes, removed: int) -> None:
        with pipe(good[:place] + other + good[place + removed :]) as connection:
            only_read_failed(lambda: negotiate(connection, "disk"))

    check()


options = st.builds(
    option_reply,
    st.sampled_from((7, 8, 10)),
    st.sampled_from((1, 3, 4, 1 << 31 | 1, 9)),
    st.binary(max_size=30),
    st.none() | wild,
)


@FEW_OR_MANY
def test_option_replies_in_any_order_are_understood_or_refused(examples: int) -> None:
    @given(st.lists(options, max_size=8))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(replies: list[bytes]) -> None:
        with pipe(b"NBDMAGICIHAVEOPT\x00\x03" + b"".join(replies)) as connection:
            only_read_failed(lambda: negotiate(connection, "disk"))

    check()


def test_a_handshake_without_end_is_ended() -> None:
    information = option_reply(7, 3, struct.pack(">HQH", 0, MIB, 1))
    endless = b"NBDMAGICIHAVEOPT\x00\x03" + option_reply(8, 1, b"") + information * 100_000
    with pipe(endless) as connection, pytest.raises(DeltaferryError) as caught:
        negotiate(connection, "disk")
    assert (caught.value.kind, "does not end" in caught.value.detail) == (ErrorKind.DISK_READ_FAILED, True)


def body_of(kind: int, offset: int, length: int, data: bytes) -> bytes:
    match kind:
        case 1:
            return struct.pack(">Q", offset) + data
        case 2:
            return struct.pack(">QI", offset, length)
        case _:
            return data


bodies = st.builds(
    lambda kind, offset, length, data: (kind, body_of(kind, offset, length, data)),
    kinds, st.one_of(small.map(lambda near: _OFFSET + near), wild), wild, st.binary(max_size=2 * SECTOR),
)  # fmt: skip


@FEW_OR_MANY
@pytest.mark.parametrize("command", [wire.CMD_READ, wire.CMD_WRITE, wire.CMD_FLUSH])
def test_chunks_of_any_kind_never_pass_for_data_that_did_not_come(command: int, examples: int) -> None:
    @given(st.lists(st.tuples(bodies, st.none() | wild), max_size=6))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(chunks: list[tuple[tuple[int, bytes], int | None]]) -> None:
        buffer = bytearray(b"?" * _LENGTH)
        request = Request(command, _OFFSET, _LENGTH, memoryview(buffer))
        expected = bytearray(b"?" * _LENGTH)

        def take() -> None:
            with pipe(b"".join(body for (_, body), _ in chunks)) as connection:
                for (kind, body), length in chunks:
                    request.take_chunk(connection, kind, len(body) if length is None else length)
                    if command == wire.CMD_READ and kind in (1, 2):
                        start = struct.unpack_from(">Q", body)[0] - _OFFSET
                        data = body[8:] if kind == 1 else bytes(struct.unpack_from(">I", body, 8)[0])
                        expected[start : start + len(data)] = data
                request.check_complete()

        if only_read_failed(take) and request.error is None and all(length is None for _, length in chunks):
            assert command != wire.CMD_READ or buffer == expected
            assert len(buffer) == _LENGTH

    check()


def chunk(flags: int, kind: int, body: bytes) -> bytes:
    return struct.pack(">IHH8sI", 0x668E33EF, flags, kind, b"HANDLE!!", len(body)) + body


@pytest.mark.parametrize(
    "endless",
    [chunk(0, 0, b""), chunk(0, 1 << 15 | 1, b"\0\0\0\5\0\0"), chunk(0, 2, struct.pack(">QI", 0, 0)), chunk(0, 2, struct.pack(">QI", 0, 512))],
    ids=["nothing", "errors", "empty holes", "the same hole"],
)  # fmt: skip
def test_a_reply_without_end_is_ended(serve_nbd: Serve, make_nbd_disk: Any, endless: bytes) -> None:
    """The client itself says so, and does not wait until the server falls silent."""
    disk = make_nbd_disk(bytearray(MIB), reply_override=endless * 40_000)
    with NbdClient(serve_nbd(disk), timeout_s=5) as client, pytest.raises(DeltaferryError) as caught:
        client.read_into(0, memoryview(bytearray(os.urandom(SECTOR))))
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED
    assert "did not answer" not in caught.value.detail
