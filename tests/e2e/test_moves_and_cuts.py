"""A VM that is moved under replication, a cutover that loses change tracking, connections that are cut, a claim that is taken away."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetActivityRequest, UpdateActivityOptionsRequest
from temporalio.client import Client

from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import CLAIM_KEY, seed_container, seed_name
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import MigrationState, Operation, ReplicationState
from deltaferry.model.units import GRANULE, MIB, SECTOR
from deltaferry.model.vm import Claim
from deltaferry.planning.ladder import Rung
from lab.configuration import ACCOUNTS, INSTALLATION
from lab.control_client import BlobAction, BlobFault
from lab.nbd_guest import GuestDisk
from lab.settings import DATASTORES, ESXI_HOSTS, SITE
from lab.vcenter.control_views import HostState, VmState
from lab.vcenter.faults import FaultName, FaultRequest
from tests.e2e.accidents import Traffic, assert_in_order, committed_beyond, overwrite, quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import eventually, paused, reached, resumed
from tests.e2e.operators import hold_a_delta, let_go
from tests.e2e.replicated import Replicated
from workers.settings import load_settings
from workers.wiring import build_site
from workflows import names
from workflows.messages.replication_state import CycleRecord
from workflows.messages.site import Placement
from workflows.messages.slot import SlotsState
from workflows.messages.views import StatusView

_SIZES = (9 * MIB + 37 * SECTOR, MIB)
_SEGMENT = 4 * MIB
_MANY = 1000
_TOUCHING = ("CreateSnapshotEx_Task", "RemoveSnapshot_Task", "ConsolidateVMDisks_Task", "ReconfigVM_Task")
"""The vSphere methods that change a VM."""


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM of the test's own; afterwards its host serves as ever."""
    replicated = Replicated.create(lab.world, client, request.node.name, _SIZES)
    yield replicated
    lab.world.vcenter_control.clear_nbd(replicated.source.host)
    await replicated.discard()


def source_vm(vm: Replicated) -> VmState:
    """Return the source VM as it is now."""
    return vm.world.vcenter_control.vm(vm.name)


# --- moves ---


def host_of(vm: Replicated, name: str) -> HostState:
    """Return a host's NBD server as it is now."""
    return next(host for host in vm.world.vcenter_control.state().hosts if host.name == name)


def elsewhere(vm: Replicated) -> tuple[str, str]:
    """Return a host and a datastore that the VM is not on."""
    host = next(spec.name for spec in ESXI_HOSTS if spec.name != vm.source.host)
    here = vm.source.disks[0].file_name.partition("]")[0].strip("[")
    return host, next(spec.name for spec in DATASTORES if spec.name != here)


async def stopped_at_a_read(vm: Replicated) -> Traffic:
    """Resume a paused replication whose guest wrote a lot, and return when a read of its host is held and a segment is stored."""
    overwrite(vm, 0, 0, 2 * _SEGMENT + GRANULE)
    overwrite(vm, 1, 0, MIB)
    vm.world.vcenter_control.set_nbd(vm.source.host, hold_offset=_SEGMENT, hold_length=_SEGMENT)
    traffic = Traffic.from_now(vm)
    await resumed(vm)
    await reached(lambda: host_of(vm, vm.source.host).held_reads > 0 and bool(traffic.stored()), "a held read")
    return traffic


def vmotion(vm: Replicated) -> None:
    vm.world.vcenter_control.move(vm.source.moref, elsewhere(vm)[0])


def storage_vmotion(vm: Replicated) -> None:
    vm.world.vcenter_control.relocate(vm.source.moref, elsewhere(vm)[1])


def is_moved(vm: Replicated, placement: Placement, move: Callable[[Replicated], None]) -> bool:
    """Return whether a placement says where the VM is after a move."""
    host, datastore = elsewhere(vm)
    if move is vmotion:
        return placement.host == host
    return placement.datastores == ((datastore, len(vm.source.disks)),)


async def placements(vm: Replicated) -> list[Placement]:
    """Return where the site's arbiter counts the slots that this replication has or waits for."""
    state = await vm.client.get_workflow_handle(names.slots_id(SITE)).query("status", result_type=SlotsState)
    wanted = [held.wanted for held in (*state.leases, *state.waiting)]
    return [request.placement for request in wanted if request.holder == vm.handle.id]


async def assert_only_deltas(vm: Replicated) -> None:
    """Assert that nothing but deltas was needed, none of which failed."""
    status = await vm.status()
    assert (status.resyncs, status.repair, status.health) == ((), None, ())
    assert [cycle.failure for cycle in await vm.cycles() if not cycle.committed] == []


