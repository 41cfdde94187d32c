"""The last delta of a source that is off, where vSphere takes no snapshot of it; and power-offs, ours and others'."""

import pytest

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import JobOutcome, MigrationState, ReplicationState
from deltaferry.model.units import MIB
from lab.vcenter.control import ControlRefusedError
from lab.vcenter.faults import FaultName, FaultRequest
from tests.e2e.interventions import eventually, stopped_at
from tests.e2e.replicated import Replicated
from workflows.messages.replication_state import CycleRecord

CREATE = "CreateSnapshotEx_Task"


def power(vm: Replicated) -> str:
    return vm.world.vcenter_control.vm(vm.name).power


async def cycle_after(vm: Replicated, earlier: CycleRecord) -> CycleRecord:
    """Return the first cycle that ended after another one, as soon as it has."""
    found: list[CycleRecord] = []

    async def ended() -> bool:
        found[:] = [cycle for cycle in await vm.cycles() if cycle.started_at > earlier.started_at]
        return bool(found)

    await eventually(ended, "another cycle")
    return found[0]


async def is_off(vm: Replicated) -> bool:
    return power(vm) == "poweredOff"


async def asked_to_shut_down(vm: Replicated, **options: object) -> None:
    """Start a migration, and return when its on-demand delta is over and the guest, which stays up, was asked to shut down."""
    control = vm.world.vcenter_control
    control.ask(FaultRequest(FaultName.SHUTDOWN_NEVER_FINISHES, vm=vm.source.moref))
    await vm.handle.signal("migrate_now", options or None)

    async def over() -> bool:
        kinds = [cycle.kind for cycle in await vm.cycles()]
        met = not [item for item in vm.world.vcenter_control.call("GET", "/faults")["faults"] if item["vm"] == vm.source.moref]
        return CycleKind.ON_DEMAND in kinds and met

    await eventually(over, "an on-demand delta and the shutdown")
    assert vm.our_snapshots() == []


def get_stuck(vm: Replicated) -> None:
    """Leave a delta behind that cannot be consolidated, as a backup product's removed snapshot may."""
    control = vm.world.vcenter_control
    control.lock_consolidation(vm.source.moref, locked=True)
    backup = control.take_snapshot(vm.source.moref, "of another backup")
    vm.scribble()
    control.remove_snapshot(vm.source.moref, backup)
    assert control.vm(vm.name).consolidation_needed


@pytest.fixture
async def stuck(vm: Replicated) -> Replicated:
    """A VM with a foreign snapshot, replicated, written to, whose migration waits for the guest to shut down."""
    await vm.enable_and_sync()
    vm.world.vcenter_control.take_snapshot(vm.source.moref, "of a backup")
    vm.scribble()
    await vm.committed(1)
    vm.scribble()
    return vm


@pytest.mark.chaos
async def test_a_source_whose_consolidation_is_stuck_is_migrated_without_a_snapshot_and_held_meanwhile(stuck: Replicated) -> None:
    vm, control = stuck, stuck.world.vcenter_control
    await asked_to_shut_down(vm)
    get_stuck(vm)
    taken = control.calls().get(CREATE, 0)
    host = control.vm(vm.name).host
    control.set_nbd(host, delay_s=2.0)
    try:
        control.shut_down(vm.source.moref)

        async def being_read() -> bool:
            exports = [item.export for known in control.state().hosts for item in known.connections]
            return len([name for name in exports if name.startswith(f"present={vm.source.moref};")]) > 1

        await eventually(being_read, "reading without a snapshot")
        with pytest.raises(ControlRefusedError):
            control.power_on(vm.source.moref)
        assert power(vm) == "poweredOff"
    finally:
        control.clear_nbd(host)
    status = await vm.migration_ended()
    assert status.migration_state == MigrationState.MIGRATED.value, status
    assert status.migration is not None and status.migration.outcome is JobOutcome.COMPLETED_WITH_INFORMATION
    vm.assert_target_identical(status)
    assert control.vm(vm.name).consolidation_needed, "it was not waited for"
    assert control.calls().get(CREATE, 0) == taken, "no snapshot was taken"

    control.lock_consolidation(vm.source.moref, locked=False)
    (foreign,) = control.vm(vm.name).snapshots
    control.remove_snapshot(vm.source.moref, foreign.moref)
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_after_a_pass_without_a_snapshot_the_next_delta_covers_its_range_again(stuck: Replicated) -> None:
    vm, control = stuck, stuck.world.vcenter_control
    await asked_to_shut_down(vm)
    get_stuck(vm)
    vm.world.arm_control.set_quota(disks=len(vm.world.arm_control.resources("disks")))
    control.shut_down(vm.source.moref)
    status = await vm.migration_ended()
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.health[0].kind is ErrorKind.AZURE_QUOTA
    vm.assert_seeds_equal_source()
    (final,) = [cycle for cycle in await vm.cycles() if cycle.kind is CycleKind.FINAL]
    assert final.committed and final.changed_bytes

    vm.world.arm_control.clear_faults()
    control.lock_consolidation(vm.source.moref, locked=False)
    await vm.handle.execute_update("rollback")
    await vm.until(lambda s: s.migration_state == MigrationState.TEST_PENDING.value, "the end of the rollback")
    following = await cycle_after(vm, final)
    assert following.kind is CycleKind.DELTA and following.committed
    assert following.changed_bytes >= final.changed_bytes
    vm.scribble()
    await vm.committed(2)
    vm.assert_seeds_equal_source()


