import threading

import pytest

from deltaferry.blocks.pool import Pool


def test_no_more_is_made_than_the_limit_and_each_belongs_to_one_borrower_at_a_time() -> None:
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    pool = Pool(2, make)
    both = threading.Barrier(2, timeout=10)
    clashes: list[int] = []

    def borrow(number: int) -> None:
        for turn in range(200):
            with pool.lend() as thing:
                if number < 2 and turn == 0:
                    both.wait()
                thing.append(number)
                if thing != [number]:
                    clashes.append(number)
                thing.clear()

    threads = [threading.Thread(target=borrow, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    threads += [threading.Thread(target=borrow, args=(number,)) for number in range(2, 6)]
    for thread in threads[2:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    assert len(made) == 2


def test_what_was_lent_comes_back_after_a_failure() -> None:
    pool = Pool(1, object)
    with pytest.raises(LookupError), pool.lend() as lent:
        raise LookupError
    with pool.lend() as again:
        assert again is lent


def test_one_borrower_at_a_time_is_served_by_one_thing() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    pool = Pool(8, make)
    for _ in range(20):
        with pool.lend():
            continue
    assert len(made) == 1
