"""Recovery points against a real Azurite behind the lab's front: several kept, pruned in whatever order things die."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.point_sizes import stored_bytes
from deltaferry.azure.recovery_points import BlobRecoveryPoints
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import condemned_name, gateway_container, pin_name, point_name, seed_container, seed_name
from deltaferry.model.point_record import DamagedPointError, decode_pin, decode_point, encode_pin, encode_point
from deltaferry.model.recovery_points import Pin, PointDisk, PointKind, RecoveryPointRecord
from deltaferry.model.replication import ReplicationRef, Store
from deltaferry.model.units import MIB, SECTOR, seed_blob_size
from deltaferry.ports.recovery import PrunedPoints
from deltaferry.ports.stores import ObjectStore

from .conftest import MendedAccount

DISKS = (2000, 2001)
CAPACITY = 2 * MIB
T0 = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOLDER = "vm/london/4211/test/1"


def beat() -> None:
    """Nothing to say."""


class Point:
    """A replication with two small seeds, and the handful of calls that tests make of it."""

    def __init__(self, account: MendedAccount) -> None:
        self.ref = ReplicationRef("tests", "london", "west", "4211", uuid4().hex[:16])
        self.seeds = PageBlobSeeds(account.patient)
        self.gateway = BlobObjectStore(account.patient, Store.GATEWAY)
        self.points = BlobRecoveryPoints(self.seeds, self.gateway, poll_s=0.01)
        self.fence = 0
        self.seeds.create_container(seed_container(self.ref))
        self.gateway.create_container(gateway_container(self.ref))
        for disk in DISKS:
            self.seeds.create_seed(seed_container(self.ref), seed_name(disk), seed_blob_size(CAPACITY))

    def write_page(self, disk: int, offset: int, data: bytes) -> None:
        blob = self.seeds.account.client.get_blob_client(seed_container(self.ref), seed_name(disk))
        blob.upload_page(data, offset, len(data))

    def snapshots_of(self, disk: int) -> tuple[str, ...]:
        return self.seeds.list_snapshots(seed_container(self.ref), seed_name(disk))

    def snapshot(self, cycle_key: str, disks: tuple[int, ...] = DISKS) -> RecoveryPointRecord:
        """Seal the seeds and take a cycle's snapshots: what is still to come is the record."""
        self.fence += 1
        taken = []
        for disk in disks:
            self.seeds.raise_fence(seed_container(self.ref), seed_name(disk), self.fence)
            metadata = {"cycle": cycle_key, "seal": str(self.fence)}
            snapshot = self.seeds.snapshot(seed_container(self.ref), seed_name(disk), self.fence, metadata)
            taken.append(PointDisk(disk, snapshot, CAPACITY, 512))
        at = T0 + timedelta(hours=self.fence)
        return RecoveryPointRecord(cycle_key, PointKind.CRASH_CONSISTENT, at, at, self.fence, tuple(taken))

    def commit(self, cycle_key: str) -> RecoveryPointRecord:
        record = self.snapshot(cycle_key)
        self.points.write(self.ref, record)
        return record

    def listed(self) -> list[str]:
        return [point.cycle_key for point in self.points.list(self.ref).points]

    def gateway_names(self) -> set[str]:
        return {item.name for item in self.gateway.list(gateway_container(self.ref), "")}

    def pin(self, cycle_key: str, holder: str = HOLDER) -> None:
        self.points.pin(self.ref, Pin(cycle_key, holder, T0, "test migration"))

    def over(self, gateway: ObjectStore, seeds: PageBlobSeeds | None = None) -> BlobRecoveryPoints:
        return BlobRecoveryPoints(seeds or self.seeds, gateway, poll_s=0.01)


@pytest.fixture
def vm(mended: MendedAccount) -> Iterator[Point]:
    made = Point(mended)
    yield made
    mended.control.clear_faults()
    made.seeds.delete_container(seed_container(made.ref))
    made.gateway.delete_container(gateway_container(made.ref))


def test_several_points_are_kept_and_listed_in_the_order_of_their_commits(vm: Point) -> None:
    records = [vm.commit(key) for key in ("9-c", "10-b", "2-a")]
    listing = vm.points.list(vm.ref)
    assert listing.points == tuple(records)
    assert (listing.incomplete, listing.damaged) == ((), ())


