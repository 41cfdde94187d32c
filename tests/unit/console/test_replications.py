"""The commands against a real Temporal server with the real workflows."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from console import client as replicating
from console.outcomes import CommandError, ExitCode
from deltaferry.model.states import Operation, ReplicationState
from workflows import names
from workflows.messages.operator_input import EnableInput, EndOptions

from .conftest import Running, Synced
from .stand_ins import instance_uuid


async def until(ask: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so; the test's own time limit is the end of it."""
    async with asyncio.timeout(120):
        while not await ask():
            await asyncio.sleep(0.05)


async def test_enable_answers_with_the_id_and_the_warnings(running: Running, vm: str) -> None:
    answer = await running.json("enable", vm, "--site", "lab", "--target-size", "Standard_D4s_v5", "--target-tag", "owner=web")
    assert answer["workflow_id"] == names.replication_id("lab", instance_uuid("lab", vm))
    assert [warning["code"] for warning in answer["warnings"]] == ["static-address"]


async def test_enable_waits_for_the_initial_replication(running: Running, vm: str) -> None:
    result = await running.call("enable", vm, "--site", "lab", "--wait")
    assert result.exit_code == 0, result.output
    assert "The initial replication is done." in result.stdout
    assert "Initial replication" in result.stderr


async def test_enabling_twice_is_refused(running: Running, vm: str) -> None:
    await running.json("enable", vm, "--site", "lab")
    answer = await running.json("enable", vm, "--site", "lab", exit_code=3)
    assert answer["error"]["kind"] == "AlreadyProtected"
    assert names.replication_id("lab", instance_uuid("lab", vm)) in answer["error"]["sentence"]


async def test_enabling_a_vm_with_findings_fails_with_all_of_them(running: Running) -> None:
    result = await running.call("enable", "snapshotted-01", "--site", "lab")
    assert result.exit_code == 1
    assert "[snapshots-present] The VM has the snapshot before-upgrade. Remove it." in result.stderr


async def test_enabling_an_unknown_vm_ends_with_4(running: Running) -> None:
    result = await running.call("enable", "missing-01", "--site", "lab")
    assert (result.exit_code, "lab has no VM missing-01." in result.stderr) == (4, True)


async def test_a_mistake_in_the_properties_names_the_field(running: Running, vm: str) -> None:
    result = await running.call("enable", vm, "--site", "lab", "--properties", '{"colour": "green"}')
    assert (result.exit_code, "there is no field 'colour'" in result.stderr) == (2, True)


async def test_enable_with_wait_fails_where_the_initial_replication_does(running: Running, vm: str) -> None:
    running.activities.fail_prepare.add(vm)
    answer = await running.json("enable", vm, "--site", "lab", "--wait", exit_code=1)
    assert "The account dflog refused the key." in answer["error"]["sentence"]
    assert answer["error"]["kind"] == "AzurePermission"
    running.activities.fail_prepare.discard(vm)
    retried = await running.json("retry", names.replication_id("lab", instance_uuid("lab", vm)))
    assert retried["result"] == "What failed is tried again at once."


async def test_list_shows_states_by_search_attributes(running: Running, synced: Synced) -> None:
    vm, workflow_id = synced.vm, synced.workflow_id

    async def listed() -> bool:
        rows = (await running.json("list", "--site", "lab", "--state", "Delta sync"))["replications"]
        return any(row["workflow_id"] == workflow_id and row["vm"] == vm and row["health"] == "Healthy" for row in rows)

    await until(listed)
    table = await running.call("list")
    assert vm in table.stdout
    assert workflow_id in table.stdout
    elsewhere = await running.json("list", "--site", "other")
    assert workflow_id not in [row["workflow_id"] for row in elsewhere["replications"]]


async def test_status_shows_states_disks_and_cycles(running: Running, synced: Synced) -> None:
    answer = await running.json("status", synced.workflow_id)
    assert answer["status"]["replication_state"] == "Delta sync"
    assert [disk["label"] for disk in answer["disks"]] == ["Hard disk 1", "Hard disk 2"]
    assert [cycle["kind"] for cycle in answer["cycles"]] == ["initial", "delta"]
    shown = await running.call("status", instance_uuid("lab", synced.vm), "--site", "lab")
    for expected in ("Delta sync", "Hard disk 1 (boot)", "the next starts at", "pause", "8 MiB"):
        assert expected in shown.stdout


async def test_status_shows_how_far_the_running_chunk_is(running: Running, vm: str) -> None:
    running.activities.transfers.clear()
    try:
        workflow_id = (await running.json("enable", vm, "--site", "lab"))["workflow_id"]
        handle = running.client.get_workflow_handle(workflow_id)

        async def moving() -> bool:
            view = await replicating.status(handle)
            return view.job_id is not None and bool((await replicating.live_progress(running.client, handle)).bytes_total)

        await until(moving)
        progress = await replicating.live_progress(running.client, handle)
        assert (progress.bytes_done, progress.bytes_total, progress.percent) == (3 * 2**20, 12 * 2**20, 25.0)
        assert progress.bytes_per_s is not None
        assert progress.eta_s is not None
        shown = await running.call("status", workflow_id)
        for expected in ("sending changed blocks", "3 MiB of 12 MiB", "25.0 %", "MiB/s", "left"):
            assert expected in shown.stdout
    finally:
        running.activities.transfers.set()


