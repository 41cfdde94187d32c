"""Damaged encodings of everything that is stored: each decoder refuses with its own error, and with no other, and does not hang.

Two ways of damage: bytes of a valid encoding are changed, which its checksum or tag must notice; and bodies are changed
and then sealed again, so that the checks behind the checksum are reached. The large counts run with the enumerated faults.
"""

import dataclasses
import random
import tracemalloc
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltaferry.blocks.account import TargetAccount, decode_account, encode_account
from deltaferry.blocks.checksum_map import (
    ChecksumChunk,
    GranuleUpdates,
    decode_chunk,
    decode_updates,
    encode_chunk,
    encode_updates,
)
from deltaferry.blocks.checksums import Hasher, object_cipher
from deltaferry.blocks.granules import GranuleSet
from deltaferry.blocks.manifest import Manifest, decode_manifest, encode_manifest
from deltaferry.blocks.packing import SegmentBuffers, SegmentOpener, SegmentPacker
from deltaferry.blocks.plan import decode_plan, encode_plan, make_plan, planned_segments
from deltaferry.blocks.records import RECORD_OVERHEAD, put_number, put_words, seal_record
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.blocks.seed_check import SeedCheck, decode_seed_check, encode_seed_check
from deltaferry.blocks.segment import NONCE, TAG_BYTES, SegmentIdentity, encode_header, parse_header
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR

CAPACITY = 40 * MIB + 5 * SECTOR
FEW_OR_MANY = pytest.mark.parametrize("examples", [25, pytest.param(2000, marks=pytest.mark.chaos)])
_ALLOCATED_AT_MOST = 64 * MIB
_FROM_FUNCTION = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

SECTORS = SectorSet([Extent(0, 5 * SECTOR), Extent(99 * SECTOR, MIB)]).encode()
UPDATES = encode_updates(GranuleUpdates(b"z" * 16, array("Q", [1, 5]), b"a" * 16 + b"b" * 16, ((8, 3), (20, 1))))
SEGMENTS = (StoredSegment(7, bytes(32), 4, b"tiny"), StoredSegment(8, b"d" * 32, 99))


@dataclass(frozen=True, slots=True)
class Decoder:
    """A record's valid encoding, its decoder, and the only kinds of error that the decoder may raise."""

    valid: bytes
    decode: Callable[[bytes], object]
    kinds: frozenset[ErrorKind]


DECODERS = {
    "plan": Decoder(
        encode_plan(make_plan(CAPACITY, [Extent(3 * SECTOR, 9 * MIB)], [Extent(20 * MIB, 5 * MIB)])),
        decode_plan,
        frozenset({ErrorKind.SEGMENT_DAMAGED}),
    ),
    "planned segments": Decoder(
        encode_plan(make_plan(CAPACITY, [Extent(0, MIB)], [])), planned_segments, frozenset({ErrorKind.SEGMENT_DAMAGED})
    ),
    "sector set": Decoder(SECTORS, SectorSet.decode, frozenset({ErrorKind.COVERAGE_MISMATCH})),
    "manifest": Decoder(
        encode_manifest(Manifest("1-a", 2000, 7, SEGMENTS)), decode_manifest, frozenset({ErrorKind.MANIFEST_MISMATCH})
    ),
    "granule updates": Decoder(UPDATES, decode_updates, frozenset({ErrorKind.CHECKSUM_MISMATCH})),
    "checksum map chunk": Decoder(
        encode_chunk(ChecksumChunk(3, bytes(range(48)))),
        lambda data: decode_chunk(data, 3),
        frozenset({ErrorKind.CHECKSUM_MISMATCH}),
    ),
    "set of granules": Decoder(
        GranuleSet([(0, 3), (9, 1)]).encode(), GranuleSet.decode, frozenset({ErrorKind.CHECKSUM_MISMATCH})
    ),
    "seed check": Decoder(
        encode_seed_check(SeedCheck(2000, 0, 4 * GRANULE, GranuleSet([(0, 2)]), GranuleSet([(1, 1)]))),
        decode_seed_check,
        frozenset({ErrorKind.CHECKSUM_MISMATCH}),
    ),
    "account": Decoder(
        encode_account(TargetAccount("1-a", 2000, 7, SECTORS, UPDATES, SEGMENTS)),
        decode_account,
        frozenset({ErrorKind.MANIFEST_MISMATCH}),
    ),
}
ALL = pytest.mark.parametrize("name", DECODERS)

