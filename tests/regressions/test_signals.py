"""A replication that waits hears: B11. Workflows on a real server, activities stood in for.

The fixtures are those of the workflows' tests, imported by their names.
"""

from datetime import timedelta

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import MigrationState, ReplicationState
from tests.workflows.conftest import bench, dev_server, stand_ins  # noqa: F401
from tests.workflows.site_bench import Bench
from workflows.messages.step import BeginCycleInput


async def test_b11_a_cutover_is_heard_at_once_while_a_failed_cycle_waits_for_its_next_try(bench: Bench) -> None:  # noqa: F811
    """vJailbreak's retry sleeps up to three hours, and the label that asks for the cutover is not seen meanwhile."""
    bench.profile(min_interval=timedelta(hours=1))
    bench.world.fail("begin_cycle", ErrorKind.VSPHERE_FAULT)
    running = await bench.replicated(due=True)
    view = await running.until(lambda status: bool(status.health), "a failed cycle")
    assert view.replication_state == ReplicationState.DELTA_SYNC
    await running.signal("migrate_now")
    await running.until_migration(MigrationState.MIGRATED)
    kinds = [request.kind for request in bench.world.inputs("begin_cycle", BeginCycleInput)]
    assert kinds == [CycleKind.DELTA, CycleKind.ON_DEMAND, CycleKind.FINAL]