def test_a_replication_without_containers_has_no_points(vm: Point) -> None:
    other = replace(vm.ref, replication_id="0" * 16)
    assert vm.points.list(other).points == ()
    assert vm.points.pins(other) == ()
    assert vm.points.prune(other, ["1-a"], beat) == PrunedPoints((), ())
    assert vm.points.sweep(other, 10, beat) == 0
    assert vm.points.delete_copies(other, "test-1", beat) == 0


def test_snapshots_without_a_record_are_no_point(vm: Point) -> None:
    vm.snapshot("1-a")
    assert vm.listed() == []


def test_a_record_is_written_once_and_only_over_its_own_whole_set_of_snapshots(vm: Point) -> None:
    first, second = vm.snapshot("1-a"), vm.snapshot("2-b")
    mixed = replace(first, disks=(first.disks[0], second.disks[1]))
    for wrong in (
        mixed,
        replace(first, fence=9),
        replace(first, cycle_key="3-c"),
        replace(first, disks=(replace(first.disks[0], snapshot="x"),)),
    ):
        with pytest.raises(DeltaferryError) as caught:
            vm.points.write(vm.ref, wrong)
        assert caught.value.kind is ErrorKind.SEED_MISSING
    assert vm.listed() == []
    vm.points.write(vm.ref, first)
    vm.points.write(vm.ref, replace(first, note="another attempt's"))
    assert vm.points.list(vm.ref).points == (first,)


def test_a_point_of_which_a_snapshot_is_gone_or_anothers_is_not_listed_but_named(vm: Point) -> None:
    gone, mixed, whole = vm.commit("1-a"), vm.snapshot("2-b"), vm.commit("3-c")
    vm.seeds.delete_snapshot(seed_container(vm.ref), seed_name(2001), gone.disks[1].snapshot)
    forged = replace(mixed, disks=(mixed.disks[0], replace(mixed.disks[1], snapshot=whole.disks[1].snapshot)))
    vm.gateway.put(f"{gateway_container(vm.ref)}/{point_name('2-b')}", encode_point(forged))
    listing = vm.points.list(vm.ref)
    assert listing.points == (whole,)
    assert listing.incomplete == ("1-a", "2-b")


def test_a_damaged_record_is_no_point_is_named_and_still_protects_its_snapshots(vm: Point) -> None:
    vm.commit("1-a")
    key = f"{gateway_container(vm.ref)}/{point_name('1-a')}"
    vm.gateway.put(key, vm.gateway.get(key).replace(b"crash-consistent", b"app-consistent"))
    listing = vm.points.list(vm.ref)
    assert (listing.points, listing.damaged) == ((), ("1-a",))
    assert vm.points.sweep(vm.ref, 100, beat) == 0
    assert len(vm.snapshots_of(2000)) == 1


def test_a_record_that_was_read_is_not_read_again_and_one_that_changed_is(vm: Point, mended: MendedAccount) -> None:
    vm.commit("1-a")
    vm.listed()
    mended.control.reset_counts()
    assert vm.listed() == ["1-a"]
    assert mended.control.count("GetBlob") == 0
    key = f"{gateway_container(vm.ref)}/{point_name('1-a')}"
    vm.gateway.put(key, b"{}")
    assert vm.listed() == []


def test_pruning_deletes_the_listed_points_with_their_snapshots_and_nothing_else(vm: Point) -> None:
    records = [vm.commit(f"{n}-a") for n in range(1, 5)]
    assert vm.points.prune(vm.ref, ["1-a", "3-a"], beat).pruned == ("1-a", "3-a")
    assert vm.listed() == ["2-a", "4-a"]
    for disk in (0, 1):
        assert vm.snapshots_of(DISKS[disk]) == (records[1].disks[disk].snapshot, records[3].disks[disk].snapshot)
    assert vm.gateway_names() == {point_name("2-a"), point_name("4-a")}
    assert vm.points.prune(vm.ref, ["1-a", "3-a", "never-was"], beat) == PrunedPoints((), ())


def test_a_pinned_point_stays_until_its_last_holder_lets_go(vm: Point) -> None:
    vm.commit("1-a")
    for holder in (HOLDER, HOLDER, "plan/shop"):
        vm.pin("1-a", holder)
    assert sorted(pin.holder for pin in vm.points.pins(vm.ref)) == ["plan/shop", HOLDER]
    assert vm.points.prune(vm.ref, ["1-a"], beat) == PrunedPoints((), ("1-a",))
    vm.points.unpin(vm.ref, HOLDER)
    assert vm.points.prune(vm.ref, ["1-a"], beat).pinned == ("1-a",)
    vm.points.unpin(vm.ref, "plan/shop", "1-a")
    vm.points.unpin(vm.ref, "plan/shop", "1-a")
    assert vm.listed() == ["1-a"]
    assert vm.points.prune(vm.ref, ["1-a"], beat).pruned == ("1-a",)


