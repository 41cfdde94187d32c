"""Plan, sector set, manifest, granule updates and checksum map chunk: round trips, and no damaged one is taken."""

from array import array
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaferry.blocks import checksum_map as maps
from deltaferry.blocks.granules import GranuleSet
from deltaferry.blocks.manifest import INLINE_BYTES, Manifest, decode_manifest, encode_manifest, require_same
from deltaferry.blocks.plan import MAX_ENTRIES, Plan, decode_plan, encode_plan, make_plan, planned_segments, source_set
from deltaferry.blocks.records import put_number, put_text, put_words, seal_record
from deltaferry.blocks.sector_sets import SectorSet, require_equal
from deltaferry.blocks.seed_check import SeedCheck, decode_seed_check, encode_seed_check
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.replication import StoredSegment
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR

CAPACITY = 40 * MIB + 5 * SECTOR
areas = st.lists(st.builds(Extent, st.integers(0, CAPACITY + MIB), st.integers(0, 9 * MIB)), max_size=20)
small_areas = st.lists(st.builds(Extent, st.integers(0, 2 * MIB), st.integers(0, 3 * GRANULE)), max_size=30)

PLAN = encode_plan(make_plan(CAPACITY, [Extent(3 * SECTOR, 9 * MIB)], [Extent(20 * MIB, 5 * MIB)]))
SECTORS = SectorSet([Extent(0, 5 * SECTOR), Extent(99 * SECTOR, MIB)]).encode()
MANIFEST = encode_manifest(Manifest("1-a", 2000, 7, (StoredSegment(7, bytes(32), 4, b"tiny"), StoredSegment(8, b"d" * 32, 99))))
UPDATES = maps.encode_updates(maps.GranuleUpdates(b"z" * 16, array("Q", [1, 5]), b"a" * 16 + b"b" * 16, ((8, 3), (20, 1))))
CHUNK = maps.encode_chunk(maps.ChecksumChunk(3, bytes(range(48))))

GRANULES = GranuleSet([(3, 2), (9, 1), (70_000, 99)]).encode()
CHECK = encode_seed_check(SeedCheck(2000, 2 * GRANULE, CAPACITY, GranuleSet([(2, 5), (600, 9)]), GranuleSet([(640, 1)])))

RECORDS: dict[str, tuple[bytes, Callable[[bytes], object], ErrorKind]] = {
    "plan": (PLAN, decode_plan, ErrorKind.SEGMENT_DAMAGED),
    "planned segments": (PLAN, planned_segments, ErrorKind.SEGMENT_DAMAGED),
    "sector set": (SECTORS, SectorSet.decode, ErrorKind.COVERAGE_MISMATCH),
    "set of granules": (GRANULES, GranuleSet.decode, ErrorKind.CHECKSUM_MISMATCH),
    "seed check": (CHECK, decode_seed_check, ErrorKind.CHECKSUM_MISMATCH),
    "manifest": (MANIFEST, decode_manifest, ErrorKind.MANIFEST_MISMATCH),
    "granule updates": (UPDATES, maps.decode_updates, ErrorKind.CHECKSUM_MISMATCH),
    "checksum map chunk": (CHUNK, lambda data: maps.decode_chunk(data, 3), ErrorKind.CHECKSUM_MISMATCH),
}


def assert_refused(decode: Callable[[bytes], object], data: bytes, kind: ErrorKind) -> None:
    with pytest.raises(DeltaferryError) as caught:
        decode(data)
    assert caught.value.kind is kind


@pytest.mark.parametrize("name", RECORDS)
def test_a_flipped_bit_anywhere_is_refused(name: str) -> None:
    data, decode, kind = RECORDS[name]
    decode(data)
    for position in range(len(data)):
        for bit in (1, 128):
            assert_refused(decode, data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :], kind)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_cut_off_or_extended_is_refused(name: str) -> None:
    data, decode, kind = RECORDS[name]
    for length in range(len(data)):
        assert_refused(decode, data[:length], kind)
    assert_refused(decode, data + b"\0", kind)


