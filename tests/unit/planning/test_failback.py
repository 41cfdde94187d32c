"""What follows a pass back to the site, and how far one is."""

from datetime import timedelta

import pytest

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.failback import BASE_LOST, NEEDS_OPERATOR, NextPass, after_commit, after_failed_pass, progress_of

_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)
_K = ErrorKind


def test_a_delta_follows_a_committed_pass_after_the_policys_interval() -> None:
    following = after_commit(2 * _HOUR)
    assert (following.wait, following.full) == (2 * _HOUR, False)
    assert "failback policy" in following.reason


@pytest.mark.parametrize(
    ("kind", "failures", "had_base", "wait", "full"),
    [
        (_K.AZURE_THROTTLED, 1, True, _MINUTE, False),
        (_K.AZURE_THROTTLED, 2, True, 5 * _MINUTE, False),
        (_K.AZURE_THROTTLED, 3, True, 15 * _MINUTE, False),
        (_K.AZURE_THROTTLED, 4, True, _HOUR, False),
        (_K.AZURE_THROTTLED, 1, False, _MINUTE, True),
        (_K.COVERAGE_MISMATCH, 1, True, _MINUTE, False),
        (_K.COVERAGE_MISMATCH, 2, True, 5 * _MINUTE, True),
        (_K.SOURCE_MOVED_ON, 1, True, timedelta(0), True),
        (_K.SOURCE_MOVED_ON, 2, True, 5 * _MINUTE, True),
        (_K.SOURCE_MOVED_ON, 2, False, 5 * _MINUTE, True),
        (_K.AZURE_NOT_FOUND, 1, True, timedelta(0), True),
        (_K.DISKS_CHANGED, 1, True, _HOUR, False),
        (_K.OPERATION_REFUSED, 1, False, _HOUR, True),
    ],
)
def test_a_failed_pass_is_followed_soon_unless_a_person_is_needed_and_compares_everything_where_the_base_is_lost(
    kind: ErrorKind, failures: int, had_base: bool, wait: timedelta, full: bool
) -> None:
    following = after_failed_pass(kind, failures, _HOUR, had_base=had_base)
    assert (following.wait, following.full) == (wait, full)
    assert following.reason


def test_a_failed_pass_is_never_followed_later_than_a_committed_one() -> None:
    short = timedelta(seconds=10)
    for kind in ErrorKind:
        for failures in range(1, 6):
            following: NextPass = after_failed_pass(kind, failures, short, had_base=True)
            assert following.wait <= short


def test_no_cause_both_loses_the_base_and_waits_for_a_person() -> None:
    assert not BASE_LOST & NEEDS_OPERATOR


def test_progress_rises_from_hashing_over_comparing_to_writing() -> None:
    def full(hashed: int, compared: int, segments: int | None, done: int = 0) -> float:
        return progress_of(
            full=True, total_bytes=100, hashed_bytes=hashed, compared_bytes=compared, segments=segments, segments_done=done
        )

    steps = [full(0, 0, None), full(50, 0, None), full(100, 0, None), full(100, 50, None), full(100, 100, None)]
    steps += [full(100, 100, 4, 0), full(100, 100, 4, 2), full(100, 100, 4, 4)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 100.0)
    assert full(100, 100, 0) == 100.0


def test_a_delta_is_as_far_as_its_segments_are() -> None:
    shares = [
        progress_of(full=False, total_bytes=100, hashed_bytes=0, compared_bytes=0, segments=segments, segments_done=done)
        for segments, done in ((None, 0), (4, 0), (4, 1), (4, 4))
    ]
    assert shares == [0.0, 0.0, 25.0, 100.0]
