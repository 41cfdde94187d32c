"""Seed disks against a real Azurite: the fence, the first pass, recovery points and the footer."""

import http.client
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import HttpResponseError

from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import MIB, SECTOR, seed_blob_size

from .conftest import RunningAzurite
from .vhd_reader import read_footer

NAME = "disk-2000.vhd"
CAPACITY = MIB + 37 * SECTOR
SIZE = seed_blob_size(CAPACITY)


def put_page(seeds: PageBlobSeeds, container: str, fence: int, data: bytes, offset: int = 0) -> int:
    """Write pages as a data process does: over plain HTTP with a signature, on condition of the fence."""
    access = seeds.access(container, write=True, lifetime=timedelta(minutes=1))
    parts = urlsplit(access.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request(
            "PUT",
            f"{parts.path}/{NAME}?comp=page&{access.query}",
            data,
            {
                "x-ms-version": "2025-11-05",
                "x-ms-page-write": "update",
                "x-ms-range": f"bytes={offset}-{offset + len(data) - 1}",
                "x-ms-if-sequence-number-eq": str(fence),
            },
        )
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def test_a_new_seed_reads_as_zero_and_is_pristine(seeds: PageBlobSeeds, container: str) -> None:
    state = seeds.create_seed(container, NAME, SIZE)
    assert (state.size_bytes, state.sequence_number, state.first_pass) == (SIZE, 0, None)
    assert seeds.read_range(container, NAME, SIZE - 1024, 1024) == bytes(1024)


def test_creating_a_seed_again_leaves_it_as_it_is(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 4)
    assert put_page(seeds, container, 4, b"x" * SECTOR) == 201
    seeds.mark_first_pass(container, NAME, "1-a")
    again = seeds.create_seed(container, NAME, SIZE)
    assert (again.sequence_number, again.first_pass) == (4, "1-a")
    assert seeds.read_range(container, NAME, 0, SECTOR) == b"x" * SECTOR


def test_a_seed_of_another_size_is_refused(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    with pytest.raises(DeltaferryError) as caught:
        seeds.create_seed(container, NAME, SIZE + MIB)
    assert caught.value.kind is ErrorKind.DISKS_CHANGED


def test_a_missing_seed_is_said_to_be_missing(seeds: PageBlobSeeds, container: str) -> None:
    attempts = (
        lambda: seeds.read_seed(container, NAME),
        lambda: seeds.raise_fence(container, NAME, 1),
        lambda: seeds.mark_first_pass(container, NAME, "1-a"),
        lambda: seeds.snapshot(container, NAME, 1, {"cycle": "1"}),
        lambda: seeds.write_footer(container, NAME, CAPACITY, 1),
        lambda: seeds.read_range(container, NAME, 0, SECTOR),
    )
    for attempt in attempts:
        with pytest.raises(DeltaferryError) as caught:
            attempt()
        assert caught.value.kind is ErrorKind.SEED_MISSING


def test_the_fence_rises_and_is_idempotent(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 7)
    seeds.raise_fence(container, NAME, 7)
    seeds.raise_fence(container, NAME, 9)
    assert seeds.read_seed(container, NAME).sequence_number == 9


def test_a_lower_fence_is_refused_with_the_number_found(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 9)
    with pytest.raises(DeltaferryError) as caught:
        seeds.raise_fence(container, NAME, 8)
    assert (caught.value.kind, caught.value.number) == (ErrorKind.FENCED, 9)
    assert seeds.read_seed(container, NAME).sequence_number == 9


def test_a_late_write_with_an_older_number_is_refused(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 1)
    assert put_page(seeds, container, 1, b"a" * SECTOR) == 201
    seeds.raise_fence(container, NAME, 2)
    assert put_page(seeds, container, 1, b"b" * SECTOR) == 412
    assert seeds.read_range(container, NAME, 0, SECTOR) == b"a" * SECTOR


def test_the_first_of_many_concurrent_first_passes_wins(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    with ThreadPoolExecutor(8) as pool:
        recorded = set(pool.map(lambda number: seeds.mark_first_pass(container, NAME, f"{number}-x"), range(8)))
    assert recorded == {seeds.read_seed(container, NAME).first_pass}
    assert seeds.mark_first_pass(container, NAME, "99-late") in recorded


def test_a_retried_snapshot_finds_the_one_with_its_metadata(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 3)
    put_page(seeds, container, 3, b"1" * SECTOR)
    first = seeds.snapshot(container, NAME, 3, {"cycle": "1-a", "seal": "3"})
    assert seeds.snapshot(container, NAME, 3, {"cycle": "1-a", "seal": "3"}) == first
    second = seeds.snapshot(container, NAME, 3, {"cycle": "2-b", "seal": "3"})
    assert seeds.list_snapshots(container, NAME) == (first, second)


def test_a_retried_snapshot_finds_its_own_although_the_blob_went_on(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 3)
    taken = seeds.snapshot(container, NAME, 3, {"cycle": "1-a"})
    seeds.raise_fence(container, NAME, 4)
    assert seeds.snapshot(container, NAME, 3, {"cycle": "1-a"}) == taken


def test_a_snapshot_keeps_what_was_sealed(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 1)
    put_page(seeds, container, 1, b"1" * SECTOR)
    taken = seeds.snapshot(container, NAME, 1, {"cycle": "1-a"})
    put_page(seeds, container, 1, b"2" * SECTOR)
    old = seeds.account.client.get_blob_client(container, NAME, taken).download_blob(0, SECTOR).readall()
    assert old == b"1" * SECTOR


def test_a_snapshot_under_another_number_than_the_seal_is_fenced_and_not_taken(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 6)
    with pytest.raises(DeltaferryError) as caught:
        seeds.snapshot(container, NAME, 5, {"cycle": "1-a"})
    assert (caught.value.kind, caught.value.number) == (ErrorKind.FENCED, 6)
    assert seeds.list_snapshots(container, NAME) == ()


def test_a_found_snapshot_with_another_number_than_the_seal_is_fenced(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 6)
    taken = seeds.snapshot(container, NAME, 6, {"cycle": "1-a"})
    seeds.raise_fence(container, NAME, 7)
    with pytest.raises(DeltaferryError) as caught:
        seeds.snapshot(container, NAME, 7, {"cycle": "1-a"})
    assert (caught.value.kind, caught.value.number) == (ErrorKind.FENCED, 6)
    assert seeds.list_snapshots(container, NAME) == (taken,)


def test_deleting_a_snapshot_leaves_the_seed_and_the_others(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    kept, dropped = (seeds.snapshot(container, NAME, 0, {"cycle": cycle}) for cycle in ("1-a", "2-b"))
    seeds.delete_snapshot(container, NAME, dropped)
    seeds.delete_snapshot(container, NAME, dropped)
    assert seeds.list_snapshots(container, NAME) == (kept,)
    assert seeds.read_seed(container, NAME).size_bytes == SIZE
    with pytest.raises(DeltaferryError):
        seeds.delete_snapshot(container, NAME, "")
    assert seeds.read_seed(container, NAME).size_bytes == SIZE


def test_snapshots_of_a_name_that_begins_the_same_are_not_mixed_up(seeds: PageBlobSeeds, container: str) -> None:
    for name in ("disk-200", "disk-2000"):
        seeds.create_seed(container, name, SIZE)
    other = seeds.snapshot(container, "disk-2000", 0, {"cycle": "1-a"})
    own = seeds.snapshot(container, "disk-200", 0, {"cycle": "1-a"})
    assert seeds.list_snapshots(container, "disk-200") == (own,)
    assert seeds.list_snapshots(container, "disk-2000") == (other,)


def test_the_footer_is_the_blobs_last_sector_and_says_the_exact_size(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 2)
    seeds.write_footer(container, NAME, CAPACITY, 2)
    footer = seeds.read_range(container, NAME, SIZE - SECTOR, SECTOR)
    assert read_footer(footer).current_size == 2 * MIB == SIZE - SECTOR
    assert seeds.read_range(container, NAME, SIZE - 2 * SECTOR, SECTOR) == bytes(SECTOR)
    seeds.write_footer(container, NAME, CAPACITY, 2)
    assert seeds.read_range(container, NAME, SIZE - SECTOR, SECTOR) == footer


def test_a_footer_with_an_older_number_is_refused(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    seeds.raise_fence(container, NAME, 3)
    with pytest.raises(DeltaferryError) as caught:
        seeds.write_footer(container, NAME, CAPACITY, 2)
    assert (caught.value.kind, caught.value.number) == (ErrorKind.FENCED, 3)
    assert seeds.read_range(container, NAME, SIZE - SECTOR, SECTOR) == bytes(SECTOR)


def test_a_footer_for_another_capacity_is_refused(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    with pytest.raises(DeltaferryError) as caught:
        seeds.write_footer(container, NAME, CAPACITY + MIB, 0)
    assert caught.value.kind is ErrorKind.DISKS_CHANGED


def test_deleting_a_container_removes_blobs_with_snapshots(seeds: PageBlobSeeds, objects: BlobObjectStore) -> None:
    seeds.create_container("df-seed-gone")
    seeds.create_seed("df-seed-gone", NAME, SIZE)
    taken = seeds.snapshot("df-seed-gone", NAME, 0, {"cycle": "1-a"})
    seeds.delete_container("df-seed-gone")
    seeds.delete_container("df-seed-gone")
    assert seeds.list_containers("df-seed-gone") == ()
    seeds.create_container("df-seed-gone")
    assert list(objects.list("df-seed-gone", "")) == []
    with pytest.raises(HttpResponseError):
        seeds.account.client.get_blob_client("df-seed-gone", NAME, taken).get_blob_properties()
    seeds.delete_container("df-seed-gone")


def test_the_url_for_the_import_carries_no_signature(azurite: RunningAzurite, seeds: PageBlobSeeds) -> None:
    assert seeds.url("df-seed-1", NAME) == f"{azurite.url}/df-seed-1/{NAME}"


def ranges(seeds: PageBlobSeeds, container: str, offset: int, length: int) -> list[tuple[int, int]]:
    found = seeds.present_ranges(container, NAME, offset, length)
    return [(extent.offset_bytes, extent.length_bytes) for extent in found]


def test_present_are_the_pages_that_were_written_and_not_cleared_inside_the_range(seeds: PageBlobSeeds, container: str) -> None:
    seeds.create_seed(container, NAME, SIZE)
    assert ranges(seeds, container, 0, SIZE) == []
    for offset in (0, 8 * SECTOR, 2048 * SECTOR):
        assert put_page(seeds, container, 0, b"x" * 4 * SECTOR, offset) == 201
    seeds.account.client.get_blob_client(container, NAME).clear_page(9 * SECTOR, SECTOR)
    present = {
        sector for at, length in ranges(seeds, container, 0, SIZE) for sector in range(at // SECTOR, (at + length) // SECTOR)
    }
    assert present == {0, 1, 2, 3, 8, 10, 11, 2048, 2049, 2050, 2051}
    assert ranges(seeds, container, 2 * SECTOR, 7 * SECTOR) == [(2 * SECTOR, 2 * SECTOR), (8 * SECTOR, SECTOR)]


def test_a_range_is_asked_for_in_windows_without_losing_or_repeating_a_page(
    seeds: PageBlobSeeds, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltaferry.azure.seeds._RANGES_WINDOW", 4 * SECTOR)
    seeds.create_seed(container, NAME, SIZE)
    assert put_page(seeds, container, 0, b"x" * 9 * SECTOR, 2 * SECTOR) == 201
    found = ranges(seeds, container, SECTOR, 30 * SECTOR)
    assert sum(length for _, length in found) == 9 * SECTOR
    assert [at for at, _ in found] == sorted({at for at, _ in found})
    assert (found[0][0], sum(found[-1])) == (2 * SECTOR, 11 * SECTOR)


def test_the_pages_of_a_missing_seed_are_a_missing_seed(seeds: PageBlobSeeds, container: str) -> None:
    with pytest.raises(DeltaferryError) as caught:
        ranges(seeds, container, 0, SECTOR)
    assert caught.value.kind is ErrorKind.SEED_MISSING