@pytest.mark.chaos
@pytest.mark.parametrize("move", [vmotion, storage_vmotion])
async def test_a_transfer_whose_vm_is_moved_starts_again_at_the_segments_that_are_not_stored(
    vm: Replicated, move: Callable[[Replicated], None]
) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    traffic = await stopped_at_a_read(vm)
    stored = traffic.stored()
    move(vm)
    vm.world.vcenter_control.clear_nbd(vm.source.host)
    record = await committed_beyond(vm, known)
    assert record.segments_found >= len(stored)
    assert {name: traffic.sendings()[name] for name in stored} == dict.fromkeys(stored, 1)
    await reached(lambda: not host_of(vm, vm.source.host).connections, "that the old host serves nobody")
    await vm.committed(1)
    await hold_a_delta(vm)
    assert [is_moved(vm, placement, move) for placement in await placements(vm)] == [True]
    let_go(vm)
    await vm.committed(1)
    await assert_only_deltas(vm)
    await assert_in_order(vm)


@pytest.mark.chaos
async def test_a_storage_move_between_cycles_keeps_the_deltas_going(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    vm.scribble(5)
    before = source_vm(vm)
    storage_vmotion(vm)
    moved = source_vm(vm)
    vm.scribble(5)
    datastore = elsewhere(vm)[1]
    assert all(disk.file_name.startswith(f"[{datastore}] ") for disk in moved.disks)
    assert [disk.tracking_uuid for disk in moved.disks] == [disk.tracking_uuid for disk in before.disks]
    await resumed(vm)
    await vm.committed(2)
    await assert_only_deltas(vm)
    await assert_in_order(vm)
    await resumed(vm)
    await vm.state(ReplicationState.DELTA_SYNC)
    migrated = await vm.migrate()
    assert migrated.migration_state == MigrationState.MIGRATED.value, migrated
    vm.assert_target_identical(migrated)


# --- a cutover that loses change tracking ---


async def failed_cutover(vm: Replicated) -> StatusView:
    """Migrate a guest that never shuts down and loses change tracking when it is powered off; return how it stands then."""
    await vm.enable_and_sync()
    control, moref = vm.world.vcenter_control, vm.source.moref
    control.ask(FaultRequest(FaultName.SHUTDOWN_NEVER_FINISHES, vm=moref))
    control.lose_tracking_at_power_off(moref)
    vm.scribble(10)
    status = await vm.migrate(allow_power_off=True, shutdown_timeout="PT1S")
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.replication_state == ReplicationState.REPAIR_PENDING.value
    assert source_vm(vm).power == "poweredOff"
    return status


@pytest.mark.chaos
async def test_a_cutover_that_loses_tracking_shows_what_a_resync_takes_and_the_choice(vm: Replicated) -> None:
    status = await failed_cutover(vm)
    (health,) = status.health
    assert health.kind is ErrorKind.CBT_RESET
    assert "predicted to take about" in health.remedy and "predicted to take about" in status.activity
    for choice in (Operation.MIGRATE, Operation.ROLLBACK):
        assert choice.value in health.remedy
        assert choice.value in status.allowed


@pytest.mark.chaos
async def test_migrate_now_after_it_resynchronises_with_the_source_off_and_goes_on(vm: Replicated) -> None:
    await failed_cutover(vm)
    await vm.handle.execute_update("migrate_now")
    migrated = await vm.until(lambda status: status.migration_state == MigrationState.MIGRATED.value, "Migrated")
    assert [record.cause for record in migrated.resyncs] == [ErrorKind.CBT_RESET]
    assert source_vm(vm).power == "poweredOff"
    assert [cycle.kind for cycle in await vm.cycles()][-2:] == [CycleKind.RESYNC, CycleKind.FINAL]
    vm.assert_target_identical(migrated)
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
async def test_rollback_after_it_powers_the_source_on_and_a_repair_mends_the_replica(vm: Replicated) -> None:
    await failed_cutover(vm)
    await vm.handle.execute_update("rollback")
    status = await vm.until(lambda seen: seen.migration_state == MigrationState.TEST_PENDING.value, "the end of the rollback")
    assert source_vm(vm).power == "poweredOn"
    assert status.replication_state == ReplicationState.REPAIR_PENDING.value
    assert status.next_cycle_at is None
    assert [health.kind for health in status.health] == [ErrorKind.CBT_RESET]
    assert "repair" in status.activity
    vm.scribble(5)
    await vm.handle.execute_update("repair")
    await resynchronised(vm)
    vm.scribble(5)
    await vm.committed(1)
    await assert_in_order(vm)


async def resynchronised(vm: Replicated) -> StatusView:
    """Wait for the end of a resync that succeeded."""
    return await vm.until(
        lambda status: bool(status.resyncs) and status.replication_state == ReplicationState.DELTA_SYNC.value,
        "the end of the resync",
    )


# --- cut connections ---


def cut_the_source_leg(vm: Replicated) -> None:
    """Let vCenter be away for a while, the host cut and refuse reads, and the log store cut writes, some after their effect."""
    control = vm.world.vcenter_control
    control.be_unreachable(2.0)
    control.set_nbd(vm.source.host, cut_after_bytes=MIB + 4711, refuse_next=1)
    for action in (BlobAction.CUT, BlobAction.DROP):
        vm.world.blob_control.order(BlobFault(action, operation="PutBlob", account=ACCOUNTS["log"], count=2))


def cut_the_target_leg(vm: Replicated) -> None:
    """Let the log store cut reads, and the seed store cut writes, some after their effect."""
    order = vm.world.blob_control.order
    order(BlobFault(BlobAction.CUT, operation="GetBlob", account=ACCOUNTS["log"], count=2))
    for action in (BlobAction.CUT, BlobAction.DROP):
        order(BlobFault(action, operation="PutPage", account=ACCOUNTS["seed"], count=2))


_LEGS = pytest.mark.parametrize("cut", [cut_the_source_leg, cut_the_target_leg])


@_LEGS
@pytest.mark.chaos
async def test_an_initial_replication_with_cut_connections_is_accounted_for(
    vm: Replicated, cut: Callable[[Replicated], None]
) -> None:
    cut(vm)
    await vm.enable_and_sync()
    await vm.committed(1)
    await assert_only_deltas(vm)
    await assert_in_order(vm)


@_LEGS
@pytest.mark.chaos
async def test_a_delta_with_cut_connections_is_accounted_for(vm: Replicated, cut: Callable[[Replicated], None]) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, 0, 0, _SEGMENT + GRANULE)
    vm.scribble(5)
    cut(vm)
    await resumed(vm)
    record = await committed_beyond(vm, known)
    assert record.changed_bytes >= _SEGMENT
    await assert_only_deltas(vm)
    await assert_in_order(vm)


