"""What people and services send to a replication, in every state that matters, against the whole running system."""

import asyncio
import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError

from console.client import live_progress
from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.states import JobOutcome, MigrationState, ReplicationState
from deltaferry.model.units import MIB
from lab.configuration import KEY_FILE, VCENTER_PASSWORD, VCENTER_USER
from lab.processes import ManagedProcess
from lab.settings import DATASTORES, ESXI_HOSTS
from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.inventory_file import DiskSpec, VmSpec
from tests.e2e.conftest import Lab
from tests.e2e.interventions import paused
from tests.e2e.operators import enable_and_hold, goes_on_with_deltas, hold_a_delta, leases, let_go, refusal_of
from tests.e2e.replicated import LIMIT_S, Replicated
from workflows import names
from workflows.messages.operator_input import EnableInput, TargetProperties
from workflows.messages.site import EnableResult

_OUR_TAG = "deltaferry-replication"


async def _refused(vm: Replicated, operation: str) -> str:
    """Send an update that must be refused; return the sentence."""
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await vm.handle.execute_update(operation)
    error = refusal_of(refused.value)
    assert error.type == ErrorKind.OPERATION_REFUSED.value
    return error.message


async def _refused_signal(vm: Replicated, operation: str) -> str:
    """Send a signal that must be refused; return the sentence that the status shows then."""
    await vm.handle.signal(operation)
    status = await vm.until(
        lambda s: s.last_refused is not None and s.last_refused.operation == operation, f"{operation} refused"
    )
    assert status.last_refused is not None
    return status.last_refused.sentence


def _in_azure(vm: Replicated) -> list[str]:
    """Return the ids of what this replication has made in Azure."""
    return [r.id for r in vm.world.arm_control.resources() if r.tags.get(_OUR_TAG) == vm.reference.replication_id]


def _power(vm: Replicated) -> str:
    return vm.world.vcenter_control.vm(vm.name).power


# --- pause and resume ---


@pytest.mark.chaos
async def test_pause_during_a_cycle_lets_it_finish_and_pause_during_a_sleep_acts_at_once(vm: Replicated) -> None:
    committed = (await vm.enable_and_sync()).cycles_committed
    await hold_a_delta(vm)
    await vm.handle.execute_update("pause")
    status = await vm.state(ReplicationState.PAUSE_IN_PROGRESS)
    assert status.activity == "sending changed blocks"
    let_go(vm)
    status = await vm.state(ReplicationState.PAUSED)
    assert status.cycles_committed > committed
    assert status.next_cycle_at is None or "pause" in status.activity
    vm.assert_seeds_equal_source()

    vm.scribble()
    await vm.handle.signal("resume")
    await vm.committed(1)
    status = await vm.until(lambda s: s.activity.startswith("idle"), "a sleep")
    await vm.handle.signal("pause")
    paused_at = await vm.state(ReplicationState.PAUSED)
    assert paused_at.cycles_committed - status.cycles_committed <= 1, "at most the cycle that began meanwhile"
    vm.assert_seeds_equal_source()
    assert "send resume first" in await _refused(vm, "migrate_now")
    await vm.handle.execute_update("resume")
    await vm.committed(1)


# --- the initial replication ---


@pytest.mark.chaos
async def test_initial_replication_refuses_migrate_and_pause_with_the_sentence_and_accepts_stop(vm: Replicated) -> None:
    await enable_and_hold(vm)
    await vm.state(ReplicationState.INITIAL_IN_PROGRESS)
    for operation in ("migrate_now", "pause"):
        assert "accepted when it has reached Delta sync" in await _refused(vm, operation)
        assert "accepted when it has reached Delta sync" in await _refused_signal(vm, operation)
    status = await vm.status()
    assert (status.replication_state, status.migration_state) == (
        ReplicationState.INITIAL_IN_PROGRESS.value,
        MigrationState.NONE.value,
    )
    await vm.handle.execute_update("stop")
    await vm.handle.result()
    let_go(vm)
    vm.assert_nothing_left()
    await _can_be_enabled_again(vm)


# --- stop ---


