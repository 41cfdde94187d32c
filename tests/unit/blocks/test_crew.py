import threading
from collections.abc import Callable
from itertools import count

import pytest

from deltaferry.blocks.crew import Crew


def ignore() -> None:
    pass


def test_no_disk_has_more_segments_in_work_than_its_limit_and_none_waits_for_another() -> None:
    lock = threading.Lock()
    busy = [0, 0]
    most = [0, 0]
    done: list[tuple[int, int]] = []
    both = threading.Barrier(4, timeout=10)
    """Two threads on each disk must be at work at once, or this breaks."""

    def start() -> Callable[[int, int], None]:
        def work(disk: int, item: int) -> None:
            with lock:
                busy[disk] += 1
                most[disk] = max(most[disk], busy[disk])
            if item < 2:
                both.wait()
            with lock:
                busy[disk] -= 1
                done.append((disk, item))

        return work

    Crew([iter(range(40)), iter(range(2))], per_disk=2).run(16, start, ignore)
    assert sorted(done) == [(0, item) for item in range(40)] + [(1, 0), (1, 1)]
    assert most == [2, 2]


def test_the_first_failure_stops_the_handing_out_and_is_raised_when_all_have_put_down() -> None:
    begun: list[int] = []

    def start() -> Callable[[int, int], None]:
        def work(disk: int, item: int) -> None:
            begun.append(item)
            if item == 3:
                raise LookupError(item)

        return work

    with pytest.raises(LookupError):
        Crew([iter(range(10_000))], per_disk=1).run(1, start, ignore)
    assert begun == [0, 1, 2, 3]


def test_what_the_tick_raises_stops_the_work() -> None:
    release = threading.Event()
    begun: list[int] = []

    def start() -> Callable[[int, int], None]:
        def work(disk: int, item: int) -> None:
            begun.append(item)
            assert release.wait(10)

        return work

    def tick() -> None:
        release.set()
        raise KeyError

    with pytest.raises(KeyError):
        Crew([count()], per_disk=4).run(4, start, tick)  # work without end: only the stop ends it
    assert begun
