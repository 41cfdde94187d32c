"""Both checks of spec §4, against real stores: what the target says it did is compared with plan and manifest before anything counts.

Here stage 2's account is what lies: an extent dropped, doubled elsewhere, shifted; other objects; another chunk's account.
"""

import dataclasses
import random
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.adapters import Stores, Target, TargetDefaults
from activities.apply import Apply
from activities.verification import Verification
from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.keys import LocalKeyFile
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.blocks.account import TargetAccount, decode_account, encode_account
from deltaferry.blocks.checksum_map import GranuleRecorder, encode_updates
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.manifest import Manifest, encode_manifest
from deltaferry.blocks.plan import Plan, encode_plan, make_plan, source_set
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.model.errors import ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.naming import (
    covered_name,
    gateway_container,
    log_container,
    manifest_name,
    plan_name,
    seed_container,
    seed_name,
    segment_name,
)
from deltaferry.model.replication import PlanRef, ReplicatedDisk, ReplicationRef, Store, StoredSegment
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR
from deltaferry.ports.recovery import RecoveryPoints
from deltaferry.ports.target_cloud import TargetCloud
from tests.unit.azure.conftest import start_azurite
from workflows.messages.replication_state import Replication
from workflows.messages.site import SiteProfile
from workflows.messages.step import AppliedChunk, OnReplication, SealInput, VerifyChunksInput

_TARGET, _DISK, _CYCLE, _FENCE = "target", 2000, "1-cycle", 1
_CAPACITY = 9 * MIB + 37 * SECTOR
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
Lie = Callable[[random.Random, list[Extent]], list[Extent]]


@pytest.fixture(autouse=True)
def whole_lab() -> None:
    """These tests need stores only."""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageAccount]:
    azurite = start_azurite(tmp_path_factory.mktemp("azurite"))
    account = azurite.account()
    yield account
    account.close()
    azurite.process.stop()


class Cycle:
    """A cycle of one disk in two segments, whose apply has ended: plan, manifest and account are stored."""

    def __init__(self, account: StorageAccount, directory: Path, name: str) -> None:
        self.ref = ReplicationRef("lab", "site", _TARGET, f"uuid-{name}", uuid.uuid4().hex[:16])
        disk = ReplicatedDisk(_DISK, "uuid", "Hard disk 1", _CAPACITY, True)
        hour = timedelta(hours=1)
        profile = SiteProfile("lab", "site", "appliance", _TARGET, hour, hour, 1, 1, 1)
        self.replication = Replication(self.ref, "vm", profile, (disk,), 1, "Linux")
        self.stores = Stores(
            BlobObjectStore(account, Store.LOG),
            BlobObjectStore(account, Store.GATEWAY),
            PageBlobSeeds(account),
            LocalKeyFile.generate(directory / "key"),
        )
        targets = {
            _TARGET: Target(
                _TARGET,
                self.stores,
                cast("TargetCloud", None),
                ProcessDataPlane(),
                cast("RecoveryPoints", None),
                TargetDefaults("rg", "net", "sub", "size", "sku"),
            )
        }
        self.verification = Verification(targets)
        self.plan: Plan = make_plan(
            _CAPACITY, [Extent(0, BLOCK), Extent(5 * MIB, 3 * MIB)], [Extent(8 * MIB, _CAPACITY - 8 * MIB)]
        )
        self.segments = tuple(StoredSegment(number, bytes([number]) * 32, 100) for number in range(self.plan.segments))
        assert len(self.segments) == 2
        ActivityEnvironment().run(Apply(targets).prepare_target, OnReplication(self.replication))
        self.stores.seeds.raise_fence(seed_container(self.ref), seed_name(_DISK), _FENCE)
        gateway = gateway_container(self.ref)
        self.plan_ref = PlanRef(
            self.stores.gateway.put(f"{gateway}/{plan_name(_CYCLE, _DISK)}", encode_plan(self.plan)),
            self.plan.segments,
            self.plan.data_bytes,
            self.plan.covered_bytes,
        )
        manifest = encode_manifest(Manifest(_CYCLE, _DISK, 0, self.segments))
        self._manifest = self.stores.gateway.put(f"{gateway}/{manifest_name(_CYCLE, _DISK, 0)}", manifest)
        self.object_key = f"{log_container(self.ref)}/{segment_name(_CYCLE, _DISK, 0)}"
        self.stores.log.put(self.object_key, b"a segment")

    def covers(self, extents: list[Extent], **changes: Any) -> AppliedChunk:
        """Store the target's account of the whole plan; what an honest one says can be changed."""
        granules = encode_updates(GranuleRecorder(Hasher(bytes(32)).zero_checksum(GRANULE)).build())
        honest = TargetAccount(_CYCLE, _DISK, 0, SectorSet(extents).encode(), granules, self.segments)
        stored = encode_account(dataclasses.replace(honest, **changes))
        key = f"{gateway_container(self.ref)}/{covered_name(_CYCLE, _DISK, 0, _FENCE)}"
        return AppliedChunk(_DISK, 0, self.plan.segments, self._manifest, self.stores.gateway.put(key, stored), 0, 0, 0)

    def honest(self) -> AppliedChunk:
        return self.covers(list(source_set(self.plan).extents()))

    def seal(self, chunk: AppliedChunk) -> None:
        request = SealInput(self.replication, _CYCLE, _NOW, _FENCE + 1, ((_DISK, self.plan_ref),), (chunk,))
        ActivityEnvironment().run(self.verification.seal_cycle, request)

    def verify(self, chunk: AppliedChunk) -> None:
        request = VerifyChunksInput(self.replication, _CYCLE, ((_DISK, self.plan_ref),), (chunk,))
        ActivityEnvironment().run(self.verification.verify_chunks, request)

    def points(self) -> tuple[str, ...]:
        return self.stores.seeds.list_snapshots(seed_container(self.ref), seed_name(_DISK))

    def is_sealed(self) -> bool:
        return self.stores.seeds.read_seed(seed_container(self.ref), seed_name(_DISK)).sequence_number == _FENCE + 1


