"""Sets of a disk's granules, the unit of content checksums: what a scrub or a resync looks at, and what it found.

Roaring bitmaps of 32 bits: 2^32 granules are 256 TiB, far above any disk.
"""

from array import array
from collections.abc import Iterable, Iterator

from pyroaring import BitMap

from deltaferry.blocks.records import BodyReader, open_record, put_words, seal_record
from deltaferry.model.errors import ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import GRANULE, round_up

MAGIC = b"DFGS"
VERSION = 1
_MOST = 1 << 31
"""Above any disk: 2^31 granules are 128 TiB."""
_KIND, _WHAT = ErrorKind.CHECKSUM_MISMATCH, "set of granules"


def granules_of(capacity_bytes: int) -> int:
    """Return how many granules a disk has; the last one may be short."""
    return round_up(capacity_bytes, GRANULE) // GRANULE


class GranuleSet:
    """A mutable set of granules. Not safe to change from several threads at once."""

    __slots__ = ("_granules",)
    __hash__ = None  # type: ignore[assignment]  # mutable, as set is

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """Take (first granule, number of granules), in any order."""
        self._granules = BitMap()
        for first, count in runs:
            self.add(first, count)

    @classmethod
    def touching(cls, extents: Iterable[Extent]) -> "GranuleSet":
        """Return every granule that has a byte in one of the ranges."""
        result = cls()
        for extent in extents:
            if extent.length_bytes > 0:
                first = extent.offset_bytes // GRANULE
                result._granules.add_range(first, (extent.end_bytes - 1) // GRANULE + 1)
        return result

    def add(self, first: int, count: int = 1) -> None:
        """Add granules from `first` on."""
        if count > 0:
            self._granules.add_range(first, first + count)

    def __eq__(self, other: object) -> bool:
        """Compare granule by granule."""
        return isinstance(other, GranuleSet) and bool(self._granules == other._granules)

    def __len__(self) -> int:
        """Return the number of granules."""
        return len(self._granules)

    def __iter__(self) -> Iterator[int]:
        """Yield the granules in ascending order."""
        return iter(self._granules)

    def __repr__(self) -> str:
        """Say how many granules there are."""
        return f"GranuleSet({len(self)} granules)"

    def __or__(self, other: "GranuleSet") -> "GranuleSet":
        """Return the granules of both sets."""
        return self._of(self._granules | other._granules)

    def __sub__(self, other: "GranuleSet") -> "GranuleSet":
        """Return the granules that `other` lacks."""
        return self._of(self._granules - other._granules)

    def within(self, first: int, end: int) -> "GranuleSet":
        """Return the granules in `[first, end)`."""
        window = BitMap()
        if first < end:
            window.add_range(first, end)
        return self._of(self._granules & window)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the set as (first granule, number of granules), sorted, none touching the next."""
        if not self._granules:
            return
        last = self._granules.max()
        gaps = self._granules.flip(0, last + 2)
        start = self._granules.min()
        while True:
            end = gaps.next_set_bit(start)
            yield start, end - start
            if end > last:
                return
            start = self._granules.next_set_bit(end)

    def extents(self, capacity_bytes: int) -> Iterator[Extent]:
        """Yield the set as ranges of a disk, cut off at its end."""
        for first, count in self.runs():
            start, end = first * GRANULE, min((first + count) * GRANULE, capacity_bytes)
            if start < end:
                yield Extent(start, end - start)

    def size_bytes(self, capacity_bytes: int) -> int:
        """Return how many bytes of a disk the granules hold."""
        whole = capacity_bytes // GRANULE
        tail = capacity_bytes % GRANULE if whole in self._granules else 0
        return int(self._granules.range_cardinality(0, whole)) * GRANULE + tail if whole else tail

    @staticmethod
    def _of(granules: BitMap) -> "GranuleSet":
        result = GranuleSet()
        result._granules = granules
        return result

    def encode(self) -> bytes:
        """Return the stored form."""
        return seal_record(MAGIC, VERSION, put_granules(self))

    @classmethod
    def decode(cls, data: bytes) -> "GranuleSet":
        """Return a stored set. Raises CHECKSUM_MISMATCH for a damaged one."""
        reader = BodyReader(open_record(MAGIC, VERSION, data, _KIND, _WHAT), _KIND, _WHAT)
        result = take_granules(reader)
        reader.end()
        return result


def put_granules(granules: GranuleSet) -> bytes:
    """Return a set as part of a record's body: the gap before, and the length of, each run of granules."""
    words = array("Q")
    previous = 0
    for first, count in granules.runs():
        words.append(first - previous)
        words.append(count)
        previous = first + count
    return put_words(words)


def take_granules(reader: BodyReader) -> GranuleSet:
    """Return the set that stands next in a record's body. Raises the record's error kind for a damaged one."""
    words = reader.words()
    if len(words) % 2:
        raise reader.damaged("a run has no length")
    result = GranuleSet()
    position = 0
    for index in range(0, len(words), 2):
        gap, count = words[index], words[index + 1]
        if not count or (index and not gap) or position + gap + count > _MOST:
            raise reader.damaged("its runs are not sorted and disjoint")
        result.add(position + gap, count)
        position += gap + count
    return result
