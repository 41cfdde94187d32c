"""The checksum map of a disk: 16 bytes for every 64 KiB granule, as of the last commit, in chunks of 1 MiB.

Segments carry the checksums of the granules that they touch; the target hands them on as `GranuleUpdates`, and the
commit merges those into the chunks that they touch. Scrub and resync compare with the map.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from deltaferry.blocks.checksums import CHECKSUM_BYTES
from deltaferry.blocks.records import MAX_DISK_BYTES, BodyReader, open_record, put_number, put_words, seal_record
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import GRANULE, round_up

CHUNK_MAGIC, UPDATES_MAGIC = b"DFCM", b"DFGU"
VERSION = 1
CHUNK_GRANULES = 64 * 1024
UNKNOWN = bytes(CHECKSUM_BYTES)
"""Stands for a granule that no commit has covered yet."""
_MAX_GRANULES = MAX_DISK_BYTES // GRANULE
_KIND = ErrorKind.CHECKSUM_MISMATCH


@dataclass(frozen=True, slots=True)
class ChecksumChunk:
    """The checksums of granules `number * 65536` and on; the disk's last chunk may be short."""

    number: int
    checksums: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class GranuleUpdates:
    """What granules hold from a cycle on. Runs of zero granules are kept as runs: a hole may have any length."""

    zero_checksum: bytes
    indices: "array[int]"
    """Sorted, each once. A granule that is in a zero run as well has the zero checksum here, too."""
    checksums: bytes = field(repr=False)
    """16 bytes for each index."""
    zero_runs: tuple[tuple[int, int], ...] = ()
    """(first granule, number of granules), sorted and disjoint: each of them is 64 KiB of zeros."""

    def chunk_numbers(self) -> tuple[int, ...]:
        """Return which chunks of the map change."""
        numbers = {index // CHUNK_GRANULES for index in self.indices}
        for first, count in self.zero_runs:
            numbers.update(range(first // CHUNK_GRANULES, (first + count - 1) // CHUNK_GRANULES + 1))
        return tuple(sorted(numbers))


class GranuleRecorder:
    """Gathers granules' checksums in any order."""

    __slots__ = ("_checksums", "_zero_checksum", "_zero_runs")

    def __init__(self, zero_checksum: bytes) -> None:
        self._zero_checksum = zero_checksum
        self._checksums: dict[int, bytes] = {}
        self._zero_runs: list[tuple[int, int]] = []

    def add(self, index: int, checksum: bytes) -> None:
        """Record a granule. Raises CHECKSUM_MISMATCH if it is recorded with another checksum: one snapshot has one content."""
        if self._checksums.setdefault(index, checksum) != checksum:
            raise DeltaferryError(_KIND, f"two segments disagree about granule {index} of the source")

    def add_zeros(self, first: int, count: int) -> None:
        """Record whole granules that hold zeros."""
        if count > 0:
            self._zero_runs.append((first, count))

    def build(self) -> GranuleUpdates:
        """Return what was recorded."""
        runs: list[tuple[int, int]] = []
        for first, count in sorted(self._zero_runs):
            if runs and first <= sum(runs[-1]):
                runs[-1] = (runs[-1][0], max(sum(runs[-1]), first + count) - runs[-1][0])
            else:
                runs.append((first, count))
        indices = array("Q", sorted(self._checksums))
        return GranuleUpdates(self._zero_checksum, indices, b"".join(self._checksums[index] for index in indices), tuple(runs))


def combine(updates: Iterable[GranuleUpdates], zero_checksum: bytes) -> GranuleUpdates:
    """Return several chunks' updates of one cycle as one."""
    recorder = GranuleRecorder(zero_checksum)
    for update in updates:
        for position, index in enumerate(update.indices):
            recorder.add(index, update.checksums[position * CHECKSUM_BYTES : (position + 1) * CHECKSUM_BYTES])
        for first, count in update.zero_runs:
            recorder.add_zeros(first, count)
    return recorder.build()


def empty_chunk(number: int, capacity_bytes: int) -> ChecksumChunk:
    """Return a disk's chunk of which nothing is known yet."""
    granules = round_up(capacity_bytes, GRANULE) // GRANULE - number * CHUNK_GRANULES
    return ChecksumChunk(number, UNKNOWN * max(0, min(granules, CHUNK_GRANULES)))


def sized(chunk: ChecksumChunk, capacity_bytes: int) -> ChecksumChunk:
    """Return a chunk of a disk that may have grown since: what was added is unknown."""
    return ChecksumChunk(
        chunk.number, chunk.checksums + empty_chunk(chunk.number, capacity_bytes).checksums[len(chunk.checksums) :]
    )


def merge(chunk: ChecksumChunk, updates: GranuleUpdates) -> ChecksumChunk:
    """Return a chunk with the updates that concern it; the others are left to their own chunks."""
    start = chunk.number * CHUNK_GRANULES
    end = start + len(chunk.checksums) // CHECKSUM_BYTES
    merged = bytearray(chunk.checksums)
    for first, count in updates.zero_runs:
        low, high = max(first, start), min(first + count, end)
        if low < high:
            merged[(low - start) * CHECKSUM_BYTES : (high - start) * CHECKSUM_BYTES] = updates.zero_checksum * (high - low)
    for position in range(bisect_left(updates.indices, start), bisect_left(updates.indices, end)):
        target = (updates.indices[position] - start) * CHECKSUM_BYTES
        source = position * CHECKSUM_BYTES
        merged[target : target + CHECKSUM_BYTES] = updates.checksums[source : source + CHECKSUM_BYTES]
    return ChecksumChunk(chunk.number, bytes(merged))


def encode_chunk(chunk: ChecksumChunk) -> bytes:
    """Return the stored form of a chunk."""
    return seal_record(CHUNK_MAGIC, VERSION, put_number(chunk.number) + chunk.checksums)


def decode_chunk(data: bytes, number: int) -> ChecksumChunk:
    """Return a stored chunk. Raises CHECKSUM_MISMATCH for a damaged one, or one of another number."""
    body = open_record(CHUNK_MAGIC, VERSION, data, _KIND, "checksum map chunk")
    reader = BodyReader(body, _KIND, "checksum map chunk")
    found = reader.number()
    checksums = bytes(reader.take(len(body) - 8))
    if found != number or len(checksums) % CHECKSUM_BYTES or len(checksums) > CHUNK_GRANULES * CHECKSUM_BYTES:
        raise reader.damaged(f"it is not chunk {number}")
    return ChecksumChunk(number, checksums)


def encode_updates(updates: GranuleUpdates) -> bytes:
    """Return the stored form of granule updates."""
    runs = array("Q", (number for run in updates.zero_runs for number in run))
    body = updates.zero_checksum + put_words(runs) + put_words(_gaps(updates.indices)) + updates.checksums
    return seal_record(UPDATES_MAGIC, VERSION, body)


def decode_updates(data: bytes) -> GranuleUpdates:
    """Return stored granule updates. Raises CHECKSUM_MISMATCH for damaged ones."""
    what = "record of granule checksums"
    reader = BodyReader(open_record(UPDATES_MAGIC, VERSION, data, _KIND, what), _KIND, what)
    zero_checksum = bytes(reader.take(CHECKSUM_BYTES))
    runs, gaps = reader.words(), reader.words()
    checksums = bytes(reader.take(CHECKSUM_BYTES * len(gaps)))
    reader.end()
    if len(runs) % 2:
        raise reader.damaged("a run has no length")
    zero_runs = tuple(zip(runs[::2], runs[1::2], strict=True))
    if any(second[0] <= sum(first) for first, second in pairwise(zero_runs)) or 0 in runs[1::2]:
        raise reader.damaged("its runs are not sorted and disjoint")
    if zero_runs and sum(zero_runs[-1]) > _MAX_GRANULES:
        raise reader.damaged("a run lies beyond any disk")
    indices = array("Q")
    position = 0
    for number, gap in enumerate(gaps):
        if number and not gap:
            raise reader.damaged("a granule is named twice")
        position += gap
        if position >= _MAX_GRANULES:
            raise reader.damaged("a granule lies beyond any disk")
        indices.append(position)
    return GranuleUpdates(zero_checksum, indices, checksums, zero_runs)


def _gaps(indices: "array[int]") -> "array[int]":
    gaps = array("Q")
    previous = 0
    for index in indices:
        gaps.append(index - previous)
        previous = index
    return gaps