async def given_up(vm: Replicated, step: str) -> None:
    """Let the next attempt of a step that fails again and again come at once and be its last, as its limit of hours would."""

    async def tried() -> bool:
        description = await vm.handle.describe()
        return any(
            pending.activity_type.name == step and pending.attempt > 1
            for pending in description.raw_description.pending_activities
        )

    await eventually(tried, f"a second attempt of {step}")
    service, namespace = vm.client.workflow_service, vm.client.namespace
    execution = WorkflowExecution(workflow_id=vm.handle.id, run_id=(await vm.handle.describe()).run_id)
    await service.update_activity_options(
        UpdateActivityOptionsRequest(
            namespace=namespace,
            execution=execution,
            type=step,
            activity_options=ActivityOptions(retry_policy=RetryPolicy(maximum_attempts=1)),
            update_mask=FieldMask(paths=["retry_policy.maximum_attempts"]),
        )
    )
    await service.reset_activity(ResetActivityRequest(namespace=namespace, execution=execution, type=step))


async def failed_beyond(vm: Replicated, known: frozenset[str]) -> CycleRecord:
    """Wait for the end of the next cycle beside the known ones, which is one that fails."""

    async def ended() -> bool:
        return any(record.cycle_key not in known for record in await vm.cycles())

    await eventually(ended, "the end of a cycle")
    record = next(record for record in await vm.cycles() if record.cycle_key not in known)
    assert not record.committed, record
    return record


def host_away(vm: Replicated) -> None:
    vm.world.vcenter_control.set_nbd(vm.source.host, refuse_next=_MANY)


def seed_half_written(vm: Replicated) -> None:
    """Let the seed store take one write, and refuse the rest for want of a login, which is tried again later."""
    vm.world.blob_control.order(
        BlobFault(
            BlobAction.ANSWER,
            operation="PutPage",
            account=ACCOUNTS["seed"],
            skip=1,
            count=_MANY,
            status=403,
            code="AuthenticationFailed",
        )
    )


@pytest.mark.parametrize(
    ("cut", "step", "cause"),
    [(host_away, "transfer", ErrorKind.DISK_READ_FAILED), (seed_half_written, "apply", ErrorKind.STORE_ACCESS_DENIED)],
    ids=["source-leg", "target-leg"],
)
@pytest.mark.chaos
async def test_a_cycle_that_a_cut_connection_ended_is_covered_by_the_next_one(
    vm: Replicated, cut: Callable[[Replicated], None], step: str, cause: ErrorKind
) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    overwrite(vm, 0, 0, 6 * MIB)
    cut(vm)
    await resumed(vm)
    await given_up(vm, step)
    failed = await failed_beyond(vm, known)
    assert failed.failure.startswith(f"{cause.value}: ")
    vm.world.vcenter_control.clear_nbd(vm.source.host)
    vm.world.blob_control.clear_faults()
    record = await committed_beyond(vm, known | {failed.cycle_key})
    assert record.changed_bytes >= 6 * MIB
    status = await vm.status()
    assert (status.resyncs, status.repair) == ((), None)
    await assert_in_order(vm)


