"""The lab host's NBD server over real sockets."""

import struct
import threading

import pytest

from lab.vcenter.nbd_exports import GuestExport, SnapshotExport
from lab.vcenter.nbd_protocol import WireError
from lab.vcenter.nbd_server import NbdServer
from tests.unit.lab_vcenter_disk.wire import OptionError, RequestError, WireClient

MIB = 1 << 20
SNAPSHOT = "snapshot=snapshot-1;disk=2000"
GUEST = "guest=vm-1;disk=2000"
READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS = 0, 1, 2, 3, 4, 6, 7
READ_ONLY, CAN_MULTI_CONN = 1 << 1, 1 << 8


class Lab:
    """A disk with one snapshot, and a server for both."""

    def __init__(self, disk, zero_copy: bool) -> None:
        self.disk = disk
        self.powered_on = True
        self.server = NbdServer(self.resolve, zero_copy=zero_copy, names=lambda: [SNAPSHOT, GUEST])

    def resolve(self, name: str):
        if name == SNAPSHOT and self.disk.snapshot_ids:
            return SnapshotExport(self.disk.frozen(self.disk.snapshot_ids[0]))
        if name == GUEST and self.powered_on:
            return GuestExport(self.disk)
        return None

    def connect(self, name: str | None = None, *, structured: bool = True) -> WireClient:
        client = WireClient(self.server.host, self.server.port)
        if name is not None:
            if structured:
                client.negotiate_structured(name)
            client.go(name)
        return client


@pytest.fixture(params=[True, False], ids=["sendfile", "copied"])
def lab(disk, rng, request):
    disk.write(0, rng.randbytes(3 * MIB))
    disk.write(6 * MIB, rng.randbytes(MIB))
    disk.freeze("snapshot-1")
    made = Lab(disk, request.param)
    yield made
    made.server.close()


@pytest.fixture
def frozen(lab, read_all):
    return read_all(lab.disk.frozen("snapshot-1"))


def refused(call) -> int:
    with pytest.raises((RequestError, OptionError)) as caught:
        call()
    return caught.value.code


def test_exports_are_listed(lab):
    with lab.connect() as client:
        assert [payload for kind, payload in client.option(3) if kind == 2] == [WireClient.text(SNAPSHOT), WireClient.text(GUEST)]


def test_info_and_go_tell_size_flags_and_block_sizes(lab):
    with lab.connect() as client:
        answers = client.go(SNAPSHOT, 1, 3, option=6)
        assert answers[1] == SNAPSHOT.encode()
        assert struct.unpack(">III", answers[3]) == (512, 65536, 32 * MIB)
        assert client.size == lab.disk.capacity_bytes
        assert client.flags & READ_ONLY
        assert client.flags & CAN_MULTI_CONN
        client.go(GUEST)
        assert not client.flags & READ_ONLY


@pytest.mark.parametrize(("flags", "padding"), [(1, 124), (3, 0)])
def test_the_old_way_to_an_export_works(lab, frozen, flags, padding):
    with WireClient(lab.server.host, lab.server.port, flags) as client:
        client.sock.sendall(struct.pack(">8sII", b"IHAVEOPT", 1, len(SNAPSHOT)) + SNAPSHOT.encode())
        assert struct.unpack(">QH", client.exactly(10))[0] == len(frozen)
        assert client.exactly(padding) == bytes(padding)
        assert client.read(0, 4096) == frozen[:4096]


def test_an_unknown_export_is_refused_and_the_handshake_goes_on(lab):
    with lab.connect() as client:
        assert refused(lambda: client.go("snapshot=gone;disk=2000")) == 6
        client.go(SNAPSHOT)
        assert client.read(0, 512)


