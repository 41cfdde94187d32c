"""The throttle: one budget of bytes for all transfers of an appliance, in whatever processes and threads they run.

The worker owns the budget. Forty times a second it grants what the limit allows for that time, each transfer's part by the
rule of `shares.py` over what it waits to send at this moment; the data processes take what they were granted, slice by slice
(`allowance.py`). Hence, without anybody having to notice anything: what a transfer does not want, the others get at the next
grant; a transfer that does not take what it was granted gets no more; a new limit holds from the next grant on; and
however many transfers there are, what they send together is what was granted (docs/decisions/0018-throttle.md).
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deltaferry.blocks.allowance import PACED_SLICE_BYTES
from deltaferry.blocks.budget_file import create_file
from deltaferry.blocks.budget_rows import ROWS, BudgetRows, Seat, Word
from deltaferry.blocks.shares import Claim, shares
from deltaferry.model.errors import DeltaferryError, ErrorKind

GRANT_EVERY_S = 0.025
DEFAULT_PRE_FAILOVER_WEIGHT = 4
_UNGRANTED_S = 0.15
"""How much of the limit is kept for later while nobody wants it, or the grants are late."""
_UNTAKEN_S = 0.1
"""How much of the limit one transfer may have been granted and not taken: with the above, a burst is at most a quarter second's."""
_LEFT_TO_OTHERS = 0.1
"""The share of the limit that all but the pre-failover cycles together keep, however high the weight is set."""
_OWED_S = 0.5
_REPAID = 0.05
"""What could not be granted in time, because this process had no processor for longer than may be kept, is made up for by so much
more of the limit: together with a burst that is less than a tenth of it in any ten seconds."""
_QUANTUM_S = 0.05
_LEAST_QUANTUM_BYTES = 1024
"""Smaller slices cost more for what is around them than they even out: at 1 Mbit/s, 52 of them are not half a second's."""
_FROZEN_S = 0.5
"""Who could send and does not for so long stands still; it counts for nothing until it moves."""


class _Transfer:
    """What the worker knows of one transfer."""

    def __init__(self, row: int, *, urgent: bool, now_s: float) -> None:
        self.row = row
        self.urgent = urgent
        self.granted = self.taken = self.wanted = 0
        self.quantum = _LEAST_QUANTUM_BYTES
        self.moved_s = self.active_s = now_s
        self.frozen = False

    @property
    def untaken(self) -> int:
        """Bytes that were granted and not taken."""
        return self.granted - self.taken

    def look(self, rows: BudgetRows, now_s: float) -> None:
        """Read what the process says, and whether it moves: who cannot send does not stand still."""
        taken, wanted = rows.get(self.row, Word.TAKEN), rows.get(self.row, Word.WANTED)
        if taken != self.taken or wanted <= taken or self.granted - taken < min(self.quantum, wanted - taken):
            self.moved_s = now_s
        self.taken, self.wanted = taken, wanted
        self.frozen = now_s - self.moved_s > _FROZEN_S
        if not self.frozen and wanted > taken:
            self.active_s = now_s

    def active(self, now_s: float) -> bool:
        """Whether it has wanted something a moment ago."""
        return not self.frozen and now_s - self.active_s <= _FROZEN_S


