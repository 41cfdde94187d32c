"""One segment: what is packed is what is opened, and nothing else is."""

import os
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaferry.blocks.checksums import Hasher, object_cipher
from deltaferry.blocks.packing import SegmentBuffers, SegmentOpener, SegmentPacker, partial_granules
from deltaferry.blocks.plan import PlanEntry, make_plan
from deltaferry.blocks.segment import (
    MAX_SEGMENT_BYTES,
    NONCE,
    RAW,
    TAG_BYTES,
    ZSTD,
    SegmentEntry,
    SegmentIdentity,
    encode_header,
    header_size,
    parse_header,
)
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR

KEY = bytes(range(32))
CAPACITY = 9 * MIB + 3 * SECTOR
IDENTITY = SegmentIdentity("0123456789abcdef", "3-abc", 2000, 12, CAPACITY)
HASHER = Hasher(KEY)
BUFFERS = SegmentBuffers()
PACKER = SegmentPacker(KEY, HASHER, BUFFERS)
OPENER = SegmentOpener(KEY, HASHER, SegmentBuffers())


def pack(disk: bytes, areas: tuple[PlanEntry, ...], identity: SegmentIdentity = IDENTITY) -> memoryview:
    position = 0
    for area in areas:
        if not area.hole:
            part = disk[area.extent.offset_bytes : area.extent.end_bytes]
            BUFFERS.plaintext[position : position + len(part)] = part
            position += len(part)
    granules = tuple(
        (index, HASHER.checksum(disk[index * GRANULE : (index + 1) * GRANULE])) for index in partial_granules(areas, CAPACITY)
    )
    return PACKER.pack(identity, areas, granules)


def small() -> bytes:
    disk = bytes(5 * SECTOR) + b"a line of text\n" * 100 + bytes(CAPACITY)
    areas = (PlanEntry(Extent(4 * SECTOR, 4 * SECTOR), False), PlanEntry(Extent(GRANULE, 3 * GRANULE), True))
    return bytes(pack(disk[:CAPACITY], areas))


def opens(stored: bytes, identity: SegmentIdentity = IDENTITY) -> ErrorKind | None:
    try:
        OPENER.open(memoryview(stored), identity)
    except DeltaferryError as error:
        return error.kind
    return None


@given(st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_what_is_packed_is_what_is_opened(seed: int) -> None:
    source = random.Random(seed)
    disk = bytearray(CAPACITY)
    for _ in range(12):
        start = source.randrange(CAPACITY)
        length = min(source.choice((100, 70_000, 1_000_000)), CAPACITY - start)
        disk[start : start + length] = (
            source.randbytes(length) if source.randrange(2) else b"text" * (length // 4) + b"t" * (length % 4)
        )
    data = [Extent(source.randrange(CAPACITY), source.choice((SECTOR, 50_000, 3 * MIB))) for _ in range(8)]
    holes = [Extent(start, 100_000) for start in (0, 5 * MIB)]
    plan = make_plan(CAPACITY, data, holes)
    for number in range(plan.segments):
        areas = plan.segment(number)
        stored = pack(bytes(disk), areas)
        assert len(stored) <= MAX_SEGMENT_BYTES
        opened = OPENER.open(stored, IDENTITY)
        position = 0
        rebuilt = bytearray(b"?" * CAPACITY)
        for entry in opened.header.entries:
            extent = entry.extent
            part = bytes(extent.length_bytes) if entry.zero else opened.plaintext[position : position + extent.length_bytes]
            rebuilt[extent.offset_bytes : extent.end_bytes] = part
            position += 0 if entry.zero else extent.length_bytes
        expected = bytearray(b"?" * CAPACITY)
        for area in areas:
            zeros = bytes(area.extent.length_bytes)
            expected[area.extent.offset_bytes : area.extent.end_bytes] = (
                zeros if area.hole else disk[area.extent.offset_bytes : area.extent.end_bytes]
            )
        assert rebuilt == expected


def test_a_flipped_bit_anywhere_is_refused() -> None:
    stored = small()
    assert opens(stored) is None
    for position in range(len(stored)):
        for bit in range(8):
            flipped = stored[:position] + bytes([stored[position] ^ 1 << bit]) + stored[position + 1 :]
            assert opens(flipped) is ErrorKind.SEGMENT_DAMAGED, position


def test_a_segment_cut_off_or_extended_is_refused() -> None:
    stored = small()
    for length in range(len(stored)):
        assert opens(stored[:length]) is ErrorKind.SEGMENT_DAMAGED
    assert opens(stored + b"\0") is ErrorKind.SEGMENT_DAMAGED


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, number=13),
        replace(IDENTITY, cycle_key="4-abc"),
        replace(IDENTITY, disk_key=2001),
        replace(IDENTITY, replication_id="0" * 16),
        replace(IDENTITY, capacity_bytes=CAPACITY + SECTOR),
    ],
)
def test_a_segment_of_another_place_is_refused(other: SegmentIdentity) -> None:
    assert opens(small(), other) is ErrorKind.SEGMENT_DAMAGED


def test_a_segment_lent_to_another_name_cannot_be_authenticated() -> None:
    stored = memoryview(small())
    header, size = parse_header(stored)
    forged = encode_header(replace(header, identity=replace(IDENTITY, number=13)))
    assert opens(forged + stored[size:], replace(IDENTITY, number=13)) is ErrorKind.SEGMENT_DAMAGED


