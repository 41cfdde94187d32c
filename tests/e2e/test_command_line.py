"""The `deltaferry` command as programs call it: a process of its own, JSON on standard output, exit codes."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from activities.archive import Archive
from activities.settling import COMMIT_RECORD_ADAPTER
from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import COMMIT_RECORD, gateway_container
from deltaferry.model.states import MigrationState, ReplicationState
from lab.configuration import VCENTER_PASSWORD
from lab.processes import ManagedProcess
from lab.settings import SITE, TARGET
from lab.world import World
from tests.e2e.conftest import Lab
from tests.e2e.operators import terminate
from tests.e2e.replicated import Replicated
from workers.settings import load_settings
from workers.wiring import build_target
from workflows.messages.step import ArchiveInput

_ROOT = Path(__file__).parents[2]
_WITHIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON on the last line of standard output."""
        assert self.out, self
        return json.loads(self.out.splitlines()[-1])


async def _deltaferry(world: World, *arguments: str) -> Answer:
    command = [sys.executable, "-m", "console.main", *arguments, "--config", str(world.config_file), "--json"]
    environment = {**os.environ, **world.environment}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=_WITHIN_S, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Answer(done.returncode, done.stdout.strip(), done.stderr)


async def _done(world: World, *arguments: str) -> Any:
    """Run a command that must succeed; return its JSON."""
    answer = await _deltaferry(world, *arguments)
    assert answer.code == 0, answer
    return answer.json


@pytest.mark.chaos
async def test_a_replication_from_enable_to_complete(vm: Replicated, client: Client, tmp_path: Path) -> None:
    world = vm.world
    enabled = await _done(world, "enable", vm.name, "--site", SITE, "--wait")
    assert enabled["status"]["replication_state"] == ReplicationState.DELTA_SYNC.value
    workflow_id = enabled["enabled"]["workflow_id"]
    assert workflow_id == vm.handle.id

    listed = await _done(world, "list")
    assert workflow_id in json.dumps(listed)
    status = await _done(world, "status", vm.name)
    assert enabled["enabled"]["replication_id"] in json.dumps(status)

    assert "cycle" in (await _done(world, "pause", vm.name, "--reason", "a test"))["result"]
    await vm.state(ReplicationState.PAUSED)
    again = await _deltaferry(world, "pause", vm.name)
    assert (again.code, again.out == "" or "paused already" in again.out + again.err) == (3, True)
    await _done(world, "resume", vm.name)
    await vm.committed(1)

    await _replays(vm, tmp_path)

    migrated = await _done(world, "migrate", vm.name, "--wait")
    assert migrated["migration"]["target_vm_id"]
    vm.assert_target_identical(await vm.status())

    stop = await _deltaferry(world, "stop", vm.name)
    assert stop.code == 3, stop
    assert "send complete" in stop.out + stop.err
    completed = await _done(world, "complete", vm.name, "--wait")
    assert completed["ended"]["target_vm_id"] == migrated["migration"]["target_vm_id"]
    vm.assert_nothing_left()
    assert (await _deltaferry(world, "status", vm.name)).code == 4


async def _replays(vm: Replicated, folder: Path) -> None:
    """Replay a replication's run from the server, and from a file as the Temporal UI downloads it."""
    from_server = await _done(vm.world, "replay", vm.name)
    assert from_server["deterministic"]
    history = folder / "history.json"
    history.write_text((await vm.handle.fetch_history()).to_json())
    from_file = await _done(vm.world, "replay", "--file", str(history), "--explain")
    assert from_file["deterministic"]
    assert "next starts at" in json.dumps(from_file), "the decisions are explained"


@pytest.mark.chaos
async def test_an_archived_run_is_replayed_and_a_terminated_replication_is_adopted(vm: Replicated, lab: Lab) -> None:
    world = vm.world
    await vm.enable_and_sync()
    none_yet = await _deltaferry(world, "replay", "--archive", vm.name)
    assert none_yet.code == 4, none_yet
    await _archive(vm, lab)
    archived = await _done(world, "replay", "--archive", vm.name)
    assert archived["deterministic"]
    assert len(archived["histories"]) == 1

    refused = await _done(world, "adopt", "--site", SITE, "--vm", vm.name)
    assert refused["adopted"] == []
    assert "it runs already" in json.dumps(refused["skipped"])
    await terminate(vm)
    adopted = await _done(world, "adopt", "--site", SITE, "--vm", vm.name)
    assert adopted["adopted"] == [vm.handle.id]
    await vm.committed(1)
    stopped = await _done(world, "stop", vm.name, "--wait")
    assert stopped["ended"]["outcome"] == "Succeeded"
    vm.assert_nothing_left()


async def _archive(vm: Replicated, lab: Lab) -> None:
    """Archive the replication's run as the replication itself does when it continues as new, which takes it many cycles."""
    container = vm.blobs("gateway").get_container_client(gateway_container(vm.reference))
    with container:
        record = COMMIT_RECORD_ADAPTER.validate_json(container.download_blob(COMMIT_RECORD).readall())
    settings = load_settings(lab.world.config_file, lab.world.environment)
    run_id = (await vm.handle.describe()).run_id
    assert run_id is not None
    with pytest.MonkeyPatch.context() as environment:
        for name, value in lab.world.environment.items():
            environment.setenv(name, value)
        archive = Archive({TARGET: build_target(settings, TARGET)}, vm.client)
        await archive.archive_history(ArchiveInput(record.replication, vm.handle.id, run_id))


@pytest.mark.parametrize("command", ["status", "pause", "migrate", "stop", "complete"])
async def test_an_unknown_vm_is_not_found(lab: Lab, command: str) -> None:
    answer = await _deltaferry(lab.world, command, "no-such-vm")
    assert answer.code == 4, answer
    assert "no-such-vm" in answer.out + answer.err


async def test_enabling_an_unknown_vm_is_not_found(lab: Lab) -> None:
    answer = await _deltaferry(lab.world, "enable", "no-such-vm", "--site", SITE)
    assert answer.code == 4, answer
    assert "no VM with the name" in answer.out + answer.err


async def test_a_worker_with_a_wrong_password_has_enable_fail_with_the_reason(lab: Lab, vm: Replicated) -> None:
    password = "not-the-password-of-this-vcenter"
    environment = {**lab.source.spec.environment, VCENTER_PASSWORD: password}
    lab.source.stop()
    try:
        with ManagedProcess(dataclasses.replace(lab.source.spec, name="worker-other-password", environment=environment)):
            answer = await _deltaferry(lab.world, "enable", vm.name, "--site", SITE)
    finally:
        lab.source.start()
    assert answer.code == 1, answer
    assert ErrorKind.VSPHERE_LOGIN_REJECTED.value in answer.out + answer.err
    assert password not in answer.out + answer.err


@pytest.mark.chaos
async def test_a_migration_that_fails_ends_with_one_and_the_remedy(vm: Replicated) -> None:
    await vm.enable_and_sync()
    vm.world.arm_control.set_quota(cores=0)
    answer = await _deltaferry(vm.world, "migrate", vm.name, "--wait")
    assert answer.code == 1, answer
    assert ErrorKind.AZURE_QUOTA.value in answer.out + answer.err
    assert "Ask for more quota" in answer.out + answer.err
    vm.world.arm_control.clear_faults()
    assert "powered on" in (await _done(vm.world, "rollback", vm.name))["result"]
    await vm.until(lambda status: status.migration_state == MigrationState.TEST_PENDING.value, "the end of the rollback")
