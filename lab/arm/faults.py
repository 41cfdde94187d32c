"""What can be set from outside while the lab runs: times, quotas, and faults asked for by name."""

import time
from dataclasses import dataclass, field, replace
from threading import Event, Lock

from lab.arm.errors import ArmError


@dataclass(slots=True)
class Times:
    """How long things take."""

    retry_after_s: float = 1.0
    """Sent as Retry-After. The Azure SDKs take 0 for "not given", and then wait their own `polling_interval`."""
    operation_s: float = 0.0
    """The least time that a long-running operation takes."""


@dataclass(slots=True)
class _Failure:
    action: str
    code: str
    message: str
    remaining: int


@dataclass(slots=True)
class _Drop:
    method: str
    path_contains: str
    remaining: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The next `count` such requests are not carried out: answered with an error, or with `status` 0 not at all."""

    status: int
    code: str = ""
    method: str = "PUT"
    path_contains: str = ""
    count: int = 1


@dataclass(slots=True)
class Faults:
    """Faults to come. All methods are safe to call from several threads."""

    times: Times = field(default_factory=Times)
    cores_quota: int | None = None
    disks_quota: int | None = None
    stopping: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)
    _failures: list[_Failure] = field(default_factory=list)
    _drops: list[_Drop] = field(default_factory=list)
    _refusals: list[Refusal] = field(default_factory=list)
    _throttled: int = 0
    _throttle_retry_after_s: float = 1.0
    _unreachable_until: float = 0.0

    def fail_next(self, action: str, code: str, message: str, count: int) -> None:
        """Let the next `count` operations `action` (`disks.import`, `virtualmachines.create`) end Failed with `code`."""
        with self._lock:
            self._failures.append(_Failure(action.lower(), code, message, count))

    def take_failure(self, action: str) -> ArmError | None:
        """Return the failure that an operation that begins now is to end with."""
        with self._lock:
            for failure in self._failures:
                if failure.action == action.lower() and failure.remaining > 0:
                    failure.remaining -= 1
                    return ArmError(409, failure.code, failure.message)
        return None

    def throttle_next(self, count: int, retry_after_s: float) -> None:
        """Answer the next `count` management requests with 429."""
        with self._lock:
            self._throttled, self._throttle_retry_after_s = count, retry_after_s

    def take_throttle(self) -> float | None:
        """Return the Retry-After of a 429 to be sent to the request at hand, or None."""
        with self._lock:
            if self._throttled <= 0:
                return None
            self._throttled -= 1
            return self._throttle_retry_after_s

    def drop_responses(self, count: int, method: str, path_contains: str) -> None:
        """Carry out the next `count` such requests, and close their connections instead of answering."""
        with self._lock:
            self._drops.append(_Drop(method.upper(), path_contains.lower(), count))

    def take_drop(self, method: str, path: str) -> bool:
        """Return whether the answer at hand is to be dropped."""
        with self._lock:
            for drop in self._drops:
                if drop.remaining > 0 and drop.method == method and drop.path_contains in path.lower():
                    drop.remaining -= 1
                    return True
        return False

    def refuse_next(self, refusal: Refusal) -> None:
        """Ask for a refusal."""
        with self._lock:
            self._refusals.append(refusal)

    def take_refusal(self, method: str, path: str) -> Refusal | None:
        """Use up and return the refusal that a request is to meet, or None."""
        with self._lock:
            for index, refusal in enumerate(self._refusals):
                if refusal.method == method and refusal.path_contains.lower() in path.lower():
                    left = replace(refusal, count=refusal.count - 1)
                    self._refusals[index : index + 1] = [left] if left.count > 0 else []
                    return refusal
        return None

    def make_unreachable(self, seconds: float) -> None:
        """Close every connection, new and kept, for so long."""
        with self._lock:
            self._unreachable_until = time.monotonic() + seconds

    def unreachable(self) -> bool:
        """Return whether the endpoint plays dead."""
        with self._lock:
            return time.monotonic() < self._unreachable_until

    def clear(self) -> None:
        """Forget all faults and quotas; times stay."""
        with self._lock:
            self._failures.clear()
            self._drops.clear()
            self._refusals.clear()
            self._throttled = 0
            self._unreachable_until = 0.0
            self.cores_quota = self.disks_quota = None
