"""The throttle as a data process meets it: each slice of an object's body waits until the worker has granted it.

The object that was begun first goes first: threads that shared a small rate evenly would take many minutes each for an object,
longer than a server waits for one. So on a slow line one or two objects are on their way at a time, whatever the number of
threads, and the others have not opened their requests yet.
"""

import os
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Protocol

from deltaferry.blocks.budget_rows import BudgetRows, Seat, Word
from deltaferry.model.errors import DeltaferryError, ErrorKind

SLICE_BYTES = 256 * 1024
"""A body is sent in slices, each under a time limit of its own, so that a slow link is slow and not broken (azcopy #1219)."""
PACED_SLICE_BYTES = 64 * 1024
"""The largest slice where a limit holds."""
_LOOK_AT_LEAST_EVERY_S = 0.05
_LOOK_AT_MOST_EVERY_S = 0.005
_LOOK_AGAIN_S = 0.5
"""How often who is not next in turn looks whether it should go on waiting."""


class GivenBack(Exception):
    """An object was not begun, because its turn did not come in the transfer's time."""


class BodyPace(Protocol):
    """When the bytes of an object's body may be sent."""

    @property
    def waited_s(self) -> float:
        """How long the body has waited in all."""

    def take(self, remaining_bytes: int) -> int:
        """Return how many of the remaining bytes to send now, at least one, waiting until there are some."""


class _Unpaced:
    """The pace of a body that nothing limits."""

    waited_s = 0.0

    def take(self, remaining_bytes: int) -> int:
        return min(remaining_bytes, SLICE_BYTES)


UNPACED: BodyPace = _Unpaced()
"""As fast as the line takes it."""


class _Waiting:
    """A thread that waits for its next slice."""

    def __init__(self, remaining_bytes: int) -> None:
        self.remaining_bytes = remaining_bytes
        self.look = threading.Event()


class Allowance:
    """A data process's part of its appliance's budget, shared by its threads."""

    def __init__(self, rows: BudgetRows, row: int) -> None:
        self._rows = rows
        self._row = row
        self._lock = threading.Lock()
        self._tickets = count()
        self._waiting: dict[int, _Waiting] = {}
        self._taken = 0
        self._stopped = False

    @classmethod
    def of(cls, seat: Seat) -> "Allowance":
        """Return the allowance of the seat that this process was started with; its descriptor is closed."""
        rows = BudgetRows(seat.descriptor)
        os.close(seat.descriptor)
        return cls(rows, seat.row)

    def body(self, leave: Callable[[], bool]) -> BodyPace:
        """Return the pace of one body. While it is not begun, `leave` may say that it shall not be: `take` raises GivenBack."""
        return _PacedBody(self, next(self._tickets), leave)

    def stop(self) -> None:
        """Let nobody wait any more: whoever does raises INTERRUPTED."""
        with self._lock:
            self._stopped = True
            for waiting in self._waiting.values():
                waiting.look.set()

    @property
    def limited(self) -> bool:
        """Whether a limit holds now."""
        return self._rows.limited

    def take(self, ticket: int, remaining_bytes: int, leave: Callable[[], bool]) -> int:
        """Wait for the turn of a ticket and for what is granted; return how many bytes may be sent."""
        own = _Waiting(remaining_bytes)
        with self._lock:
            self._waiting[ticket] = own
            self._tell()
        try:
            while True:
                if leave():
                    raise GivenBack
                with self._lock:
                    if self._stopped:
                        raise DeltaferryError(
                            ErrorKind.INTERRUPTED, "the transfer ended while it waited for its share of the line"
                        )
                    if not self._rows.limited:
                        return UNPACED.take(remaining_bytes)
                    look_again_s = _LOOK_AGAIN_S
                    if ticket == min(self._waiting):
                        size_bytes, look_again_s = self._try(remaining_bytes)
                        if size_bytes:
                            self._taken += size_bytes
                            self._rows.put(self._row, Word.TAKEN, self._taken)
                            return size_bytes
                own.look.wait(look_again_s)
                own.look.clear()
        finally:
            with self._lock:
                del self._waiting[ticket]
                self._tell()
                if self._waiting:
                    self._waiting[min(self._waiting)].look.set()

    def _try(self, remaining_bytes: int) -> tuple[int, float]:
        """Return how much of what is granted to take, and if that is nothing, when to look again."""
        available = self._rows.get(self._row, Word.GRANTED) - self._taken
        needed = max(1, min(self._rows.get(self._row, Word.QUANTUM), remaining_bytes))
        if available >= needed:
            return min(remaining_bytes, PACED_SLICE_BYTES, available), 0.0
        rate = max(1, self._rows.get(self._row, Word.RATE))
        return 0, min(max((needed - available) / rate, _LOOK_AT_MOST_EVERY_S), _LOOK_AT_LEAST_EVERY_S)

    def _tell(self) -> None:
        """Say what the threads want, under the lock."""
        wanted = self._taken + sum(waiting.remaining_bytes for waiting in self._waiting.values())
        self._rows.put(self._row, Word.WANTED, wanted)


class _PacedBody:
    """One body's pace: its ticket says how old it is."""

    def __init__(self, allowance: Allowance, ticket: int, leave: Callable[[], bool]) -> None:
        self._allowance = allowance
        self._ticket = ticket
        self._leave = leave
        self.waited_s = 0.0

    def take(self, remaining_bytes: int) -> int:
        """See `BodyPace.take`. Raises GivenBack, or INTERRUPTED after the allowance was stopped."""
        if not self._allowance.limited:
            return UNPACED.take(remaining_bytes)
        began_s = time.monotonic()
        size_bytes = self._allowance.take(self._ticket, remaining_bytes, self._leave)
        self.waited_s += time.monotonic() - began_s
        self._leave = _stay
        return size_bytes


def _stay() -> bool:
    return False
