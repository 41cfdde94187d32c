"""The manifest of a transfer's chunk: which objects the source stored, in order, by digest.

The target applies exactly these objects, and a commit compares what it applied with them.
"""

from array import array
from dataclasses import dataclass

from deltaferry.blocks.records import BodyReader, open_record, put_number, put_text, put_words, seal_record
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import StoredSegment

MAGIC = b"DFMF"
VERSION = 1
DIGEST_BYTES = 32
INLINE_BYTES = 512
"""An object of at most this size stands in the manifest: one of zeros has some 250 bytes, and a request of its own costs as much
as one of 4 MiB."""
_KIND, _WHAT = ErrorKind.MANIFEST_MISMATCH, "manifest"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A gapless run of a disk's segments, from `first_segment` on."""

    cycle_key: str
    disk_key: int
    first_segment: int
    segments: tuple[StoredSegment, ...]

    @property
    def next_segment(self) -> int:
        """One past the last segment."""
        return self.first_segment + len(self.segments)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the stored form. Raises ValueError unless the segments are a gapless run with 32-byte digests, and the inline ones whole."""
    if any(segment.number != manifest.first_segment + index for index, segment in enumerate(manifest.segments)):
        raise ValueError("a manifest's segments are numbered without gaps")
    digests = b"".join(segment.digest for segment in manifest.segments)
    if len(digests) != DIGEST_BYTES * len(manifest.segments):
        raise ValueError("a segment's digest has 32 bytes")
    inline = [segment for segment in manifest.segments if segment.inline]
    if any(len(segment.inline) != segment.size_bytes or segment.size_bytes > INLINE_BYTES for segment in inline):
        raise ValueError(f"an inline object is whole, and has at most {INLINE_BYTES} bytes")
    body = (
        put_text(manifest.cycle_key),
        put_number(manifest.disk_key),
        put_number(manifest.first_segment),
        put_words(array("Q", (segment.size_bytes for segment in manifest.segments))),
        digests,
        put_words(array("Q", (segment.number - manifest.first_segment for segment in inline))),
        b"".join(segment.inline for segment in inline),
    )
    return seal_record(MAGIC, VERSION, b"".join(body))


def decode_manifest(data: bytes) -> Manifest:
    """Return a stored manifest. Raises MANIFEST_MISMATCH for a damaged one."""
    reader = BodyReader(open_record(MAGIC, VERSION, data, _KIND, _WHAT), _KIND, _WHAT)
    cycle_key, disk_key, first_segment = reader.text(), reader.number(), reader.number()
    sizes = reader.words()
    digests = bytes(reader.take(DIGEST_BYTES * len(sizes)))
    inline: dict[int, bytes] = {}
    last = -1
    for index in reader.words():
        if not last < index < len(sizes) or not 0 < sizes[index] <= INLINE_BYTES:
            raise reader.damaged("an inline object is not one of its small segments, each once and in order")
        inline[index] = bytes(reader.take(sizes[index]))
        last = index
    reader.end()
    segments = tuple(
        StoredSegment(
            first_segment + index, digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES], size, inline.get(index, b"")
        )
        for index, size in enumerate(sizes)
    )
    return Manifest(cycle_key, disk_key, first_segment, segments)


def require_same(expected: tuple[StoredSegment, ...], applied: tuple[StoredSegment, ...], what: str) -> None:
    """Raise MANIFEST_MISMATCH, naming the first difference, unless the applied objects are the expected ones, by digest."""
    if expected == applied:
        return
    different = [stored.number for stored, read in zip(expected, applied, strict=False) if stored != read]
    first = different[0] if different else min(len(expected), len(applied))
    raise DeltaferryError(
        _KIND,
        f"{what}: {len(applied)} objects were applied where the manifest lists {len(expected)}; the first difference is at {first}",
    )
