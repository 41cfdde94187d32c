"""The plan of a disk's cycle: its changed areas, cut into numbered segments by offset alone, before the first read.

A plan is written once and read by every attempt (architecture, *Plan, ledger, objects*), so that a segment's number
means the same areas for ever. The source's sector set comes from here and from nothing else.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deltaferry.blocks.extents import merge, normalise, split, subtract
from deltaferry.blocks.records import MAX_DISK_BYTES, BodyReader, open_record, put_number, put_words, seal_record
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.model.errors import ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import BLOCK, GRANULE, SECTOR

MAGIC = b"DFPL"
VERSION = 1
MAX_ENTRIES = 4096
"""The most pieces in a segment: a data area counts once for each checksum granule that it touches, a hole once."""
_KIND, _WHAT = ErrorKind.SEGMENT_DAMAGED, "plan"
_HOLE = 1


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """An area of a segment: to be read, or known to read as zero."""

    extent: Extent
    hole: bool


class Plan:
    """A disk's numbered segments. Immutable."""

    __slots__ = ("_first_entry", "_lengths", "_starts", "capacity_bytes")

    def __init__(self, capacity_bytes: int, starts: "array[int]", lengths: "array[int]", first_entry: "array[int]") -> None:
        """Take entries in offset order: first sector; sectors times two, plus one for a hole; each segment's first entry."""
        self.capacity_bytes = capacity_bytes
        self._starts = starts
        self._lengths = lengths
        self._first_entry = first_entry

    def __eq__(self, other: object) -> bool:
        """Compare all entries and the cut."""
        return isinstance(other, Plan) and self._parts() == other._parts()

    def __hash__(self) -> int:
        """Return a hash of the sizes."""
        return hash((self.capacity_bytes, len(self._starts), len(self._first_entry)))

    def __repr__(self) -> str:
        """Say how much is planned."""
        return f"Plan({self.segments} segments, {self.data_bytes} bytes to read, {self.covered_bytes} covered)"

    def _parts(self) -> tuple[object, ...]:
        return self.capacity_bytes, self._starts, self._lengths, self._first_entry

    @property
    def segments(self) -> int:
        """How many segments there are; they are numbered from 0."""
        return len(self._first_entry)

    @property
    def data_bytes(self) -> int:
        """Bytes that have to be read from the source."""
        return self.data_bytes_from(0)

    @property
    def covered_bytes(self) -> int:
        """Bytes of the source's sector set: data and holes."""
        return sum(length >> 1 for length in self._lengths) * SECTOR

    def segment(self, number: int) -> tuple[PlanEntry, ...]:
        """Return a segment's entries in offset order. Raises IndexError for a number that the plan does not have."""
        if not 0 <= number < self.segments:
            raise IndexError(f"the plan has {self.segments} segments, numbered from 0; there is no number {number}")
        return tuple(self._entries(self._first_entry[number], self._entry_end(number)))

    def segment_data_bytes(self, number: int) -> int:
        """Return how many bytes of a segment have to be read."""
        first, end = self._first_entry[number], self._entry_end(number)
        return sum(length >> 1 for length in self._lengths[first:end] if not length & _HOLE) * SECTOR

    def data_bytes_from(self, number: int) -> int:
        """Return how many bytes of a segment and all later ones have to be read."""
        first = self._first_entry[number] if number < self.segments else len(self._starts)
        return sum(length >> 1 for length in self._lengths[first:] if not length & _HOLE) * SECTOR

    def _entry_end(self, number: int) -> int:
        return self._first_entry[number + 1] if number + 1 < self.segments else len(self._starts)

    def _entries(self, first: int, end: int) -> Iterator[PlanEntry]:
        for start, length in zip(self._starts[first:end], self._lengths[first:end], strict=True):
            yield PlanEntry(Extent(start * SECTOR, (length >> 1) * SECTOR), bool(length & _HOLE))