@pytest.mark.chaos
async def test_a_source_that_was_started_between_planning_and_reading_fails_the_migration(stuck: Replicated) -> None:
    vm, control = stuck, stuck.world.vcenter_control
    await asked_to_shut_down(vm)
    get_stuck(vm)
    control.shut_down(vm.source.moref)
    await eventually(lambda: is_off(vm), "the end of the guest's shutdown")
    async with stopped_at(vm.world, "gateway", "/plan"):
        control.power_on(vm.source.moref)
        vm.scribble()
        control.shut_down(vm.source.moref)
        await eventually(lambda: is_off(vm), "the end of the guest's shutdown")
    status = await vm.migration_ended()
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.health[0].kind is ErrorKind.SOURCE_MOVED_ON
    assert status.replication_state == ReplicationState.DELTA_SYNC.value
    assert [cycle.committed for cycle in await vm.cycles() if cycle.kind is CycleKind.FINAL] == [False]

    control.lock_consolidation(vm.source.moref, locked=False)
    status = await vm.migrate()
    assert status.migration_state == MigrationState.MIGRATED.value, status
    vm.assert_target_identical(status)


@pytest.mark.chaos
async def test_a_vm_that_lost_power_is_marked_for_resync_and_repaired(vm: Replicated) -> None:
    await vm.enable_and_sync()
    vm.scribble()
    vm.world.vcenter_control.power_off(vm.source.moref)
    vm.world.vcenter_control.power_on(vm.source.moref)
    status = await vm.state(ReplicationState.REPAIR_PENDING)
    assert status.health[0].kind is ErrorKind.SOURCE_LOST_POWER
    assert "powered off" in status.health[0].message
    assert vm.our_snapshots() == []
    vm.scribble()
    await vm.handle.execute_update("repair")
    await vm.state(ReplicationState.DELTA_SYNC)
    await vm.committed(1)
    vm.assert_seeds_equal_source()


@pytest.mark.chaos
async def test_a_guest_that_was_shut_down_and_started_again_goes_on_with_deltas(vm: Replicated) -> None:
    await vm.enable_and_sync()
    vm.world.vcenter_control.shut_down(vm.source.moref)
    await eventually(lambda: is_off(vm), "the end of the guest's shutdown")
    vm.world.vcenter_control.power_on(vm.source.moref)
    vm.scribble()
    status = await vm.committed(2)
    assert status.replication_state == ReplicationState.DELTA_SYNC.value
    vm.assert_seeds_equal_source()


@pytest.mark.chaos
async def test_the_migrations_own_power_off_leads_to_no_resync(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await asked_to_shut_down(vm, shutdown_timeout="PT10S", allow_power_off=True)
    privilege = "VirtualMachine.State.CreateSnapshot"
    vm.world.vcenter_control.deny((privilege,))
    try:
        status = await vm.migration_ended()
    finally:
        vm.world.vcenter_control.deny()
    assert status.health[0].kind is ErrorKind.VSPHERE_PERMISSION, "the final delta did not commit behind the power-off"
    assert power(vm) == "poweredOff"
    await vm.handle.execute_update("rollback")
    await vm.until(lambda s: s.migration_state == MigrationState.TEST_PENDING.value, "the end of the rollback")
    status = await vm.committed(1)
    assert status.replication_state == ReplicationState.DELTA_SYNC.value
    read = [cycle.bytes_read for cycle in await vm.cycles() if cycle.kind is not CycleKind.INITIAL]
    assert sum(read) < MIB, "nothing was copied again"
