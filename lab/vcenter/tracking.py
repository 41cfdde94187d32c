"""Change block tracking of one disk, as QueryChangedDiskAreas shows it.

Every write marks its 64 KiB granules in the set of the present epoch. A snapshot ends the epoch; its change id is
`<tracking uuid>/<new epoch>`. What changed between an id of epoch c and a snapshot of epoch s is the union of the epochs
c … s-1. A reset begins a new UUID, and ids of the old one cannot be answered for snapshots of the new one (facts B1, F1-F4).

Switching tracking takes effect at the next power-on, resume, or creation, removal or revert of a snapshot. Not
synchronised: the disk calls `mark`, `end_epoch` and `apply_pending` under its own lock.
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from pyroaring import BitMap64

from lab.vcenter.disk_backing import Run
from lab.vcenter.faults_disk import (
    BadChangeId,
    BadStartOffset,
    CannotGetChanges,
    CannotGetChangesReason,
    CorruptTracking,
    NoEpoch,
    NoTrack,
)
from lab.vcenter.out_of_band import OutOfBandWrites

GRANULE: Final = 64 * 1024
PAGE_LIMIT: Final = 2000
ALLOCATED_AREAS: Final = "*"
_HEX_OCTETS: Final = r"[0-9a-f]{2}(?: [0-9a-f]{2}){7}"
_CHANGE_ID: Final = re.compile(rf"({_HEX_OCTETS}-{_HEX_OCTETS})/([0-9]{{1,18}})")

Area = tuple[int, int]
"""Start and length in bytes."""


class Generation:
    """What was tracked under one UUID: one set of granules for each epoch, the last one still growing."""

    def __init__(self) -> None:
        octets = [f"{octet:02x}" for octet in b"\x52" + secrets.token_bytes(15)]
        self.uuid = " ".join(octets[:8]) + "-" + " ".join(octets[8:])
        self._sets = [BitMap64()]

    @property
    def epoch(self) -> int:
        """The present epoch; the first one is 1."""
        return len(self._sets)

    def mark(self, offset: int, length: int) -> None:
        """Note a write of at least one byte."""
        self._sets[-1].add_range(offset // GRANULE, (offset + length - 1) // GRANULE + 1)

    def end_epoch(self) -> int:
        """Begin the next epoch and return its number."""
        self._sets.append(BitMap64())
        return self.epoch

    def changed(self, first_epoch: int, end_epoch: int) -> BitMap64:
        """Return the granules written in the epochs from the first up to, not including, the end."""
        result = BitMap64()
        for granules in self._sets[first_epoch - 1 : end_epoch - 1]:
            result |= granules
        return result


@dataclass(frozen=True, slots=True)
class ChangeMark:
    """A state of a disk in the history of its tracking."""

    generation: Generation
    epoch: int
    """The number in the state's change id."""
    end_epoch: int
    """One past the last epoch whose writes are part of the state."""

    @property
    def change_id(self) -> str:
        """`<tracking uuid>/<epoch>`."""
        return f"{self.generation.uuid}/{self.epoch}"


