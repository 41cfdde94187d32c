"""Pacing of one page blob: a standard page blob takes 60 MiB/s and 500 requests/s, and answers 503 beyond (facts 1.1).

The constants of backing off and recovering are azcopy's: after a 503 the rate falls to 65 %, at most once in 20 s, and
then grows by 1.5 % a second up to where it began.
"""

import threading
import time
from collections.abc import Callable

from deltaferry.model.units import MIB

DEFAULT_BYTES_PER_S = 60 * MIB
REQUESTS_PER_S = 500
_CUT = 0.65
_DEAD_BAND_S = 20.0
_RECOVERY_PER_S = 1.015


class Pacer:
    """Spreads the requests of several threads to one blob over time. Safe to use from several threads."""

    def __init__(self, bytes_per_s: float = DEFAULT_BYTES_PER_S, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at a rate, which stays the highest one. `clock` returns seconds that never run back."""
        self._limit = self._rate = float(bytes_per_s)
        self._lock = threading.Lock()
        self._clock = clock
        self._next_s = self._grown_s = clock()
        self._cut_s = float("-inf")

    @property
    def bytes_per_s(self) -> float:
        """The rate of now."""
        return self._rate

    def reserve(self, size_bytes: int) -> float:
        """Book a request; return how many seconds to wait before sending it."""
        with self._lock:
            now = self._clock()
            self._rate = min(self._limit, self._rate * _RECOVERY_PER_S ** (now - self._grown_s))
            self._grown_s = now
            begin = max(now, self._next_s)
            self._next_s = begin + max(size_bytes / self._rate, 1 / REQUESTS_PER_S)
            return begin - now

    def throttled(self) -> None:
        """Take note of a 503."""
        with self._lock:
            now = self._clock()
            if now - self._cut_s >= _DEAD_BAND_S:
                self._cut_s = self._grown_s = now
                self._rate *= _CUT