def test_content_that_does_not_match_its_checksum_is_refused() -> None:
    stored = memoryview(small())
    header, size = parse_header(stored)
    cipher = object_cipher(KEY, header.salt, IDENTITY.name)
    payload = cipher.decrypt(NONCE, bytes(stored[size:]), bytes(stored[:size]))
    lying = encode_header(replace(header, checksums=(b"x" * 16, *header.checksums[1:])))
    assert opens(lying + cipher.encrypt(NONCE, payload, lying)) is ErrorKind.CHECKSUM_MISMATCH


def test_a_payload_of_another_length_is_refused_though_authentic() -> None:
    stored = memoryview(small())
    header, size = parse_header(stored)
    assert header.codec == ZSTD
    cipher = object_cipher(KEY, header.salt, IDENTITY.name)
    payload = bytes(header.payload_bytes)
    head = bytes(stored[:size])
    assert opens(head + cipher.encrypt(NONCE, payload, head)) is ErrorKind.SEGMENT_DAMAGED


@pytest.mark.parametrize(
    "entries",
    [
        [SegmentEntry(Extent(CAPACITY - SECTOR, 4 * SECTOR), False)],
        [SegmentEntry(Extent(4 * SECTOR, 4 * SECTOR), False), SegmentEntry(Extent(CAPACITY, SECTOR), True)],
        [SegmentEntry(Extent(9 * SECTOR, SECTOR), True), SegmentEntry(Extent(4 * SECTOR, 4 * SECTOR), False)],
        [SegmentEntry(Extent(7 * SECTOR, SECTOR), True), SegmentEntry(Extent(4 * SECTOR, 4 * SECTOR), False)],
    ],
)
def test_entries_outside_the_disk_or_out_of_order_are_refused_though_authentic(entries: list[SegmentEntry]) -> None:
    stored = memoryview(small())
    header, size = parse_header(stored)
    cipher = object_cipher(KEY, header.salt, IDENTITY.name)
    payload = cipher.decrypt(NONCE, bytes(stored[size:]), bytes(stored[:size]))
    head = encode_header(replace(header, entries=tuple(entries)))
    assert opens(head + cipher.encrypt(NONCE, payload, head)) is ErrorKind.SEGMENT_DAMAGED


def test_two_objects_never_share_salt_or_ciphertext() -> None:
    first, second = small(), small()
    assert parse_header(memoryview(first))[0].salt != parse_header(memoryview(second))[0].salt
    assert first[-TAG_BYTES:] != second[-TAG_BYTES:]


def test_only_the_granules_that_are_not_zero_are_sent() -> None:
    disk = bytearray(CAPACITY)
    disk[9 * GRANULE : 10 * GRANULE] = os.urandom(GRANULE)
    stored = pack(bytes(disk), (PlanEntry(Extent(0, BLOCK), False),))
    header, size = parse_header(stored)
    assert [(entry.extent, entry.zero) for entry in header.entries] == [
        (Extent(0, 9 * GRANULE), True),
        (Extent(9 * GRANULE, GRANULE), False),
        (Extent(10 * GRANULE, BLOCK - 10 * GRANULE), True),
    ]
    assert (header.plaintext_bytes, header.codec, len(header.checksums)) == (GRANULE, RAW, 1)
    assert len(stored) == size + GRANULE + TAG_BYTES == header_size(header) + GRANULE + TAG_BYTES


def test_a_zero_block_and_the_short_last_granule_have_no_payload() -> None:
    for extent in (Extent(0, BLOCK), Extent(9 * MIB, 3 * SECTOR)):
        header, _ = parse_header(pack(bytes(CAPACITY), (PlanEntry(extent, False),)))
        assert ([entry.zero for entry in header.entries], header.payload_bytes) == ([True], 0)


def test_a_whole_granules_checksum_is_its_value_in_the_map_and_partial_ones_are_read_whole() -> None:
    areas = (
        PlanEntry(Extent(0, 2 * GRANULE), False),
        PlanEntry(Extent(2 * GRANULE + SECTOR, SECTOR), False),
        PlanEntry(Extent(4 * GRANULE, GRANULE + SECTOR), True),
        PlanEntry(Extent(9 * MIB, 3 * SECTOR), False),
    )
    assert partial_granules(areas, CAPACITY) == [2, 5]


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_decoder_fail_otherwise(noise: bytes) -> None:
    assert opens(noise) is ErrorKind.SEGMENT_DAMAGED


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_overwritten_header_makes_the_decoder_fail_otherwise(position: int, noise: bytes) -> None:
    intact = small()
    start = position % len(intact)
    stored = intact[:start] + noise + intact[start + len(noise) :]
    assert opens(stored) is (None if stored == intact else ErrorKind.SEGMENT_DAMAGED)


def test_no_segment_is_larger_than_the_buffers_for_it() -> None:
    disk = os.urandom(CAPACITY)
    areas = tuple(PlanEntry(Extent(index * 4 * SECTOR, 2 * SECTOR), False) for index in range(4096))
    stored = pack(disk, areas)
    assert len(stored) <= MAX_SEGMENT_BYTES
    assert bytes(OPENER.open(stored, IDENTITY).plaintext) == b"".join(
        disk[a.extent.offset_bytes : a.extent.end_bytes] for a in areas
    )