@pytest.mark.parametrize("name", RECORDS)
def test_one_kind_of_record_is_not_taken_for_another(name: str) -> None:
    data, decode, kind = RECORDS[name]
    for other, _, _ in RECORDS.values():
        if other is not data:
            assert_refused(decode, other, kind)


@pytest.mark.parametrize("name", RECORDS)
@given(body=st.binary(max_size=200))
@settings(max_examples=60)
def test_a_well_sealed_record_of_nonsense_is_refused_or_decodes_without_any_other_error(name: str, body: bytes) -> None:
    data, decode, kind = RECORDS[name]
    try:
        decode(seal_record(data[:4], 1, body))
    except DeltaferryError as error:
        assert error.kind is kind


@given(areas, areas)
@settings(max_examples=60)
def test_a_plan_covers_its_areas_exactly_and_round_trips(data: list[Extent], holes: list[Extent]) -> None:
    plan = make_plan(CAPACITY, data, holes)
    assert decode_plan(encode_plan(plan)) == plan
    assert planned_segments(encode_plan(plan)) == plan.segments
    entries = [entry for number in range(plan.segments) for entry in plan.segment(number)]
    assert [entry.extent for entry in entries] == sorted(entry.extent for entry in entries)
    expected, read = SectorSet(), SectorSet()
    for extent in data:
        end = min(-(-extent.end_bytes // SECTOR) * SECTOR, CAPACITY)
        start = extent.offset_bytes // SECTOR * SECTOR
        if start < end and extent.length_bytes:
            read.add(Extent(start, end - start))
    for extent in holes:
        end = min(-(-extent.end_bytes // SECTOR) * SECTOR, CAPACITY)
        start = extent.offset_bytes // SECTOR * SECTOR
        if start < end and extent.length_bytes:
            expected.add(Extent(start, end - start))
    expected.update(read)
    assert SectorSet(entry.extent for entry in entries if not entry.hole) == read
    assert source_set(plan) == expected
    assert plan.data_bytes == read.size_bytes
    assert plan.covered_bytes == expected.size_bytes
    parts = SectorSet()
    for number in range(plan.segments):
        part = source_set(plan, number, number + 1)
        assert len(part) and len(part) == sum(entry.extent.length_bytes for entry in plan.segment(number)) // SECTOR
        parts.update(part)
        assert plan.segment_data_bytes(number) <= BLOCK
        assert all(
            entry.hole or entry.extent.offset_bytes // BLOCK == (entry.extent.end_bytes - 1) // BLOCK
            for entry in plan.segment(number)
        )
    assert parts == expected


def test_a_segment_holds_at_most_4096_pieces() -> None:
    plan = make_plan(CAPACITY, [Extent(index * 2 * SECTOR, SECTOR) for index in range(10_000)], [])
    assert [len(plan.segment(number)) for number in range(plan.segments)] == [4096, 4096, 10_000 - 2 * 4096]
    assert MAX_ENTRIES == 4096


@pytest.mark.parametrize("areas_of_one_segment", [[(0, 8192), (9000, 1)], [(2 * index, 1) for index in range(MAX_ENTRIES + 1)]])
def test_a_plan_whose_segment_would_not_fit_a_buffer_is_refused(areas_of_one_segment: list[tuple[int, int]]) -> None:
    starts, sectors = zip(*areas_of_one_segment, strict=True)
    plan = Plan(CAPACITY, array("Q", starts), array("Q", (count << 1 for count in sectors)), array("Q", [0]))
    assert_refused(decode_plan, encode_plan(plan), ErrorKind.SEGMENT_DAMAGED)


def test_a_plan_is_cut_by_offset_alone() -> None:
    pieces = [Extent(index * GRANULE * 2, GRANULE) for index in range(300)]
    assert make_plan(CAPACITY, pieces, []) == make_plan(CAPACITY, list(reversed(pieces)) + pieces[:9], [])


def test_a_hole_of_any_length_costs_no_room() -> None:
    plan = make_plan(1 << 40, [Extent(0, MIB), Extent((1 << 40) - MIB, MIB)], [Extent(MIB, (1 << 40) - 2 * MIB)])
    assert (plan.segments, plan.data_bytes, plan.covered_bytes) == (1, 2 * MIB, 1 << 40)


@given(small_areas, small_areas)
def test_sector_sets_round_trip_and_compare_like_sets(first: list[Extent], second: list[Extent]) -> None:
    one, two = (
        SectorSet(Extent(extent.offset_bytes // SECTOR * SECTOR, extent.length_bytes // SECTOR * SECTOR) for extent in extents)
        for extents in (first, second)
    )
    plain = [
        {sector for extent in part.extents() for sector in range(extent.offset_bytes, extent.end_bytes, SECTOR)}
        for part in (one, two)
    ]
    decoded = SectorSet.decode(one.encode())
    assert decoded == one and list(decoded.extents()) == list(one.extents())
    assert len(one) == len(plain[0])
    assert (one == two) == (plain[0] == plain[1])
    assert len(one.difference(two)) == len(plain[0] - plain[1])


def test_a_coverage_mismatch_says_how_much_and_where() -> None:
    require_equal(SectorSet.decode(SECTORS), SectorSet.decode(SECTORS), "disk 2000")
    with pytest.raises(DeltaferryError) as caught:
        require_equal(SectorSet([Extent(0, 10 * SECTOR)]), SectorSet([Extent(2 * SECTOR, 12 * SECTOR)]), "disk 2000")
    assert caught.value.kind is ErrorKind.COVERAGE_MISMATCH
    assert "2 sectors were not covered (first sector+count: 0+2), 4 were covered without need" in caught.value.detail


def test_a_sector_set_takes_whole_sectors_only() -> None:
    with pytest.raises(ValueError, match="whole sectors"):
        SectorSet([Extent(1, SECTOR)])


def test_a_set_beyond_two_tebibytes_is_exact() -> None:
    far = SectorSet([Extent(7 << 40, SECTOR), Extent((7 << 40) + 2 * SECTOR, 1 << 40)])
    assert list(SectorSet.decode(far.encode()).extents()) == [Extent(7 << 40, SECTOR), Extent((7 << 40) + 2 * SECTOR, 1 << 40)]


@given(st.integers(0, 1 << 40), st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 5_000_000)), max_size=20))
def test_manifests_round_trip(first: int, objects: list[tuple[bytes, int]]) -> None:
    segments = tuple(StoredSegment(first + index, digest, size) for index, (digest, size) in enumerate(objects))
    manifest = Manifest("12-ab", 2001, first, segments)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert manifest.next_segment == first + len(segments)


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=INLINE_BYTES)), max_size=20))
def test_a_manifest_carries_what_is_tiny_and_says_which(objects: list[tuple[bool, bytes]]) -> None:
    segments = tuple(
        StoredSegment(index, bytes([index]) * 32, len(data), data if inline else b"")
        for index, (inline, data) in enumerate(objects)
    )
    read = decode_manifest(encode_manifest(Manifest("12-ab", 2001, 0, segments))).segments
    assert [segment.inline for segment in read] == [segment.inline for segment in segments]
    assert all(not segment.without_bytes().inline for segment in read)


