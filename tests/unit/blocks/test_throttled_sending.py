"""Transfers in data processes of their own, over real sockets, within one budget.

The budget's clock is the test's: it grants nothing unless the test lets time pass, so that what may have been sent by then is known
however fast or slow this machine is.
"""

import os
import random
import signal
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deltaferry.blocks.allowance import Allowance
from deltaferry.blocks.blob_http import BlobClient, HttpLimits, Role
from deltaferry.blocks.budget_rows import Seat
from deltaferry.blocks.jobs import Settings
from deltaferry.blocks.plan import encode_plan, make_plan
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.blocks.send import run_send
from deltaferry.blocks.throttle import Budget
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR
from deltaferry.ports.access import BlobAccess
from deltaferry.ports.data_plane import DataProgress, SendDisk, SendJob, SentDisk

LIMIT = 5_000_000
"""40 Mbit/s: a tenth of a second is some slices for each transfer."""
STEP_S = 0.1
NOT_TAKEN = 70_000
"""Of each transfer: what was granted and is less than the slice that it waits for, and a head of a request."""
FOREVER = timedelta(hours=1)
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nx-ms-error-code: ServerBusy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _Connection(socketserver.StreamRequestHandler):
    """Counts the bytes of bodies as they arrive, by the first part of the path."""

    server: "Sink"

    def handle(self) -> None:
        with suppress(ConnectionError):
            self.serve()

    def serve(self) -> None:
        while request := self.rfile.readline().decode():
            sender = request.split("/")[1]
            length = 0
            while line := self.rfile.readline().strip().lower():
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
            while length:
                data = self.rfile.read1(length)
                if not data:
                    return
                length -= len(data)
                with self.server.lock:
                    self.server.arrived[sender] += len(data)
            answers = self.server.answers
            self.wfile.write(answers.pop(0) if len(answers) > 1 else answers[0])


class Sink(socketserver.ThreadingTCPServer):
    """A log store that throws away what it gets."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers = [CREATED]
        self.arrived: Counter[str] = Counter()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    def total(self) -> int:
        with self.lock:
            return sum(self.arrived.values())

    def access(self, sender: str) -> BlobAccess:
        return BlobAccess(f"http://127.0.0.1:{self.server_address[1]}/{sender}", "")


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; a test that waits in vain fails."""
    look = threading.Event()
    for _ in range(8000):
        if condition():
            return
        look.wait(0.005)
    raise AssertionError("the condition never came true")


def _children() -> set[int]:
    """The processes that this one started, those of other tests among them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread ended meanwhile; its children are another thread's now
            found.update(int(child) for child in (task / "children").read_text().split())
    return found


def _state(process: int) -> str:
    """Return the state of a process: `T` for one that was stopped. Its name, in parentheses, may hold spaces."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


class Line:
    """A throttled line: a budget on the test's clock, and transfers over it."""

    def __init__(self, sink: Sink, source: Any) -> None:
        self.sink = sink
        self.source = source
        self.clock = Clock()
        self.budget = Budget(self.clock, granting=False)
        self.plane = ProcessDataPlane(threads_per_disk=4, budget=self.budget)
        self.progress: Counter[str] = Counter()
        self.outcomes: dict[str, tuple[SentDisk, ...] | BaseException] = {}
        self.cut: set[str] = set()
        self.threads: dict[str, threading.Thread] = {}
        self._others = _children()

    def job(self, sender: str, **changes: Any) -> SendJob:
        content, address = self.source
        plan = encode_plan(make_plan(len(content), [Extent(0, len(content))], []))
        disk = SendDisk(2000, len(content), address, plan, 0, ())
        return replace(
            SendJob("0123456789abcdef", "1-c", (disk,), self.sink.access(sender), bytes(32), FOREVER, 1 << 60), **changes
        )

    def begin(self, sender: str, **changes: Any) -> None:
        """Begin a transfer in a thread that waits for its data process; return when it waits for its share, where there is a limit."""
        job = self.job(sender, **changes)

        def progress(_: DataProgress) -> None:
            self.progress[sender] += 1
            if sender in self.cut:
                raise InterruptedError(sender)

        def send() -> None:
            try:
                self.outcomes[sender] = self.plane.send(job, progress)
            except (DeltaferryError, InterruptedError) as error:
                self.outcomes[sender] = error

        waiting = self.budget.waiting
        self.threads[sender] = threading.Thread(target=send)
        self.threads[sender].start()
        if self.budget.bytes_per_s is not None:
            until(lambda: self.budget.waiting > waiting)

    def get_going(self, *senders: str) -> None:
        """Let a moment pass, and wait until something of each of these arrived."""
        self.pass_time(STEP_S)
        until(lambda: all(self.sink.arrived[sender] for sender in senders))

    def pass_time(self, seconds: float) -> bool:
        self.clock.now_s += seconds
        self.budget.grant()
        return True

    def run(self, steps: int, limit: int = LIMIT, senders: int = 2) -> list[int]:
        """Let so many tenths of a second pass; return what had arrived in all after each.

        After each, all that might be sent since the first has been, and no more.
        """
        granted_before, arrived_before = self.budget.granted_bytes, self.sink.total()
        arrived = []
        for _ in range(steps):
            wanted = self.budget.granted_bytes + int(limit * STEP_S)
            self.clock.now_s += STEP_S
            until(lambda wanted=wanted: self.pass_time(0) and self.budget.granted_bytes >= wanted - senders * 2)  # type: ignore[misc]
            granted = self.budget.granted_bytes
            expected = arrived_before + granted - granted_before - senders * NOT_TAKEN
            until(lambda expected=expected: self.sink.total() >= expected)  # type: ignore[misc]
            arrived.append(self.sink.total())
            assert arrived[-1] <= granted
        return arrived

    def children(self) -> list[int]:
        """Return the ids of the data processes: of the processes that began after this line was made."""
        return sorted(_children() - self._others)

    def end(self) -> None:
        self.budget.set_limit(None)
        self.cut.update(self.threads)
        for thread in self.threads.values():
            thread.join(30)
            assert not thread.is_alive()
        self.budget.close()