class TrackedDisk(Protocol):
    """A state of a disk that changed areas can be asked of."""

    @property
    def capacity_bytes(self) -> int:
        """The state's capacity."""

    @property
    def mark(self) -> ChangeMark | None:
        """Its place in the tracking; None where tracking was off."""

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Yield its allocated parts and holes."""


class StarAnswer(StrEnum):
    """How `*` is answered; it depends on the datastore (facts F2)."""

    ALLOCATED = "allocated areas"
    WHOLE_DISK = "one area covering the disk"
    NO_EPOCH = "refused"


@dataclass(slots=True)
class TrackingBehaviour:
    """What a test may change in the answers, each of them allowed by the API."""

    page_cover_bytes: int | None = None
    """A page covers at most this many bytes of the disk, so that pages come short or empty in the middle."""
    reverse_areas: bool = False
    """The areas of a page come in descending order."""
    star: StarAnswer = StarAnswer.ALLOCATED
    corrupt: bool = False
    """Every question is refused as damaged, until tracking is reset."""
    out_of_band: OutOfBandWrites = OutOfBandWrites.UNSEEN
    omitted: Area | None = None
    """What changes in this range, or is allocated there, is left out of every answer: a lie (facts F7)."""


class ChangeTracking:
    """The tracking of one disk."""

    def __init__(self) -> None:
        self.behaviour = TrackingBehaviour()
        self._enabled = False
        self._generation: Generation | None = None

    def __repr__(self) -> str:
        present = self._generation
        return f"ChangeTracking(enabled={self._enabled}, {present.epoch if present else 'inactive'})"

    @property
    def enabled(self) -> bool:
        """Whether the configuration asks for tracking."""
        return self._enabled

    @property
    def active(self) -> bool:
        """Whether writes are tracked now."""
        return self._generation is not None

    @property
    def uuid(self) -> str | None:
        """The present tracking UUID; None while inactive."""
        return None if self._generation is None else self._generation.uuid

    def enable(self) -> None:
        """Ask for tracking from the next stun or power-on on."""
        self._enabled = True

    def disable(self) -> None:
        """Ask for no tracking from the next stun or power-on on."""
        self._enabled = False

    def reset(self) -> None:
        """Begin a new UUID at once, if tracking is active: no earlier change id can be answered any more."""
        if self._generation is not None:
            self._generation = Generation()
            self.behaviour.corrupt = False

    def apply_pending(self) -> None:
        """Make what was asked for effective; to be called at power-on and resume too."""
        if self._enabled and self._generation is None:
            self._generation = Generation()
            self.behaviour.corrupt = False
        elif not self._enabled:
            self._generation = None

    def on_power_off(self, *, hard: bool, reset: bool) -> None:
        """Keep tracking over a power cycle; a hard power-off loses it where `reset` says so, as a crash may."""
        if hard and reset:
            self.reset()

    def mark(self, offset: int, length: int) -> None:
        """Note a write of at least one byte."""
        if self._generation is not None:
            self._generation.mark(offset, length)

    def end_epoch(self) -> ChangeMark | None:
        """End the epoch for a snapshot, and return the snapshot's mark; None while inactive."""
        if self._generation is None:
            return None
        epoch = self._generation.end_epoch()
        return ChangeMark(self._generation, epoch, epoch)

    def present_mark(self) -> ChangeMark | None:
        """Return the mark of the disk as it is now; None while inactive."""
        if self._generation is None:
            return None
        epoch = self._generation.epoch
        return ChangeMark(self._generation, epoch, epoch + 1)

    def changed_areas(
        self, frozen: TrackedDisk, change_id: str, start_offset: int, page_limit: int = PAGE_LIMIT
    ) -> tuple[int, int, list[Area]]:
        """Answer one page: its start, how many bytes of the disk it covers, and at most `page_limit` areas in it.

        Areas are whole granules, cut off at the page's edges and the capacity; `*` asks for allocated ones. The next
        page starts at start + length, unless that is the capacity. Raises BadStartOffset, NoTrack, CorruptTracking,
        NoEpoch, BadChangeId, CannotGetChanges.
        """
        capacity = frozen.capacity_bytes
        if not 0 <= start_offset < capacity:
            raise BadStartOffset(f"start offset {start_offset} is not on a disk of {capacity} bytes")
        mark = frozen.mark
        if mark is None:
            raise NoTrack("change tracking was off when the snapshot was taken")
        if self.behaviour.corrupt:
            raise CorruptTracking("the change-tracking file is corrupt")
        end = capacity
        if self.behaviour.page_cover_bytes is not None:
            end = min(capacity, start_offset + self.behaviour.page_cover_bytes)
        areas: list[Area] = []
        for start, stop in self._told(self._granule_runs(frozen, mark, change_id, start_offset, end)):
            if len(areas) == page_limit:
                end = sum(areas[-1])
                break
            areas.append((max(start, start_offset), min(stop, end) - max(start, start_offset)))
        if self.behaviour.reverse_areas:
            areas.reverse()
        return start_offset, end - start_offset, areas

    def _told(self, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield `(start, end)` ranges without what is to be left out."""
        hidden_start, hidden_length = self.behaviour.omitted or (0, 0)
        hidden_end = hidden_start + hidden_length
        for start, end in runs:
            if hidden_end <= start or end <= hidden_start or not hidden_length:
                yield start, end
                continue
            if start < hidden_start:
                yield start, hidden_start
            if hidden_end < end:
                yield hidden_end, end

    def _granule_runs(
        self, frozen: TrackedDisk, mark: ChangeMark, change_id: str, start: int, end: int
    ) -> Iterable[tuple[int, int]]:
        """Return the joined, granule-aligned ranges `(start, end)` that touch a window."""
        if change_id == ALLOCATED_AREAS:
            match self.behaviour.star:
                case StarAnswer.NO_EPOCH:
                    raise NoEpoch("this datastore cannot tell allocated areas")
                case StarAnswer.WHOLE_DISK:
                    return [(start, end)]
                case StarAnswer.ALLOCATED:
                    window = start // GRANULE * GRANULE
                    stop = min(frozen.capacity_bytes, -(-end // GRANULE) * GRANULE)
                    return _aligned(run for run in frozen.runs(window, stop - window) if run.allocated)
        match = _CHANGE_ID.fullmatch(change_id)
        if match is None:
            raise BadChangeId("not a change id")
        if match[1] != mark.generation.uuid:
            raise CannotGetChanges(CannotGetChangesReason.OTHER_UUID)
        epoch = int(match[2])
        if not 1 <= epoch <= mark.epoch:
            raise CannotGetChanges(CannotGetChangesReason.UNKNOWN_EPOCH)
        return _runs(mark.generation.changed(epoch, mark.end_epoch), start // GRANULE, -(-end // GRANULE))


def _aligned(allocated: Iterable[Run]) -> Iterator[tuple[int, int]]:
    """Widen runs to whole granules, and join those that touch."""
    open_start = open_end = -1
    for run in allocated:
        start = run.offset // GRANULE * GRANULE
        end = -(-(run.offset + run.length) // GRANULE) * GRANULE
        if start <= open_end:
            open_end = end
            continue
        if open_end >= 0:
            yield open_start, open_end
        open_start, open_end = start, end
    if open_end >= 0:
        yield open_start, open_end


def _runs(granules: BitMap64, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of the runs of a set of granules inside a window of granules."""
    open_first = open_end = -1
    for granule in granules.iter_equal_or_larger(first):
        if granule >= end:
            break
        if granule == open_end:
            open_end += 1
            continue
        if open_end >= 0:
            yield open_first * GRANULE, open_end * GRANULE
        open_first, open_end = granule, granule + 1
    if open_end >= 0:
        yield open_first * GRANULE, open_end * GRANULE
