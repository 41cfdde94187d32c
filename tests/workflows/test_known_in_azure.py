"""A replication names what is its own in Azure before anything of it is made, and until all of it is deleted."""

from deltaferry.model.audit import KnownInAzure
from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import MigrationState
from deltaferry.planning.dr_states import DrState
from tests.workflows.site_bench import Bench, Running
from workflows.messages.dr import CopyPointInput
from workflows.messages.step import ImportInput


async def _known(running: Running) -> KnownInAzure:
    known = (await running.status()).in_azure
    assert known is not None
    return known


async def test_a_test_is_named_from_before_its_copies_until_its_clean_up_has_ended(bench: Bench) -> None:
    copying, deleting = bench.world.hold("copy_point"), bench.world.hold("delete_target")
    running = await bench.replicated()
    assert (await _known(running)) == KnownInAzure(())
    await running.update("test_migrate", {"network": "drill"})
    await copying.reached()
    (copy,) = bench.world.inputs("copy_point", CopyPointInput)
    assert await _known(running) == KnownInAzure((copy.job,))
    copying.release()
    view = await running.until_migration(DrState.CLEAN_UP_PENDING)
    (vm,) = (await _known(running)).vms
    assert (vm.resource_id, vm.since) == (view.tests[0].vm_id, view.tests[0].ready_at)
    await running.update("clean_up")
    await deleting.reached()
    assert await _known(running) == KnownInAzure((copy.job,))
    deleting.release()
    await running.until(lambda view: view.tests == (), "cleaned up")
    assert await _known(running) == KnownInAzure(())


async def test_a_failover_is_named_and_what_another_point_has_replaced_is_not(bench: Bench) -> None:
    running = await bench.replicated()
    copying = bench.world.hold("copy_point")
    await running.update("failover")
    await copying.reached()
    (first,) = bench.world.inputs("copy_point", CopyPointInput)
    known = await _known(running)
    assert first.job in known.jobs and known.vms == ()
    copying.release()
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None
    assert [vm.resource_id for vm in (await _known(running)).vms] == [view.failover.vm_id]
    await running.update("change_recovery_point", {"point": "latest"})
    await running.until(lambda v: v.failover is not None and v.failover.running_at != view.failover.running_at, "replaced")
    known = await _known(running)
    assert first.job not in known.jobs and len(known.vms) == 1
    await running.update("cancel_failover")
    await running.until(lambda v: v.failover is None, "cancelled")
    assert await _known(running) == KnownInAzure(())


async def test_a_migration_is_named_whatever_becomes_of_it_and_its_vm_stays_its_owners(bench: Bench) -> None:
    bench.world.fail("import_disks", ErrorKind.AZURE_QUOTA)
    running = await bench.replicated()
    await running.update("migrate_now")
    await running.until_migration(MigrationState.MIGRATION_FAILED)
    (failed,) = bench.world.inputs("import_disks", ImportInput)
    assert await _known(running) == KnownInAzure((failed.job,)), "what it may have left is deleted before the next"
    await running.update("migrate_now")
    view = await running.until_migration(MigrationState.MIGRATED)
    again = bench.world.inputs("import_disks", ImportInput)[-1]
    known = await _known(running)
    assert known.jobs == (again.job,)
    assert view.migration is not None
    assert [vm.resource_id for vm in known.vms] == [view.migration.target_vm_id]
    await running.update("resume")
    await running.until(lambda v: v.migrated_at is None, "replicating again")
    assert await _known(running) == KnownInAzure((again.job,)), "it is not ours to report any more"


async def test_the_disk_snapshots_that_the_next_pass_is_compared_with_are_named(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("failover")
    await running.until_migration(DrState.FAILED_OVER)
    await running.update("commit")
    await running.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")
    await running.update("reprotect", {"confirm_losses": True})
    await running.until_migration(DrState.FAILBACK_READY)
    known = await _known(running)
    assert known.takes_disk_snapshots and len(known.disk_snapshots) == 2
