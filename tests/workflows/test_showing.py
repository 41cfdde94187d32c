"""What an operator sees of a replication without asking it: search attributes and the details page."""

from datetime import UTC

from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowHandle

from deltaferry.model.errors import CATALOGUE, ErrorKind
from tests.workflows.site_bench import QUICK, Bench, eventually
from workflows import names


async def details_of(handle: "WorkflowHandle[object, object]") -> str:
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


async def test_the_last_recovery_point_can_be_searched_for_after_every_commit(bench: Bench) -> None:
    running = await bench.replicated(due=True)
    await running.until_committed(2)  # and nothing else about it has changed
    taken_at = (await running.status()).last_recovery_point
    assert taken_at is not None

    async def shown() -> bool:
        attribute = (await running.handle.describe()).typed_search_attributes.get(names.LAST_RECOVERY_POINT)
        return attribute is not None and abs((attribute - taken_at.astimezone(UTC)).total_seconds()) < 0.001

    await eventually(shown, "the last commit's point as search attribute")


async def test_the_details_page_says_the_states_what_it_waits_for_and_what_can_be_sent(bench: Bench) -> None:
    running = await bench.replicated()
    page = await details_of(running.handle)
    assert page.startswith(f"### {(await running.status()).vm}: Delta sync\n")
    assert "**Last recovery point:** 20" in page
    assert "**You can send:** `pause`, `migrate_now`, `resync`, `verify`, `stop`, `update_target`" in page
    assert "(boot)" in page
    assert "|---" not in page, "the Temporal UI's panel is too narrow for tables"


async def test_the_details_page_shows_a_failure_with_cause_and_remedy_and_a_refused_signal(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    bench.world.fail("seal_cycle", ErrorKind.CBT_RESET, message="the tracking UUID of disk 2001 changed")
    running = await bench.replicated(due=True)
    await running.until(lambda view: view.replication_state == "Repair pending", "Repair pending")
    await running.refused_signal("resume")
    page = await details_of(running.handle)
    record = CATALOGUE[ErrorKind.CBT_RESET]
    assert f"> {record.cause} {record.remedy} It waits for you." in page
    assert "the tracking UUID of disk 2001 changed" in page
    assert "*Last refused request:* `resume`" in page