@pytest.mark.parametrize(
    "state",
    [
        "delta",
        pytest.param("repair", marks=pytest.mark.chaos),
        pytest.param("idle", marks=pytest.mark.chaos),
        pytest.param("paused", marks=pytest.mark.chaos),
    ],
)
async def test_stop_leaves_nothing_behind_and_the_vm_can_be_enabled_again(vm: Replicated, state: str) -> None:
    await vm.enable_and_sync()
    match state:
        case "delta":
            await hold_a_delta(vm)
        case "paused":
            await paused(vm)
        case "repair":
            vm.world.vcenter_control.set_tracking(vm.source.moref, reset=True)
            await vm.state(ReplicationState.REPAIR_PENDING)
        case _:
            await vm.until(lambda status: status.activity.startswith("idle"), "a sleep")
    sentence = await vm.handle.execute_update("stop", result_type=str)
    assert "deleted" in sentence
    if state == "delta":
        assert "when the running cycle has finished" in sentence
        assert "being stopped" in await _refused(vm, "pause")
        let_go(vm)
    await vm.handle.result()
    vm.assert_nothing_left()
    assert await leases(vm) == []
    await _can_be_enabled_again(vm)


async def _can_be_enabled_again(vm: Replicated) -> None:
    first = vm.reference.replication_id
    await vm.enable()
    assert vm.reference.replication_id != first


# --- migrate, complete, resume ---


@pytest.mark.chaos
async def test_migrate_during_a_delta_is_queued_behind_it_and_complete_ends_it(vm: Replicated) -> None:
    await vm.enable_and_sync()
    assert "only after a successful migration" in await _refused(vm, "complete")
    await hold_a_delta(vm)
    assert "behind a cycle that runs now" in await vm.handle.execute_update("migrate_now", result_type=str)
    assert (await vm.status()).migration_state == MigrationState.MIGRATION_QUEUED.value
    let_go(vm)
    status = await vm.migration_ended()
    assert status.migration is not None
    assert status.migration.outcome is JobOutcome.SUCCEEDED
    kinds = [cycle.kind for cycle in await vm.cycles()]
    assert kinds[-3:] == [CycleKind.DELTA, CycleKind.ON_DEMAND, CycleKind.FINAL]
    vm.assert_target_identical(status)

    assert "send complete" in await _refused(vm, "stop")
    assert "send complete" in await _refused_signal(vm, "stop")
    await vm.complete()
    vm.assert_nothing_left()
    vm.world.vcenter_control.power_on(vm.source.moref)
    await vm.enable(TargetProperties(vm_name=f"{vm.name}-2"))
    await vm.committed(1)


@pytest.mark.chaos
async def test_resume_after_a_migration_goes_back_to_deltas_and_a_second_migration_leaves_the_first_vm_alone(
    vm: Replicated,
) -> None:
    await vm.enable_and_sync()
    first = await vm.migrate()
    assert first.migration is not None
    made = set(_in_azure(vm))
    vm.world.vcenter_control.power_on(vm.source.moref)
    await vm.handle.execute_update("resume")
    vm.scribble()
    await vm.committed(1)
    await vm.state(ReplicationState.DELTA_SYNC)
    assert all(nic.start_connected for nic in vm.world.vcenter_control.vm(vm.name).nics)

    status = await vm.migrate()
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.health[0].kind is ErrorKind.AZURE_CONFLICT
    assert set(_in_azure(vm)) == made, "the first migration's VM is as it was"

    status = await vm.migrate(target={"vm_name": f"{vm.name}-2"})
    assert status.migration is not None
    assert status.migration.target_vm_id != first.migration.target_vm_id
    vm.assert_target_identical(status)
    assert set(_in_azure(vm)) > made


@pytest.mark.chaos
async def test_keep_source_running_completes_with_information(vm: Replicated) -> None:
    await vm.enable_and_sync()
    status = await vm.migrate(keep_source_running=True)
    assert status.migration is not None
    assert status.migration.outcome is JobOutcome.COMPLETED_WITH_INFORMATION
    assert "not in the target VM" in status.migration.information[0]
    assert status.migration.downtime_s is None
    assert _power(vm) == "poweredOn"
    vm.assert_target_identical(status)


