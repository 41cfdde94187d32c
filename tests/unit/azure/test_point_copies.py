"""Copies of recovery points: against Azurite behind the lab's front, which copies at once, and a service that takes its time."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from deltaferry.azure.point_copies import PointCopies
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import copies_prefix, copy_name, seed_name
from deltaferry.model.recovery_points import PointDisk, PointKind, RecoveryPointRecord
from deltaferry.model.units import MIB, SECTOR, seed_blob_size
from deltaferry.ports.data_plane import DataProgress
from lab.control_client import BlobAction, BlobFault

from .conftest import MendedAccount
from .slow_copies import SlowCopies
from .vhd_reader import read_footer

CAPACITY = 2 * MIB
DISKS = (2000, 2001)
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
JOB = "test-1"


def nothing(_: DataProgress) -> None:
    """Say nothing."""


def beat() -> None:
    """Nothing to say."""


def take_point(seeds: PageBlobSeeds, container: str, cycle_key: str, number: int) -> RecoveryPointRecord:
    disks = []
    for disk in DISKS:
        seeds.create_seed(container, seed_name(disk), seed_blob_size(CAPACITY))
        seeds.raise_fence(container, seed_name(disk), number)
        snapshot = seeds.snapshot(container, seed_name(disk), number, {"cycle": cycle_key, "seal": str(number)})
        disks.append(PointDisk(disk, snapshot, CAPACITY))
    return RecoveryPointRecord(cycle_key, PointKind.CRASH_CONSISTENT, AT, AT, number, tuple(disks))


@pytest.fixture
def seeds(mended: MendedAccount) -> PageBlobSeeds:
    return PageBlobSeeds(mended.account)


@pytest.fixture
def container(mended: MendedAccount, seeds: PageBlobSeeds) -> Iterator[str]:
    name = f"df-test-{uuid4().hex[:16]}"
    seeds.create_container(name)
    yield name
    mended.control.clear_faults()
    seeds.delete_container(name)


@pytest.fixture
def copies(seeds: PageBlobSeeds) -> PointCopies:
    return PointCopies(seeds, poll_s=0.01)


def put(seeds: PageBlobSeeds, container: str, name: str, offset: int, data: bytes) -> None:
    seeds.account.client.get_blob_client(container, name).upload_page(data, offset, len(data))


def names(seeds: PageBlobSeeds, container: str) -> set[str]:
    return set(seeds.list_seeds(container)) - {seed_name(disk) for disk in DISKS}


def test_a_copy_is_the_point_byte_by_byte_with_a_footer_whatever_the_seed_holds_now(
    seeds: PageBlobSeeds, container: str, copies: PointCopies
) -> None:
    seeds.create_seed(container, seed_name(2000), seed_blob_size(CAPACITY))
    put(seeds, container, seed_name(2000), MIB, b"then" * 128)
    point = take_point(seeds, container, "1-a", 5)
    put(seeds, container, seed_name(2000), MIB, b"now!" * 128)
    made = copies.copy(container, point, JOB, nothing)
    assert [(copy.disk_key, copy.name, copy.size_bytes) for copy in made] == [
        (disk, copy_name(JOB, "1-a", disk), seed_blob_size(CAPACITY)) for disk in DISKS
    ]
    whole = seeds.read_range(container, made[0].name, 0, seed_blob_size(CAPACITY))
    assert whole[:CAPACITY] == bytes(MIB) + b"then" * 128 + bytes(MIB - SECTOR)
    assert read_footer(whole[CAPACITY:]).current_size == CAPACITY
    put(seeds, container, made[0].name, 0, b"test" * 128)
    assert seeds.read_range(container, seed_name(2000), 0, SECTOR) == bytes(SECTOR)


def test_a_second_attempt_takes_what_is_made_as_it_is(
    mended: MendedAccount, seeds: PageBlobSeeds, container: str, copies: PointCopies
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    first = copies.copy(container, point, JOB, nothing)
    put(seeds, container, first[0].name, 0, b"used" * 128)
    mended.control.reset_counts()
    assert copies.copy(container, point, JOB, nothing) == first
    assert mended.control.count("CopyBlob") == 0
    assert seeds.read_range(container, first[0].name, 0, 4) == b"used"


def test_several_jobs_and_points_have_copies_of_their_own(seeds: PageBlobSeeds, container: str, copies: PointCopies) -> None:
    points = [take_point(seeds, container, "1-a", 5), take_point(seeds, container, "2-b", 6)]
    for job, point in ((JOB, points[0]), (JOB, points[1]), ("test-2", points[0])):
        copies.copy(container, point, job, nothing)
    assert len(names(seeds, container)) == 6
    assert copies.delete(container, copies_prefix(JOB), beat) == 4
    assert {name.split("/")[1] for name in names(seeds, container)} == {"test-2"}
    assert copies.delete(container, copies_prefix(JOB), beat) == 0
    assert seeds.read_seed(container, seed_name(2000)).sequence_number == 6


def test_a_reply_that_is_lost_makes_no_second_copy_and_no_error(
    mended: MendedAccount, seeds: PageBlobSeeds, container: str, copies: PointCopies
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    mended.control.order(BlobFault(BlobAction.DROP, operation="CopyBlob"))
    with pytest.raises(DeltaferryError) as caught:
        copies.copy(container, point, JOB, nothing)
    assert caught.value.kind is ErrorKind.STORE_UNREACHABLE
    assert len(copies.copy(container, point, JOB, nothing)) == 2


@pytest.mark.parametrize("operation", ["PutPage", "SetBlobMetadata"])
def test_a_copy_that_died_before_its_mark_is_finished_by_the_next_attempt(
    mended: MendedAccount, seeds: PageBlobSeeds, container: str, copies: PointCopies, operation: str
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    mended.control.order(BlobFault(BlobAction.CUT, operation=operation, path_contains="copies"))
    with pytest.raises(DeltaferryError):
        copies.copy(container, point, JOB, nothing)
    made = copies.copy(container, point, JOB, nothing)
    for copy in made:
        assert read_footer(seeds.read_range(container, copy.name, CAPACITY, SECTOR)).current_size == CAPACITY


def test_a_blob_of_which_nobody_can_say_how_far_it_is_is_made_again(
    seeds: PageBlobSeeds, container: str, copies: PointCopies
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    name = copy_name(JOB, "1-a", 2000)
    metadata = {"cycle": "1-a", "seal": "5", "source": point.disks[0].snapshot}
    half = seeds.account.client.get_blob_client(container, name)
    half.create_page_blob(seed_blob_size(CAPACITY), metadata=metadata)
    half.upload_page(b"half" * 128, 0, SECTOR)
    copies.copy(container, point, JOB, nothing)
    assert seeds.read_range(container, name, 0, SECTOR) == bytes(SECTOR)


def test_a_blob_that_is_no_copy_of_the_point_is_left_alone(seeds: PageBlobSeeds, container: str, copies: PointCopies) -> None:
    point = take_point(seeds, container, "1-a", 5)
    name = copy_name(JOB, "1-a", 2000)
    seeds.account.client.get_blob_client(container, name).create_page_blob(SECTOR)
    with pytest.raises(DeltaferryError) as caught:
        copies.copy(container, point, JOB, nothing)
    assert caught.value.kind is ErrorKind.AZURE_CONFLICT
    assert seeds.read_seed(container, name).size_bytes == SECTOR


def test_a_point_that_is_not_whole_is_not_copied_at_all(seeds: PageBlobSeeds, container: str, copies: PointCopies) -> None:
    first, second = take_point(seeds, container, "1-a", 5), take_point(seeds, container, "2-b", 6)
    mixed = RecoveryPointRecord("2-b", first.kind, AT, AT, 6, (second.disks[0], first.disks[1]))
    grown = RecoveryPointRecord("1-a", first.kind, AT, AT, 5, (PointDisk(2000, first.disks[0].snapshot, CAPACITY + MIB),))
    seeds.delete_snapshot(container, seed_name(2001), first.disks[1].snapshot)
    for wrong in (mixed, grown, first):
        with pytest.raises(DeltaferryError) as caught:
            copies.copy(container, wrong, JOB, nothing)
        assert caught.value.kind is ErrorKind.OPERATION_REFUSED
    assert names(seeds, container) == set()


# --- a service that takes its time


@pytest.fixture
def slow(mended: MendedAccount) -> Iterator[SlowCopies]:
    with SlowCopies(mended.account) as service:
        yield service


@pytest.fixture
def slow_copies(slow: SlowCopies) -> PointCopies:
    return PointCopies(PageBlobSeeds(slow.account), poll_s=0.01)


def until(happened: Callable[[], bool], then: BaseException | None = None) -> Callable[[DataProgress], None]:
    def progress(_: DataProgress) -> None:
        if happened() and then is not None:
            raise then

    return progress


def test_all_disks_are_copied_at_once_and_progress_says_how_far_they_are(
    slow: SlowCopies, slow_copies: PointCopies, seeds: PageBlobSeeds, container: str
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    told: list[int] = []

    def progress(done: DataProgress) -> None:
        told.append(done.bytes_done)
        assert done.bytes_total == 2 * seed_blob_size(CAPACITY)
        if len(slow.pending()) == 2:
            slow.advance(SECTOR)
            if told[-1] >= 2 * SECTOR:
                slow.finish()

    slow_copies.copy(container, point, JOB, progress)
    assert told == sorted(told) and told[-1] == 2 * seed_blob_size(CAPACITY)
    assert any(2 * SECTOR <= done < told[-1] for done in told)


def test_a_cancelled_wait_aborts_the_copies_and_leaves_nothing(
    slow: SlowCopies, slow_copies: PointCopies, seeds: PageBlobSeeds, container: str
) -> None:
    class Cancelled(BaseException):
        """What a heartbeat raises when the step is cancelled."""

    point = take_point(seeds, container, "1-a", 5)
    with pytest.raises(Cancelled):
        slow_copies.copy(container, point, JOB, until(lambda: len(slow.pending()) == 2, Cancelled()))
    assert slow.aborted == 2
    assert names(seeds, container) == set()


def test_a_worker_that_stops_leaves_the_copies_running_for_the_next_attempt(
    slow: SlowCopies, slow_copies: PointCopies, seeds: PageBlobSeeds, container: str
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    stop = DeltaferryError(ErrorKind.INTERRUPTED, "the worker was told to end the step")
    with pytest.raises(DeltaferryError):
        slow_copies.copy(container, point, JOB, until(lambda: len(slow.pending()) == 2, stop))
    assert (slow.aborted, slow.begun) == (0, 2)
    slow.finish()
    assert len(slow_copies.copy(container, point, JOB, nothing)) == 2
    assert slow.begun == 2


def test_a_copy_that_the_service_gave_up_is_deleted_and_begun_again_by_the_next_attempt(
    slow: SlowCopies, slow_copies: PointCopies, seeds: PageBlobSeeds, container: str
) -> None:
    point = take_point(seeds, container, "1-a", 5)

    def fail(_: DataProgress) -> None:
        if len(slow.pending()) == 2:
            slow.fail()

    with pytest.raises(DeltaferryError) as caught:
        slow_copies.copy(container, point, JOB, fail)
    assert caught.value.kind is ErrorKind.AZURE_FAILED
    slow.at_once = True
    assert len(slow_copies.copy(container, point, JOB, nothing)) == 2


def test_a_clean_up_ends_copies_that_still_run(
    slow: SlowCopies, slow_copies: PointCopies, seeds: PageBlobSeeds, container: str
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    stop = DeltaferryError(ErrorKind.INTERRUPTED, "the worker was told to end the step")
    with pytest.raises(DeltaferryError):
        slow_copies.copy(container, point, JOB, until(lambda: len(slow.pending()) == 2, stop))
    assert slow_copies.delete(container, copies_prefix(JOB), beat) == 2
    assert (slow.aborted, names(seeds, container)) == (2, set())


def test_two_attempts_at_once_make_one_copy(
    slow: SlowCopies, slow_copies: PointCopies, seeds: PageBlobSeeds, container: str
) -> None:
    point = take_point(seeds, container, "1-a", 5)
    slow.at_once = True
    made = []
    threads = [threading.Thread(target=lambda: made.append(slow_copies.copy(container, point, JOB, nothing))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2 and made[0] == made[1]
    assert slow.begun == 2
