"""Runs a program for a recovery plan: no shell, a process group of its own, the end of its output, a time limit.

Whatever ends the wait (time limit, cancellation, a worker that stops or is killed) ends the whole group, by `script_leash`.
The program's environment holds nothing of the worker's, which may hold secrets: a plain PATH, and what the plan says.
"""

import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from activities import script_leash

KEPT_BYTES = 64 * 1024
"""The end of the output that is held in memory."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BEAT_S = 0.5
_LEASH_GRACE_S = script_leash.GRACE_S + 5.0
_DRAIN_S = 1.0
"""How long output is still read after the program has ended: what it left behind may hold the pipe open for ever."""


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How a program ended."""

    exit_code: int
    """128 and a signal's number where a signal ended it; 126 where it could not be started."""
    timed_out: bool
    output: str
    """The end of what it wrote to both streams, at most `KEPT_BYTES`; what is no UTF-8 is replaced."""


class _Tail:
    """The last `KEPT_BYTES` of a stream."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        while self._size - len(self._chunks[0]) >= KEPT_BYTES:
            self._size -= len(self._chunks.popleft())

    def text(self) -> str:
        return b"".join(self._chunks)[-KEPT_BYTES:].decode("utf-8", "replace")


def run_program(path: str, environment: Mapping[str, str], limit: timedelta, beat: Callable[[], None]) -> ScriptEnd:
    """Run a program to its end or to its time limit; `beat` is called about twice a second, and what it raises ends the program."""
    deadline = time.monotonic() + limit.total_seconds()
    leash = subprocess.Popen(
        [sys.executable, "-I", script_leash.__file__, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={"PATH": _PATH, "LANG": "C.UTF-8", **environment},
        start_new_session=True,
    )
    if leash.stdin is None or leash.stdout is None:
        raise RuntimeError("both were opened as pipes")
    output, tail, timed_out, beaten_at = leash.stdout.fileno(), _Tail(), False, 0.0
    try:
        while leash.poll() is None and not timed_out:
            timed_out = time.monotonic() >= deadline
            if time.monotonic() - beaten_at >= _BEAT_S:
                beaten_at = time.monotonic()
                beat()
            if not _read(output, tail, min(_BEAT_S, max(deadline - time.monotonic(), 0.0))):
                _await_end(leash, min(_BEAT_S, max(deadline - time.monotonic(), 0.0)))
    finally:
        leash.stdin.close()
        _drain(leash, output, tail)
        leash.stdout.close()
    return ScriptEnd(leash.returncode, timed_out, tail.text())


def _read(output: int, tail: _Tail, wait_s: float) -> bool:
    """Read what there is, waiting for it; return whether more may come."""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        if not selector.select(wait_s):
            return True
    data = os.read(output, KEPT_BYTES)
    tail.add(data)
    return bool(data)


def _await_end(leash: "subprocess.Popen[bytes]", wait_s: float) -> bool:
    """Wait for a program that has closed its output; return whether it has ended."""
    try:
        leash.wait(wait_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _drain(leash: "subprocess.Popen[bytes]", output: int, tail: _Tail) -> None:
    """Read on until the leash has ended, and then what is left in the pipe."""
    until = time.monotonic() + _LEASH_GRACE_S
    more = True
    while leash.poll() is None and time.monotonic() < until:
        if more:
            more = _read(output, tail, 0.05)
        else:
            _await_end(leash, 0.05)
    if leash.poll() is None:
        leash.kill()
        leash.wait()
    until = time.monotonic() + _DRAIN_S
    while more and (left_s := until - time.monotonic()) > 0:
        more = _read(output, tail, min(left_s, 0.05))