_interesting = st.sampled_from((0, 1, 127, 128, 255, 512, 2**16, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1))
numbers = st.one_of(st.integers(0, 40), _interesting, st.integers(0, 2**64 - 1))
word_lists = st.lists(numbers, max_size=12)


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return an encoding with some of its bytes changed, added, removed, repeated or exchanged."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(("flip", "overwrite", "number", "insert", "remove", "repeat", "exchange"))):
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
            case "number":
                data[place : place + 8] = draw(numbers).to_bytes(8, "little")
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=40))
            case "remove":
                del data[place : place + length]
            case "repeat":
                data[place:place] = data[place : place + length]
            case "exchange":
                other = draw(st.integers(0, len(data)))
                first, second = data[place : place + 16], data[other : other + 16]
                data[place : place + 16], data[other : other + 16] = second, first
    return bytes(data)


def decodes_or_is_refused(decoder: Decoder, data: bytes) -> bool:
    """Return whether the data was taken; fails for an error that the decoder may not raise."""
    try:
        decoder.decode(data)
    except DeltaferryError as error:
        assert error.kind in decoder.kinds
        return False
    return True


@ALL
@FEW_OR_MANY
def test_a_changed_record_is_refused_by_its_checksum(name: str, examples: int) -> None:
    decoder = DECODERS[name]

    @given(damaged(decoder.valid))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(data: bytes) -> None:
        assert not decodes_or_is_refused(decoder, data) or data == decoder.valid

    check()


@ALL
@FEW_OR_MANY
def test_a_changed_body_that_is_sealed_again_is_decoded_or_refused(name: str, examples: int) -> None:
    decoder = DECODERS[name]

    @given(damaged(decoder.valid[RECORD_OVERHEAD:]))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(body: bytes) -> None:
        decodes_or_is_refused(decoder, seal_record(decoder.valid[:4], 1, body))

    check()


@ALL
@FEW_OR_MANY
def test_well_formed_lists_of_any_numbers_are_decoded_or_refused(name: str, examples: int) -> None:
    """Numbers and lists in any order, each well formed, as a defect of a writer could store them."""
    decoder = DECODERS[name]
    parts = st.lists(st.one_of(numbers.map(put_number), word_lists.map(put_words), st.binary(max_size=40)), max_size=6)

    @given(parts)
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(body: list[bytes]) -> None:
        decodes_or_is_refused(decoder, seal_record(decoder.valid[:4], 1, b"".join(body)))

    check()


@FEW_OR_MANY
def test_a_plan_of_any_numbers_is_usable_or_refused(examples: int) -> None:
    """A plan that is taken keeps a segment's limits, whatever it says."""

    @given(numbers, st.lists(numbers, max_size=8), st.lists(numbers, max_size=8), word_lists, st.integers(0, 9))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(capacity: int, gaps: list[int], lengths: list[int], counts: list[int], segments: int) -> None:
        body = put_number(capacity) + put_number(segments) + put_words(gaps) + put_words(lengths) + put_words(counts)
        try:
            plan = decode_plan(seal_record(b"DFPL", 1, body))
        except DeltaferryError as error:
            assert error.kind is ErrorKind.SEGMENT_DAMAGED
            return
        for number in range(plan.segments):
            assert all(entry.extent.end_bytes <= capacity for entry in plan.segment(number))

    check()


@pytest.mark.parametrize("claimed", [1 << 30, 1 << 40, 1 << 62])
@ALL
def test_a_frame_that_claims_to_be_huge_is_refused_without_its_memory(name: str, claimed: int) -> None:
    """A list's frame says how much it decompresses to: what it says is compared with the list's length before it is believed."""
    decoder = DECODERS[name]
    honest = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(8))
    assert zstandard.frame_content_size(honest) == 8
    # the frame header of RFC 8878 with a content size of eight bytes, single segment, before the same blocks
    header_bytes = zstandard.frame_header_size(honest)
    forged = honest[:4] + bytes([0b11100000]) + claimed.to_bytes(8, "little") + honest[header_bytes:]
    words = (1).to_bytes(8, "little") + len(forged).to_bytes(4, "little") + forged
    tracemalloc.start()
    try:
        for body in (
            put_number(CAPACITY) + put_number(1) + words,
            words,
            b"z" * 16 + words,
            put_number(3) + b"1-a" + bytes(16) + words,
        ):
            decodes_or_is_refused(decoder, seal_record(decoder.valid[:4], 1, body))
        assert tracemalloc.get_traced_memory()[1] < _ALLOCATED_AT_MOST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("sector set", put_words([0, 1 << 50])),
        ("sector set", put_words([1 << 50, 1])),
        ("granule updates", b"z" * 16 + put_words([0, 1 << 50]) + put_words([])),
        ("granule updates", b"z" * 16 + put_words([]) + put_words([1 << 50]) + bytes(16)),
        ("plan", put_number(1 << 60) + put_number(1) + put_words([0]) + put_words([1 << 51 | 1]) + put_words([1])),
        ("set of granules", put_words([0, 1 << 40])),
    ],
)
def test_ranges_beyond_any_disk_are_refused_before_they_take_memory(name: str, body: bytes) -> None:
    """A run is a few bytes in a record, and memory by its extent in a set."""
    decoder = DECODERS[name]
    assert not decodes_or_is_refused(decoder, seal_record(decoder.valid[:4], 1, body))


