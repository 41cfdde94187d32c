"""Heartbeats: how a running step says what it has done, and learns that it shall end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from temporalio import activity
from temporalio.exceptions import CancelledError

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.data_plane import DataProgress

_MIN_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Heartbeat details of a transfer or apply: read by `deltaferry status` from the pending activity."""

    step: str
    bytes_done: int
    bytes_total: int
    bytes_sent: int
    started_at_s: float


class Heartbeats:
    """One attempt's heartbeats, at most one a second.

    The next beat raises CancelledError after a cancellation or where the attempt was given up, INTERRUPTED when the worker
    shuts down: the step ends there, and another attempt, if there is one, goes on from what was done.
    """

    def __init__(self, step: str) -> None:
        self._step = step
        self._started_at_s = time.time()
        self._last = 0.0
        self._checks: list[Callable[[], None]] = []
        _current.set(self)

    def beat(self) -> None:
        """Say that the step is alive, and end it if it shall end."""
        self._check()
        self.alive()

    def alive(self) -> None:
        """Say that the step is alive, also while it cleans up behind its end."""
        self._send(lambda: activity.heartbeat(self._step))

    def progress(self, done: DataProgress) -> None:
        """Say how far the step is."""
        self._check()
        self._send(
            lambda: activity.heartbeat(
                StepProgress(self._step, done.bytes_done, done.bytes_total, done.bytes_sent, self._started_at_s)
            )
        )

    @contextmanager
    def ended_by(self, check: Callable[[], None]) -> Iterator[None]:
        """Call `check` before every beat, as long as the context lasts: what it raises ends the step."""
        self._checks.append(check)
        try:
            yield
        finally:
            self._checks.remove(check)

    def _send(self, heartbeat: Callable[[], None]) -> None:
        now = time.monotonic()
        if now - self._last >= _MIN_INTERVAL_S:
            self._last = now
            heartbeat()

    def _check(self) -> None:
        if activity.is_cancelled():
            raise CancelledError(f"The step was cancelled: {self._step}.")
        if activity.is_worker_shutdown():
            raise DeltaferryError(ErrorKind.INTERRUPTED, f"The worker was told to end the step: {self._step}.")
        for check in self._checks:
            check()


_current: ContextVar[Heartbeats | None] = ContextVar("heartbeats", default=None)
"""Those of the attempt that this thread works for: each attempt has a context of its own."""


def beat_for_a_request() -> None:
    """Say that the step is alive for which a store is asked once more: one that refuses may be asked for minutes. No-op elsewhere."""
    running = _current.get()
    if running is not None and activity.in_activity():
        running.alive()