@pytest.fixture
def line(serve_nbd: Any, make_nbd_disk: Any) -> Iterator[Line]:
    content = bytearray(random.Random(7).randbytes(24 * MIB))
    sink = Sink()
    threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    made = Line(sink, (content, serve_nbd(make_nbd_disk(content))))
    yield made
    made.end()
    sink.shutdown()
    sink.server_close()


def test_two_processes_of_several_threads_together_send_what_the_limit_allows_in_any_second(line: Line) -> None:
    line.budget.set_limit(LIMIT)
    line.begin("a")
    line.begin("b")
    line.get_going("a", "b")
    line.run(5)
    arrived = line.run(30)
    for begin, end in zip(arrived, arrived[10:], strict=False):
        assert abs((end - begin) / LIMIT - 1) <= 0.1


def test_of_two_processes_a_pre_failover_cycle_gets_four_times_as_much(line: Line) -> None:
    line.budget.set_limit(LIMIT, pre_failover_weight=4)
    line.begin("urgent", urgent=True)
    line.begin("ordinary")
    line.get_going("urgent", "ordinary")
    line.run(3)
    before = Counter(line.sink.arrived)
    line.run(25)
    urgent, ordinary = (line.sink.arrived[sender] - before[sender] for sender in ("urgent", "ordinary"))
    assert 3.2 <= urgent / ordinary <= 4.8


def test_a_new_limit_and_its_end_reach_a_running_transfer(line: Line) -> None:
    line.budget.set_limit(LIMIT)
    line.begin("a")
    line.get_going("a")
    line.run(5, senders=1)
    line.budget.set_limit(4 * LIMIT)
    before = line.sink.total()
    line.run(5, 4 * LIMIT, senders=1)
    assert (line.sink.total() - before) / (2 * LIMIT) == pytest.approx(1, abs=0.1)
    line.budget.set_limit(None)
    line.threads["a"].join(30)  # without any time passing on the budget's clock
    assert not isinstance(line.outcomes["a"], BaseException)
    [sent] = line.outcomes["a"]
    assert sent.bytes_sent == line.sink.total() == sum(segment.size_bytes for segment in sent.segments)


def test_a_killed_process_leaves_the_whole_budget_to_the_other_and_nothing_behind(line: Line) -> None:
    line.budget.set_limit(LIMIT)
    line.begin("survivor")
    [survivor] = line.children()
    line.begin("killed")
    line.get_going("survivor", "killed")
    [killed] = set(line.children()) - {survivor}
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    os.kill(killed, signal.SIGKILL)
    line.threads["killed"].join(30)
    outcome = line.outcomes["killed"]
    assert isinstance(outcome, DeltaferryError) and outcome.kind is ErrorKind.INTERRUPTED
    assert len(list(Path("/proc/self/fd").iterdir())) < descriptors  # its pipes, and not the budget's memory
    line.run(3, senders=1)
    before = line.sink.arrived["survivor"]
    line.run(10, senders=1)
    assert (line.sink.arrived["survivor"] - before) / LIMIT == pytest.approx(1, abs=0.1)


