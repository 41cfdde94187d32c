"""`SiteInventory` on a real server: numbers and a reference in its result and details, and sentences where it fails."""

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.inventory import InventorySummary
from tests.workflows.site_bench import Bench
from workflows import names


async def test_the_result_is_numbers_and_a_reference_and_the_details_are_a_table(bench: Bench) -> None:
    handle = await bench.start(names.SITE_INVENTORY, {"site": bench.site}, suffix="1")
    taken = await bench.client.get_workflow_handle(handle.id, result_type=InventorySummary).result()
    assert (taken.site, taken.vms, taken.ref.key) == (bench.site, 300, f"df-sites/lab/{bench.site}/inventory")
    details = (await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)).current_details
    for expected in (
        "| VMs | 300 |",
        "| disks | 610, 10 TiB |",
        "| could not be read | 1 |",
        f"deltaferry discover {bench.site}",
    ):
        assert expected in details


async def test_what_fails_for_good_fails_with_its_kind_and_sentence(bench: Bench) -> None:
    bench.world.fail("take_inventory", ErrorKind.VSPHERE_LOGIN_REJECTED)
    handle = await bench.start(names.SITE_INVENTORY, {"site": bench.site}, suffix="1")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == ErrorKind.VSPHERE_LOGIN_REJECTED
