"""An appliance's line in a simulation: shared fairly by the disks in transfer, with a larger share for pre-failover cycles.

Each lane counts how many bytes one of its disks has moved since the simulation began; a transfer of so many bytes a disk
ends when that count has grown by as much. So a change of rate touches a lane, not its transfers.
"""

import heapq
from dataclasses import dataclass, field
from enum import StrEnum


class Lane(StrEnum):
    """What transfers share a rate."""

    PRE_FAILOVER = "pre-failover"
    ORDINARY = "ordinary"
    COMPARING = "comparing"
    """Resyncs read much and send little: the line does not hold them up."""


@dataclass(slots=True)
class _LaneState:
    moved_bytes: float = 0.0
    """By each disk in it, since the begin."""
    bytes_per_s: float = 0.0
    """Of each disk in it."""
    disks: int = 0
    ends: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Transfer → what `moved_bytes` is at its end, and its disks."""
    queue: list[tuple[float, int]] = field(default_factory=list)
    """(what `moved_bytes` is at the end, transfer); those that were stopped are passed over."""

    def first(self) -> tuple[float, int] | None:
        while self.queue:
            end, transfer = self.queue[0]
            if transfer in self.ends and self.ends[transfer][0] == end:
                return end, transfer
            heapq.heappop(self.queue)
        return None


class Line:
    """One appliance's line. Transfers are numbered by the caller; time is in seconds since the begin."""

    def __init__(self, bytes_per_s: float, disk_bytes_per_s: float, compare_bytes_per_s: float, weight: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._disk = disk_bytes_per_s
        self._weight = weight
        self._at_s = 0.0
        self._lanes = {lane: _LaneState() for lane in Lane}
        self._lanes[Lane.COMPARING].bytes_per_s = compare_bytes_per_s
        self._lane_of: dict[int, Lane] = {}

    def limit(self, at_s: float, bytes_per_s: float) -> None:
        """Change the line's rate: a throttle's schedule."""
        self.advance(at_s)
        self._bytes_per_s = bytes_per_s
        self._share()

    def start(self, at_s: float, transfer: int, lane: Lane, disks: int, bytes_per_disk: float) -> None:
        """Begin a transfer."""
        self.advance(at_s)
        state = self._lanes[lane]
        end = state.moved_bytes + bytes_per_disk
        state.ends[transfer] = (end, disks)
        state.disks += disks
        heapq.heappush(state.queue, (end, transfer))
        self._lane_of[transfer] = lane
        self._share()

    def stop(self, at_s: float, transfer: int) -> float:
        """End a transfer, and return the bytes a disk that are left of it."""
        self.advance(at_s)
        state = self._lanes[self._lane_of.pop(transfer)]
        end, disks = state.ends.pop(transfer)
        state.disks -= disks
        self._share()
        return max(end - state.moved_bytes, 0.0)

    def next_end(self) -> tuple[float, int] | None:
        """Return when the first of the transfers will be done as things are, and which."""
        best: tuple[float, int] | None = None
        for state in self._lanes.values():
            first = state.first()
            if first is not None and state.bytes_per_s > 0:
                at_s = self._at_s + max(first[0] - state.moved_bytes, 0.0) / state.bytes_per_s
                best = min(best, (at_s, first[1])) if best is not None else (at_s, first[1])
        return best

    def advance(self, at_s: float) -> None:
        """Move on in time."""
        passed = at_s - self._at_s
        if passed > 0:
            for state in self._lanes.values():
                if state.disks:
                    state.moved_bytes += state.bytes_per_s * passed
            self._at_s = at_s

    def _share(self) -> None:
        urgent, ordinary = self._lanes[Lane.PRE_FAILOVER], self._lanes[Lane.ORDINARY]
        shares = ordinary.disks + self._weight * urgent.disks
        share = self._bytes_per_s / shares if shares else 0.0
        urgent.bytes_per_s = min(self._weight * share, self._disk)
        left = self._bytes_per_s - urgent.bytes_per_s * urgent.disks
        ordinary.bytes_per_s = min(left / ordinary.disks, self._disk) if ordinary.disks else 0.0