def test_a_frozen_process_gives_its_share_to_the_other_and_gets_it_back(line: Line) -> None:
    line.budget.set_limit(LIMIT)
    line.begin("awake")
    [awake] = line.children()
    line.begin("frozen")
    line.get_going("awake", "frozen")
    [frozen] = set(line.children()) - {awake}
    os.kill(frozen, signal.SIGSTOP)
    try:
        until(lambda: _state(frozen) == "T")  # until then it goes on taking
        for _ in range(20):  # two seconds, in which what it does not take any more is given to the other
            arrived = line.sink.arrived["awake"]
            line.pass_time(STEP_S)
            until(lambda arrived=arrived: line.sink.arrived["awake"] > arrived)  # type: ignore[misc]
        before = line.sink.arrived["awake"]
        line.run(10)
        assert line.sink.arrived["awake"] - before >= 0.9 * LIMIT
    finally:
        os.kill(frozen, signal.SIGCONT)
    arrived = line.sink.arrived["frozen"]
    until(lambda: line.pass_time(0.01) and line.sink.arrived["frozen"] - arrived >= LIMIT)


def test_without_a_limit_a_transfer_is_as_it_is_without_a_budget(line: Line) -> None:
    line.begin("a")
    line.threads["a"].join(30)
    with_budget = line.outcomes["a"]
    assert not isinstance(with_budget, BaseException)
    [plain] = ProcessDataPlane(threads_per_disk=4).send(line.job("b"), lambda _: None)
    [sent] = with_budget
    assert (sent.next_segment, sent.segments_sent, sent.bytes_read) == (plain.next_segment, plain.segments_sent, plain.bytes_read)
    assert line.budget.granted_bytes == 0


def test_a_transfer_that_waits_for_its_share_goes_on_beating_and_is_ended_at_once(line: Line) -> None:
    line.budget.set_limit(LIMIT)
    line.begin("a")
    until(lambda: line.progress["a"] >= 3)
    assert line.sink.total() == 0, "no time has passed on the budget's clock"
    line.cut.add("a")
    line.threads["a"].join(30)
    assert isinstance(line.outcomes["a"], InterruptedError)
    assert line.children() == []


# In the test's own process


@pytest.fixture
def seat(line: Line) -> Iterator[Seat]:
    line.budget.set_limit(LIMIT)
    with line.budget.seat(urgent=False) as seat:
        yield Seat(os.dup(seat.descriptor), seat.row)


def test_a_chunk_ends_with_what_is_begun_and_leaves_the_rest_to_the_next(line: Line, seat: Seat) -> None:
    began_s = time.monotonic()
    stop_after_s = 1.5
    job = line.job("a", stop_after=timedelta(seconds=stop_after_s))
    results: list[tuple[SentDisk, ...]] = []
    allowance = Allowance.of(seat)
    thread = threading.Thread(
        target=lambda: results.append(run_send(job, Settings(threads_per_disk=4, threads=4), lambda _: None, allowance))
    )
    thread.start()
    until(lambda: line.pass_time(0.01) and line.sink.total() > 0)
    until(lambda: time.monotonic() > began_s + stop_after_s)
    until(lambda: line.pass_time(0.01) and not thread.is_alive())
    [[sent]] = results
    assert 1 <= sent.next_segment < 6, "it left the rest"
    assert [segment.number for segment in sent.segments] == list(range(sent.next_segment))


def test_a_failed_read_ends_the_transfer_though_others_wait_for_their_share(
    line: Line, seat: Seat, serve_nbd: Any, make_nbd_disk: Any
) -> None:
    content = line.source[0]
    disk = make_nbd_disk(content, bad_sectors=frozenset({len(content) // SECTOR - 1}))
    line.source = (content, serve_nbd(disk))
    with pytest.raises(DeltaferryError) as caught:
        run_send(line.job("a"), Settings(threads_per_disk=8), lambda _: None, Allowance.of(seat))
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED
    assert line.sink.total() == 0


class _Waited:
    """The pace of a body that waited for minutes."""

    waited_s = 0.0

    def take(self, remaining_bytes: int) -> int:
        self.waited_s += 300
        return min(remaining_bytes, GRANULE)


def test_waiting_for_a_share_is_no_part_of_the_patience_with_the_store(line: Line) -> None:
    client = BlobClient(line.sink.access("a"), Role.LOG, HttpLimits(timeout_s=5, retry_for_s=0))
    line.sink.answers = [BUSY, CREATED]
    assert client.put_new("x", memoryview(bytes(BLOCK)), bytes(32), _Waited())
    line.sink.answers = [BUSY, CREATED]
    with pytest.raises(DeltaferryError) as caught:
        client.put_new("x", memoryview(bytes(BLOCK)), bytes(32))
    assert caught.value.kind is ErrorKind.STORE_THROTTLED
    client.close()