def make_plan(capacity_bytes: int, data: Iterable[Extent], holes: Iterable[Extent]) -> Plan:
    """Cut areas, given in any order, into segments; where an area is in both lists, it is read.

    Data is split where 4 MiB blocks of the disk meet, then packed in offset order until a segment holds 4 MiB of it or
    4,096 pieces. A hole of any length is one piece without data. Raises ValueError for a capacity that is not whole sectors.
    """
    if capacity_bytes <= 0 or capacity_bytes % SECTOR:
        raise ValueError(f"a disk has whole sectors, not {capacity_bytes} bytes")
    data_extents = normalise(data, capacity_bytes)
    entries = [(part, False) for extent in data_extents for part in split(extent, BLOCK)]
    entries += [(extent, True) for extent in subtract(normalise(holes, capacity_bytes), data_extents)]
    entries.sort(key=lambda entry: entry[0].offset_bytes)
    starts, lengths, first_entry = array("Q"), array("Q"), array("Q")
    pieces = room = 0
    for extent, hole in entries:
        cost = 0 if hole else extent.length_bytes
        needed = 1 if hole else _granules(extent.offset_bytes, extent.end_bytes)
        if not first_entry or cost > room or pieces + needed > MAX_ENTRIES:
            first_entry.append(len(starts))
            pieces, room = 0, BLOCK
        starts.append(extent.offset_bytes // SECTOR)
        lengths.append(extent.length_bytes // SECTOR << 1 | (_HOLE if hole else 0))
        pieces += needed
        room -= cost
    return Plan(capacity_bytes, starts, lengths, first_entry)


def _granules(start_bytes: int, end_bytes: int) -> int:
    """Return how many granules a range touches."""
    return (end_bytes - 1) // GRANULE - start_bytes // GRANULE + 1


def source_set(plan: Plan, first_segment: int = 0, end_segment: int | None = None) -> SectorSet:
    """Return the sectors that segments `[first_segment, end_segment)` replicate: data and holes. By default all of them."""
    last = plan.segments if end_segment is None else min(end_segment, plan.segments)
    if first_segment >= last:
        return SectorSet()
    entries = plan._entries(plan._first_entry[first_segment], plan._entry_end(last - 1))
    return SectorSet(merge(entry.extent for entry in entries))


def encode_plan(plan: Plan) -> bytes:
    """Return the stored form of a plan."""
    gaps = array("Q")
    previous = 0
    for start, length in zip(plan._starts, plan._lengths, strict=True):
        gaps.append(start - previous)
        previous = start + (length >> 1)
    counts = array("Q", (plan._entry_end(number) - plan._first_entry[number] for number in range(plan.segments)))
    body = (
        put_number(plan.capacity_bytes),
        put_number(plan.segments),
        put_words(gaps),
        put_words(plan._lengths),
        put_words(counts),
    )
    return seal_record(MAGIC, VERSION, b"".join(body))


def planned_segments(data: bytes) -> int:
    """Return how many segments a stored plan has, without decoding its areas. Raises SEGMENT_DAMAGED."""
    reader = BodyReader(open_record(MAGIC, VERSION, data, _KIND, _WHAT), _KIND, _WHAT)
    reader.number()
    return reader.number()


def decode_plan(data: bytes) -> Plan:
    """Return a stored plan. Raises SEGMENT_DAMAGED for a damaged one."""
    reader = BodyReader(open_record(MAGIC, VERSION, data, _KIND, _WHAT), _KIND, _WHAT)
    capacity_bytes, segments = reader.number(), reader.number()
    gaps, lengths, counts = reader.words(), reader.words(), reader.words()
    reader.end()
    if len(gaps) != len(lengths) or len(counts) != segments or sum(counts) != len(gaps) or 0 in counts:
        raise reader.damaged("its lists do not fit together")
    if capacity_bytes > MAX_DISK_BYTES:
        raise reader.damaged("its disk is larger than any disk")
    starts, first_entry = array("Q"), array("Q")
    position = 0
    for gap, length in zip(gaps, lengths, strict=True):
        if not length >> 1 or position + gap + (length >> 1) > capacity_bytes // SECTOR:
            raise reader.damaged("an area is empty or lies outside the disk")
        starts.append(position + gap)
        position += gap + (length >> 1)
    entry = 0
    for count in counts:
        first_entry.append(entry)
        pieces = size = 0
        for start, length in zip(starts[entry : entry + count], lengths[entry : entry + count], strict=True):
            hole = length & _HOLE
            pieces += 1 if hole else _granules(start * SECTOR, (start + (length >> 1)) * SECTOR)
            size += 0 if hole else (length >> 1) * SECTOR
        if size > BLOCK or pieces > MAX_ENTRIES:
            raise reader.damaged(f"segment {len(first_entry) - 1} is larger than a segment may be")
        entry += count
    return Plan(capacity_bytes, starts, lengths, first_entry)
