"""`repair`, `resync` and `verify` against a real Temporal server with the real workflows."""

from console import client as replicating
from deltaferry.model.states import ReplicationState

from .conftest import Running

_SYNC = ReplicationState.DELTA_SYNC


async def test_verify_answers_at_once_and_with_wait_ends_with_0_where_nothing_differs(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    answer = await running.json("verify", workflow_id, "--reason", "audit")
    assert answer["operation"] == "verify"
    assert "cycles go on between the chunks" in answer["result"]
    await running.until(workflow_id, lambda view: view.last_scrub is not None)

    waited = await running.json("verify", workflow_id, "--wait")
    assert waited["scrub"]["differing_bytes"] == 0
    assert waited["resync"] is None
    shown = await running.call("verify", workflow_id, "--wait")
    assert shown.exit_code == 0, shown.output
    assert "12 MiB read, nothing differed." in shown.stdout


async def test_verify_with_wait_fails_where_something_differs_and_says_what_waits(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    running.activities.damaged.add(vm)
    failed = await running.json("verify", workflow_id, "--wait", exit_code=1)
    assert failed["error"]["kind"] == "SeedDamaged"
    assert "Repair pending" in failed["error"]["sentence"]
    assert "Hard disk 1 at byte" in failed["error"]["sentence"]
    shown = await running.call("status", workflow_id)
    assert "waits for repair" in shown.stdout

    repaired = await running.json("repair", workflow_id, "--reason", "now")
    assert "as soon as there are slots" in repaired["result"]
    view = await running.until(workflow_id, lambda v: v.replication_state == _SYNC and len(v.resyncs) == 1)
    assert view.health == ()


async def test_verify_with_wait_ends_with_0_where_what_differs_is_repaired_by_itself(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    running.activities.damaged.add(vm)
    running.activities.off_hours = True
    try:
        answer = await running.json("verify", workflow_id, "--wait")
    finally:
        running.activities.off_hours = False
    assert answer["scrub"]["differing_bytes"] > 0
    assert answer["resync"]["differing_bytes"] > 0


async def test_verify_with_the_source_says_whether_something_had_to_be_mended(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    running.activities.changed.add(vm)
    mended = await running.call("verify", workflow_id, "--with-source", "--wait")
    assert mended.exit_code == 0, mended.output
    assert "differed, and were sent again: the seed disks are in order." in mended.stdout
    again = await running.call("verify", workflow_id, "--with-source", "--wait")
    assert again.exit_code == 0, again.output
    assert "Nothing differs between source and seed disks." in again.stdout


async def test_resync_passes_its_options_on(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    answer = await running.json("resync", workflow_id, "--full-copy", "--reason", "restored")
    assert "compared with the source by checksums" in answer["result"]
    view = await running.until(workflow_id, lambda v: v.replication_state == _SYNC and len(v.resyncs) == 1)
    assert view.resyncs[0].rung.value == "full copy"


async def test_repair_is_refused_where_nothing_waits_for_it(running: Running, vm: str) -> None:
    workflow_id = await running.delta_sync(vm, cycles=1)
    refused = await running.json("repair", workflow_id, exit_code=3)
    assert "There is nothing to repair" in refused["error"]["sentence"]


async def test_a_replication_enabled_without_auto_repair_waits_although_the_window_is_open(running: Running, vm: str) -> None:
    enabled = await running.json("enable", vm, "--site", "lab", "--no-auto-repair", "--wait")
    workflow_id = enabled["enabled"]["workflow_id"]
    await running.until(workflow_id, lambda v: v.cycles_committed == 1 and "idle until" in v.activity)
    running.activities.damaged.add(vm)
    running.activities.off_hours = True
    try:
        await running.json("verify", workflow_id, "--wait", exit_code=1)
    finally:
        running.activities.off_hours = False
    view = await replicating.status(running.client.get_workflow_handle(workflow_id))
    assert view.replication_state == ReplicationState.REPAIR_PENDING
    assert "auto_repair is off" in view.activity