def test_unknown_and_malformed_options_are_refused_by_their_codes(lab):
    with lab.connect() as client:
        assert refused(lambda: client.option(5)) == 1
        assert refused(lambda: client.option(77, b"?")) == 1
        assert refused(lambda: client.option(7, b"\0")) == 3
        assert refused(lambda: client.option(7, WireClient.text(SNAPSHOT) + b"\0\2\0\0")) == 3
        assert refused(lambda: client.option(7, struct.pack(">IH", 1, 0)[:4] + b"\xff\0\0")) == 3
        assert refused(lambda: client.option(10, WireClient.text(SNAPSHOT) + bytes(4))) == 3


def test_only_base_allocation_is_a_known_context(lab):
    with lab.connect() as client:
        client.option(8)
        query = WireClient.text(SNAPSHOT) + struct.pack(">I", 1)
        assert client.option(10, query + WireClient.text("base:dirty")) == []
        assert [payload[4:] for _, payload in client.option(9, WireClient.text(SNAPSHOT) + bytes(4))] == [b"base:allocation"]
        client.go(SNAPSHOT)
        client.structured = True
        assert refused(lambda: client.call(BLOCK_STATUS, 0, 4096)) == WireError.EINVAL


@pytest.mark.parametrize("structured", [True, False], ids=["structured", "simple"])
def test_reads_return_the_snapshot_whatever_the_guest_writes(lab, frozen, rng, structured):
    with lab.connect(SNAPSHOT, structured=structured) as reader, lab.connect(GUEST) as guest:
        for _ in range(30):
            guest.write(512 * rng.randrange(len(frozen) // 512 - 8), rng.randbytes(4096))
            length = 512 * rng.randint(1, 2 * MIB // 512)
            offset = 512 * rng.randint(0, (len(frozen) - length) // 512)
            assert reader.read(offset, length) == frozen[offset : offset + length]
        assert reader.read(len(frozen) - 512, 512) == frozen[-512:]
        assert reader.read(0, 8 * MIB) == frozen[: 8 * MIB]


def test_reads_go_through_all_layers_of_a_chain(lab, rng, read_all):
    lab.disk.write(MIB, rng.randbytes(MIB))
    for _ in range(200):
        lab.disk.write(512 * rng.randrange(8 * MIB // 512), rng.randbytes(512))
    upper = read_all(lab.disk.freeze("snapshot-2"))
    lab.disk.release("snapshot-1")
    with lab.connect(SNAPSHOT) as client:
        assert client.read(0, 8 * MIB) == upper[: 8 * MIB]
        assert client.read(MIB + 512, 128 * 1024) == upper[MIB + 512 : MIB + 512 + 128 * 1024]
        lab.disk.consolidate()
        assert client.read(0, 8 * MIB) == upper[: 8 * MIB]


def test_many_requests_are_in_flight_on_one_connection(lab, frozen):
    with lab.connect(SNAPSHOT) as client:
        for handle in range(20):
            client.request(READ, handle, handle * 256 * 1024, 256 * 1024)
        replies = {reply.handle: reply.data for reply in (client.reply() for _ in range(20))}
    assert replies == {handle: frozen[handle * 256 * 1024 : (handle + 1) * 256 * 1024] for handle in range(20)}


def test_replies_may_come_in_another_order(lab, frozen):
    lab.server.faults.reorder_replies = True
    with lab.connect(SNAPSHOT) as client:
        batch = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, READ, handle, handle * 4096, 4096) for handle in range(4))
        client.lengths = dict.fromkeys(range(4), 4096)
        client.sock.sendall(batch)
        replies = [client.reply() for _ in range(4)]
    assert [reply.handle for reply in replies] == [3, 2, 1, 0]
    assert all(reply.data == frozen[reply.handle * 4096 : (reply.handle + 1) * 4096] for reply in replies)


def test_block_status_tells_what_was_ever_written(lab):
    with lab.connect(SNAPSHOT) as client:
        assert client.block_status(0, 8 * MIB) == [(3 * MIB, 0), (3 * MIB, 3), (MIB, 0), (MIB, 3)]
        assert client.block_status(MIB, 8 * MIB - MIB, flags=8) == [(2 * MIB, 0)]
        assert client.block_status(8 * MIB, 37 * 512) == [(37 * 512, 3)]


@pytest.mark.parametrize(
    ("command", "offset", "length", "error"),
    [
        (READ, 0, 0, WireError.EINVAL),
        (READ, 1, 512, WireError.EINVAL),
        (READ, 0, 511, WireError.EINVAL),
        (READ, 8 * MIB + 37 * 512, 512, WireError.EINVAL),
        (BLOCK_STATUS, 8 * MIB, 38 * 512, WireError.EINVAL),
        (WRITE_ZEROES, 0, 512, WireError.EPERM),
        (TRIM, 0, 512, WireError.EPERM),
        (99, 0, 512, WireError.EINVAL),
    ],
)
def test_a_snapshot_export_refuses_by_error_number_and_serves_on(lab, frozen, command, offset, length, error):
    with lab.connect(SNAPSHOT) as client:
        assert refused(lambda: client.call(command, offset, length)) == error
        assert refused(lambda: client.write(0, bytes(512))) == WireError.EPERM
        assert client.read(0, 512) == frozen[:512]


def test_a_read_longer_than_the_hosts_memory_allows_is_refused(lab):
    lab.server.max_read_bytes = 2 * MIB
    with lab.connect(SNAPSHOT) as client:
        assert refused(lambda: client.read(0, 2 * MIB + 512)) == WireError.ENOMEM
        assert len(client.read(0, 2 * MIB)) == 2 * MIB


def test_a_guest_writes_zeroes_trims_and_flushes(lab, rng, read_all):
    data = rng.randbytes(600 * 1024)
    with lab.connect(GUEST) as client:
        client.write(512, data)
        client.call(WRITE_ZEROES, 1024, 4096)
        client.call(TRIM, 8192, 4096)
        client.call(FLUSH, 0, 0)
        expected = bytearray(data)
        expected[512 : 512 + 4096] = bytes(4096)
        expected[8192 - 512 : 8192 - 512 + 4096] = bytes(4096)
        assert client.read(512, len(data)) == expected
        assert refused(lambda: client.write(8 * MIB, bytes(38 * 512))) == WireError.ENOSPC
        assert refused(lambda: client.write(100, bytes(512))) == WireError.EINVAL
    assert read_all(lab.disk)[512 : 512 + len(data)] == expected


def test_writes_are_pipelined(lab, rng, read_all):
    data = rng.randbytes(64 * 4096)
    with lab.connect(GUEST) as client:
        for handle in range(64):
            client.request(WRITE, handle, handle * 4096, 4096, data[handle * 4096 : (handle + 1) * 4096])
        assert [client.reply().handle for _ in range(64)] == list(range(64))
    assert read_all(lab.disk)[: len(data)] == data


def test_a_connection_above_the_nfc_budget_is_refused_until_another_one_ends(lab):
    lab.server.max_connections = 2
    first, second = lab.connect(SNAPSHOT), lab.connect(SNAPSHOT)
    with first, lab.connect() as third, lab.connect(GUEST) as guest:
        assert refused(lambda: third.go(SNAPSHOT)) == 2
        assert lab.server.refused_for_budget == 1
        assert guest.read(0, 512)
        assert third.go(SNAPSHOT, option=6)
        second.request(DISC, 0, 0, 0)
        assert second.sock.recv(1) == b""
        third.go(SNAPSHOT)
        assert third.read(0, 512)
        assert sum(connection.uses_nfc_budget for connection in lab.server.connections()) == 2


def test_connections_tell_what_they_read(lab):
    with lab.connect(SNAPSHOT) as client:
        client.read(0, MIB)
        client.read(0, 512)
        client.block_status(0, 512)
        (info,) = lab.server.connections()
    assert (info.export, info.bytes_read) == (SNAPSHOT, MIB + 512)


def test_a_removed_snapshot_cuts_its_connections(lab):
    with lab.connect(SNAPSHOT) as client, lab.connect(GUEST) as guest:
        client.read(0, 512)
        lab.disk.release("snapshot-1")
        with pytest.raises((EOFError, ConnectionError)):
            client.read(0, 512)
        assert guest.read(0, 512)
        with lab.connect() as late:
            assert refused(lambda: late.go(SNAPSHOT)) == 6


def test_a_client_that_does_not_read_does_not_hold_up_the_removal(lab):
    with lab.connect(SNAPSHOT) as sleeper:
        for handle in range(16):
            sleeper.request(READ, handle, 0, 8 * MIB)
        sleeper.exactly(4096)
        remover = threading.Thread(target=lambda: (lab.disk.release("snapshot-1"), lab.disk.consolidate()))
        remover.start()
        remover.join(10)
        assert not remover.is_alive()
    assert not lab.disk.is_delta


def test_nothing_is_written_through_a_guest_export_after_its_vm_stopped(lab, read_all):
    guests = [lab.connect(GUEST) for _ in range(3)]
    stopped = threading.Event()

    def write(client: WireClient, fill: int) -> None:
        try:
            while not stopped.is_set():
                client.write(0, bytes([fill]) * 65536)
        except (EOFError, ConnectionError, RequestError):
            return

    threads = [threading.Thread(target=write, args=(client, fill)) for fill, client in enumerate(guests, start=1)]
    for thread in threads:
        thread.start()
    lab.powered_on = False
    assert lab.server.disconnect("guest=vm-1;") == 3
    final = read_all(lab.disk)
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    stopped.set()
    assert read_all(lab.disk) == final
    with lab.connect() as late:
        assert refused(lambda: late.go(GUEST)) == 6
    for client in guests:
        client.sock.close()


def test_a_connection_can_be_refused_on_purpose(lab):
    lab.server.faults.refuse_next(1)
    with pytest.raises((EOFError, ConnectionError)):
        lab.connect(SNAPSHOT)
    with lab.connect(SNAPSHOT) as client:
        assert client.read(0, 512)


def test_a_connection_can_be_cut_after_so_many_bytes(lab, frozen):
    lab.server.faults.cut_after(3 * MIB + 512, times=1)
    with lab.connect(SNAPSHOT) as client:
        assert client.read(0, 2 * MIB) == frozen[: 2 * MIB]
        client.request(READ, 1, 2 * MIB, 2 * MIB)
        with pytest.raises((EOFError, ConnectionError)):
            client.reply()
    with lab.connect(SNAPSHOT) as client:
        assert client.read(0, 8 * MIB) == frozen[: 8 * MIB]


def test_a_range_can_fail_on_purpose(lab, frozen):
    lab.server.faults.fail_range(MIB, 512, times=1, export="snapshot=")
    with lab.connect(SNAPSHOT) as client, lab.connect(GUEST) as guest:
        assert client.read(0, MIB) == frozen[:MIB]
        assert guest.read(MIB, 512) == frozen[MIB : MIB + 512]
        assert refused(lambda: client.read(0, MIB + 512)) == WireError.EIO
        assert client.read(0, MIB + 512) == frozen[: MIB + 512]
        lab.server.faults.fail_range(0, MIB, error=WireError.ENOMEM)
        assert refused(lambda: client.read(0, 512)) == WireError.ENOMEM
        lab.server.faults.clear()
        assert client.read(0, 512) == frozen[:512]


def test_a_delayed_read_does_not_hold_up_the_servers_end(lab):
    lab.server.faults.delay_s = 3600.0
    with lab.connect(SNAPSHOT) as client:
        client.request(READ, 1, 0, 512)
        lab.server.close()
        lab.server = NbdServer(lab.resolve)


def test_a_client_that_breaks_the_protocol_loses_only_its_own_connection(lab):
    with (
        lab.connect(SNAPSHOT) as good,
        lab.connect(SNAPSHOT) as bad,
        WireClient(lab.server.host, lab.server.port, 1 << 31) as worse,
    ):
        bad.sock.sendall(b"x" * 28)
        for client in (bad, worse):
            with pytest.raises((EOFError, ConnectionError)):
                client.exactly(1)
        assert good.read(0, 512)