@pytest.mark.chaos
async def test_a_source_that_is_already_off_is_migrated_with_one_delta(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    vm.scribble()
    vm.world.vcenter_control.shut_down(vm.source.moref)
    await vm.until(lambda _: _power(vm) == "poweredOff", "the end of the guest's shutdown")
    await vm.handle.execute_update("resume")
    await vm.committed(1)
    await vm.state(ReplicationState.DELTA_SYNC)
    before = len(await vm.cycles())
    status = await vm.migrate()
    assert status.migration is not None
    assert status.migration.outcome is JobOutcome.SUCCEEDED
    assert [cycle.kind for cycle in (await vm.cycles())[before:]][-1] is CycleKind.FINAL
    assert CycleKind.ON_DEMAND not in [cycle.kind for cycle in await vm.cycles()]
    vm.assert_target_identical(status)


# --- migrations that fail ---


@pytest.mark.chaos
async def test_a_quota_that_refuses_the_vm_leaves_nothing_in_azure_and_rollback_powers_the_source_on(vm: Replicated) -> None:
    await vm.enable_and_sync()
    vm.world.arm_control.set_quota(cores=0)
    status = await vm.migrate()
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.health[0].kind is ErrorKind.AZURE_QUOTA
    assert "quota" in status.health[0].remedy
    assert _in_azure(vm) == []
    assert _power(vm) == "poweredOff"
    vm.world.arm_control.clear_faults()

    await vm.handle.execute_update("rollback")
    await vm.until(lambda s: s.migration_state == MigrationState.TEST_PENDING.value, "the end of the rollback")
    assert _power(vm) == "poweredOn"
    vm.scribble()
    await goes_on_with_deltas(vm)


@pytest.mark.chaos
async def test_after_a_failed_import_migrate_succeeds_without_a_new_full_copy(vm: Replicated) -> None:
    await vm.enable_and_sync()
    vm.world.arm_control.set_quota(disks=len(vm.world.arm_control.resources("disks")) + 1)
    status = await vm.migrate()
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.migration is not None
    assert status.migration.phases[-1][0] == "import disks"
    assert _in_azure(vm) == [], "the disk that could be imported is gone again"
    vm.world.arm_control.clear_faults()

    status = await vm.migrate()
    assert status.migration_state == MigrationState.MIGRATED.value
    vm.assert_target_identical(status)
    later = [cycle for cycle in await vm.cycles() if cycle.kind is not CycleKind.INITIAL]
    assert sum(cycle.bytes_read for cycle in later) < 4 * MIB


@pytest.mark.chaos
async def test_a_guest_that_never_shuts_down_fails_with_the_remedy_and_is_powered_off_where_that_is_allowed(
    vm: Replicated,
) -> None:
    await vm.enable_and_sync()
    vm.world.vcenter_control.ask(FaultRequest(FaultName.SHUTDOWN_NEVER_FINISHES, count=0, vm=vm.source.moref))
    status = await vm.migrate(shutdown_timeout="PT1S")
    assert status.migration_state == MigrationState.MIGRATION_FAILED.value
    assert status.health[0].kind is ErrorKind.GUEST_SHUTDOWN_TIMED_OUT
    assert "allow the power-off" in status.health[0].remedy
    assert _power(vm) == "poweredOn"

    status = await vm.migrate(shutdown_timeout="PT1S", allow_power_off=True)
    assert status.migration is not None
    assert status.migration.outcome is JobOutcome.COMPLETED_WITH_INFORMATION
    assert "powered off" in status.migration.information[0]
    vm.assert_target_identical(status)


# --- what is refused or reported before anything runs ---


async def test_all_unmet_prerequisites_are_listed_at_once(lab: Lab, client: Client) -> None:
    spec = VmSpec(
        name="unfit",
        host=ESXI_HOSTS[0].name,
        datastore=DATASTORES[0].name,
        hardware_version=6,
        disks=(DiskSpec(4 * MIB, "Hard disk 1", mode="independent_persistent"),),
    )
    unfit = lab.world.vcenter_control.add_vm(spec)
    lab.world.vcenter_control.take_snapshot(unfit.moref, "of a backup")
    with pytest.raises(WorkflowFailureError) as failed:
        await _enable(client, "unfit", TargetProperties(network="nowhere"))
    error = refusal_of(failed.value)
    assert error.type == ErrorKind.PREREQUISITES_FAILED.value
    assert "hardware version 6" in error.message
    assert "is independent" in error.message
    assert "of a backup" in error.message
    assert "nowhere" in error.message


async def test_a_wrong_vcenter_password_is_refused_with_a_sentence_that_does_not_hold_it(
    lab: Lab, client: Client, vm: Replicated
) -> None:
    with _wrong_password(lab) as (worker, password):
        with pytest.raises(WorkflowFailureError) as failed:
            await _enable(client, vm.name)
        error = refusal_of(failed.value)
        assert error.type == ErrorKind.VSPHERE_LOGIN_REJECTED.value
        assert password not in error.message
        assert password not in worker.log_file.read_text()


@pytest.mark.chaos
async def test_a_store_that_does_not_answer_shows_in_the_progress_and_replication_goes_on_when_it_does(vm: Replicated) -> None:
    await vm.enable_and_sync()
    with _stores_stopped(vm):
        sentence = await _last_failure(vm)
    assert "does not answer" in sentence
    vm.scribble()
    await goes_on_with_deltas(vm)


# --- secrets ---


async def test_no_secret_is_in_any_history_any_log_or_any_argument_list(vm: Replicated, lab: Lab) -> None:
    await vm.enable_and_sync()
    await hold_a_delta(vm)
    arguments = _argument_lists()
    let_go(vm)
    await vm.migrate()
    await vm.complete()
    secrets = _secrets(lab)
    assert len(secrets) >= 5
    for name, text in arguments.items():
        _assert_holds_none(secrets, text, f"the arguments of process {name}")
    for file in sorted(lab.control.log_file.parent.iterdir()):
        _assert_holds_none(secrets, file.read_bytes(), file.name)
    histories = 0
    async for execution in vm.client.list_workflows():
        handle = vm.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            _assert_holds_none(secrets, event.SerializeToString(), f"{execution.id}, event {event.event_id}")
        histories += 1
    assert histories >= 5


_SIGNATURE = re.compile(rb"[?&]sig=[A-Za-z0-9%+/]{20}")
"""A URL signed by a storage account's key."""


def _secrets(lab: Lab) -> dict[str, bytes]:
    """Return every secret of the lab by its name; a signed URL is looked for by its form."""
    named = {name: value.encode() for name, value in lab.world.environment.items() if name not in (VCENTER_USER, KEY_FILE)}
    key = Path(lab.world.environment[KEY_FILE]).read_bytes()
    return named | {"wrapping key": key, "wrapping key in hex": key.hex().encode()}


def _assert_holds_none(secrets: dict[str, bytes], content: bytes, where: str) -> None:
    found = [name for name, value in secrets.items() if value in content]
    assert found == [], f"{where} holds {found}"
    assert _SIGNATURE.search(content) is None, f"{where} holds a signed URL"


def _argument_lists() -> dict[str, bytes]:
    """Return the argument list of every process of this machine that can be read."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found[entry.name] = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
    assert found
    return found


# --- helpers ---


async def _enable(client: Client, vm: str, target: TargetProperties | None = None) -> EnableResult:
    result: EnableResult = await client.execute_workflow(
        names.ENABLE_REPLICATION,
        EnableInput(vm, "lab", target or TargetProperties()),
        id=f"enable-{vm}",
        task_queue=names.CONTROL_QUEUE,
        result_type=EnableResult,
        execution_timeout=timedelta(seconds=60),
    )
    return result


@contextmanager
def _wrong_password(lab: Lab) -> Iterator[tuple[ManagedProcess, str]]:
    """Have a source worker with another vCenter password serve in the place of the lab's."""
    password = "not-the-password-of-this-vcenter"
    environment = {**lab.source.spec.environment, VCENTER_PASSWORD: password}
    lab.source.stop()
    with ManagedProcess(dataclasses.replace(lab.source.spec, name="worker-wrong-password", environment=environment)) as worker:
        yield worker, password
    lab.source.start()


@contextmanager
def _stores_stopped(vm: Replicated) -> Iterator[None]:
    """Stop the storage accounts' endpoint."""
    front = vm.world.blobs.front
    front.stop()
    try:
        yield
    finally:
        front.start()


async def _last_failure(vm: Replicated) -> str:
    """Wait until a running step shows what its last attempt failed with."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            for step in (await live_progress(vm.client, vm.handle)).steps:
                if step.last_failure:
                    return step.last_failure
            await asyncio.sleep(0.2)
