"""Sets of 512-byte sectors: what the source side must replicate, and what the target side covered (spec §4).

Roaring bitmaps for the live set, intervals for iteration and storage (facts 3.10: 64-bit, because 32 bits end at 2 TiB).
"""

from array import array
from collections.abc import Iterable, Iterator

from pyroaring import BitMap64

from deltaferry.blocks.records import MAX_DISK_BYTES, BodyReader, open_record, put_words, seal_record
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import SECTOR

MAGIC = b"DFSS"
VERSION = 1
_LAST_SECTOR = MAX_DISK_BYTES // SECTOR
_SHOWN = 3


class SectorSet:
    """A mutable set of a disk's sectors. Not safe to change from several threads at once."""

    __slots__ = ("_sectors",)
    __hash__ = None  # type: ignore[assignment]  # mutable, as set is

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self._sectors = BitMap64()
        self.add_all(extents)

    def add(self, extent: Extent) -> None:
        """Add a range of whole sectors. Raises ValueError for a range that is not whole sectors."""
        if extent.offset_bytes % SECTOR or extent.length_bytes % SECTOR or extent.offset_bytes < 0 or extent.length_bytes < 0:
            raise ValueError(f"{extent} is not a range of whole sectors")
        if extent.length_bytes:
            self._sectors.add_range(extent.offset_bytes // SECTOR, extent.end_bytes // SECTOR)

    def add_all(self, extents: Iterable[Extent]) -> None:
        """Add ranges of whole sectors."""
        for extent in extents:
            self.add(extent)

    def update(self, other: "SectorSet") -> None:
        """Add another set's sectors."""
        self._sectors |= other._sectors

    def __eq__(self, other: object) -> bool:
        """Compare sector by sector."""
        return isinstance(other, SectorSet) and bool(self._sectors == other._sectors)

    def __len__(self) -> int:
        """Return the number of sectors."""
        return len(self._sectors)

    def __repr__(self) -> str:
        """Say how many sectors there are."""
        return f"SectorSet({len(self)} sectors)"

    @property
    def size_bytes(self) -> int:
        """How many bytes the sectors hold."""
        return len(self._sectors) * SECTOR

    def extents(self) -> Iterator[Extent]:
        """Yield the set as sorted, disjoint ranges that do not touch."""
        for start, end in _runs(self._sectors):
            yield Extent(start * SECTOR, (end - start) * SECTOR)

    def difference(self, other: "SectorSet") -> "SectorSet":
        """Return the sectors that `other` lacks."""
        result = SectorSet()
        result._sectors = self._sectors - other._sectors
        return result

    def encode(self) -> bytes:
        """Return the stored form: the gap before, and the length of, each run of sectors."""
        words = array("Q")
        previous = 0
        for start, end in _runs(self._sectors):
            words.append(start - previous)
            words.append(end - start)
            previous = end
        return seal_record(MAGIC, VERSION, put_words(words))

    @classmethod
    def decode(cls, data: bytes) -> "SectorSet":
        """Return a stored set. Raises COVERAGE_MISMATCH for a damaged one: it proves nothing."""
        kind, what = ErrorKind.COVERAGE_MISMATCH, "sector set"
        reader = BodyReader(open_record(MAGIC, VERSION, data, kind, what), kind, what)
        words = reader.words()
        reader.end()
        if len(words) % 2:
            raise reader.damaged("a run has no length")
        result = cls()
        position = 0
        for index in range(0, len(words), 2):
            gap, length = words[index], words[index + 1]
            if not length or (index and not gap) or position + gap + length > _LAST_SECTOR:
                raise reader.damaged("its runs are not sorted and disjoint")
            result._sectors.add_range(position + gap, position + gap + length)
            position += gap + length
        return result


def require_equal(source: SectorSet, target: SectorSet, what: str) -> None:
    """Raise COVERAGE_MISMATCH, saying how much and where, unless the two sets are equal."""
    if source == target:
        return
    missing, extra = source.difference(target), target.difference(source)
    raise DeltaferryError(
        ErrorKind.COVERAGE_MISMATCH,
        f"{what}: {len(missing)} sectors were not covered{_where(missing)}, {len(extra)} were covered without need{_where(extra)}",
    )


def _where(sectors: SectorSet) -> str:
    """Return the first few ranges of a set as text, in sectors."""
    shown: list[str] = []
    for extent in sectors.extents():
        if len(shown) == _SHOWN:
            shown.append("…")
            break
        shown.append(f"{extent.offset_bytes // SECTOR}+{extent.length_bytes // SECTOR}")
    return f" (first sector+count: {', '.join(shown)})" if shown else ""


def _runs(sectors: BitMap64) -> Iterator[tuple[int, int]]:
    """Yield the half-open runs of a bitmap, found by turns in it and in its complement."""
    if not sectors:
        return
    last = sectors.max()
    gaps = sectors.flip(0, last + 2)
    start = sectors.min()
    while True:
        end = gaps.next_set_bit(start)
        yield start, end
        if end > last:
            return
        start = sectors.next_set_bit(end)
