"""ARM's token buckets, for each subscription and principal: the lab has one of each.

Source: learn.microsoft.com, "Understand how Azure Resource Manager throttles requests": reads 250, refilled by 25 a
second; writes and deletes 200, refilled by 10 a second. A request that finds its bucket empty is answered 429.
"""

import math
import time
from dataclasses import dataclass
from threading import Lock


@dataclass(slots=True)
class _Bucket:
    capacity: float
    refill_per_s: float
    tokens: float
    at: float


class Buckets:
    """The three buckets; `scale` multiplies their sizes and rates, and 0 switches them off."""

    def __init__(self, scale: float = 1.0) -> None:
        self._lock = Lock()
        self._buckets: dict[str, _Bucket] = {}
        self.set_scale(scale)

    def set_scale(self, scale: float) -> None:
        """Fill all buckets anew, at another size."""
        now = time.monotonic()
        sizes = {"reads": (250.0, 25.0), "writes": (200.0, 10.0), "deletes": (200.0, 10.0)} if scale > 0 else {}
        with self._lock:
            self._buckets = {
                name: _Bucket(math.ceil(size * scale), refill * scale, math.ceil(size * scale), now)
                for name, (size, refill) in sizes.items()
            }

    @staticmethod
    def name(method: str) -> str:
        """Return which bucket a method draws from."""
        return {"GET": "reads", "HEAD": "reads", "DELETE": "deletes"}.get(method, "writes")

    def take(self, method: str) -> tuple[int | None, float | None]:
        """Take a token. Returns what remains (None if switched off), and the seconds to wait if there was none."""
        with self._lock:
            bucket = self._buckets.get(self.name(method))
            if bucket is None:
                return None, None
            now = time.monotonic()
            bucket.tokens = min(bucket.capacity, bucket.tokens + (now - bucket.at) * bucket.refill_per_s)
            bucket.at = now
            if bucket.tokens < 1:
                return 0, math.ceil((1 - bucket.tokens) / bucket.refill_per_s)
            bucket.tokens -= 1
            return int(bucket.tokens), None
