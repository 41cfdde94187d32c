"""The budget on a clock of the test's own, with stand-ins for data processes that take as those do; and real waiting threads."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaferry.blocks.allowance import PACED_SLICE_BYTES, SLICE_BYTES, Allowance, GivenBack
from deltaferry.blocks.budget_rows import BudgetRows, Seat, Word
from deltaferry.blocks.throttle import GRANT_EVERY_S, Budget
from deltaferry.model.errors import DeltaferryError, ErrorKind

MBIT = 125_000
ENDLESS = 1 << 50


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Taker:
    """A data process: wants bytes, and takes what it was granted as soon as that is a slice."""

    rows: BudgetRows
    row: int
    left_bytes: int = ENDLESS
    stopped: bool = False
    taken: int = 0
    times: list[tuple[float, int]] = field(default_factory=list)

    def act(self, now_s: float) -> None:
        if self.stopped:
            return
        while self.left_bytes:
            available = self.rows.get(self.row, Word.GRANTED) - self.taken
            if available < max(1, min(self.rows.get(self.row, Word.QUANTUM), self.left_bytes)):
                break
            size = min(available, PACED_SLICE_BYTES, self.left_bytes)
            self.taken += size
            self.left_bytes -= size
            self.rows.put(self.row, Word.TAKEN, self.taken)
        self.rows.put(self.row, Word.WANTED, self.taken + self.left_bytes)
        self.times.append((now_s, self.taken))


class Site:
    """A budget, its clock, and takers."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.budget = Budget(self.clock, granting=False)
        self.takers: list[Taker] = []
        self.seats: list[object] = []
        self.sent: list[tuple[float, int]] = []

    def add(self, left_bytes: int = ENDLESS, *, urgent: bool = False) -> Taker:
        seated = self.budget.seat(urgent=urgent)
        self.seats.append(seated)
        seat = seated.__enter__()
        taker = Taker(BudgetRows(seat.descriptor), seat.row, left_bytes)
        self.takers.append(taker)
        return taker

    def leave(self, taker: Taker) -> None:
        seated = self.seats.pop(self.takers.index(taker))
        self.takers.remove(taker)
        seated.__exit__(None, None, None)  # type: ignore[attr-defined]

    def run(self, seconds: float, step_s: float = GRANT_EVERY_S) -> list[int]:
        """Let time pass; return how much each taker took in it."""
        before = [taker.taken for taker in self.takers]
        for _ in range(round(seconds / step_s)):
            self.clock.now_s += step_s
            for taker in self.takers:
                taker.act(self.clock.now_s)
            self.budget.grant()
            for taker in self.takers:
                taker.act(self.clock.now_s)
            self.sent.append((self.clock.now_s, sum(taker.taken for taker in self.takers)))
        return [taker.taken - earlier for taker, earlier in zip(self.takers, before, strict=True)]

    def worst(self, limit: float, window_s: float) -> float:
        """Return the largest deviation from the limit in any window of the run."""
        steps = round(window_s / GRANT_EVERY_S)
        pairs = zip(self.sent, self.sent[steps:], strict=False)
        return max(abs((b - a) / (limit * (t - s)) - 1) for (s, a), (t, b) in pairs)


@contextmanager
def site_of_its_own() -> Iterator[Site]:
    made = Site()
    yield made
    for taker in made.takers[:]:
        made.leave(taker)
    made.budget.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with site_of_its_own() as made:
        yield made


@pytest.mark.parametrize(("megabits", "transfers"), [(1, 52), (10, 1), (10, 3), (10, 52), (100, 7), (10_000, 2)])
def test_all_transfers_together_stay_at_the_limit_in_any_ten_seconds_and_share_it_evenly(
    site: Site, megabits: int, transfers: int
) -> None:
    limit = megabits * MBIT
    site.budget.set_limit(limit)
    for _ in range(transfers):
        site.add()
    site.run(1)
    site.sent.clear()
    taken = site.run(15)
    assert site.worst(limit, 10) <= 0.05
    assert max(taken) - min(taken) <= max(0.02 * limit * 15 / transfers, 2 * PACED_SLICE_BYTES)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 8, 20, 100]), min_size=60, max_size=60))
def test_grants_that_come_late_lose_nothing_and_add_nothing(delays: list[int]) -> None:
    """Up to the burst: a delay of 100 ms is four grants in one."""
    with site_of_its_own() as late:
        late.budget.set_limit(10 * MBIT)
        late.add()
        late.add()
        late.run(0.5)
        begin_s, before = late.clock.now_s, late.budget.granted_bytes
        for delay in delays:
            late.run(0.001 * delay, 0.001 * delay)
        passed_s = late.clock.now_s - begin_s
        assert late.budget.granted_bytes - before == pytest.approx(10 * MBIT * passed_s, abs=2 * len(delays) + 1)


