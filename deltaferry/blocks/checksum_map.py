"""The checksum map of a disk: 16 bytes for every 64 KiB granule, as of the last commit, in chunks of 1 MiB.

Segments carry the checksums of the granules that they touch; the target hands them on as `GranuleUpdates`, and the
commit merges those into the chunks that they touch. Scrub and resync compare with the map.
"""

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter

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
    """Gathers granules' checksums in any order. Neighbours that come one behind the other are kept together, in 16 bytes each."""

    __slots__ = ("_runs", "_zero_checksum", "_zero_runs")

    def __init__(self, zero_checksum: bytes) -> None:
        self._zero_checksum = zero_checksum
        self._runs: list[tuple[int, bytearray]] = []
        self._zero_runs: list[tuple[int, int]] = []

    def add(self, index: int, checksum: bytes) -> None:
        """Record a granule."""
        if self._runs:
            first, checksums = self._runs[-1]
            if index == first + len(checksums) // CHECKSUM_BYTES:
                checksums += checksum
                return
        self._runs.append((index, bytearray(checksum)))

    def add_zeros(self, first: int, count: int) -> None:
        """Record whole granules that hold zeros."""
        if count > 0:
            self._zero_runs.append((first, count))

    def build(self) -> GranuleUpdates:
        """Return what was recorded. Raises CHECKSUM_MISMATCH for a granule with two checksums: one snapshot has one content."""
        zero_runs: list[tuple[int, int]] = []
        for first, count in sorted(self._zero_runs):
            if zero_runs and first <= sum(zero_runs[-1]):
                zero_runs[-1] = (zero_runs[-1][0], max(sum(zero_runs[-1]), first + count) - zero_runs[-1][0])
            else:
                zero_runs.append((first, count))
        indices, checksums = array("Q"), bytearray()
        for first, run in sorted(self._runs, key=itemgetter(0)):
            again = _recorded_again(first, run, indices, checksums)
            indices.extend(range(first + again, first + len(run) // CHECKSUM_BYTES))
            checksums += run[again * CHECKSUM_BYTES :]
        return GranuleUpdates(self._zero_checksum, indices, bytes(checksums), tuple(zero_runs))


def _recorded_again(first: int, run: bytearray, indices: "array[int]", checksums: bytearray) -> int:
    """Return how many of a run's granules are known already, of runs that do not begin behind it: they are its first ones."""
    after = indices[-1] + 1 - first if indices else 0
    if after <= 0:
        return 0
    again = min(after, len(run) // CHECKSUM_BYTES)
    start = len(checksums) - after * CHECKSUM_BYTES
    for position in range(0, again * CHECKSUM_BYTES, CHECKSUM_BYTES):
        if run[position : position + CHECKSUM_BYTES] != checksums[start + position : start + position + CHECKSUM_BYTES]:
            index = first + position // CHECKSUM_BYTES
            raise DeltaferryError(_KIND, f"two segments disagree about granule {index} of the source")
    return again


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
