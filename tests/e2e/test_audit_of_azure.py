"""Audits of what a replication that runs has in Azure: a drill stays, what nobody knows goes or is said, what is missing is said."""

import asyncio
from collections.abc import Collection

import pytest

from activities.adapters import Target
from activities.target_vm import ownership_tags
from deltaferry.model.audit import Finding, FindingCode, Outcome, Verdict
from deltaferry.model.naming import JOB_TAG, copy_name, disk_snapshot_name, seed_container
from deltaferry.model.units import MIB, seed_blob_size
from deltaferry.planning.dr_states import DrState
from deltaferry.ports.target_cloud import DiskImport
from lab.settings import ISOLATED_NETWORK
from tests.e2e.operators import audit, found_of
from tests.e2e.replicated import Replicated
from workers.settings import load_settings
from workers.wiring import build_target

_CAPACITY = 2 * MIB
_FORGOTTEN = "test-99"


def _no_beat() -> None:
    return


def _target(vm: Replicated) -> Target:
    return build_target(load_settings(vm.world.config_file, vm.world.environment), vm.reference.target)


def _leave_a_forgotten_test(vm: Replicated) -> str:
    """Make what a step of a test leaves that came too late, and a snapshot of a pass; return the disk's id."""
    target, container = _target(vm), seed_container(vm.reference)
    name = copy_name(_FORGOTTEN, "1-00000000-0000-4000-8000-000000000000", 2000)
    target.stores.seeds.create_seed(container, name, seed_blob_size(_CAPACITY))
    target.stores.seeds.write_footer(container, name, _CAPACITY, 0)
    group = target.defaults.resource_group
    spec = DiskImport(
        2000, f"{vm.name}-test-99-os", target.stores.seeds.url(container, name), _CAPACITY, True, 2, "Linux", "StandardSSD_LRS"
    )
    tags = ownership_tags(vm.reference)
    disk = target.cloud.import_disk(group, spec, {**tags, JOB_TAG: _FORGOTTEN}, _no_beat)
    snapshot = disk_snapshot_name(vm.reference, 2000, "reverse-9-00000000-0000-4000-8000-000000000000")
    target.cloud.take_disk_snapshot(group, snapshot, disk.resource_id, tags, _no_beat)
    return disk.resource_id


def _delete_in_azure(vm: Replicated, vm_id: str, job: str) -> None:
    target = _target(vm)
    tags = {**ownership_tags(vm.reference), JOB_TAG: job}
    target.cloud.delete_vm(target.defaults.resource_group, vm_id.rpartition("/")[2], [], tags, _no_beat)


def _verdicts(found: Collection[Finding], vm: Replicated) -> dict[FindingCode, Verdict]:
    return {code: finding.verdict for code, finding in found_of(vm, found).items()}


def _resources(vm: Replicated) -> set[str]:
    return {resource.id.lower() for resource in vm.world.arm_control.resources() if vm.name in resource.id}


async def test_what_a_forgotten_test_left_is_deleted_beside_a_drill_that_stays(
    vm: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in vm.world.environment.items():
        monkeypatch.setenv(name, value)
    await vm.enable_and_sync()
    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK})
    view = await vm.until(lambda v: v.migration_state == DrState.CLEAN_UP_PENDING.value, "a drill")
    drill = _resources(vm)
    assert _verdicts((await audit(vm.client)).findings, vm) == {}

    disk = await asyncio.to_thread(_leave_a_forgotten_test, vm)
    copies = {FindingCode.MANAGED_DISK, FindingCode.POINT_COPIES, FindingCode.DISK_SNAPSHOT}
    assert _verdicts((await audit(vm.client, dry_run=True)).findings, vm) == dict.fromkeys(copies, Verdict.REPAIR)
    assert disk.lower() in _resources(vm)
    repaired = found_of(vm, (await audit(vm.client)).findings)
    assert {code for code, finding in repaired.items() if finding.outcome is Outcome.REPAIRED} == copies, repaired
    assert _resources(vm) == drill
    assert _verdicts((await audit(vm.client)).findings, vm) == {}

    (test,) = view.tests
    assert test.vm_id is not None
    await asyncio.to_thread(_delete_in_azure, vm, test.vm_id, f"test-{test.number}")
    assert _verdicts((await audit(vm.client)).findings, vm) == {FindingCode.VM_MISSING: Verdict.REPORT}
    await vm.handle.execute_update("clean_up")
    await vm.until(lambda v: v.tests == (), "cleaned up")
    assert _verdicts((await audit(vm.client)).findings, vm) == {}
    assert _resources(vm) == set()


@pytest.mark.chaos
async def test_audits_without_a_grace_time_never_disturb_drills_and_failovers(vm: Replicated) -> None:
    async def audit_again_and_again(stop: asyncio.Event) -> list[Finding]:
        found: list[Finding] = []
        while not stop.is_set():
            found += found_of(vm, (await audit(vm.client)).findings).values()
        return found

    async def until(state: DrState) -> None:
        await vm.until(lambda view: view.migration_state == state.value, state.value)

    await vm.enable_and_sync()
    stop = asyncio.Event()
    auditing = asyncio.create_task(audit_again_and_again(stop))
    await vm.handle.execute_update("test_migrate", {"network": ISOLATED_NETWORK})
    await until(DrState.CLEAN_UP_PENDING)
    await vm.handle.execute_update("clean_up")
    await vm.until(lambda view: view.tests == (), "cleaned up")
    await vm.handle.execute_update("failover", {"shut_down_source": False})
    await until(DrState.FAILED_OVER)
    before = (await vm.status()).failover
    await vm.handle.execute_update("change_recovery_point", {"point": "latest"})
    await vm.until(
        lambda v: v.failover is not None and before is not None and v.failover.running_at != before.running_at, "replaced"
    )
    await until(DrState.FAILED_OVER)
    await vm.handle.execute_update("cancel_failover")
    await vm.until(lambda view: view.failover is None, "cancelled")
    await vm.handle.execute_update("planned_failover")
    await until(DrState.FAILED_OVER)
    await vm.handle.execute_update("commit")
    await vm.until(lambda view: view.failover is not None and view.failover.committed_at is not None, "committed")
    await vm.handle.execute_update("reprotect")
    await until(DrState.FAILBACK_READY)
    await vm.handle.execute_update("failback")
    await until(DrState.FAILED_BACK)
    await vm.handle.execute_update("commit_failback")
    await vm.until(lambda view: view.failover is None, "home")
    stop.set()
    assert await auditing == []
