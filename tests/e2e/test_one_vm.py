"""The main job: replicate a running VM, keep it in sync, migrate it, and lose nothing."""

from deltaferry.model.states import JobOutcome, MigrationState
from tests.e2e.replicated import Replicated


async def test_a_migrated_vm_is_byte_identical_and_nothing_is_left_behind(vm: Replicated) -> None:
    await vm.enable_and_sync()
    for _ in range(2):
        vm.scribble()
        await vm.committed(1)
    vm.scribble()
    migrated = await vm.migrate()
    assert migrated.migration_state == MigrationState.MIGRATED.value, migrated
    assert migrated.migration is not None and migrated.migration.outcome is JobOutcome.SUCCEEDED
    vm.assert_target_identical(migrated)
    await vm.complete()
    vm.assert_nothing_left()
