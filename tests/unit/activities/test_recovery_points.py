"""The steps on recovery points, as a worker runs them, on real stores: Azurite behind the lab's front."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast
from uuid import uuid4

import pytest
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import ActivityEnvironment

from activities.adapters import Stores, Target, TargetDefaults
from activities.recovery_points import POINT_BOOK_ADAPTER, RecoveryPointSteps
from deltaferry.azure.keys import LocalKeyFile
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.recovery_points import BlobRecoveryPoints
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import checksum_map_prefix, gateway_container, point_name, seed_container, seed_name
from deltaferry.model.recovery_points import PointKind, RecoveryPointRecord, record_of
from deltaferry.model.replication import RecoveryPoint, ReplicatedDisk, ReplicationRef, Store
from deltaferry.model.units import MIB, seed_blob_size
from deltaferry.planning.retention import Choice, PointChoice
from deltaferry.ports.data_plane import DataPlane
from deltaferry.ports.target_cloud import TargetCloud
from tests.unit.azure.conftest import MendedAccount, mended
from workflows.messages.dr import (
    CopyPointInput,
    DeleteCopiesInput,
    ListPointsInput,
    PinPointInput,
    PrunedResult,
    PrunePointsInput,
    UnpinPointInput,
)
from workflows.messages.point_views import NEWEST, PointList
from workflows.messages.replication_state import Replication
from workflows.messages.site import SiteProfile
from workflows.plugin import DeltaferryPayloadConverter

__all__ = ["mended"]  # the fixture

A = TypeVar("A")
R = TypeVar("R")
H = timedelta(hours=1)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DISKS = tuple(ReplicatedDisk(key, f"uuid-{key}", f"Hard disk {key}", MIB, key == 2000) for key in (2000, 2001))
PROFILE = SiteProfile("tests", "london", "london-1", "west", H, 12 * H, 52, 8, 15)
HOLDER = "vm/london/4211/test/1"
LATEST = PointChoice()


class World:
    """A replication whose cycles commit at once, and the steps under test."""

    def __init__(self, account: MendedAccount, folder: Path) -> None:
        ref = ReplicationRef("tests", "london", "west", "4211", uuid4().hex[:16])
        self.replication = Replication(ref, "web-01", PROFILE, DISKS, 2, "Linux")
        self.seeds = PageBlobSeeds(account.patient)
        self.gateway = BlobObjectStore(account.patient, Store.GATEWAY)
        stores = Stores(self.gateway, self.gateway, self.seeds, LocalKeyFile.generate(folder / "key"))
        defaults = TargetDefaults("rg", "net", "sub", "size", "sku")
        self.points = BlobRecoveryPoints(self.seeds, self.gateway, poll_s=0.01)
        target = Target("west", stores, cast("TargetCloud", None), cast("DataPlane", None), self.points, defaults)
        self.steps = RecoveryPointSteps({"west": target})
        self.seal = 0
        self.seeds.create_container(seed_container(ref))
        self.gateway.create_container(gateway_container(ref))
        for disk in DISKS:
            self.seeds.create_seed(seed_container(ref), seed_name(disk.key), seed_blob_size(disk.capacity_bytes))

    @property
    def ref(self) -> ReplicationRef:
        return self.replication.ref

    def commit(self, age_h: float, kind: PointKind = PointKind.CRASH_CONSISTENT, *, recorded: bool = True) -> RecoveryPointRecord:
        """Do what a cycle does: seal, take the snapshots, commit; then record the point."""
        self.seal += 1
        cycle_key, container = f"{self.seal}-{uuid4()}", seed_container(self.ref)
        metadata = {"cycle": cycle_key, "seal": str(self.seal)}
        for disk in self.replication.disks:
            self.seeds.raise_fence(container, seed_name(disk.key), self.seal)
        taken = [
            (disk.key, self.seeds.snapshot(container, seed_name(disk.key), self.seal, metadata))
            for disk in self.replication.disks
        ]
        sealed = RecoveryPoint(cycle_key, NOW - age_h * H, self.seal, tuple(taken))
        point = record_of(sealed, self.replication.disks, NOW - age_h * H, kind=kind, changed_bytes={2000: 512, 2001: 0})
        if recorded:
            self.points.write(self.replication.ref, point)
        return point

    def listing(self, **options: bool) -> PointList:
        return run(self.steps.list_points, ListPointsInput(self.replication, NOW, **options))

    def prune(self, retention: timedelta | None = None, **options: object) -> PrunedResult:
        request = PrunePointsInput(self.replication, NOW, self.seal, retention, **options)  # type: ignore[arg-type]
        return run(self.steps.prune_points, request)

    def pin(self, choice: PointChoice = LATEST, holder: str = HOLDER) -> RecoveryPointRecord:
        return run(self.steps.pin_point, PinPointInput(self.replication, choice, holder, "a test", NOW)).point

    def listed(self) -> list[str]:
        book = POINT_BOOK_ADAPTER.validate_json(self.gateway.get(self.listing().book.key))
        return [view.cycle_key for view in book.points]

    def snapshots(self) -> list[int]:
        return [len(self.seeds.list_snapshots(seed_container(self.ref), seed_name(disk.key))) for disk in DISKS]


def run(step: Callable[[A], R], request: A, environment: ActivityEnvironment | None = None) -> R:
    """Run a step on its input and give its answer, both after their way through the converter."""
    converter = DeltaferryPayloadConverter()
    (sent,) = converter.from_payloads(converter.to_payloads([request]), [type(request)])
    assert sent == request
    answer = (environment or ActivityEnvironment()).run(step, sent)
    if answer is not None:
        payloads = converter.to_payloads([answer])
        assert converter.from_payloads(payloads, [type(answer)]) == [answer]
        assert len(payloads[0].data) < 20_000
    return cast("R", answer)


@pytest.fixture
def world(mended: MendedAccount, tmp_path: Path) -> Iterator[World]:
    made = World(mended, tmp_path)
    yield made
    made.seeds.delete_container(seed_container(made.ref))
    made.gateway.delete_container(gateway_container(made.ref))


def test_a_listing_names_the_newest_and_refers_to_all(world: World) -> None:
    points = [world.commit(10 - n, PointKind.APP_CONSISTENT if n == 1 else PointKind.CRASH_CONSISTENT) for n in range(NEWEST + 2)]
    listed = world.listing()
    assert [view.cycle_key for view in listed.newest] == [point.cycle_key for point in reversed(points[-NEWEST:])]
    assert (listed.total, listed.app_consistent, listed.oldest_at) == (NEWEST + 2, 1, NOW - 10 * H)
    assert listed.latest_app_consistent is not None and listed.latest_app_consistent.cycle_key == points[1].cycle_key
    assert listed.newest[0].changed_bytes == 512 and listed.newest[0].stored_bytes is None
    assert world.listed() == [point.cycle_key for point in points]


def test_sizes_are_counted_where_they_are_asked_for(world: World) -> None:
    world.commit(2)
    blob = world.seeds.account.client.get_blob_client(seed_container(world.ref), seed_name(2001))
    blob.upload_page(b"x" * 1024, 0, 1024)
    world.commit(1)
    assert [view.stored_bytes for view in world.listing(with_sizes=True).newest] == [1024, 0]


def test_without_any_point_a_listing_is_empty(world: World) -> None:
    listed = world.listing()
    assert (listed.total, listed.newest, listed.latest_app_consistent, listed.oldest_at) == (0, (), None, None)


def test_pruning_keeps_what_the_policy_keeps_and_sweeps_what_never_committed(world: World) -> None:
    old, app, _ = world.commit(40), world.commit(30, PointKind.APP_CONSISTENT), world.commit(29, recorded=False)
    recent, latest = world.commit(20), world.commit(1)
    done = world.prune(24 * H)
    assert (done.pruned, done.orphans, done.points.total) == (1, 2, 3)
    assert world.listed() == [point.cycle_key for point in (app, recent, latest)]
    assert old.cycle_key not in world.listed()
    assert world.snapshots() == [3, 3]
    again = world.prune(24 * H)
    assert (again.pruned, again.orphans) == (0, 0)


def test_without_a_policy_only_the_latest_point_is_kept(world: World) -> None:
    for age in (3, 2, 1):
        latest = world.commit(age)
    assert world.prune().pruned == 2
    assert world.listed() == [latest.cycle_key]


def test_a_pinned_point_and_one_in_use_survive_every_pruning(world: World) -> None:
    pinned, used, gone, latest = (world.commit(age) for age in (50, 49, 48, 1))
    assert world.pin(PointChoice(Choice.CHOSEN, pinned.cycle_key)) == pinned
    world.prune(24 * H, in_use=(used.cycle_key,))
    assert world.listed() == [point.cycle_key for point in (pinned, used, latest)]
    assert world.listing().newest[-1].pinned_by == (HOLDER,)
    run(world.steps.unpin_point, UnpinPointInput(world.replication, HOLDER))
    world.prune(24 * H)
    assert world.listed() == [latest.cycle_key]
    assert gone.cycle_key not in world.listed()


def test_a_committed_failover_keeps_its_own_point_only(world: World) -> None:
    first, chosen, _ = (world.commit(age) for age in (3, 2, 1))
    world.pin(PointChoice(Choice.CHOSEN, first.cycle_key), holder="a drill")
    world.prune(keep_only=chosen.cycle_key)
    assert world.listed() == [first.cycle_key, chosen.cycle_key]


def test_nothing_is_pruned_for_a_point_that_is_none(world: World) -> None:
    world.commit(1)
    with pytest.raises(ApplicationError) as caught:
        world.prune(keep_only="9-none")
    assert (caught.value.type, caught.value.non_retryable) == (ErrorKind.OPERATION_REFUSED, True)
    assert world.listing().total == 1


def test_a_removed_disk_stays_as_long_as_a_point_needs_it(world: World) -> None:
    world.commit(2)
    map_key = f"{gateway_container(world.ref)}/{checksum_map_prefix(2001)}0"
    world.gateway.put(map_key, b"map")
    world.replication = replace(world.replication, disks=DISKS[:1])
    world.commit(1)
    world.prune(24 * H)
    assert world.seeds.list_seeds(seed_container(world.ref)) == (seed_name(2000), seed_name(2001))
    world.prune()
    assert world.seeds.list_seeds(seed_container(world.ref)) == (seed_name(2000),)
    assert world.gateway.get_if_exists(map_key) is None


def test_no_seed_is_deleted_while_a_point_cannot_be_read(world: World) -> None:
    point = world.commit(2)
    world.gateway.put(f"{gateway_container(world.ref)}/{point_name(point.cycle_key)}", b"{}")
    world.replication = replace(world.replication, disks=DISKS[:1])
    assert world.prune().points.damaged == 1
    assert len(world.seeds.list_seeds(seed_container(world.ref))) == 2
    assert world.snapshots() == [1, 1]


@pytest.mark.parametrize("choice", [PointChoice(), PointChoice(Choice.LATEST_APP_CONSISTENT), PointChoice(Choice.CHOSEN, "9-x")])
def test_a_point_that_is_not_there_is_refused_with_a_sentence(world: World, choice: PointChoice) -> None:
    with pytest.raises(ApplicationError) as caught:
        world.pin(choice)
    assert caught.value.type == ErrorKind.OPERATION_REFUSED and str(caught.value).endswith(".")


def copy(world: World, point: RecoveryPointRecord, holder: str = HOLDER, job: str = "test-1") -> CopyPointInput:
    return CopyPointInput(world.replication, point.cycle_key, holder, job)


def test_copies_of_a_point_outlive_it_and_go_with_their_job(world: World) -> None:
    point = world.commit(30)
    world.pin()
    copied = run(world.steps.copy_point, copy(world, point))
    assert (copied.point, [entry.disk_key for entry in copied.copies]) == (point, [2000, 2001])
    run(world.steps.unpin_point, UnpinPointInput(world.replication, HOLDER, point.cycle_key))
    world.commit(1)
    world.prune(24 * H)
    for entry in copied.copies:
        assert world.seeds.read_seed(seed_container(world.ref), entry.name).size_bytes == entry.size_bytes
    request = DeleteCopiesInput(world.replication, "test-1")
    assert run(world.steps.delete_copies, request).count == 2
    assert run(world.steps.delete_copies, request).count == 0
    assert world.seeds.list_seeds(seed_container(world.ref)) == (seed_name(2000), seed_name(2001))


def test_only_a_pinned_point_is_copied_and_only_for_a_job_with_a_name(world: World) -> None:
    point = world.commit(1)
    world.pin(holder="somebody else")
    for request, kind in (
        (copy(world, point), ErrorKind.OPERATION_REFUSED),
        (copy(world, point, "somebody else", job="../x"), ErrorKind.BAD_INPUT),
    ):
        with pytest.raises(ApplicationError) as caught:
            run(world.steps.copy_point, request)
        assert caught.value.type == kind
    assert len(world.seeds.list_seeds(seed_container(world.ref))) == 2


def test_a_cancelled_copy_leaves_nothing(world: World) -> None:
    point = world.commit(1)
    world.pin()
    environment = ActivityEnvironment()
    environment.cancel()
    with pytest.raises(CancelledError):
        run(world.steps.copy_point, copy(world, point), environment)
    assert len(world.seeds.list_seeds(seed_container(world.ref))) == 2