def test_a_holders_pins_on_other_points_stay(vm: Point) -> None:
    vm.commit("1-a")
    vm.commit("2-b")
    vm.pin("1-a")
    vm.pin("2-b")
    vm.points.unpin(vm.ref, HOLDER, "1-a")
    assert [pin.cycle_key for pin in vm.points.pins(vm.ref)] == ["2-b"]


def test_what_is_no_point_cannot_be_pinned(vm: Point) -> None:
    vm.commit("1-a")
    vm.points.prune(vm.ref, ["1-a"], beat)
    with pytest.raises(DeltaferryError) as caught:
        vm.pin("1-a")
    assert caught.value.kind is ErrorKind.OPERATION_REFUSED
    assert vm.points.pins(vm.ref) == ()


class Died(Exception):
    """What a worker that was killed leaves: nothing after this call."""


class Mortal:
    """Passes calls on to a real store, and dies just before the n-th one that changes something, or does something else then."""

    def __init__(self, inner: object, changing: tuple[str, ...], at: int, then: Callable[[], None]) -> None:
        self._inner, self._changing, self._left, self._then = inner, changing, at, then

    def __getattr__(self, name: str) -> object:
        found = getattr(self._inner, name)
        if name in self._changing:
            if self._left == 0:
                self._left -= 1
                self._then()
            self._left -= 1
        return found


CHANGING = ("put", "put_new", "delete_objects", "delete_snapshot")


def die() -> None:
    raise Died


@pytest.mark.parametrize("at", range(5))
def test_a_death_at_any_place_of_a_pruning_lists_no_half_point_and_the_next_pruning_finishes(vm: Point, at: int) -> None:
    vm.commit("1-a")
    vm.commit("2-b")
    steps = itertools.count()

    class Counted(Mortal):
        def __getattr__(self, name: str) -> object:
            if name in CHANGING and next(steps) == at:
                die()
            return getattr(self._inner, name)

    dying = vm.over(Counted(vm.gateway, (), 0, die), Counted(vm.seeds, (), 0, die))  # type: ignore[arg-type]
    with pytest.raises(Died):
        dying.prune(vm.ref, ["1-a"], beat)
    listing = vm.points.list(vm.ref)
    assert (listing.incomplete, listing.damaged) == ((), ())
    assert "2-b" in [point.cycle_key for point in listing.points]
    vm.points.prune(vm.ref, [point.cycle_key for point in listing.points if point.cycle_key == "1-a"], beat)
    assert vm.listed() == ["2-b"]
    assert [len(vm.snapshots_of(disk)) for disk in DISKS] == [1, 1]
    assert vm.gateway_names() == {point_name("2-b")}


@pytest.mark.parametrize("at", range(3))
def test_a_pin_that_comes_in_the_middle_of_a_pruning_is_honoured_or_refused_never_both(vm: Point, at: int) -> None:
    vm.commit("1-a")
    refused = []

    def pin() -> None:
        try:
            vm.pin("1-a")
        except DeltaferryError as error:
            refused.append(error.kind)

    done = vm.over(Mortal(vm.gateway, ("put", "delete_objects"), at, pin)).prune(vm.ref, ["1-a"], beat)  # type: ignore[arg-type]
    if refused:
        assert (vm.listed(), done.pruned, refused) == ([], ("1-a",), [ErrorKind.OPERATION_REFUSED])
    else:
        assert (vm.listed(), done.pinned) == (["1-a"], ("1-a",))
    assert condemned_name("1-a") not in vm.gateway_names()


@pytest.mark.parametrize("before", ["put_new", "get_if_exists"])
def test_a_pruning_in_the_middle_of_a_pinning_keeps_the_point_or_has_the_pin_refused(vm: Point, before: str) -> None:
    vm.commit("1-a")
    done: list[PrunedPoints] = []
    gateway = Mortal(vm.gateway, (before,), 0, lambda: done.append(vm.points.prune(vm.ref, ["1-a"], beat)))
    pinning = vm.over(gateway)  # type: ignore[arg-type]
    if before == "put_new":
        with pytest.raises(DeltaferryError):
            pinning.pin(vm.ref, Pin("1-a", HOLDER, T0, ""))
        assert (vm.listed(), vm.points.pins(vm.ref), done[0].pruned) == ([], (), ("1-a",))
    else:
        pinning.pin(vm.ref, Pin("1-a", HOLDER, T0, ""))
        assert (vm.listed(), done[0].pinned) == (["1-a"], ("1-a",))


