"""`site`, `reassign` and `force-release` against a real Temporal server with the real workflows."""

from .conftest import Running, Synced


async def test_a_sites_settings_are_shown_and_changed(running: Running, synced: Synced) -> None:
    before = await running.json("site", "lab")
    assert before["settings"]["disks_per_host"] == 8
    assert before["assigned"][synced.workflow_id] == "appliance-lab"
    after = await running.json("site", "lab", "--set", "scrub_every=45d", "--set", "throttle=100 Mbit/s", "--reason", "a test")
    assert f"revision {before['settings']['revision'] + 1}" in after["result"]
    assert (after["settings"]["scrub_every"], after["settings"]["throttle"]) == ("P45D", "100 Mbit/s")
    shown = await running.call("site", "lab", "--set", "throttle=")
    assert shown.exit_code == 0, shown.output
    assert "throttle" in shown.stdout
    assert "none" in shown.stdout


async def test_a_setting_that_there_is_not_is_refused_with_those_there_are(running: Running, synced: Synced) -> None:
    failed = await running.json("site", "lab", "--set", "disks_per_hosts=4", exit_code=2)
    assert "disks_per_host" in failed["error"]["remedy"]
    failed = await running.json("site", "lab", "--set", "disks_per_host=many", exit_code=2)
    assert "disks_per_host" in failed["error"]["sentence"]
    failed = await running.json("site", "lab", "--set", "blackout=Mondy;7:00;7h", exit_code=2)
    assert "a day that is not a day of the week" in failed["error"]["sentence"]


async def test_a_site_without_replications_is_not_found(running: Running) -> None:
    failed = await running.json("site", "nowhere", exit_code=4)
    assert "Nothing has been replicated at a site 'nowhere' yet" in failed["error"]["sentence"]


async def test_a_replication_is_reassigned_to_a_scale_out_appliance(running: Running, synced: Synced) -> None:
    refused = await running.json("reassign", "lab", synced.workflow_id, "edge-2", exit_code=2)
    assert "Its appliances are: appliance-lab" in refused["error"]["sentence"]
    added = await running.json("site", "lab", "--scale-out", "edge-2=Monday;7:00;7h")
    assert added["settings"]["appliances"] == [{"name": "edge-2", "blackout": "Monday;7:00;7h"}]
    answer = await running.json("reassign", "lab", synced.workflow_id, "edge-2")
    assert "goes through edge-2 from its next chunk on" in answer["result"]
    await running.json("reassign", "lab", synced.workflow_id, "appliance-lab")
    gone = await running.json("site", "lab", "--scale-out", "none")
    assert gone["settings"]["appliances"] == []


async def test_slots_of_one_that_holds_none_are_not_released(running: Running, synced: Synced) -> None:
    refused = await running.json("force-release", "lab", "vm/lab/no-such", exit_code=2)
    assert "neither holds slots nor waits for them" in refused["error"]["sentence"]