class Budget:
    """An appliance's budget. Safe to use from several threads; nothing is limited until `set_limit` says so."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, granting: bool = True) -> None:
        """Make a budget; without `granting` only calls of `grant` grant anything. `clock` returns seconds that never run back."""
        self._clock = clock
        self._granting = granting
        self._descriptor = create_file()
        self._rows = BudgetRows(self._descriptor)
        self._free_rows = list(range(ROWS))
        self._transfers: dict[int, _Transfer] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._bytes_per_s: float | None = None
        self._urgent_weight = DEFAULT_PRE_FAILOVER_WEIGHT
        self._left_bytes = 0.0
        self._owed_bytes = 0.0
        self._short = False
        self._granted_s = clock()
        self._granted_bytes = 0

    @property
    def bytes_per_s(self) -> float | None:
        """The limit of now; None for none."""
        return self._bytes_per_s

    @property
    def granted_bytes(self) -> int:
        """How much was granted since the budget was made, without what was called back."""
        with self._changed:
            return self._granted_bytes

    @property
    def waiting(self) -> int:
        """How many transfers want more than they were granted."""
        with self._changed:
            transfers = self._transfers.values()
            return sum(self._rows.get(transfer.row, Word.WANTED) > transfer.granted for transfer in transfers)

    def set_limit(self, bytes_per_s: float | None, pre_failover_weight: int = DEFAULT_PRE_FAILOVER_WEIGHT) -> None:
        """Limit what all transfers together send from now on, running ones too; None lets them send what the line takes."""
        with self._changed:
            self._urgent_weight = pre_failover_weight
            if bytes_per_s == self._bytes_per_s:
                return
            now_s = self._clock()
            for transfer in self._transfers.values():
                transfer.look(self._rows, now_s)
                self._call_back(transfer, leave_bytes=0)
            if self._bytes_per_s is None or bytes_per_s is None:
                self._left_bytes = 0.0
            self._owed_bytes, self._short = 0.0, False
            self._granted_s = now_s
            self._bytes_per_s = bytes_per_s
            self._rows.limited = bytes_per_s is not None
            self._start_granting()
            self._changed.notify_all()

    @contextmanager
    def seat(self, *, urgent: bool) -> Iterator[Seat]:
        """Give a transfer its place for the length of the context, whose end the data process must not outlive.

        An `urgent` one has the weight of a pre-failover cycle. What was granted to it and not taken goes to the others.
        """
        with self._changed:
            if self._closed:
                raise DeltaferryError(ErrorKind.INTERRUPTED, "the worker ends")
            if not self._free_rows:
                raise DeltaferryError(ErrorKind.INTERNAL, f"more than {ROWS} transfers at once")
            row = self._free_rows.pop()
            self._rows.clear(row)
            transfer = self._transfers[row] = _Transfer(row, urgent=urgent, now_s=self._clock())
            self._start_granting()
            self._changed.notify_all()
        try:
            yield Seat(self._descriptor, row)
        finally:
            with self._changed:
                del self._transfers[row]
                if not self._closed:
                    transfer.look(self._rows, self._clock())
                    self._call_back(transfer, leave_bytes=0)
                self._free_rows.append(row)
                self._short = self._short and bool(self._transfers)

    def grant(self) -> None:
        """Grant what the limit allows since the last time."""
        with self._changed:
            limit = self._bytes_per_s
            if limit is None or self._closed:
                return
            now_s = self._clock()
            self._accrue((now_s - self._granted_s) * limit, limit)
            self._granted_s = now_s
            for transfer in self._transfers.values():
                transfer.look(self._rows, now_s)
                if transfer.frozen or transfer.untaken < 0:
                    self._call_back(transfer, leave_bytes=transfer.quantum)
            moving = [transfer for transfer in self._transfers.values() if transfer.active(now_s)]
            urgent = self._weight_of_urgent(moving)
            self._announce(moving, limit, urgent)
            most = max(limit * _UNTAKEN_S, 2 * _LEAST_QUANTUM_BYTES)
            claims = [
                Claim(
                    urgent if transfer.urgent else 1, max(0.0, min(transfer.wanted - transfer.granted, most - transfer.untaken))
                )
                for transfer in moving
            ]
            self._short = sum(claim.demand for claim in claims) > self._left_bytes
            for transfer, share in zip(moving, shares(max(0.0, self._left_bytes), claims), strict=True):
                self._add(transfer, int(share))

    def close(self) -> None:
        """End granting and give the memory back. Transfers must have ended."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._rows.close()
        os.close(self._descriptor)

    def _accrue(self, size_bytes: float, limit: float) -> None:
        """Add what the limit allows for the time since the last grant, as far as it may be kept."""
        repaid = min(self._owed_bytes, size_bytes * _REPAID)
        self._owed_bytes -= repaid
        self._left_bytes += size_bytes + repaid
        too_much = self._left_bytes - limit * _UNGRANTED_S
        if too_much > 0:
            self._left_bytes -= too_much
            if self._short:
                self._owed_bytes = min(self._owed_bytes + too_much, limit * _OWED_S)

    def _weight_of_urgent(self, moving: list[_Transfer]) -> float:
        """Return the weight of an urgent transfer: never so high that the others together keep less than their part."""
        urgent = sum(transfer.urgent for transfer in moving)
        others = len(moving) - urgent
        if not urgent or not others:
            return self._urgent_weight
        highest = others / urgent * (1 - _LEFT_TO_OTHERS) / _LEFT_TO_OTHERS
        return max(1.0, min(self._urgent_weight, highest))

    def _announce(self, moving: list[_Transfer], limit: float, urgent_weight: float) -> None:
        """Tell each transfer what it can expect, so that it takes no larger slices and looks no more often than is sensible."""
        weights = sum(urgent_weight if transfer.urgent else 1 for transfer in moving)
        for transfer in moving:
            rate = limit * (urgent_weight if transfer.urgent else 1) / weights
            transfer.quantum = int(min(max(rate * _QUANTUM_S, _LEAST_QUANTUM_BYTES), PACED_SLICE_BYTES))
            self._rows.put(transfer.row, Word.QUANTUM, transfer.quantum)
            self._rows.put(transfer.row, Word.RATE, int(rate))

    def _call_back(self, transfer: _Transfer, *, leave_bytes: int) -> None:
        """Take back what was granted and not taken; charge what was taken nevertheless, before it was seen."""
        if transfer.untaken < 0 or transfer.untaken > leave_bytes:
            self._add(transfer, (0 if transfer.untaken < 0 else leave_bytes) - transfer.untaken)

    def _add(self, transfer: _Transfer, size_bytes: int) -> None:
        transfer.granted += size_bytes
        self._left_bytes -= size_bytes
        self._granted_bytes += size_bytes
        self._rows.put(transfer.row, Word.GRANTED, transfer.granted)

    def _start_granting(self) -> None:
        if self._granting and self._thread is None and self._bytes_per_s is not None and self._transfers:
            self._thread = threading.Thread(target=self._keep_granting, name="throttle", daemon=True)
            self._thread.start()

    def _keep_granting(self) -> None:
        """Grant for as long as there is something to limit; sleep in between."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._bytes_per_s is not None and bool(self._transfers)))
                if self._closed:
                    return
            self.grant()
            time.sleep(GRANT_EVERY_S)