# --- segments

KEY = bytes(range(32))
IDENTITY = SegmentIdentity("0123456789abcdef", "3-abc", 2000, 12, CAPACITY)
HASHER = Hasher(KEY)
OPENER = SegmentOpener(KEY, HASHER, SegmentBuffers())


def a_segment() -> bytes:
    buffers = SegmentBuffers()
    plan = make_plan(CAPACITY, [Extent(4 * SECTOR, 4 * SECTOR), Extent(2 * GRANULE, GRANULE)], [Extent(MIB, GRANULE)])
    text = b"a line of text\n" * 5000
    buffers.plaintext[: len(text)] = text
    return bytes(SegmentPacker(KEY, HASHER, buffers).pack(IDENTITY, plan.segment(0), ((0, b"g" * 16),)))


SEGMENT = a_segment()


def opens(stored: bytes) -> bool:
    try:
        OPENER.open(memoryview(stored), IDENTITY)
    except DeltaferryError as error:
        assert error.kind in (ErrorKind.SEGMENT_DAMAGED, ErrorKind.CHECKSUM_MISMATCH)
        return False
    return True


@FEW_OR_MANY
def test_a_changed_segment_is_never_opened(examples: int) -> None:
    assert opens(SEGMENT)

    @given(damaged(SEGMENT))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(stored: bytes) -> None:
        assert not opens(stored) or stored == SEGMENT

    check()


@FEW_OR_MANY
def test_a_segment_that_was_encrypted_again_with_a_changed_header_or_payload_is_refused(examples: int) -> None:
    """As only a holder of the data key could make it: the checks behind the tag hold by themselves."""
    header, size = parse_header(memoryview(SEGMENT))
    cipher = object_cipher(KEY, header.salt, IDENTITY.name)
    payload = cipher.decrypt(NONCE, SEGMENT[size:], SEGMENT[:size])

    @given(damaged(SEGMENT[:size]), damaged(payload), st.booleans())
    @settings(max_examples=examples, deadline=None, suppress_health_check=_FROM_FUNCTION)
    def check(head: bytes, body: bytes, change_head: bool) -> None:
        if not change_head:
            head = encode_header(dataclasses.replace(header, payload_bytes=len(body)))
        else:
            body = payload
        stored = head + cipher.encrypt(NONCE, body, head)
        if opens(stored):
            opened = OPENER.open(memoryview(stored), IDENTITY)
            assert opened.header.checksums == header.checksums
            assert len(stored) >= size + TAG_BYTES

    check()


@pytest.mark.parametrize("content", [b"", b"short", bytes(BLOCK)], ids=["empty", "short", "long"])
def test_a_frame_of_another_length_never_leaves_the_buffers_old_content(content: bytes) -> None:
    """The buffers still hold the segment that was opened before, whose checksums would match."""
    header, _ = parse_header(memoryview(SEGMENT))
    assert opens(SEGMENT)
    frame = zstandard.ZstdCompressor().compress(content)
    head = encode_header(dataclasses.replace(header, payload_bytes=len(frame)))
    assert not opens(head + object_cipher(KEY, header.salt, IDENTITY.name).encrypt(NONCE, frame, head))


@pytest.mark.chaos
def test_every_byte_of_a_small_segment_is_guarded(chaos_bytes: random.Random) -> None:
    """Every position, with several other values: header, tag and payload (the nonce is not stored)."""
    for position in range(len(SEGMENT)):
        for _ in range(3):
            other = SEGMENT[position] ^ chaos_bytes.randrange(1, 256)
            assert not opens(SEGMENT[:position] + bytes([other]) + SEGMENT[position + 1 :]), position


@pytest.fixture
def chaos_bytes(request: pytest.FixtureRequest) -> random.Random:
    """A source of bytes that `--seed` repeats."""
    return random.Random(int(request.config.option.seed))