def test_a_pin_whose_pruner_died_gets_its_point_back(vm: Point) -> None:
    record = vm.commit("1-a")
    container = gateway_container(vm.ref)
    vm.gateway.put(f"{container}/{condemned_name('1-a')}", encode_point(record))
    vm.gateway.put(f"{container}/{pin_name('1-a', HOLDER)}", encode_pin(Pin("1-a", HOLDER, T0, "")))
    vm.gateway.delete_objects(container, [point_name("1-a")])
    assert vm.listed() == []
    vm.points.prune(vm.ref, [], beat)
    assert vm.listed() == ["1-a"]


def test_snapshots_of_cycles_that_never_committed_are_swept_and_nothing_else_is(vm: Point) -> None:
    kept = vm.commit("1-a")
    vm.snapshot("2-failed")
    vm.snapshot("3-died", disks=DISKS[:1])
    latest = vm.commit("4-b")
    running = vm.snapshot("5-running")
    blob = vm.seeds.account.client.get_blob_client(seed_container(vm.ref), seed_name(2000))
    somebody_elses = str(blob.create_snapshot(metadata={"by": "hand"})["snapshot"])
    assert vm.points.sweep(vm.ref, latest.fence, beat) == 3
    own = tuple(record.disks[0].snapshot for record in (kept, latest, running))
    assert vm.snapshots_of(2000) == (*own, somebody_elses)
    assert vm.listed() == ["1-a", "4-b"]


def test_a_points_size_is_what_the_point_before_does_not_hold(vm: Point) -> None:
    vm.write_page(2000, 0, b"a" * 8 * SECTOR)
    first = vm.commit("1-a")
    vm.write_page(2000, 4 * SECTOR, b"b" * 2 * SECTOR)
    vm.write_page(2001, MIB, b"c" * SECTOR)
    second = vm.commit("2-b")
    assert vm.points.stored_bytes(vm.ref, first, None) == 8 * SECTOR
    assert vm.points.stored_bytes(vm.ref, second, first) == 3 * SECTOR
    assert vm.points.stored_bytes(vm.ref, second, replace(first, disks=first.disks[1:])) == 9 * SECTOR


def test_a_size_that_is_not_cheap_to_count_is_unknown(vm: Point) -> None:
    for sector in range(0, 12, 2):
        vm.write_page(2000, sector * SECTOR, b"a" * SECTOR)
    first = vm.commit("1-a")
    for sector in range(0, 12, 2):
        vm.write_page(2000, sector * SECTOR, b"b" * SECTOR)
    second = vm.commit("2-b")
    container = seed_container(vm.ref)
    assert stored_bytes(vm.seeds, container, second, first, ranges_per_answer=2) == 6 * SECTOR
    assert stored_bytes(vm.seeds, container, second, first, ranges_per_answer=1) is None


RECORD = RecoveryPointRecord(
    "1-a", PointKind.APP_CONSISTENT, T0, T0 + timedelta(minutes=3), 7, (PointDisk(2000, "s", 512, None), PointDisk(2001, "t", 512, 0)),
    "VSS was refused: crash-consistent", "group/7",
)  # fmt: skip


def test_a_record_is_read_as_it_was_written() -> None:
    assert decode_point(encode_point(RECORD), "1-a") == RECORD
    assert encode_point(RECORD) == encode_point(replace(RECORD))


def test_any_change_of_a_record_is_found() -> None:
    data = encode_point(RECORD)
    for position in range(len(data)):
        for damaged in (data[:position], data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]):
            with pytest.raises(DamagedPointError):
                decode_point(damaged, "1-a")
    for wrong in (data + b"}", b"", b"null", b"[]", b"\xff", data.replace(b'"version":1', b'"version":2')):
        with pytest.raises(DamagedPointError):
            decode_point(wrong, "1-a")
    with pytest.raises(DamagedPointError):
        decode_point(data, "2-b")


def test_a_pin_that_cannot_be_read_still_holds() -> None:
    pin = Pin("1-a", HOLDER, T0, "because")
    assert decode_pin(encode_pin(pin), "1-a", HOLDER) == pin
    assert decode_pin(b"\x00", "1-a", HOLDER).holder == HOLDER
