"""What the chaos proxy does to traffic: the faults that can be ordered, and the seeded choice of which request meets one."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class ProxyAction(StrEnum):
    """What a request (of an HTTP route) or a connection (of a TCP route) meets."""

    DELAY = "delay"
    """HTTP: passed on after `delay_s`. TCP: every piece of data is."""
    CUT = "cut"
    """`after_bytes` of what goes in `direction` are passed on, then both connections are cut."""
    TRUNCATE = "truncate"
    """HTTP only: the body ends after `after_bytes`, with a length that says so: well formed, and too short."""
    FLIP = "flip"
    """One bit, chosen by the seed, is flipped: of the body in `direction`, or of a TCP connection's byte `after_bytes`."""
    UNAVAILABLE = "unavailable"
    """HTTP only: 503 with Retry-After, no effect."""
    TIMED_OUT = "timed-out"
    """HTTP only: 500 OperationTimedOut, no effect."""
    DROP = "drop"
    """HTTP only: carried out; then the client's connection is cut instead of a response."""
    DUPLICATE = "duplicate"
    """HTTP only: carried out twice; the client gets the first response."""
    HOLD = "hold"
    """Nothing is passed on until the faults are cleared or released; the client waits."""
    LATE = "late"
    """HTTP only: the client's connection is cut at once; the request is passed on when held ones are released."""


class Direction(StrEnum):
    """Which way data goes."""

    TO_SERVER = "to-server"
    TO_CLIENT = "to-client"


@dataclass(slots=True)
class ProxyFault:
    """What `count` matching requests or connections meet, each with probability `share`, after `skip` that do not.

    Empty matches everything. The text filters apply to HTTP routes only; `head_contains` is compared with the request's
    head in small letters: `x-ms-blob-type: blockblob` stands for Put Blob.
    """

    action: ProxyAction
    route: str = ""
    """Name of a route, or its beginning: `nbd` stands for all hosts' exports."""
    method: str = ""
    path_contains: str = ""
    head_contains: str = ""
    skip: int = 0
    count: int = 1
    share: float = 1.0
    delay_s: float = 0.0
    after_bytes: int = 0
    retry_after_s: int = 0
    direction: Direction = Direction.TO_CLIENT


class Faults:
    """The ordered faults. Choices come from one seeded source, so that the same traffic meets the same faults."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._ordered: list[ProxyFault] = []

    @property
    def ordered(self) -> int:
        """How many faults are still to be met."""
        return len(self._ordered)

    def order(self, fault: ProxyFault) -> None:
        """Add a fault; earlier ones are asked first."""
        self._ordered.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        self._ordered.clear()

    def of_request(self, route: str, method: str, path: str, head: str) -> ProxyFault | None:
        """Return what an HTTP request meets, using up one of the fault's counts."""
        return self._take(
            lambda fault: (
                route.startswith(fault.route)
                and fault.method in ("", method)
                and fault.path_contains in path
                and fault.head_contains in head
            )
        )

    def of_connection(self, route: str) -> ProxyFault | None:
        """Return what a TCP connection meets, using up one of the fault's counts."""
        return self._take(lambda fault: route.startswith(fault.route))

    def _take(self, matches: Callable[[ProxyFault], bool]) -> ProxyFault | None:
        for fault in self._ordered:
            if not matches(fault):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                return None
            if fault.share < 1.0 and self.random.random() >= fault.share:
                continue
            fault.count -= 1
            if fault.count == 0:
                self._ordered.remove(fault)
            return fault
        return None

    def flipped(self, data: bytes) -> bytes:
        """Return data with one bit flipped."""
        if not data:
            return data
        place = self.random.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << self.random.randrange(8)]) + data[place + 1 :]