# --- the claim ---


@pytest.fixture
def worker_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the environment that a worker has."""
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)


async def claimed_by(vm: Replicated, claim: Claim | None) -> None:
    """Have somebody remove or replace the claim of a paused replication, and wait until it notices."""
    site, close = build_site(load_settings(vm.world.config_file, vm.world.environment), SITE)
    ours = Claim(INSTALLATION, vm.reference.replication_id)
    await asyncio.to_thread(site.hypervisor.write_claim, vm.source.instance_uuid, claim, expected=ours)
    close()
    await resumed(vm)
    status = await vm.state(ReplicationState.REPAIR_PENDING)
    assert [health.kind for health in status.health] == [ErrorKind.CLAIM_LOST]


@pytest.mark.chaos
async def test_a_claim_that_somebody_removed_is_made_again_by_a_repair(vm: Replicated, worker_environment: None) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    vm.scribble(5)
    await claimed_by(vm, None)
    assert CLAIM_KEY not in source_vm(vm).extra_config
    vm.scribble(5)
    await vm.handle.execute_update("repair")
    status = await resynchronised(vm)
    assert [record.cause for record in status.resyncs] == [ErrorKind.CLAIM_LOST]
    assert source_vm(vm).extra_config[CLAIM_KEY] == f"{INSTALLATION}/{vm.reference.replication_id}"
    await vm.committed(1)
    await assert_in_order(vm)


@pytest.mark.parametrize("options", [{}, {"reset_tracking": True}], ids=["plain", "with-a-tracking-reset"])
@pytest.mark.chaos
async def test_a_repair_of_a_vm_that_another_installation_claims_fails_and_touches_nothing(
    vm: Replicated, worker_environment: None, options: dict[str, bool]
) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    theirs = Claim("elsewhere", "0123456789abcdef")
    await claimed_by(vm, theirs)
    before = source_vm(vm), {name: count for name, count in vm.world.vcenter_control.calls().items() if name in _TOUCHING}
    rung = (await vm.status()).repair
    await vm.handle.execute_update("repair", options)
    status = await vm.until(
        lambda seen: seen.replication_state == ReplicationState.REPAIR_PENDING.value and not seen.activity.startswith("resync"),
        "the end of the resync",
    )
    (health,) = status.health
    assert health.kind in (ErrorKind.ALREADY_PROTECTED, ErrorKind.CLAIM_LOST)
    assert theirs.installation in health.message and theirs.replication_id in health.message
    assert not health.retried
    assert status.repair is not None and rung is not None
    assert (status.repair.rung, status.repair.starts_at) == (rung.rung, None), "another's claim says nothing of the rung"
    after = source_vm(vm), {name: count for name, count in vm.world.vcenter_control.calls().items() if name in _TOUCHING}
    assert after == before


# --- the plainest rung ---


@pytest.mark.chaos
async def test_a_full_copy_clears_on_a_used_seed_what_the_guest_has_zeroed_and_unmapped(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    overwrite(vm, 0, 0, 4 * MIB)
    await resumed(vm)
    await vm.committed(1)
    await paused(vm)
    assert any(vm.seed_bytes(0)[: 4 * MIB])
    host, _, port = vm.world.endpoints.nbd[vm.source.host].rpartition(":")
    with GuestDisk(host, int(port), f"guest={vm.source.moref};disk={vm.source.disks[0].key}") as disk:
        disk.write_zeroes(0, MIB)
        disk.write_zeroes(MIB + SECTOR, 3 * SECTOR)
        disk.unmap(2 * MIB, MIB)
        disk.unmap(3 * MIB + SECTOR, GRANULE)
    scrawl_on_the_seed(vm, 0, 2 * MIB + 5 * SECTOR)
    vm.world.vcenter_control.set_tracking(vm.source.moref, reset=True)
    await resumed(vm)
    await vm.state(ReplicationState.REPAIR_PENDING)
    await vm.handle.execute_update("repair", {"full_copy": True})
    status = await resynchronised(vm)
    (record,) = status.resyncs
    assert (record.rung, record.compared_bytes) == (Rung.FULL, 0)
    await paused(vm)
    seed = vm.seed_bytes(0)
    assert not any(seed[:MIB]) and not any(seed[2 * MIB : 3 * MIB])
    vm.assert_seeds_equal_source()


def scrawl_on_the_seed(vm: Replicated, disk: int, offset: int) -> None:
    """Write a sector of a seed behind everybody's back, where the source has nothing."""
    with vm.blobs("seed").get_blob_client(seed_container(vm.reference), seed_name(vm.source.disks[disk].key)) as blob:
        blob.upload_page(b"scrawled" * (SECTOR // 8), offset, SECTOR)