async def test_pause_and_resume_answer_with_a_sentence(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    paused = await running.json("pause", workflow_id, "--reason", "maintenance")
    assert paused == {
        "workflow_id": workflow_id,
        "operation": "pause",
        "result": "A running cycle finishes; then no cycle starts until resume.",
    }
    await running.until(workflow_id, lambda view: view.replication_state == ReplicationState.PAUSED)
    resumed = await running.call("resume", workflow_id)
    assert (resumed.exit_code, resumed.stdout) == (0, "Delta cycles go on.\n")
    await running.until(workflow_id, lambda view: view.cycles_committed == 2)


async def test_what_the_state_refuses_ends_with_3_and_the_sentence(running: Running, synced: Synced) -> None:
    workflow_id = synced.workflow_id
    result = await running.call("resume", workflow_id)
    assert result.exit_code == 3
    assert (
        result.stderr.strip()
        == "Error: Replication is not paused: resume is accepted in Pause in progress and Paused, and after a migration."
    )
    completed = await running.json("complete", workflow_id, exit_code=3)
    assert completed["error"]["sentence"].startswith("Complete is accepted only after a successful migration")


async def test_target_refuses_to_change_nothing(running: Running, synced: Synced) -> None:
    nothing = await running.call("target", synced.workflow_id)
    assert (nothing.exit_code, "There is nothing to change." in nothing.stderr) == (2, True)


async def test_migrate_waits_for_the_target_vm_and_then_stop_is_refused_and_complete_ends_it(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm)
    changed = await running.json("target", workflow_id, "--target-vm-name", "web-in-azure")
    assert changed["result"] == "The new target properties apply from the next migration on."
    migrated = await running.json("migrate", workflow_id, "--shutdown-timeout", "5m", "--wait")
    assert migrated["migration"]["target_vm_id"] == "/virtualMachines/web-in-azure"
    assert [name for name, _ in migrated["migration"]["phases"]][-1] == "guard source"
    stopped = await running.json("stop", workflow_id, exit_code=3)
    assert "send complete" in stopped["error"]["sentence"]
    completed = await running.json("complete", workflow_id, "--wait")
    assert completed["ended"]["outcome"] == "Succeeded"
    gone = await running.call("pause", workflow_id)
    assert (gone.exit_code, "does not run any more" in gone.stderr) == (4, True)


async def test_watch_ends_with_its_replication(running: Running, vm: str) -> None:
    workflow_id = (await replicating.enable(running.client, EnableInput(vm, "lab"))).workflow_id
    watching = asyncio.create_task(running.call("watch", workflow_id, "--json"))
    await replicating.send(running.client.get_workflow_handle(workflow_id), Operation.STOP, EndOptions())
    result = await watching
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["workflow_id"] == workflow_id
    assert "ended" in result.stderr
    running.environment["TTY_COMPATIBLE"] = "1"
    live = await running.call("watch", workflow_id)
    del running.environment["TTY_COMPATIBLE"]
    assert (live.exit_code, live.stderr) == (0, "")
    assert "Hard disk 2" in live.stdout


async def test_a_vm_is_found_by_name_and_a_name_on_two_sites_needs_the_site(running: Running, vm: str) -> None:
    ids = [(await replicating.enable(running.client, EnableInput(vm, site))).workflow_id for site in ("lab", "other")]

    async def both_listed() -> bool:
        return len([row async for row in replicating.replications(running.client, vm=vm)]) == 2

    await until(both_listed)
    ambiguous = await running.call("status", vm)
    assert ambiguous.exit_code == 2
    assert all(workflow_id in ambiguous.stderr for workflow_id in ids)
    found = await running.json("status", vm, "--site", "other")
    assert found["workflow_id"] == ids[1]
    by_uuid = await running.json("status", instance_uuid("lab", vm))
    assert by_uuid["workflow_id"] == ids[0]


@pytest.mark.parametrize("reference", ["no-such-vm", "quo'te\\d", "vm/lab/nothing", "50210000-0000-4000-8000-ffffffffffff"])
async def test_what_is_not_replicated_ends_with_4(running: Running, reference: str) -> None:
    result = await running.call("status", reference)
    assert result.exit_code == 4, result.output
    with pytest.raises(CommandError) as caught:
        await replicating.find(running.client, reference)
    assert caught.value.code is ExitCode.NOT_FOUND


async def test_adopt_starts_what_does_not_run(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    handle = running.client.get_workflow_handle(workflow_id)
    view = await replicating.status(handle)
    running.activities.records.append(running.activities.settled[view.replication_id])
    await handle.terminate("the database was lost")
    adopted = await running.json("adopt", "--site", "lab", "--vm", vm)
    assert adopted["adopted"] == [workflow_id]
    assert (await replicating.status(running.client.get_workflow_handle(workflow_id))).replication_id == view.replication_id
    again = await running.call("adopt", "--site", "lab", "--vm", vm)
    assert f"Not adopted: {workflow_id}: it runs already." in again.stdout


async def test_a_site_that_does_not_exist_is_bad_input(running: Running) -> None:
    result = await running.call("adopt", "--site", "nowhere")
    assert (result.exit_code, "There is no site nowhere." in result.stderr) == (2, True)