@pytest.mark.parametrize(("size", "data"), [(3, b"ab"), (INLINE_BYTES + 1, bytes(INLINE_BYTES + 1))])
def test_a_manifest_carries_only_whole_tiny_objects(size: int, data: bytes) -> None:
    with pytest.raises(ValueError, match="inline"):
        encode_manifest(Manifest("1-a", 1, 0, (StoredSegment(0, bytes(32), size, data),)))


@pytest.mark.parametrize("indices", [(1,), (0, 0), (2, 0), (5,)])
def test_a_manifest_that_names_wrong_inline_objects_is_damaged(indices: tuple[int, ...]) -> None:
    body = (
        put_text("1-a"), put_number(1), put_number(0), put_words(array("Q", (2, INLINE_BYTES + 1, 2))), bytes(3 * 32),
        put_words(array("Q", indices)), bytes(2 * INLINE_BYTES),
    )  # fmt: skip
    with pytest.raises(DeltaferryError) as caught:
        decode_manifest(seal_record(b"DFMF", 1, b"".join(body)))
    assert caught.value.kind is ErrorKind.MANIFEST_MISMATCH


def test_a_manifest_has_no_gaps() -> None:
    with pytest.raises(ValueError, match="gaps"):
        encode_manifest(Manifest("1-a", 1, 0, (StoredSegment(1, bytes(32), 1),)))