def test_after_a_silence_no_more_than_a_quarter_second_is_sent_at_once(site: Site) -> None:
    limit = 100 * MBIT
    site.budget.set_limit(limit)
    takers = [site.add(0) for _ in range(5)]
    site.run(60)
    for taker in takers:
        taker.left_bytes = ENDLESS
    assert sum(site.run(GRANT_EVERY_S)) <= 0.25 * limit


def test_a_budget_that_was_stopped_does_not_make_up_for_it_at_once_but_slowly_and_for_half_a_second_at_most(site: Site) -> None:
    limit = 100 * MBIT
    site.budget.set_limit(limit)
    site.add()
    site.run(1)
    assert sum(site.run(60, step_s=60)) <= 0.25 * limit
    assert sum(site.run(1)) <= 1.15 * limit, "what was kept, and a twentieth more"
    assert sum(site.run(19)) == pytest.approx((19 + 0.5) * limit, rel=0.01)
    assert sum(site.run(10)) == pytest.approx(10 * limit, rel=0.005)


def test_what_a_transfer_does_not_want_the_others_get(site: Site) -> None:
    limit = 10 * MBIT
    site.budget.set_limit(limit)
    idle, modest, greedy = site.add(0), site.add(0), site.add()
    for _ in range(100):
        modest.left_bytes += limit // 100  # a tenth of the limit
        site.run(0.1)
    assert idle.taken == 0
    assert modest.taken == pytest.approx(0.1 * limit * 10, rel=0.05)
    assert modest.taken + greedy.taken == pytest.approx(limit * 10, rel=0.03)


def test_a_pre_failover_cycle_gets_its_weight_and_an_ordinary_one_is_never_starved(site: Site) -> None:
    site.budget.set_limit(10 * MBIT, pre_failover_weight=4)
    site.add(urgent=True), site.add(), site.add()
    urgent, *others = site.run(20)
    assert [urgent / other for other in others] == pytest.approx([4, 4], rel=0.05)
    site.budget.set_limit(10 * MBIT, pre_failover_weight=1)
    urgent, *others = site.run(20)
    assert [urgent / other for other in others] == pytest.approx([1, 1], rel=0.05)


@pytest.mark.parametrize("ordinary", [1, 8])
def test_however_high_its_weight_a_pre_failover_cycle_leaves_a_tenth_to_the_others(site: Site, ordinary: int) -> None:
    limit = 10 * MBIT
    site.budget.set_limit(limit, pre_failover_weight=1000)
    site.add(urgent=True)
    for _ in range(ordinary):
        site.add()
    _, *others = site.run(20)
    assert sum(others) == pytest.approx(0.1 * limit * 20, rel=0.05)


def test_many_pre_failover_cycles_never_get_less_than_ordinary_ones(site: Site) -> None:
    site.budget.set_limit(10 * MBIT, pre_failover_weight=1000)
    for _ in range(20):
        site.add(urgent=True)
    site.add()
    *urgent, other = site.run(20)
    assert [one / other for one in urgent] == pytest.approx([1.0] * 20, rel=0.05)


def test_a_new_limit_holds_from_the_next_second_on_and_what_the_old_one_granted_is_called_back(site: Site) -> None:
    site.budget.set_limit(1000 * MBIT)
    slow, fast = site.add(), site.add()
    site.run(5)
    slow.stopped = True
    site.run(0.3)  # granted at a gigabit, and not taken yet
    site.budget.set_limit(10 * MBIT)
    slow.stopped = False
    assert sum(site.run(1)) <= 1.25 * 10 * MBIT
    assert sum(site.run(10)) == pytest.approx(10 * 10 * MBIT, rel=0.05)
    site.budget.set_limit(100 * MBIT)
    assert sum(site.run(1)) == pytest.approx(100 * MBIT, rel=0.1)
    assert fast.taken


def test_a_frozen_transfer_gives_its_share_to_the_others_within_a_second_and_gets_it_back(site: Site) -> None:
    limit = 10 * MBIT
    site.budget.set_limit(limit)
    takers = [site.add() for _ in range(4)]
    site.run(5)
    for frozen in takers[1:]:
        frozen.stopped = True
    site.run(1)
    assert site.run(5)[0] == pytest.approx(5 * limit, rel=0.02)
    for frozen in takers[1:]:
        frozen.stopped = False
    woken = site.run(1)
    assert sum(woken) <= 1.3 * limit
    assert site.run(8) == pytest.approx([2 * limit] * 4, rel=0.05)


def test_a_transfer_that_ends_leaves_its_share_and_its_row(site: Site) -> None:
    limit = 10 * MBIT
    site.budget.set_limit(limit)
    first, second = site.add(), site.add()
    site.run(2)
    first.stopped = True
    site.run(0.2)
    row = first.row
    site.leave(first)
    assert site.run(5) == pytest.approx([5 * limit], rel=0.05)
    third = site.add(0)
    assert third.row == row
    third.act(site.clock.now_s)
    assert third.taken == 0, "a row begins anew"
    assert second.taken


