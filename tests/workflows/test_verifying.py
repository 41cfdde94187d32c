"""Scrubs: the seeds read whole and compared with what was committed, on request and on a schedule, between cycles."""

from datetime import timedelta
from itertools import pairwise

import pytest

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.model.units import GRANULE
from tests.workflows.site_bench import QUICK, Bench, Running
from tests.workflows.world import DISKS
from workflows.messages.step import CheckSeedInput
from workflows.messages.views import StatusView

_MIB = 1 << 20
_BOOT, _DATA = (disk.key for disk in DISKS)
_CAPACITY = sum(disk.capacity_bytes for disk in DISKS)


async def _verified(running: Running) -> StatusView:
    return await running.until(lambda v: v.last_scrub is not None and v.scrub_percent is None, "a scrub that ended")


def _positions(bench: Bench) -> list[int]:
    """Return the offsets of the boot disk that checks began at, in order."""
    checks = bench.world.inputs("check_seed", CheckSeedInput)
    return [part.position_bytes // _MIB for check in checks for part in check.disks if part.disk_key == _BOOT]


async def test_verify_that_finds_nothing_leaves_everything_as_it_is(bench: Bench) -> None:
    running = await bench.replicated()
    assert "cycles go on between the chunks" in await running.update("verify", {"reason": "audit"})
    view = await _verified(running)
    assert view.last_scrub is not None
    assert (view.last_scrub.read_bytes, view.last_scrub.differing_bytes, view.last_scrub.failure) == (_CAPACITY, 0, "")
    assert (view.replication_state, view.health, view.repair) == (ReplicationState.DELTA_SYNC, (), None)
    assert view.activity == "the seed disks are verified: 1.5 GiB read, nothing differs"
    (check,) = bench.world.inputs("check_seed", CheckSeedInput)
    assert check.fence is None, "a scrub writes nothing to the seeds"
    assert bench.world.snapshots == {}


async def test_verify_locates_what_differs_and_a_resync_mends_it(bench: Bench) -> None:
    bench.world.damaged = {_DATA: (3 * GRANULE,)}
    running = await bench.replicated()
    await running.signal("verify")
    view = await running.until_state(ReplicationState.REPAIR_PENDING)
    assert view.health[0].kind is ErrorKind.SEED_DAMAGED
    assert f"Hard disk 2 at byte {3 * GRANULE}" in view.health[0].message
    assert view.last_scrub is not None
    assert (view.last_scrub.found, view.last_scrub.differing_bytes) == (((_DATA, 3 * GRANULE),), GRANULE)
    assert view.repair is not None
    assert view.repair.cause == ErrorKind.SEED_DAMAGED.value
    assert view.next_cycle_at is None

    await running.update("repair")
    view = await running.until_state(ReplicationState.DELTA_SYNC)
    assert view.resyncs[0].cause is ErrorKind.SEED_DAMAGED
    await running.update("verify")
    before = view.last_scrub
    view = await running.until(lambda v: v.last_scrub is not None and v.last_scrub != before, "a second scrub")
    assert view.last_scrub is not None
    assert view.last_scrub.differing_bytes == 0


async def test_every_scrub_reads_anew_though_no_cycle_ran_since_the_last(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("verify")
    await _verified(running)
    bench.world.damaged = {_BOOT: (0,)}
    await running.update("verify")
    await running.until_state(ReplicationState.REPAIR_PENDING)
    first, second = bench.world.inputs("check_seed", CheckSeedInput)
    assert first.cycle_key != second.cycle_key, "what the first one stored is not the second one's answer"


async def test_verify_with_the_source_is_a_resync(bench: Bench) -> None:
    bench.world.differing = {_BOOT: (0,)}
    running = await bench.replicated()
    await running.update("verify", {"with_source": True})
    view = await running.until(lambda v: len(v.resyncs) == 1, "a resync")
    assert view.resyncs[0].differing_bytes == GRANULE
    assert view.last_scrub is None


async def test_cycles_go_on_between_the_chunks_of_a_scrub(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.check_bytes = 128 * _MIB
    hold = bench.world.hold("check_seed", skip=2)
    running = await bench.replicated()
    await running.update("verify")
    await hold.reached()
    view = await running.status()
    assert view.scrub_percent == 33.3
    await running.update("pause")
    await running.until_state(ReplicationState.PAUSED)
    hold.release()
    await running.update("resume")
    await _verified(running)
    steps = bench.world.order(["check_seed", "begin_cycle"])
    assert "begin_cycle" in steps[steps.index("check_seed") : len(steps) - steps[::-1].index("check_seed")]


async def test_pause_cuts_a_scrub_which_goes_on_after_resume_where_it_was(bench: Bench) -> None:
    bench.world.check_bytes = 512 * _MIB
    hold = bench.world.hold("check_seed", skip=1)
    running = await bench.replicated()
    await running.update("verify")
    await hold.reached()
    await running.update("pause")
    view = await running.until_state(ReplicationState.PAUSED)
    assert view.last_scrub is None
    hold.release()
    await running.update("resume")
    view = await _verified(running)
    assert view.last_scrub is not None
    assert view.last_scrub.read_bytes == _CAPACITY
    assert _positions(bench) == [0, 512, 512]


async def test_a_migration_cuts_a_scrub_at_once(bench: Bench) -> None:
    hold = bench.world.hold("check_seed")
    running = await bench.replicated()
    await running.update("verify")
    await hold.reached()
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATED)
    assert view.last_scrub is None
    assert bench.world.count("check_seed") == 1


async def test_a_scrub_goes_on_after_a_migration_that_failed(bench: Bench) -> None:
    bench.world.fail("import_disks", ErrorKind.AZURE_QUOTA)
    hold = bench.world.hold("check_seed")
    running = await bench.replicated()
    await running.update("verify")
    await hold.reached()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    hold.release()
    await _verified(running)


async def test_stop_cuts_a_scrub(bench: Bench) -> None:
    hold = bench.world.hold("check_seed")
    running = await bench.replicated()
    await running.update("verify")
    await hold.reached()
    await running.update("stop")
    await running.ended()
    assert bench.world.records == {}


async def test_a_site_that_scrubs_on_a_schedule_does_so_again_and_again(bench: Bench) -> None:
    bench.profile(scrub_every=QUICK)
    running = await bench.replicated()
    await running.until(lambda v: v.last_scrub is not None and v.next_scrub_at is not None, "a scheduled scrub")
    await running.until(lambda v: bench.world.count("check_seed") >= 3, "a third scrub")
    keys = [check.cycle_key for check in bench.world.inputs("check_seed", CheckSeedInput)]
    assert all(before != after for before, after in pairwise(keys))
    assert (await running.status()).cycles_committed == 1


async def test_without_a_schedule_nothing_is_scrubbed(bench: Bench) -> None:
    running = await bench.replicated(due=True)
    view = await running.until_committed(2)
    assert view.next_scrub_at is None
    assert bench.world.count("check_seed") == 0


async def test_a_scheduled_scrub_shows_when_it_begins(bench: Bench) -> None:
    bench.profile(scrub_every=timedelta(days=7))
    running = await bench.replicated()
    view = await running.until(lambda v: v.next_scrub_at is not None, "a scrub is planned")
    assert view.next_scrub_at is not None
    assert view.last_recovery_point is not None
    assert timedelta(days=6) < view.next_scrub_at - view.last_recovery_point <= timedelta(days=8)


@pytest.mark.parametrize("kind", [ErrorKind.SEED_MISSING, ErrorKind.DISKS_CHANGED])
async def test_a_seed_that_is_missing_is_marked_for_resync_by_the_scrub_that_finds_it_so(bench: Bench, kind: ErrorKind) -> None:
    bench.world.fail("check_seed", kind, message="seed 2001")
    running = await bench.replicated()
    await running.update("verify")
    view = await running.until_state(ReplicationState.REPAIR_PENDING)
    assert view.health[0].kind is kind
    assert view.repair is not None
    assert view.repair.cause == kind.value
    assert view.last_scrub is not None
    assert view.last_scrub.failure == f"{kind.value}: seed 2001"


async def test_an_outage_ends_a_scrub_and_is_no_reason_for_a_resync(bench: Bench) -> None:
    bench.world.fail("check_seed", ErrorKind.STORE_UNREACHABLE)
    running = await bench.replicated()
    await running.update("verify")
    view = await _verified(running)
    assert view.replication_state == ReplicationState.DELTA_SYNC
    assert view.health[0].kind is ErrorKind.STORE_UNREACHABLE
    assert view.last_scrub is not None
    assert view.last_scrub.failure.startswith(ErrorKind.STORE_UNREACHABLE.value)