def test_objects_that_differ_from_the_manifest_are_named() -> None:
    listed = decode_manifest(MANIFEST).segments
    require_same(listed, listed, "disk 2000")
    for applied in (listed[:1], (listed[0], StoredSegment(8, b"e" * 32, 99)), ()):
        with pytest.raises(DeltaferryError) as caught:
            require_same(listed, applied, "disk 2000")
        assert caught.value.kind is ErrorKind.MANIFEST_MISMATCH


granule = st.integers(0, 3 * maps.CHUNK_GRANULES)


@given(
    st.dictionaries(granule, st.binary(min_size=16, max_size=16), max_size=30),
    st.lists(st.tuples(granule, st.integers(1, 100_000)), max_size=5),
)
@settings(max_examples=40)
def test_granule_updates_round_trip_and_merge_granule_by_granule(
    checksums: dict[int, bytes], runs: list[tuple[int, int]]
) -> None:
    capacity = 4 * maps.CHUNK_GRANULES * GRANULE - 5 * GRANULE - SECTOR
    zero = b"0" * 16
    recorder = maps.GranuleRecorder(zero)
    for first, count in runs:
        recorder.add_zeros(first, count)
    for index, checksum in checksums.items():
        recorder.add(index, checksum)
    updates = recorder.build()
    assert maps.decode_updates(maps.encode_updates(updates)) == updates
    touched = {index // maps.CHUNK_GRANULES for index in checksums}
    touched |= {
        index // maps.CHUNK_GRANULES
        for first, count in runs
        for index in (*range(first, first + count, 50_000), first + count - 1)
    }
    assert set(updates.chunk_numbers()) == touched
    number = 1
    before = maps.empty_chunk(number, capacity)
    after = maps.merge(before, updates)
    assert maps.decode_chunk(maps.encode_chunk(after), number) == after
    start = number * maps.CHUNK_GRANULES
    interesting = {index for index in checksums if start <= index < start + maps.CHUNK_GRANULES}
    interesting |= {
        index
        for run in runs
        for index in (run[0] - 1, run[0], sum(run) - 1, sum(run))
        if start <= index < start + maps.CHUNK_GRANULES
    }
    for index in interesting:
        zeroed = any(first <= index < first + count for first, count in runs)
        expected = checksums.get(index, zero if zeroed else maps.UNKNOWN)
        assert after.checksums[(index - start) * 16 : (index - start + 1) * 16] == expected


def test_two_segments_cannot_disagree_about_a_granule() -> None:
    recorder = maps.GranuleRecorder(bytes(16))
    recorder.add(1, b"a" * 16)
    recorder.add(1, b"a" * 16)
    assert list(recorder.build().indices) == [1]
    recorder.add(1, b"b" * 16)
    with pytest.raises(DeltaferryError) as caught:
        recorder.build()
    assert caught.value.kind is ErrorKind.CHECKSUM_MISMATCH


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12), st.integers(0, 60))
def test_granules_that_several_segments_tell_of_are_recorded_once_and_compared_each_time(
    runs: list[tuple[int, int]], otherwise: int
) -> None:
    told = [index for first, count in runs for index in range(first, first + count)]
    recorder, disagreeing = maps.GranuleRecorder(bytes(16)), maps.GranuleRecorder(bytes(16))
    for index in told:
        recorder.add(index, bytes([index]) * 16)
        disagreeing.add(index, bytes([index]) * 16)
    updates = recorder.build()
    assert list(updates.indices) == sorted(set(told))
    assert updates.checksums == b"".join(bytes([index]) * 16 for index in sorted(set(told)))
    disagreeing.add(otherwise, b"\xff" * 16)
    if otherwise in told:
        with pytest.raises(DeltaferryError, match=f"granule {otherwise} "):
            disagreeing.build()
    else:
        assert otherwise in disagreeing.build().indices