def test_a_budget_leaves_no_descriptor_behind() -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    budget = Budget()
    budget.set_limit(10 * MBIT)
    with budget.seat(urgent=False) as seat:
        assert os.fstat(seat.descriptor).st_nlink == 0, "the memory's file has no name"
    budget.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    with pytest.raises(DeltaferryError), budget.seat(urgent=False):
        pass


# The waiting threads of a data process


def never() -> bool:
    return False


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; a test that waits in vain fails."""
    look = threading.Event()
    for _ in range(4000):
        if condition():
            return
        look.wait(0.005)
    raise AssertionError("the condition never came true")


class Process:
    """An allowance, and the memory behind it as the worker sees it."""

    def __init__(self, budget: Budget, seat: Seat) -> None:
        self.allowance = Allowance.of(Seat(os.dup(seat.descriptor), seat.row))
        self.rows = BudgetRows(seat.descriptor)
        self.row = seat.row
        self.threads: list[threading.Thread] = []
        self.sent: list[int] = []
        self.errors: list[BaseException] = []

    def wanted(self) -> int:
        return self.rows.get(self.row, Word.WANTED) - self.rows.get(self.row, Word.TAKEN)

    def grant(self, size_bytes: int) -> None:
        self.rows.put(self.row, Word.GRANTED, self.rows.get(self.row, Word.GRANTED) + size_bytes)

    def put(self, number: int, size_bytes: int, leave: Callable[[], bool] = never) -> None:
        """Send a body in a thread of its own, noting its number with each slice, once the thread waits."""
        body = self.allowance.body(leave)

        def send() -> None:
            left = size_bytes
            try:
                while left:
                    left -= body.take(left)
                    self.sent.append(number)
            except (GivenBack, DeltaferryError) as error:
                self.errors.append(error)

        before = self.wanted()
        self.threads.append(threading.Thread(target=send))
        self.threads[-1].start()
        until(lambda: self.wanted() > before)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def process() -> Iterator[Process]:
    budget = Budget(Clock(), granting=False)
    budget.set_limit(10 * MBIT)
    with budget.seat(urgent=False) as seat:
        made = Process(budget, seat)
        made.rows.put(seat.row, Word.QUANTUM, PACED_SLICE_BYTES)
        yield made
        made.allowance.stop()
        made.join()
    budget.close()


def test_the_object_that_was_begun_first_is_sent_first(process: Process) -> None:
    for number in range(4):
        process.put(number, 2 * PACED_SLICE_BYTES)
    for slices in range(1, 9):
        process.grant(PACED_SLICE_BYTES)
        until(lambda slices=slices: len(process.sent) == slices)  # type: ignore[misc]
    process.join()
    assert process.sent == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nothing_is_sent_that_was_not_granted_and_slices_are_of_64_kib(process: Process) -> None:
    process.put(0, 3 * PACED_SLICE_BYTES)
    process.grant(PACED_SLICE_BYTES - 1)
    assert process.sent == []
    process.grant(PACED_SLICE_BYTES + 1)
    until(lambda: process.rows.get(process.row, Word.TAKEN) == 2 * PACED_SLICE_BYTES)
    assert len(process.sent) == 2
    process.grant(PACED_SLICE_BYTES)
    process.join()
    assert process.wanted() == 0


def test_without_a_limit_nobody_waits_and_slices_are_large(process: Process) -> None:
    process.put(0, SLICE_BYTES + 1)
    process.rows.limited = False
    process.join()
    assert len(process.sent) == 2
    body = process.allowance.body(never)
    assert body.take(10 * SLICE_BYTES) == SLICE_BYTES
    assert body.waited_s == 0
    assert process.rows.get(process.row, Word.TAKEN) == 0, "what nothing limits is not counted"


def test_an_object_that_is_begun_is_finished_and_one_that_is_not_can_be_given_back(process: Process) -> None:
    late = threading.Event()
    process.put(0, 2 * PACED_SLICE_BYTES, late.is_set)
    process.put(1, PACED_SLICE_BYTES, late.is_set)
    process.grant(PACED_SLICE_BYTES)
    until(lambda: process.sent == [0])
    late.set()
    until(lambda: len(process.errors) == 1)
    process.grant(PACED_SLICE_BYTES)
    process.join()
    assert process.sent == [0, 0]
    assert isinstance(process.errors[0], GivenBack)


def test_a_failure_elsewhere_ends_the_waiting(process: Process) -> None:
    process.put(0, PACED_SLICE_BYTES)
    process.put(1, PACED_SLICE_BYTES)
    process.allowance.stop()
    process.join()
    kinds = [error.kind for error in process.errors if isinstance(error, DeltaferryError)]
    assert kinds == [ErrorKind.INTERRUPTED] * 2


def test_a_worker_that_cannot_share_memory_because_its_disk_is_full_says_so() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(DeltaferryError, match="TMPDIR") as caught:
            Budget()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.kind is ErrorKind.LOCAL_DISK_FULL
