"""Faults of an NBD server that tests ask for: refusals, cuts, delays, held reads, bad ranges, replies out of order."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from lab.vcenter.nbd_protocol import WireError

_LOOK_S = 0.02
"""How often a held read looks whether it still is."""


@dataclass(slots=True)
class _Cut:
    after_bytes: int
    left_bytes: int
    times: int


@dataclass(slots=True)
class _BadRange:
    offset: int
    end: int
    error: WireError
    times: int | None
    export: str
    writing: bool


class NbdFaults:
    """What one server does wrong on purpose; changeable while it serves. Faults are for exports of all kinds alike."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusals = 0
        self._cut: _Cut | None = None
        self._write_cut: _Cut | None = None
        self._bad_ranges: list[_BadRange] = []
        self._held_ranges: list[tuple[int, int, str, bool]] = []
        self.held = 0
        """How many reads and writes are being held now."""
        self.delay_s = 0.0
        """Every read waits this long before it is answered; its connection's later requests wait too."""
        self.reorder_replies = False
        """Requests that are pending together are answered last come, first served."""
        self.volatile_writes = False
        """Writers that connect from now on lose what they have not flushed when the host's service crashes."""

    def refuse_next(self, count: int = 1) -> None:
        """Close the next connections as soon as they are made."""
        with self._lock:
            self._refusals = count

    def cut_after(self, payload_bytes: int, times: int = 1) -> None:
        """Reset the connection that sends this many more bytes of read data, all connections together; then begin anew."""
        with self._lock:
            self._cut = _Cut(payload_bytes, payload_bytes, times)

    def cut_after_writing(self, payload_bytes: int, times: int = 1) -> None:
        """Carry out the write with which as many bytes were written to `writable` exports, and reset its connection unanswered."""
        with self._lock:
            self._write_cut = _Cut(payload_bytes, payload_bytes, times)

    def fail_range(
        self,
        offset: int,
        length: int,
        *,
        error: WireError = WireError.EIO,
        times: int | None = None,
        export: str = "",
        writing: bool = False,
    ) -> None:
        """Answer reads, or writes, that touch a range with an error, always or so many times, on exports named `export…`."""
        with self._lock:
            self._bad_ranges.append(_BadRange(offset, offset + length, error, times, export, writing))

    def hold_range(self, offset: int, length: int, export: str = "", *, writing: bool = False) -> None:
        """Let reads, or writes, that touch a range wait until `clear`, on exports whose names begin with `export`."""
        with self._lock:
            self._held_ranges.append((offset, offset + length, export, writing))

    def pass_hold(self, export: str, offset: int, length: int, wait: Callable[[float], object], *, writing: bool = False) -> None:
        """Return when a request is not held, or no more; `wait` waits for so many seconds, and returns true when the server closes."""
        if not self._holds(export, offset, length, writing):
            return
        with self._lock:
            self.held += 1
        try:
            while self._holds(export, offset, length, writing) and not wait(_LOOK_S):
                pass
        finally:
            with self._lock:
                self.held -= 1

    def _holds(self, export: str, offset: int, length: int, writing: bool) -> bool:
        with self._lock:
            return any(
                start < offset + length and offset < end and export.startswith(prefix) and writing == of_writes
                for start, end, prefix, of_writes in self._held_ranges
            )

    def clear(self) -> None:
        """Serve faultlessly again."""
        with self._lock:
            self._refusals = 0
            self._cut = None
            self._write_cut = None
            self._bad_ranges.clear()
            self._held_ranges.clear()
            self.delay_s = 0.0
            self.reorder_replies = False
            self.volatile_writes = False

    def take_refusal(self) -> bool:
        """Return whether a connection that was just made is to be refused."""
        with self._lock:
            if self._refusals == 0:
                return False
            self._refusals -= 1
            return True

    def take_error(self, export: str, offset: int, length: int, *, writing: bool = False) -> WireError | None:
        """Return the error that a request is to be answered with."""
        if not self._bad_ranges:
            return None
        with self._lock:
            for bad in self._bad_ranges:
                touched = bad.offset < offset + length and offset < bad.end and bad.writing == writing
                if touched and export.startswith(bad.export) and bad.times != 0:
                    if bad.times is not None:
                        bad.times -= 1
                    return bad.error
        return None

    def take_write_cut(self, export: str, length: int) -> bool:
        """Count a write that was carried out; return whether its connection is to be reset now."""
        if self._write_cut is None or not export.startswith("writable="):
            return False
        with self._lock:
            cut = self._write_cut
            if cut is None:
                return False
            cut.left_bytes -= length
            if cut.left_bytes > 0:
                return False
            cut.times -= 1
            cut.left_bytes = cut.after_bytes
            if cut.times == 0:
                self._write_cut = None
            return True

    def take_cut(self, length: int) -> int | None:
        """Count read data about to be sent; return how much of it may go out before the cut, None for all of it."""
        if self._cut is None:
            return None
        with self._lock:
            cut = self._cut
            if cut is None:
                return None
            if length < cut.left_bytes:
                cut.left_bytes -= length
                return None
            allowed = cut.left_bytes
            cut.times -= 1
            cut.left_bytes = cut.after_bytes
            if cut.times == 0:
                self._cut = None
            return allowed