def test_the_last_chunk_of_a_map_is_as_short_as_the_disk() -> None:
    capacity = maps.CHUNK_GRANULES * GRANULE + GRANULE + SECTOR
    assert [len(maps.empty_chunk(number, capacity).checksums) // 16 for number in range(2)] == [maps.CHUNK_GRANULES, 2]


def test_a_chunk_of_another_number_is_refused() -> None:
    assert_refused(lambda data: maps.decode_chunk(data, 4), CHUNK, ErrorKind.CHECKSUM_MISMATCH)


granule_runs = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=20)


@given(granule_runs, granule_runs)
@settings(max_examples=60)
def test_a_set_of_granules_is_a_set_and_round_trips(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    one, other = GranuleSet(some), GranuleSet(others)
    expected = {granule for first, count in some for granule in range(first, first + count)}
    removed = {granule for first, count in others for granule in range(first, first + count)}
    assert list(one) == sorted(expected)
    assert set(one | other) == expected | removed
    assert set(one - other) == expected - removed
    assert set(one.within(17, 99)) == {granule for granule in expected if 17 <= granule < 99}
    runs = list(one.runs())
    assert [granule for first, count in runs for granule in range(first, first + count)] == sorted(expected)
    assert all(sum(first) < second[0] for first, second in pairwise(runs))
    assert GranuleSet.decode(one.encode()) == one


@given(areas)
@settings(max_examples=60)
def test_the_granules_of_ranges_cover_them_and_end_at_the_disks_end(ranges: list[Extent]) -> None:
    granules = GranuleSet.touching(ranges)
    covered = SectorSet(granules.extents(CAPACITY))
    assert granules.size_bytes(CAPACITY) == covered.size_bytes
    for extent in ranges:
        end = min(extent.end_bytes, CAPACITY)
        for offset in {extent.offset_bytes, extent.offset_bytes + extent.length_bytes // 2, end - 1}:
            if extent.offset_bytes <= offset < end:
                assert offset // GRANULE in set(granules)
    assert all(extent.end_bytes <= CAPACITY for extent in covered.extents())


@pytest.mark.parametrize(
    "check",
    [
        SeedCheck(2000, 5, CAPACITY, GranuleSet(), GranuleSet()),
        SeedCheck(2000, 2 * GRANULE, GRANULE, GranuleSet(), GranuleSet()),
        SeedCheck(2000, 2 * GRANULE, 4 * GRANULE, GranuleSet([(1, 1)]), GranuleSet()),
        SeedCheck(2000, 2 * GRANULE, 4 * GRANULE, GranuleSet(), GranuleSet([(4, 1)])),
    ],
)
def test_a_seed_check_that_speaks_of_more_than_its_range_is_refused(check: SeedCheck) -> None:
    assert_refused(decode_seed_check, encode_seed_check(check), ErrorKind.CHECKSUM_MISMATCH)


def test_a_chunk_of_a_disk_that_grew_knows_nothing_of_what_was_added() -> None:
    chunk = maps.ChecksumChunk(0, b"k" * 32)
    assert maps.sized(chunk, 2 * GRANULE) == chunk
    assert maps.sized(chunk, 2 * GRANULE + 1).checksums == b"k" * 32 + maps.UNKNOWN
    assert len(maps.sized(chunk, 1 << 40).checksums) == maps.CHUNK_GRANULES * 16