@pytest.fixture
def cycle(account: StorageAccount, tmp_path: Path, request: pytest.FixtureRequest) -> Cycle:
    return Cycle(account, tmp_path, request.node.name)


def dropped(source: random.Random, extents: list[Extent]) -> list[Extent]:
    """One extent, or the last sector of one, was not written."""
    victim = source.randrange(len(extents))
    kept = Extent(extents[victim].offset_bytes, source.choice((0, extents[victim].length_bytes - SECTOR)))
    return [*extents[:victim], kept, *extents[victim + 1 :]]


def doubled(source: random.Random, extents: list[Extent]) -> list[Extent]:
    """One sector was written a second time, where nothing was to be written."""
    free = SectorSet([Extent(0, _CAPACITY)]).difference(SectorSet(extents))
    gap = source.choice(list(free.extents()))
    return [*extents, Extent(gap.offset_bytes + source.randrange(gap.length_bytes // SECTOR) * SECTOR, SECTOR)]


def shifted(source: random.Random, extents: list[Extent]) -> list[Extent]:
    """One extent was written a sector further on."""
    victim = source.randrange(len(extents) - 1)
    moved = Extent(extents[victim].offset_bytes + SECTOR, extents[victim].length_bytes)
    return [*extents[:victim], moved, *extents[victim + 1 :]]


def refused(step: Callable[[AppliedChunk], None], chunk: AppliedChunk) -> str:
    with pytest.raises(ApplicationError) as caught:
        step(chunk)
    return str(caught.value.type)


_LIES = pytest.mark.parametrize("lie", [dropped, doubled, shifted], ids=lambda lie: lie.__name__)


def test_an_honest_account_passes_and_a_point_is_taken(cycle: Cycle) -> None:
    cycle.seal(cycle.honest())
    assert len(cycle.points()) == 1
    assert cycle.is_sealed()


@_LIES
def test_an_account_that_covers_other_sectors_is_refused_at_the_seal(cycle: Cycle, lie: Lie, chaos_random: random.Random) -> None:
    for _ in range(5):
        chunk = cycle.covers(lie(chaos_random, list(source_set(cycle.plan).extents())))
        assert refused(cycle.seal, chunk) == ErrorKind.COVERAGE_MISMATCH.value
    assert cycle.points() == ()


@_LIES
def test_an_account_that_covers_other_sectors_keeps_a_chunks_log(cycle: Cycle, lie: Lie, chaos_random: random.Random) -> None:
    chunk = cycle.covers(lie(chaos_random, list(source_set(cycle.plan).extents())))
    assert refused(cycle.verify, chunk) == ErrorKind.COVERAGE_MISMATCH.value
    assert cycle.stores.log.get(cycle.object_key) == b"a segment"
    cycle.verify(cycle.honest())
    assert cycle.stores.log.get_if_exists(cycle.object_key) is None


@pytest.mark.parametrize("fault", ["another digest", "one too few", "exchanged"])
def test_an_account_of_other_objects_is_refused_at_the_seal(cycle: Cycle, fault: str) -> None:
    first, second = cycle.segments
    applied = {
        "another digest": (first, dataclasses.replace(second, digest=b"x" * 32)),
        "one too few": (first,),
        "exchanged": (dataclasses.replace(first, digest=second.digest), dataclasses.replace(second, digest=first.digest)),
    }[fault]
    chunk = cycle.covers(list(source_set(cycle.plan).extents()), applied=applied)
    assert refused(cycle.seal, chunk) == ErrorKind.MANIFEST_MISMATCH.value
    assert cycle.points() == ()


@pytest.mark.parametrize("change", [{"cycle_key": "0-older"}, {"disk_key": 2001}])
def test_the_account_of_another_chunk_is_refused(cycle: Cycle, change: dict[str, Any]) -> None:
    chunk = cycle.covers(list(source_set(cycle.plan).extents()), **change)
    assert refused(cycle.seal, chunk) == ErrorKind.MANIFEST_MISMATCH.value


def test_a_damaged_account_proves_nothing(cycle: Cycle) -> None:
    chunk = cycle.honest()
    stored = cycle.stores.gateway.get(chunk.covered.key)
    assert decode_account(stored).applied == cycle.segments
    cycle.stores.gateway.put(chunk.covered.key, stored[:-1] + bytes([stored[-1] ^ 1]))
    assert refused(cycle.seal, chunk) == ErrorKind.MANIFEST_MISMATCH.value


def test_after_the_seal_no_writer_of_the_cycle_reaches_a_seed(cycle: Cycle) -> None:
    """The seal is raised before anything is compared, so that what fails a check is not written on either."""
    refused(cycle.seal, cycle.covers([]))
    assert cycle.is_sealed()
