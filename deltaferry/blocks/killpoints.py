"""Numbered points at which a data process kills or stops itself, for chaos tests.

`DELTAFERRY_KILL_POINT=<name>:<n>` makes the process send itself SIGKILL at the n-th passing of the named point, counted
from 1 over all threads; `<name>:<n>:stop` makes it SIGSTOP, after which it goes on where it was when somebody continues it.
Without the variable a point costs one comparison.
"""

import os
import signal
import threading
from enum import StrEnum

VARIABLE = "DELTAFERRY_KILL_POINT"


class KillPoint(StrEnum):
    """Where a data process can be killed or stopped."""

    AFTER_READ = "after-read"
    """A segment's data was read from the source; nothing of it is stored."""
    AFTER_PUT = "after-put"
    """A segment was stored; nobody was told."""
    MID_PUT_PAGE = "mid-put-page"
    """The first slice of a Put Page's body was sent."""
    MID_WRITE_BACK = "mid-write-back"
    """A range of a segment was written to a disk at the site; nothing was flushed or read back."""
    BEFORE_OUTCOME = "before-outcome"
    """Everything was done; the outcome was not reported."""


STOP = "stop"
"""The variable's third part for SIGSTOP."""


def _wanted() -> tuple[KillPoint, int, signal.Signals] | None:
    name, _, rest = os.environ.get(VARIABLE, "").partition(":")
    count, _, how = rest.partition(":")
    return (KillPoint(name), int(count), signal.SIGSTOP if how == STOP else signal.SIGKILL) if name else None


_target = _wanted()
_lock = threading.Lock()
_passed = 0


def pass_point(point: KillPoint) -> None:
    """Die or stop here if this is the passing that was asked for."""
    global _passed
    if _target is None or point is not _target[0]:
        return
    with _lock:
        _passed += 1
        if _passed == _target[1]:
            os.kill(os.getpid(), _target[2])
